//! Changes of a session: what it begins with while it waits, and its limits as long as it lives.

use std::collections::BTreeMap;

use helix_protocol::api::{AmendSession, SessionView};
use helix_protocol::record::SessionRecord;
use helix_protocol::resources::Resources;
use helix_protocol::session::{Desired, SessionPhase};
use helix_protocol::{ErrorCode, RunnerId, SessionId};

use super::{Sessions, check_change, not_found, validate};
use crate::auth::Principal;
use crate::error::{Error, Result};

/// What `PUT /external-agents/{id}` may change before the start.
#[derive(Debug, Clone, Default)]
pub struct Amendment {
    /// New environment, whole.
    pub env: Option<BTreeMap<String, String>>,
    /// New directory inside the workspace.
    pub project_path: Option<String>,
}

impl Sessions {
    /// Changes what has no runner yet (phase `Pending`), else `SessionStarted`: a runner may have begun with what it
    /// was told already.
    pub async fn amend(&self, by: &Principal, id: &SessionId, change: Amendment) -> Result<SessionView> {
        if let Some(env) = &change.env {
            validate::check_env(env)?;
        }
        if let Some(path) = &change.project_path {
            validate::check_project_path(path)?;
        }
        let amend = |record: &SessionRecord| {
            check_change(by, record)?;
            let phase = self.known_of(record).phase();
            if record.assignment.is_some() || phase != SessionPhase::Pending {
                let detail = format!("session {id} is {phase}; only what waits for a runner can be changed");
                return Err(Error::new(ErrorCode::SessionStarted, detail));
            }
            let mut new = record.clone();
            if let Some(env) = &change.env {
                new.spec.env.clone_from(env);
            }
            if let Some(path) = &change.project_path {
                new.spec.project_path = Some(path.clone());
            }
            if new.spec == record.spec {
                return Ok(None);
            }
            validate::check_stored_size(&new.spec, &new.labels)?;
            new.generation = record.generation.next();
            Ok(Some(new))
        };
        let desktop = self.desktop_to_change(by, id).await?;
        let entry = self.inner.store.sessions.modify(desktop.as_str(), amend, || not_found(id)).await?;
        if desktop == *id { Ok(self.view_of(&entry.value)) } else { self.get(by, id).await }
    }

    /// The session whose desktop this one has, if `by` may change this one.
    async fn desktop_to_change(&self, by: &Principal, id: &SessionId) -> Result<SessionId> {
        let own = self.inner.store.sessions.get(id.as_str()).await?.found().ok_or_else(|| not_found(id))?.value;
        check_change(by, &own)?;
        Ok(own.desktop_of.clone().unwrap_or_else(|| id.clone()))
    }

    /// Changes limits of a session that has not ended: what is given replaces, the rest stays. Its runner is told by
    /// the reconciler. The same limits again change nothing.
    pub async fn limit(&self, by: &Principal, id: &SessionId, change: AmendSession) -> Result<SessionView> {
        let AmendSession { resources: asked } = change;
        let mut changed = false;
        let amend = |record: &SessionRecord| {
            check_change(by, record)?;
            let phase = self.known_of(record).phase();
            if record.desired == Desired::Stopped || phase.is_terminal() {
                let detail = format!("session {id} is {phase}; only what runs or waits has limits to change");
                return Err(Error::new(ErrorCode::SessionEnded, detail));
            }
            let resources = asked.or(record.spec.resources);
            changed = resources != record.spec.resources;
            if !changed {
                return Ok(None);
            }
            validate::check_resources(&resources, &record.spec.reserve)?;
            if let Some(assignment) = &record.assignment {
                self.check_maximum(&assignment.runner, &asked)?;
            }
            let mut new = record.clone();
            new.spec.resources = resources;
            new.generation = record.generation.next();
            Ok(Some(new))
        };
        let desktop = self.desktop_to_change(by, id).await?;
        let entry = self.inner.store.sessions.modify(desktop.as_str(), amend, || not_found(id)).await?;
        if changed {
            tracing::info!(session.id = %id, generation = entry.value.generation.0, "limits changed");
            self.tell(&entry.value, entry.revision).await;
        }
        if desktop == *id { Ok(self.view_of(&entry.value)) } else { self.get(by, id).await }
    }

    /// Only what is asked now: what it has already was accepted when its runner took it.
    fn check_maximum(&self, runner: &RunnerId, asked: &Resources) -> Result<()> {
        let facts = self.runner(runner).and_then(|record| record.facts.clone());
        let Some((name, asked, most)) = facts.and_then(|facts| asked.exceeds(&facts.max_resources)) else {
            return Ok(());
        };
        let detail = format!(
            "resources.{name} {asked} is above {most}, the most that runner {runner} gives a session; ask for less, or \
             raise the maximum in its settings"
        );
        Err(Error::new(ErrorCode::AboveMaximum, detail))
    }
}
