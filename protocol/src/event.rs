//! Lifecycle events: what goes to `external_agents.event.*` and to `/api/v1/events`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{RunnerId, SessionId};
use crate::session::{Cause, SessionPhase, SessionResult};

/// One thing that happened, without its place in the stream. Published once per change, in order per session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[allow(clippy::large_enum_variant, reason = "built to be sent: none is kept in numbers")]
pub enum Event {
    /// A session moved to another phase or start step, or its cause or result changed.
    Session {
        /// Which.
        session: SessionId,
        /// Where, once assigned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runner: Option<RunnerId>,
        /// To which phase.
        phase: SessionPhase,
        /// The start step that runs, while it starts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
        /// Outcome.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<SessionResult>,
        /// When the server learnt it.
        #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
        at: Timestamp,
    },
    /// A session's record was removed.
    SessionDeleted {
        /// Which.
        session: SessionId,
        /// When.
        #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
        at: Timestamp,
    },
    /// A runner registered, or is heard differently.
    Runner {
        /// Which.
        runner: RunnerId,
        /// `available`, `busy`, `offline`.
        status: crate::runner::RunnerStatus,
        /// How well it is heard.
        liveness: crate::runner::Liveness,
        /// When.
        #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
        at: Timestamp,
    },
}

/// An event with its place: `sequence` resumes the feed (`/api/v1/events?after=SEQUENCE`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FeedItem {
    /// Sequence in stream `EXTERNAL_AGENTS`.
    pub sequence: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
