//! Pure: the steps that the reconciler takes with a session's record, without the store.

use helix_protocol::assignment::Assignment;
use helix_protocol::checkpoint::{Moving, Preempted, Restore, WorkRecord};
use helix_protocol::pool::Warm;
use helix_protocol::record::SessionRecord;
use helix_protocol::resources::OnLost;
use helix_protocol::session::{Cause, Desired, ObservedSession};
use helix_protocol::{Epoch, RunnerId, SessionId, subject};
use jiff::Timestamp;

use super::list::waits;
use super::view::{has_ended, has_ended_there, observed_of};
use crate::store::view::Content;

/// It has a runner. The epoch is above whatever that runner saw under this id, also before the store was emptied.
pub fn assigned(
    record: &SessionRecord,
    runner: &RunnerId,
    observed: &Content<ObservedSession>,
    at: Timestamp,
) -> SessionRecord {
    let seen = observed.get(&subject::runner_session_key(runner, &record.id));
    let epoch = seen.map_or(record.epoch, |seen| seen.value.epoch.max(record.epoch));
    let epoch = Epoch(epoch.0.saturating_add(1));
    SessionRecord {
        epoch,
        assignments: record.assignments.saturating_add(1),
        assignment: Some(Assignment { runner: runner.clone(), epoch, assigned_at: at }),
        cause: None,
        work: WorkRecord { to: None, left: None, ..record.work.clone() },
        ..record.clone()
    }
}

/// It ends, so that `to` has room: an agent that is nobody's for good, what somebody has once it is saved.
pub fn give_way(record: &SessionRecord, to: &SessionId, at: Timestamp) -> SessionRecord {
    if let Some(warm) = &record.warm {
        let warm = Some(Warm { gave_way_to: Some(to.clone()), ..warm.clone() });
        return SessionRecord { desired: Desired::Stopped, deleted: true, warm, ..record.clone() };
    }
    let saves = record.work.asked + 1;
    let moving = Moving { to: None, restore: None, since: at, saves, ends: false, gives_way_to: Some(to.clone()) };
    let work = WorkRecord {
        asked: saves,
        moving: Some(moving),
        error: None,
        preempted: Some(Preempted { by: to.clone(), epoch: record.epoch, ended: false }),
        ..record.work.clone()
    };
    SessionRecord { work, ..record.clone() }
}

/// What is next for a session that moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoveStep {
    /// It is saved, and ends.
    End,
    /// It goes on where it is, for this reason.
    GiveUp(String),
    /// The session that it should have made room for does not wait any more.
    Spare,
}

/// What is next for a session that moves and does not end yet; nothing while it is being saved.
pub fn next_of_move(
    record: &SessionRecord,
    sessions: &Content<SessionRecord>,
    observed: &Content<ObservedSession>,
) -> Option<MoveStep> {
    let moving = record.work.moving.as_ref().filter(|moving| !moving.ends)?;
    if record.desired == Desired::Stopped || has_ended_there(record, observed) {
        return Some(MoveStep::GiveUp("it has ended".to_owned()));
    }
    let still_waits = |to: &SessionId| sessions.get(to.as_str()).is_some_and(|entry| waits(&entry.value));
    if moving.gives_way_to.as_ref().is_some_and(|to| !still_waits(to)) {
        return Some(MoveStep::Spare);
    }
    let seen = observed_of(record, observed)?.work.as_ref().filter(|seen| seen.asked >= moving.saves)?;
    Some(seen.error.clone().map_or(MoveStep::End, MoveStep::GiveUp))
}

/// The record after that step. Preempted without `on_lost = restart` it stays stopped.
pub fn moved_on(record: &SessionRecord, step: MoveStep) -> SessionRecord {
    let mut record = record.clone();
    let work = &mut record.work;
    let gives_way = work.moving.as_ref().is_some_and(|moving| moving.gives_way_to.is_some());
    match step {
        MoveStep::End if gives_way && record.spec.on_lost != Some(OnLost::Restart) => {
            work.moving = None;
            work.preempted.iter_mut().for_each(|preempted| preempted.ended = true);
            record.desired = Desired::Stopped;
        }
        MoveStep::End => work.moving.iter_mut().for_each(|moving| moving.ends = true),
        MoveStep::GiveUp(error) => {
            (work.moving, work.error) = (None, Some(error));
            work.preempted = work.preempted.take().filter(|_| !gives_way);
        }
        MoveStep::Spare => (work.moving, work.preempted) = (None, None),
    }
    record
}

/// True once nothing runs any more of what shall move: its runner has said so, or holds it still and is lost.
pub fn has_moved(record: &SessionRecord, observed: &Content<ObservedSession>, is_lost: bool) -> bool {
    let is_held = record.spec.on_lost == Some(OnLost::Restart) && is_lost;
    record.work.moving.as_ref().is_some_and(|moving| moving.ends || is_held)
        && record.desired == Desired::Running
        && (record.assignment.is_none() || has_ended_there(record, observed) || is_held)
}

/// True for what begins elsewhere once its runner is lost.
pub fn restarts_when_lost(record: &SessionRecord, observed: &Content<ObservedSession>) -> bool {
    record.spec.on_lost == Some(OnLost::Restart)
        && record.desired == Desired::Running
        && record.work.moving.is_none()
        && record.assignment.is_some()
        && !has_ended(record, observed)
}

/// What is known of its work after a move. What was preempted may come back to where it was.
pub fn work_after_move(record: &SessionRecord, moving: &Moving, restore: Option<Restore>) -> WorkRecord {
    let from = record.assignment.as_ref().map(|of| of.runner.clone());
    let left = from.filter(|_| moving.to.is_none() && moving.gives_way_to.is_none());
    WorkRecord { restore, moving: None, left, to: moving.to.clone(), ..record.work.clone() }
}

/// It waits for a runner, as a new one does.
pub fn waits_again(record: &SessionRecord, work: WorkRecord, cause: Option<Cause>) -> SessionRecord {
    SessionRecord { assignment: None, work, cause, ..record.clone() }
}
