//! Lifecycle events: what goes to `external_agents.event.*` and to `/api/v1/events`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::AuditEntry;
use crate::control::Holder;
use crate::ids::{RecordingId, RunnerId, SessionId};
use crate::recording::Deletion;
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
    /// Who may type in a session's desktop changed.
    Control {
        /// Whose desktop.
        session: SessionId,
        /// Counter of changes.
        epoch: u64,
        /// Who alone may type now; none: whoever may drive the desktop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Holder>,
        /// Name of the token that changed it, or that let it expire.
        by: String,
        /// How it came.
        why: ControlChange,
        /// When.
        #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
        at: Timestamp,
    },
    /// A recording has another chunk, or is gone. This is what proves it: it names the chunk's hash.
    Recording {
        /// Whose desktop.
        session: SessionId,
        /// Which.
        recording: RecordingId,
        /// What.
        #[serde(flatten)]
        change: RecordingChange,
        /// When the server did it.
        #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
        at: Timestamp,
    },
    /// Somebody did something, or was refused it.
    Audit {
        /// Who, what, and how it ended.
        #[serde(flatten)]
        entry: AuditEntry,
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

/// What became of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RecordingChange {
    /// A chunk is stored.
    Chunk {
        /// Its number, from 0.
        number: u32,
        /// SHA-256 of its bytes, 64 hex digits.
        hash: String,
        /// The recording is complete with it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_last: bool,
    },
    /// It is gone.
    Deleted {
        /// By whom, and why.
        deletion: Deletion,
        /// Whose it was.
        owner: String,
    },
}

/// How the control of a desktop changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ControlChange {
    /// Somebody took it.
    Taken,
    /// It was handed back.
    HandedBack,
    /// Its holder did not renew it.
    Expired,
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
