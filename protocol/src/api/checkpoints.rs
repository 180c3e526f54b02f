//! Bodies of `/api/v1/sessions/{id}/checkpoints`, `…/restore`, `…/fork` and `…/move`.

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, Reason};
use crate::ids::{Epoch, RunnerId, SessionId};
use crate::image::Digest;
use crate::session::SessionPhase;

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// `GET …/checkpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CheckpointList {
    /// Newest first.
    pub checkpoints: Vec<Checkpoint>,
}

/// `POST …/checkpoints/commit`: a runner has brought everything of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CommitCheckpoint {
    /// Under which assignment.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub epoch: Epoch,
    /// Its manifest, which was brought last.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub manifest: Digest,
    /// Why it was made.
    pub reason: Reason,
    /// Bytes that were brought for it.
    pub sent_bytes: u64,
    /// How long that took, in milliseconds.
    pub took_ms: u64,
}

/// Answer to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Committed {
    /// Number of the checkpoint.
    pub number: u32,
}

/// `POST …/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct RestoreSession {
    /// Number of the checkpoint; the newest where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u32>,
}

/// `POST …/fork`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ForkSession {
    /// Id of the new session; made up where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<SessionId>,
    /// Number of the checkpoint; the newest where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u32>,
}

/// `POST …/move`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct MoveSession {
    /// To which runner; the scheduler chooses another one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RunnerId>,
}

/// How a session's checkpoints and moves are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct WorkView {
    /// A checkpoint, a move or a start from a checkpoint is under way.
    pub busy: bool,
    /// Number of the newest checkpoint.
    pub last: Option<u32>,
    /// Why the last checkpoint, or the last move, did not come about.
    pub error: Option<String>,
    /// It moves, or goes back to a checkpoint.
    pub moving: bool,
    /// Number of the checkpoint that it began from.
    pub restored: Option<u32>,
    /// Where it is.
    pub runner: Option<RunnerId>,
    /// How it is.
    pub phase: SessionPhase,
}
