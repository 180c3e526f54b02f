//! What people ask of a session's work: a checkpoint now, back to one, another session from one, on to another runner.
//!
//! A move is a state of the record, in two steps that [`reconciler::moves`](crate::reconciler) takes: first everything is
//! brought while the session runs on (a failure changes nothing), then it ends, brings what has changed since, and begins
//! elsewhere. Going back to a checkpoint is a move to the same runner that begins from that one.

use std::time::Duration;

use helix_protocol::api::SessionView;
use helix_protocol::api::checkpoints::{ForkSession, MoveSession, WorkView};
use helix_protocol::checkpoint::{Checkpoint, CheckpointsRecord, Moving, Reason, Restore, WorkRecord};
use helix_protocol::record::{RunnerRecord, SessionRecord};
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Desired, SessionPhase};
use helix_protocol::{ErrorCode, RunnerId, SessionId, subject};
use jiff::Timestamp;
use tokio::time::Instant;

use super::Checkpoints;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::sessions::fresh_id;
use crate::sessions::view::observed_of;

/// How long an answer waits for what is under way.
const WAIT: Duration = Duration::from_secs(20);

impl Checkpoints {
    /// Asks for a checkpoint now; answers when there is one, or after a while.
    pub async fn ask(&self, by: &Principal, id: &SessionId) -> Result<WorkView> {
        let desktop = self.changeable(by, id).await?;
        self.change(&desktop, |record| {
            self.require_running(record)?;
            let work = WorkRecord { asked: record.work.asked + 1, ..record.work.clone() };
            Ok(SessionRecord { work, ..record.clone() })
        })
        .await?;
        self.wait(&desktop).await
    }

    /// How it is; with `wait`, once nothing is under way any more, or after a while.
    pub async fn work(&self, by: &Principal, id: &SessionId, wait: bool) -> Result<WorkView> {
        let desktop = self.sessions.find(by, id).await?.desktop;
        if wait { self.wait(&desktop).await } else { self.seen(&desktop).await }
    }

    /// Moves a session to another runner, with its work.
    pub async fn begin_move(&self, by: &Principal, id: &SessionId, asked: &MoveSession) -> Result<WorkView> {
        let desktop = self.changeable(by, id).await?;
        if let Some(to) = &asked.to {
            self.require_target(to).await?;
        }
        self.change(&desktop, |record| {
            let from = self.require_running(record)?;
            if asked.to.as_ref() == Some(&from) {
                return Err(Error::new(ErrorCode::InvalidRequest, format!("session {id} is on runner {from} already")));
            }
            if asked.to.is_none() {
                if let Some(only) = &record.on_runner {
                    let detail = format!("session {id} may run on runner {only} only; name another one: --to RUNNER");
                    return Err(Error::new(ErrorCode::InvalidRequest, detail));
                }
                if !self.has_other(&from) {
                    let detail =
                        format!("no other runner than {from} takes sessions now; helixctl runner list says why");
                    return Err(Error::new(ErrorCode::RunnerUnavailable, detail));
                }
            }
            Ok(moving(record, asked.to.clone(), None))
        })
        .await?;
        self.wait(&desktop).await
    }

    /// Has a session begin again where it is from one of its checkpoints. All of it is proved before anything is changed.
    pub async fn restore(&self, by: &Principal, id: &SessionId, number: Option<u32>) -> Result<WorkView> {
        let desktop = self.changeable(by, id).await?;
        let (family, checkpoint) = self.find(&desktop, number).await?;
        self.prove(&family, &checkpoint).await?;
        let restore = Restore { number: checkpoint.number, manifest: checkpoint.manifest };
        self.change(&desktop, |record| {
            let here = self.require_running(record)?;
            Ok(moving(record, Some(here), Some(restore.clone())))
        })
        .await?;
        self.wait(&desktop).await
    }

    /// A new session that begins from a checkpoint of another one.
    pub async fn fork(&self, by: &Principal, id: &SessionId, asked: ForkSession) -> Result<SessionView> {
        let desktop = self.changeable(by, id).await?;
        let (family, checkpoint) = self.find(&desktop, asked.checkpoint).await?;
        self.prove(&family, &checkpoint).await?;
        let Some(origin) = self.store.sessions.get(desktop.as_str()).await?.found() else {
            return Err(Error::new(ErrorCode::SessionNotFound, format!("there is no session {id}")));
        };
        let own = match asked.id {
            Some(own) => own,
            None => fresh_id()?,
        };
        let restore = Restore { number: 1, manifest: checkpoint.manifest };
        // First of all: what the new session begins from stays from now on, whatever becomes of the other one.
        let first = Checkpoint {
            number: 1,
            at: Timestamp::now(),
            reason: Reason::Fork,
            sent_bytes: 0,
            took_ms: 0,
            ..checkpoint
        };
        let record =
            CheckpointsRecord { session: own.clone(), family, last: 1, list: vec![first], at: Timestamp::now() };
        let made = self.store.checkpoints.create(own.as_str(), &record).await;
        let revision = match made {
            Ok(revision) => Some(revision),
            Err(error) if error.code == ErrorCode::Conflict => None,
            Err(error) => return Err(error),
        };
        let forked = self.sessions.create_fork(by, &origin.value, &own, restore).await;
        if let (Err(_), Some(revision)) = (&forked, revision) {
            // Nobody's; what cannot be removed now goes with its time.
            let _ = self.store.checkpoints.delete(own.as_str(), revision).await;
        }
        forked
    }

    async fn changeable(&self, by: &Principal, id: &SessionId) -> Result<SessionId> {
        let found = self.sessions.find(by, id).await?;
        if by.may_change(id, &found.view.owner) {
            return Ok(found.desktop);
        }
        Err(Error::new(ErrorCode::Forbidden, format!("this token may see session {id} but not change it")))
    }

    async fn change(&self, id: &SessionId, change: impl Fn(&SessionRecord) -> Result<SessionRecord>) -> Result<()> {
        let missing = || Error::new(ErrorCode::SessionNotFound, format!("there is no session {id}"));
        self.store.sessions.modify(id.as_str(), |record| change(record).map(Some), missing).await.map(|_| ())
    }

    /// The runner of a session that is Ready and does not move.
    fn require_running(&self, record: &SessionRecord) -> Result<RunnerId> {
        let id = &record.id;
        if record.work.moving.is_some() {
            return Err(Error::new(
                ErrorCode::SessionMoves,
                format!("session {id} moves already; wait until it is ready"),
            ));
        }
        let phase = self.sessions.phase_of(record);
        match (&record.assignment, phase) {
            (Some(of), SessionPhase::Ready) if record.desired == Desired::Running => Ok(of.runner.clone()),
            (_, phase) if phase.is_terminal() => {
                let detail = format!(
                    "session {id} is {phase}; another session can begin from its checkpoints: helixctl session fork {id}"
                );
                Err(Error::new(ErrorCode::SessionEnded, detail))
            }
            (_, phase) => {
                Err(Error::new(ErrorCode::SessionNotReady, format!("session {id} is {phase}; it has to be Ready")))
            }
        }
    }

    async fn require_target(&self, to: &RunnerId) -> Result<()> {
        let found = self.store.runners.get(to.as_str()).await?.found();
        let found = found.ok_or_else(|| Error::new(ErrorCode::RunnerNotFound, format!("there is no runner {to}")))?;
        match self.refuses(&found.value) {
            None => Ok(()),
            Some(why) => {
                Err(Error::new(ErrorCode::RunnerUnavailable, format!("runner {to} {why}; nothing was changed")))
            }
        }
    }

    fn has_other(&self, from: &RunnerId) -> bool {
        let runners = self.store.runners.view().read();
        runners.iter().any(|(_, entry)| entry.value.id != *from && self.refuses(&entry.value).is_none())
    }

    /// Why a runner takes nothing now, whatever it is: what runs is not ended for it.
    fn refuses(&self, runner: &RunnerRecord) -> Option<String> {
        match (runner.liveness, runner.cordoned) {
            (Liveness::Online, false) => {}
            (Liveness::Online, true) => return Some("is cordoned".to_owned()),
            _ => return Some("is not heard".to_owned()),
        }
        let lease = self.store.leases.view().get(&subject::runner_lease_key(&runner.id))?;
        let heartbeat = lease.value.heartbeat.as_ref()?;
        let draining = heartbeat.draining.then(|| "is draining".to_owned());
        draining.or_else(|| heartbeat.degradations().map(|words| format!("is degraded: {words}")))
    }

    async fn wait(&self, id: &SessionId) -> Result<WorkView> {
        let (mut reports, mut records) = (self.store.observed.view().changes(), self.store.sessions.view().changes());
        let deadline = Instant::now() + WAIT;
        loop {
            reports.borrow_and_update();
            records.borrow_and_update();
            let seen = self.seen(id).await?;
            if !seen.busy || Instant::now() >= deadline {
                return Ok(seen);
            }
            // Every arm is cancel safe: watches and a timer.
            tokio::select! {
                _ = reports.changed() => {}
                _ = records.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    async fn seen(&self, id: &SessionId) -> Result<WorkView> {
        let missing = || Error::new(ErrorCode::SessionNotFound, format!("there is no session {id}"));
        let record = self.store.sessions.get(id.as_str()).await?.found().ok_or_else(missing)?.value;
        let last = self.latest(id).await?.map(|last| last.number);
        let seen = {
            let observed = self.store.observed.view().read();
            observed_of(&record, &observed).and_then(|seen| seen.work.clone()).unwrap_or_default()
        };
        let phase = self.sessions.phase_of(&record);
        let waits = record.work.asked > seen.asked && phase == SessionPhase::Ready;
        let begins = !matches!(phase, SessionPhase::Ready) && !phase.is_terminal() && record.work.restore.is_some();
        Ok(WorkView {
            busy: waits || record.work.moving.is_some() || begins,
            last,
            error: record.work.error.clone().or(seen.error),
            moving: record.work.moving.is_some(),
            restored: record.work.restore.as_ref().map(|restore| restore.number),
            runner: record.assignment.as_ref().map(|of| of.runner.clone()),
            phase,
        })
    }
}

fn moving(record: &SessionRecord, to: Option<RunnerId>, restore: Option<Restore>) -> SessionRecord {
    let asked = record.work.asked + 1;
    let moving = Some(Moving { to, restore, since: Timestamp::now(), saves: asked, ends: false, gives_way_to: None });
    SessionRecord { work: WorkRecord { asked, moving, error: None, ..record.work.clone() }, ..record.clone() }
}
