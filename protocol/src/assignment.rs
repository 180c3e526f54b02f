//! Who holds what, until when.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Generation, RunnerId, SessionId};
use crate::session::{Desired, SessionSpec};

/// A session bound to a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The runner.
    pub runner: RunnerId,
    /// Fence: grows with every assignment of this session.
    pub epoch: Epoch,
    /// When it was decided.
    pub assigned_at: Timestamp,
}

/// One entry of a runner's desired set: the value in `helix_desired`, and in the reply to `sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredSession {
    /// Which session.
    pub session: SessionId,
    /// Fence; a runner refuses an order older than what it runs.
    pub epoch: Epoch,
    /// Which version of the spec.
    pub generation: Generation,
    /// Run it or end it.
    pub desired: Desired,
    /// What to run.
    pub spec: SessionSpec,
    /// Once ended: remove its workspace and logs too, and report `forgotten`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// Value of a key in `helix_leases`: who renewed it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Id of the server process that wrote it.
    pub server: String,
    /// When, by that server's clock. For people: expiry is the key's TTL.
    pub renewed_at: Timestamp,
    /// For `runner.<id>`: what the runner said in its last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<crate::runner::Heartbeat>,
}
