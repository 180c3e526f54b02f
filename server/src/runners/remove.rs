//! How a runner leaves: its record, its tokens, and what it could come back with.

use helix_protocol::record::{RunnerRecord, Scope, TokenRecord};
use helix_protocol::runner::{Liveness, RunnerStatus};
use helix_protocol::{ErrorCode, RunnerId};

use super::{Runners, not_found};
use crate::auth::Principal;
use crate::error::{Error, Result};

impl Runners {
    /// Removes a runner and revokes its token, so that the id can be enrolled again. One that is online only by its own
    /// word, or with `force`: its link ends at once.
    pub async fn remove(&self, by: &Principal, id: &RunnerId, force: bool) -> Result<()> {
        let store = &self.inner.store;
        let entry = store.runners.get(id.as_str()).await?.found().ok_or_else(|| not_found(id))?;
        if entry.value.liveness == Liveness::Online && !force && by.runner() != Some(id) {
            let detail = format!(
                "runner {id} is online; stop its agentd first, then remove it, or end its link with `force` (helixctl \
                 runner remove --server-only --force {id})"
            );
            return Err(Error::new(ErrorCode::Conflict, detail));
        }
        // The record first: if the runner came back meanwhile, its revision differs and the token stays. A token whose
        // runner is gone is refused wherever the record is asked for.
        store.runners.delete(id.as_str(), entry.revision).await?;
        store.tokens.catch_up().await?;
        let its: Vec<_> = {
            let tokens = store.tokens.view().read();
            let its = tokens.iter().filter(|(_, token)| is_its(&token.value, &entry.value));
            its.map(|(hash, token)| (hash.to_owned(), token.revision)).collect()
        };
        for (hash, revision) in its {
            store.tokens.delete(&hash, revision).await?;
        }
        self.inner.bus.end_connections(id).await;
        self.tell(id, RunnerStatus::Offline, Liveness::Lost, entry.revision).await;
        tracing::info!(runner.id = %id, by = by.name, "runner removed");
        Ok(())
    }
}

/// The runner's own token, and with what it came, or it would come again. A reusable enrolment token is not its alone.
fn is_its(token: &TokenRecord, runner: &RunnerRecord) -> bool {
    match &token.scope {
        Scope::Runner(id) => *id == runner.id,
        Scope::Enrol(enrolment) => {
            enrolment.runner.as_ref() == Some(&runner.id)
                || token.used_by.as_ref().is_some_and(|hash| runner.has_token(hash))
        }
        _ => false,
    }
}
