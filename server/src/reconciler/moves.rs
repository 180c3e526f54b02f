//! Sessions that go on elsewhere: what ended to move begins again, and what a lost runner had begins from its last
//! checkpoint, where its spec allows that.
//!
//! Nothing starts before it is certain that nothing of it runs elsewhere: its runner has said so, or the session's spec is
//! `on_lost = restart` and its runner is lost, which holds such sessions still before it is called that. The epoch counts up with
//! the new assignment, so that what comes back is fenced.

use helix_protocol::checkpoint::{Restore, WorkRecord};
use helix_protocol::record::SessionRecord;
use helix_protocol::resources::OnLost;
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Cause, Desired};
use helix_protocol::{ErrorCode, SessionId};

use super::Reconciler;
use crate::error::Result;
use crate::sessions::list::waits;
use crate::sessions::view::{has_ended, has_ended_there, observed_of};
use crate::store::Versioned;

/// What is next for a session that moves.
enum Step {
    /// It is saved, and ends.
    End,
    /// It goes on where it is, for this reason.
    GiveUp(String),
    /// The session that it should have made room for does not wait any more.
    Spare,
}

impl Reconciler {
    /// Ends what is saved and shall move; gives up what could not be saved, or has ended by itself.
    pub(super) async fn begin_moves(&self) -> Result<()> {
        let due: Vec<_> = {
            let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
            let step = |record: &SessionRecord| {
                let moving = record.work.moving.as_ref().filter(|moving| !moving.ends)?;
                if record.desired == Desired::Stopped || has_ended_there(record, &observed) {
                    return Some(Step::GiveUp("it has ended".to_owned()));
                }
                let still_waits = |to: &SessionId| sessions.get(to.as_str()).is_some_and(|entry| waits(&entry.value));
                if moving.gives_way_to.as_ref().is_some_and(|to| !still_waits(to)) {
                    return Some(Step::Spare);
                }
                let seen = observed_of(record, &observed)?.work.as_ref().filter(|seen| seen.asked >= moving.saves)?;
                Some(seen.error.clone().map_or(Step::End, Step::GiveUp))
            };
            let entries = sessions.iter().map(|(_, entry)| entry);
            entries.filter_map(|entry| Some((entry.clone(), step(&entry.value)?))).collect()
        };
        for (entry, step) in due {
            let mut record = (*entry.value).clone();
            let work = &mut record.work;
            let gives_way = work.moving.as_ref().is_some_and(|moving| moving.gives_way_to.is_some());
            match step {
                Step::End if gives_way && record.spec.on_lost != Some(OnLost::Restart) => {
                    work.moving = None;
                    work.preempted.iter_mut().for_each(|preempted| preempted.ended = true);
                    record.desired = Desired::Stopped;
                }
                Step::End => work.moving.iter_mut().for_each(|moving| moving.ends = true),
                Step::GiveUp(error) => {
                    tracing::warn!(session.id = %record.id, error, "session does not move: it could not be saved");
                    (work.moving, work.error) = (None, Some(error));
                    work.preempted = work.preempted.take().filter(|_| !gives_way);
                }
                Step::Spare => (work.moving, work.preempted) = (None, None),
            }
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
            let is_due = |record: &SessionRecord| {
                let lost = record.spec.on_lost == Some(OnLost::Restart) && self.is_lost(record);
                record.work.moving.as_ref().is_some_and(|moving| moving.ends || lost)
                    && record.desired == Desired::Running
                    && (record.assignment.is_none() || has_ended_there(record, &observed) || lost)
            };
            sessions.iter().filter(|(_, entry)| is_due(&entry.value)).map(|(_, entry)| entry.clone()).collect()
        };
        for entry in ended {
            let record = &entry.value;
            let Some(moving) = record.work.moving.clone() else { continue };
            let restore = match moving.restore {
                Some(restore) => Some(self.checkpoints.again(&record.id, restore).await?),
                None => self.checkpoints.latest(&record.id).await?.or_else(|| record.work.restore.clone()),
            };
            let from = record.assignment.as_ref().map(|of| of.runner.clone());
            // What was preempted may come back to where it was.
            let left = from.filter(|_| moving.to.is_none() && moving.gives_way_to.is_none());
            let why = moving.gives_way_to.as_ref();
            let why = why.map_or_else(|| "it moves".to_owned(), |by| format!("preempted by session {by}"));
            tracing::info!(session.id = %record.id, to = ?moving.to, "session goes on");
            let work = WorkRecord { restore, moving: None, left, to: moving.to, ..record.work.clone() };
            self.begin_elsewhere(&entry, work, &why).await?;
        }
        Ok(())
    }

    /// Begins elsewhere what a lost runner has, where its spec says so.
    pub(super) async fn restart_lost(&self) -> Result<()> {
        let lost: Vec<_> = {
            let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
            let is_due = |record: &SessionRecord| {
                record.spec.on_lost == Some(OnLost::Restart)
                    && record.desired == Desired::Running
                    && record.work.moving.is_none()
                    && record.assignment.is_some()
                    && !has_ended(record, &observed)
            };
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
        runner.is_some_and(|runner| runner.value.liveness == Liveness::Lost)
    }

    /// It waits for a runner, as a new one does.
    async fn begin_elsewhere(&self, entry: &Versioned<SessionRecord>, work: WorkRecord, why: &str) -> Result<()> {
        let restore: Option<&Restore> = work.restore.as_ref();
        let from = restore.map_or_else(|| "anew".to_owned(), |restore| format!("from checkpoint {}", restore.number));
        let cause = Some(Cause::new("queued", format!("{why}; it begins {from}")));
        let record = SessionRecord { assignment: None, work, cause, ..(*entry.value).clone() };
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
