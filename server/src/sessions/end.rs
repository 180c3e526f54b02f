//! The end of a session: asked for, and done at once only where nothing runs. Of a desktop with several names each ends
//! for itself, and the desktop with the last: see `spec_tasks`.

use helix_protocol::api::SessionView;
use helix_protocol::record::{LetGo, SessionRecord};
use helix_protocol::session::{Cause, Desired};
use helix_protocol::{ErrorCode, SessionId};

use super::view::{has_ended, is_unsettled};
use super::{Sessions, check_change, claim, not_found};
use crate::auth::Principal;
use crate::error::Result;
use crate::store::Versioned;
use crate::store::view::Content;

impl Sessions {
    /// Asks for the end; answers at once with desired = stopped. Idempotent.
    pub async fn stop(&self, by: &Principal, id: &SessionId) -> Result<SessionView> {
        self.end(by, id, false).await
    }

    /// Stops it and removes its records once nothing of it runs. Idempotent until the record is gone.
    pub async fn delete(&self, by: &Principal, id: &SessionId) -> Result<SessionView> {
        self.end(by, id, true).await
    }

    /// Stops it with all other names of its desktop.
    pub async fn stop_desktop(&self, by: &Principal, id: &SessionId) -> Result<SessionView> {
        self.end_with(by, id, false, false).await
    }

    async fn end(&self, by: &Principal, id: &SessionId, delete: bool) -> Result<SessionView> {
        let others = self.has_other_names(id).await?;
        self.end_with(by, id, delete, others).await
    }

    async fn end_with(&self, by: &Principal, id: &SessionId, delete: bool, others: bool) -> Result<SessionView> {
        let mut changed = false;
        let change = |record: &SessionRecord| {
            check_change(by, record)?;
            if others && self.has_living_desktop(record) {
                let let_go = if delete { LetGo::Deleted } else { LetGo::Stopped };
                if record.let_go >= Some(let_go) {
                    return Ok(None);
                }
                changed = true;
                return Ok(Some(SessionRecord { let_go: Some(let_go), ..record.clone() }));
            }
            if record.desired == Desired::Stopped && (record.deleted || !delete) {
                return Ok(None);
            }
            changed = true;
            let mut record = record.clone();
            record.desired = Desired::Stopped;
            record.deleted |= delete;
            if record.assignment.is_none() {
                record.cause = Some(Cause::new("stopped_by_user", "it was stopped before it had a runner"));
            }
            Ok(Some(record))
        };
        let ended = self.inner.store.sessions.modify(id.as_str(), change, || not_found(id)).await;
        let entry = match ended {
            Err(err) if err.code == ErrorCode::SessionNotFound => self.end_unclaimed(by, id, delete).await?,
            other => other?,
        };
        if changed {
            self.tell(&entry.value, entry.revision).await;
        }
        Ok(self.view_of(&entry.value))
    }

    async fn end_unclaimed(&self, by: &Principal, id: &SessionId, delete: bool) -> Result<Versioned<SessionRecord>> {
        let seen = self.unclaimed(id).filter(|_| by.may_change(id, "")).ok_or_else(|| not_found(id))?;
        let mut record = claim(by, &seen)?;
        record.desired = Desired::Stopped;
        record.deleted = delete;
        let revision = self.inner.store.sessions.create(id.as_str(), &record).await?;
        Ok(Versioned::new(record, revision))
    }

    /// True while a session has, or shall get, a desktop of its own.
    pub fn has_living_desktop(&self, record: &SessionRecord) -> bool {
        record.desktop_of.is_none()
            && record.desired == Desired::Running
            && !record.deleted
            && !has_ended(record, &self.inner.store.observed.view().read())
    }

    /// Whether the desktop of a session has other names that were not stopped, or may get one that is asked for
    /// already. Knows all that was written before the call.
    async fn has_other_names(&self, id: &SessionId) -> Result<bool> {
        let sessions = &self.inner.store.sessions;
        // A session's spec task never changes.
        if sessions.view().get(id.as_str()).is_some_and(|entry| entry.value.spec_task.is_none()) {
            return Ok(false);
        }
        sessions.catch_up().await?;
        let content = sessions.view().read();
        Ok(content.get(id.as_str()).is_some_and(|entry| other_names(&entry.value, &content)))
    }

    /// Ends the desktops that were let go and have no name any more. For the reconciler.
    pub async fn end_let_go(&self) -> Result<()> {
        let left: Vec<_> = {
            let sessions = self.inner.store.sessions.view().read();
            let over = |record: &SessionRecord| {
                record.let_go.is_some()
                    && (record.desired == Desired::Running || record.let_go == Some(LetGo::Deleted) && !record.deleted)
                    && !(self.has_living_desktop(record) && other_names(record, &sessions))
            };
            sessions.iter().filter(|(_, entry)| over(&entry.value)).map(|(_, entry)| entry.clone()).collect()
        };
        for entry in left {
            let deleted = entry.value.let_go == Some(LetGo::Deleted);
            let ended = SessionRecord { desired: Desired::Stopped, deleted, ..(*entry.value).clone() };
            match self.inner.store.sessions.update(ended.id.as_str(), &ended, entry.revision).await {
                Ok(revision) => {
                    tracing::info!(session.id = %ended.id, "the last name of a desktop was stopped");
                    self.tell(&ended, revision).await;
                }
                // The next pass sees it.
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes what is left of a desktop's names ended sessions of their own, before its record goes. For the reconciler.
    pub async fn part_from(&self, desktop: &SessionRecord) -> Result<()> {
        if desktop.spec_task.is_none() {
            return Ok(());
        }
        let names: Vec<_> = {
            let sessions = self.inner.store.sessions.view().read();
            let of = |record: &SessionRecord| record.desktop_of.as_ref() == Some(&desktop.id);
            sessions.iter().filter(|(_, entry)| of(&entry.value)).map(|(_, entry)| entry.value.id.clone()).collect()
        };
        for id in names {
            let part = |record: &SessionRecord| {
                let is_one = record.desktop_of.as_ref() == Some(&desktop.id);
                let cause = Some(Cause::new("desktop_removed", format!("session {} was deleted", desktop.id)));
                let alone = SessionRecord { desktop_of: None, desired: Desired::Stopped, cause, ..record.clone() };
                Ok(is_one.then_some(alone))
            };
            match self.inner.store.sessions.modify(id.as_str(), part, || not_found(&id)).await {
                Ok(_) => {}
                Err(error) if error.code == ErrorCode::SessionNotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a desktop has names beside its own that were not stopped, or sessions that may become one.
fn other_names(desktop: &SessionRecord, sessions: &Content<SessionRecord>) -> bool {
    let may_become = |record: &SessionRecord| {
        is_unsettled(record) && record.spec_task == desktop.spec_task && record.id != desktop.id
    };
    desktop.spec_task.is_some()
        && sessions.iter().any(|(_, entry)| {
            let record = &entry.value;
            let is_name = record.desktop_of.as_ref() == Some(&desktop.id) && record.desired == Desired::Running;
            is_name || may_become(record)
        })
}
