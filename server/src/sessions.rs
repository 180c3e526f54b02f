//! Rules for a session: create, read, stop, delete, adopt, record what a runner saw. No HTTP and no NATS types.

use std::time::Duration;

use helix_protocol::api::{CreateSession, SessionPage, SessionView};
use helix_protocol::session::SessionPhase;
use helix_protocol::{RunnerId, SessionId};

use crate::auth::Principal;
use crate::error::Result;

/// Rules for sessions over the store. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {}

/// What a creation did.
pub struct Created {
    /// The session.
    pub view: SessionView,
    /// False when the same request had created it before.
    pub fresh: bool,
}

/// Which sessions a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only in these phases; empty = all.
    pub phases: Vec<SessionPhase>,
    /// Only on this runner.
    pub runner: Option<RunnerId>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this owner.
    pub owner: Option<String>,
    /// Only with all of these labels.
    pub labels: Vec<(String, String)>,
    /// At most this many, 1 to 1000.
    pub limit: usize,
    /// From a former page.
    pub cursor: Option<String>,
}

/// What `PUT /external-agents/{id}` may change before the start.
#[derive(Debug, Clone, Default)]
pub struct Amendment {
    /// New environment, whole.
    pub env: Option<std::collections::BTreeMap<String, String>>,
    /// New directory inside the workspace.
    pub project_path: Option<String>,
}

impl Sessions {
    /// Validates and writes a session; durable when this returns. Same id and same request: the existing one;
    /// other request: [`SessionExists`](helix_protocol::ErrorCode::SessionExists). An unknown kind is refused
    /// where at least one runner is registered and none knows it.
    pub async fn create(&self, _by: &Principal, _request: CreateSession) -> Result<Created> {
        unimplemented!()
    }

    /// One session, read from the store itself. Refuses a principal that may not see it as not found.
    pub async fn get(&self, _by: &Principal, _id: &SessionId) -> Result<SessionView> {
        unimplemented!()
    }

    /// A page of the sessions that `by` may see, newest first.
    pub async fn list(&self, _by: &Principal, _filter: &Filter) -> Result<SessionPage> {
        unimplemented!()
    }

    /// Asks for the end; answers at once with desired = stopped. Idempotent.
    pub async fn stop(&self, _by: &Principal, _id: &SessionId) -> Result<SessionView> {
        unimplemented!()
    }

    /// Stops it and removes its records once nothing of it runs. Idempotent until the record is gone.
    pub async fn delete(&self, _by: &Principal, _id: &SessionId) -> Result<SessionView> {
        unimplemented!()
    }

    /// Changes what has not started yet (phase `Pending` or `Assigned` without report), else `SessionStarted`.
    pub async fn amend(&self, _by: &Principal, _id: &SessionId, _change: Amendment) -> Result<SessionView> {
        unimplemented!()
    }

    /// Makes a record for an unclaimed session, so that it is managed again.
    pub async fn adopt(&self, _by: &Principal, _id: &SessionId) -> Result<SessionView> {
        unimplemented!()
    }

    /// Waits until the session is in one of `phases` or in a terminal one; `WaitTimeout` after `patience`.
    pub async fn wait(
        &self,
        _by: &Principal,
        _id: &SessionId,
        _phases: &[SessionPhase],
        _patience: Duration,
    ) -> Result<SessionView> {
        unimplemented!()
    }

    /// Number of sessions by phase.
    pub async fn count_by_phase(&self) -> Result<std::collections::BTreeMap<String, u32>> {
        unimplemented!()
    }

    /// The session's own bearer: `ext_token_` + HMAC(server key, id, epoch). For its owner and admins only:
    /// anyone else gets None.
    pub fn auth_token(&self, _by: &Principal, _view: &SessionView) -> Option<String> {
        unimplemented!()
    }
}
