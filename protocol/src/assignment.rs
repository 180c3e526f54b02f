//! Who holds what, until when.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::checkpoint::WorkOrder;
use crate::control::Control;
use crate::grant::Grant;
use crate::ids::{Epoch, Generation, RunnerId, SessionId};
use crate::session::{Desired, SessionSpec};
use crate::thread::Secrets;

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
    /// Who may type in its desktop.
    #[serde(default, skip_serializing_if = "Control::is_unused")]
    pub control: Control,
    /// Counter of changes of its grants, which are in [`SessionAccess::grants`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub grants: u64,
    /// Once ended: remove its workspace and logs too, and report `forgotten`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// What becomes of its workspace.
    #[serde(default, skip_serializing_if = "WorkOrder::is_empty")]
    pub work: WorkOrder,
    /// What its agent gets and nobody else sees: only in the reply to `sync`, never in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<SessionAccess>,
}

/// Secrets of a session that shall run. On the runner they are in files of mode 0600, gone with the session.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAccess {
    /// The session's own bearer: `ZED_HELIX_TOKEN` of its agent.
    pub token: String,
    /// Model keys and the like: environment of its agent.
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub secrets: Secrets,
    /// Passwords of native viewers, for the gate to its desktop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
}

impl std::fmt::Debug for SessionAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionAccess")
            .field("secrets", &self.secrets.keys())
            .field("grants", &self.grants.len())
            .finish_non_exhaustive()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Value of a key in `helix_leases`: who renewed it last. `used.<session>` says when that session was used last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Id of the server process that wrote it.
    pub server: String,
    /// When, by that server's clock. For people: expiry is the key's TTL.
    pub renewed_at: Timestamp,
    /// For `runner.<id>`: what the runner said in its last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<crate::runner::Heartbeat>,
    /// For `sync.<session>` and `refused.<session>`: how the session's sync socket is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<crate::api::SyncStatus>,
    /// For `scale`: what was told to whoever adds and removes machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Box<crate::scale::ScaleRecord>>,
}
