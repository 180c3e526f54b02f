//! Sessions that go on elsewhere: what ended to move begins again, and what a lost runner had begins from its last
//! checkpoint, where its spec allows that.
//!
//! Nothing starts before it is certain that nothing of it runs elsewhere: its runner has said so, or the session's spec is
//! `on_lost = restart` and its runner is lost, which holds such sessions still before it is called that. The epoch counts up with
//! the new assignment, so that what comes back is fenced.

use helix_protocol::checkpoint::{Restore, WorkRecord};
use helix_protocol::record::SessionRecord;
use helix_protocol::runner::Liveness;
use helix_protocol::session::Cause;
use helix_protocol::{ErrorCode, RunnerId, subject};

use super::Reconciler;
use crate::error::Result;
use crate::sessions::steps::{self, MoveStep};
use crate::store::Versioned;

impl Reconciler {
    /// Ends what is saved and shall move; gives up what could not be saved, or has ended by itself.
    pub(super) async fn begin_moves(&self) -> Result<()> {
        let due: Vec<_> = {
            let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
            let step = |record: &SessionRecord| steps::next_of_move(record, &sessions, &observed);
            let entries = sessions.iter().map(|(_, entry)| entry);
            entries.filter_map(|entry| Some((entry.clone(), step(&entry.value)?))).collect()
        };
        for (entry, step) in due {
            let gives_way = entry.value.work.moving.as_ref().is_some_and(|moving| moving.gives_way_to.is_some());
            if let MoveStep::GiveUp(error) = &step {
                tracing::warn!(session.id = %entry.value.id, error, "session does not move: it could not be saved");
            }
            let record = steps::moved_on(&entry.value, step);
            match self.store.sessions.update(record.id.as_str(), &record, entry.revision).await {
                Err(error) if error.code == ErrorCode::Conflict => {}
                done => {
                    let revision = done?;
                    if gives_way {
                        self.sessions.tell(&record, revision).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins again what has ended to move.
    pub(super) async fn finish_moves(&self) -> Result<()> {
        let ended: Vec<_> = {
            let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
            let is_due = |record: &SessionRecord| steps::has_moved(record, &observed, self.is_lost(record));
            sessions.iter().filter(|(_, entry)| is_due(&entry.value)).map(|(_, entry)| entry.clone()).collect()
        };
        for entry in ended {
            let record = &entry.value;
            let Some(moving) = record.work.moving.clone() else { continue };
            let restore = match moving.restore.clone() {
                Some(restore) => Some(self.checkpoints.again(&record.id, restore).await?),
                None => self.checkpoints.latest(&record.id).await?.or_else(|| record.work.restore.clone()),
            };
            let why = moving.gives_way_to.as_ref();
            let why = why.map_or_else(|| "it moves".to_owned(), |by| format!("preempted by session {by}"));
            tracing::info!(session.id = %record.id, to = ?moving.to, "session goes on");
            let work = steps::work_after_move(record, &moving, restore);
            self.begin_elsewhere(&entry, work, &why).await?;
        }
        Ok(())
    }

    /// Begins elsewhere what a lost runner has, where its spec says so.
    pub(super) async fn restart_lost(&self) -> Result<()> {
        let lost: Vec<_> = {
            let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
            let is_due = |record: &SessionRecord| steps::restarts_when_lost(record, &observed);
            sessions.iter().filter(|(_, entry)| is_due(&entry.value)).map(|(_, entry)| entry.clone()).collect()
        };
        for entry in lost.into_iter().filter(|entry| self.is_lost(&entry.value)) {
            let record = &entry.value;
            let restore = self.checkpoints.latest(&record.id).await?.or_else(|| record.work.restore.clone());
            // Where nobody else takes it, it waits for its runner: nothing is won by ending what may go on.
            if !self.fits_elsewhere(record) {
                continue;
            }
            tracing::warn!(session.id = %record.id, checkpoint = ?restore.as_ref().map(|restore| restore.number),
                "session of a lost runner begins elsewhere");
            let work = WorkRecord { restore, ..record.work.clone() };
            self.begin_elsewhere(&entry, work, "its runner was lost").await?;
        }
        Ok(())
    }

    fn is_lost(&self, record: &SessionRecord) -> bool {
        let runner = record.assignment.as_ref().and_then(|of| self.store.runners.view().get(of.runner.as_str()));
        let is_heard = |id: &RunnerId| self.store.leases.view().get(&subject::runner_lease_key(id)).is_some();
        // One that is just back may let its sessions go on before it is called online.
        runner.is_some_and(|runner| runner.value.liveness == Liveness::Lost && !is_heard(&runner.value.id))
    }

    /// It waits for a runner, as a new one does.
    async fn begin_elsewhere(&self, entry: &Versioned<SessionRecord>, work: WorkRecord, why: &str) -> Result<()> {
        let restore: Option<&Restore> = work.restore.as_ref();
        let from = restore.map_or_else(|| "anew".to_owned(), |restore| format!("from checkpoint {}", restore.number));
        let cause = Some(Cause::new("queued", format!("{why}; it begins {from}")));
        let record = steps::waits_again(&entry.value, work, cause);
        match self.store.sessions.update(record.id.as_str(), &record, entry.revision).await {
            Ok(revision) => {
                self.sessions.tell(&record, revision).await;
                Ok(())
            }
            // Stopped meanwhile, or done by another server.
            Err(error) if error.code == ErrorCode::Conflict => Ok(()),
            Err(error) => Err(error),
        }
    }
}
