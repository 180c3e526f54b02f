//! Why a session is where it is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
#[cfg(feature = "openapi")]
use utoipa::ToSchema;

use crate::ids::{RunnerId, SessionId};
use crate::session::{Cause, SessionPhase};

/// `GET /api/v1/sessions/{id}/placement`: what each runner says to the session now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct PlacementView {
    /// Which session.
    pub id: SessionId,
    /// How it is.
    pub phase: SessionPhase,
    /// Runner that it has.
    pub runner: Option<RunnerId>,
    /// Why it waits, or why it is as it is.
    pub cause: Option<Cause>,
    /// Place in the queue from 1, while it waits.
    pub queue_position: Option<u32>,
    /// Its pool's: higher ones go first.
    pub priority: i32,
    /// When it got its runner.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub assigned_at: Option<Timestamp>,
    /// Session for which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_way_to: Option<SessionId>,
    /// Sessions that end, or ended, so that it has room, as long as they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_room: Vec<SessionId>,
    /// All runners: those that could take it first, the best one at the top.
    pub runners: Vec<RunnerVerdict>,
}

/// What one runner says to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct RunnerVerdict {
    /// Which.
    pub runner: RunnerId,
    /// It has the session.
    pub runs_it: bool,
    /// It could take it now, or one more like it.
    pub fits: bool,
    /// Why, as the end of a sentence that begins with its id.
    pub reason: String,
}
