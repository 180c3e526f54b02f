//! Which session of a spec task has its desktop.

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::ErrorCode;
use helix_protocol::record::{LetGo, SessionRecord, SpecTaskRecord};
use helix_protocol::session::{Cause, Desired};
use jiff::Timestamp;

use super::{SpecTasks, check_join};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::sessions::view::is_unsettled;
use crate::store::Versioned;
use crate::threads::initial::initial_turn_of;

/// How often it is tried again after another writer was faster.
const MAX_TRIES: usize = 10;

/// Before a session is refused behind its creator's back: who may join, and is about to, is known to that request only.
const GRACE: Duration = Duration::from_secs(5);

/// Whose the desktop is.
enum Claim {
    /// The session's own.
    Own,
    /// Of this one, which lives.
    Of(Arc<SessionRecord>),
    /// The task is somebody else's.
    Refused(Error),
}

impl SpecTasks {
    /// Decides it, and answers the record as it then is. `by` is who asked for it; for a session that its creator left
    /// unsettled there is nobody, and it joins its own owner's desktop only.
    pub async fn settle(
        &self,
        mut record: Versioned<SessionRecord>,
        by: Option<&Principal>,
    ) -> Result<Versioned<SessionRecord>> {
        let sessions = &self.store.sessions;
        for _ in 0..MAX_TRIES {
            let own = &record.value;
            if !is_unsettled(own) {
                return Ok(record);
            }
            let desktop = match self.claim(own, by).await? {
                Claim::Own => return Ok(record),
                Claim::Of(desktop) => desktop,
                Claim::Refused(refused) => return self.refuse(&record, by, refused).await,
            };
            let joined = name_of(&desktop, own);
            self.say(&joined, &desktop).await?;
            match sessions.update(own.id.as_str(), &joined, record.revision).await {
                Ok(revision) => record = Versioned::new(joined, revision),
                Err(error) if error.code == ErrorCode::Conflict => {
                    let missing = || Error::new(ErrorCode::SessionNotFound, format!("session {} is gone", own.id));
                    record = sessions.get(own.id.as_str()).await?.found().ok_or_else(missing)?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            // Whoever stopped it meanwhile may not have seen this name of it.
            let desktop = sessions.get(desktop.id.as_str()).await?.found();
            if desktop.is_some_and(|desktop| self.sessions.has_living_desktop(&desktop.value)) {
                return Ok(record);
            }
            let alone = SessionRecord { desktop_of: None, continues: None, ..(*record.value).clone() };
            let revision = sessions.update(alone.id.as_str(), &alone, record.revision).await?;
            record = Versioned::new(alone, revision);
        }
        let detail = format!("session {} and its spec task change too fast; repeat the request", record.value.id);
        Err(Error::new(ErrorCode::Conflict, detail))
    }

    /// Ends a session that shall have somebody else's desktop.
    async fn refuse(
        &self,
        record: &Versioned<SessionRecord>,
        by: Option<&Principal>,
        refused: Error,
    ) -> Result<Versioned<SessionRecord>> {
        let age = Duration::try_from(Timestamp::now().duration_since(record.value.created_at)).unwrap_or_default();
        if by.is_none() && age < GRACE {
            return Ok(record.clone());
        }
        let cause = Some(Cause::new("spec_task_taken", refused.detail.clone()));
        let ended = SessionRecord { desired: Desired::Stopped, cause, ..(*record.value).clone() };
        let revision = self.store.sessions.update(ended.id.as_str(), &ended, record.revision).await?;
        if by.is_some() { Err(refused) } else { Ok(Versioned::new(ended, revision)) }
    }

    /// Names this session in the task's record, unless that names a living one, or somebody else's.
    async fn claim(&self, own: &SessionRecord, by: Option<&Principal>) -> Result<Claim> {
        let Some(task) = &own.spec_task else { return Ok(Claim::Own) };
        for _ in 0..MAX_TRIES {
            let lookup = self.store.spec_tasks.get(task.as_str()).await?;
            let revision = lookup.revision();
            let mut record = SpecTaskRecord {
                id: task.clone(),
                owner: own.owner.clone(),
                session: own.id.clone(),
                created_at: own.created_at,
            };
            if let Some(entry) = lookup.found() {
                if entry.value.session == own.id {
                    return Ok(Claim::Own);
                }
                if let Some(desktop) = self.store.sessions.get(entry.value.session.as_str()).await?.found() {
                    if let Err(refused) = may_join(by, own, &desktop.value) {
                        return Ok(Claim::Refused(refused));
                    }
                    if self.sessions.has_living_desktop(&desktop.value) {
                        return Ok(Claim::Of(desktop.value));
                    }
                }
                record.created_at = entry.value.created_at;
            }
            match self.store.spec_tasks.update(task.as_str(), &record, revision).await {
                Ok(_) => return Ok(Claim::Own),
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("spec task {task} changes too fast; repeat the request")))
    }

    /// Writes the input of another name as a turn in the desktop's conversation.
    async fn say(&self, joined: &SessionRecord, desktop: &SessionRecord) -> Result<()> {
        let Some(initial) = initial_turn_of(joined)? else { return Ok(()) };
        let Some(thread) = &joined.continues else { return initial.append_missing(self.threads.hub.log()).await };
        let [_, queued] = &initial.events;
        match self.threads.continue_with(desktop, thread, queued).await {
            // Its desktop is another one by now.
            Err(error) if error.code == ErrorCode::ThreadNotFound => {
                initial.append_missing(self.threads.hub.log()).await
            }
            other => other,
        }
    }
}

/// The session as another name of this desktop.
fn name_of(desktop: &SessionRecord, own: &SessionRecord) -> SessionRecord {
    let mut joined = SessionRecord { desktop_of: Some(desktop.id.clone()), cause: None, ..own.clone() };
    if let Some(let_go) = joined.let_go.take() {
        // It was stopped while nobody knew yet that it has no desktop of its own.
        joined.desired = Desired::Stopped;
        joined.deleted = let_go == LetGo::Deleted;
    }
    joined
}

fn may_join(by: Option<&Principal>, own: &SessionRecord, desktop: &SessionRecord) -> Result<()> {
    match by {
        Some(by) => check_join(by, desktop),
        None if own.owner == desktop.owner => Ok(()),
        None => Err(Error::new(ErrorCode::Forbidden, "its spec task is somebody else's; use another id")),
    }
}
