//! Who could give way to sessions that wait, and who does already, read from the views.

use std::collections::{BTreeSet, HashMap};

use helix_protocol::record::SessionRecord;
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Desired, ObservedSession, SessionPhase};
use helix_protocol::{RunnerId, SessionId};

use super::fleet::Rules;
use super::view::{has_ended, observed_of};
use crate::scheduler::pass::Applicant;
use crate::scheduler::room::{Making, Occupant};
use crate::scheduler::{Ask, Candidate, Held};
use crate::store::view::Content;

/// The session for which this one ends, or ended without having begun again.
pub fn gives_way_to(record: &SessionRecord) -> Option<&SessionId> {
    let preempted = record.work.preempted.as_ref().filter(|preempted| preempted.epoch == record.epoch);
    record.warm.as_ref().and_then(|warm| warm.gave_way_to.as_ref()).or(preempted.map(|preempted| &preempted.by))
}

/// Those for whom a session was preempted.
pub fn have_preempted(sessions: &Content<SessionRecord>) -> BTreeSet<&SessionId> {
    sessions.iter().filter_map(|(_, entry)| entry.value.work.preempted.as_ref()).map(|of| &of.by).collect()
}

/// A session that waits, as the scheduler is told of it. One preempts once, and never back.
pub fn applicant<'a>(
    rules: &'a Rules,
    record: &'a SessionRecord,
    have_preempted: &BTreeSet<&SessionId>,
) -> Applicant<'a> {
    let may_preempt = record.work.preempted.is_none() && !have_preempted.contains(&record.id);
    Applicant { may_preempt, ..rules.applicant(record) }
}

/// Those who could give way, and what ends already.
pub fn occupants<'a>(
    rules: &'a Rules,
    candidates: &[Candidate],
    sessions: &'a Content<SessionRecord>,
    observed: &Content<ObservedSession>,
) -> (Vec<Occupant<'a>>, Making<'a>) {
    let places: HashMap<&RunnerId, usize> = candidates.iter().map(|candidate| &candidate.id).zip(0..).collect();
    let (mut occupants, mut making) = (Vec::new(), Making::default());
    for (_, entry) in sessions.iter() {
        let record = &*entry.value;
        let place = record.assignment.as_ref().and_then(|of| places.get(&of.runner)).copied();
        let Some(runner) = place.filter(|_| !has_ended(record, observed)) else { continue };
        let applicant = rules.applicant(record);
        let frees = frees(&candidates[runner], applicant.ask);
        if ends(record) {
            making.leaving.push((runner, frees));
            // Who is not heard may never say that it has ended.
            let to = gives_way_to(record).filter(|_| candidates[runner].liveness == Liveness::Online);
            making.reserved.extend(to.map(|to| (to, runner)));
        } else if record.warm.is_some() || is_preemptible(record, observed) {
            let (priority, since, is_warm) = (applicant.waiting.priority, record.created_at, record.warm.is_some());
            occupants.push(Occupant { id: &record.id, runner, frees, is_warm, priority, since });
        }
    }
    (occupants, making)
}

/// True while its end is decided.
fn ends(record: &SessionRecord) -> bool {
    let moves = record.work.moving.as_ref().is_some_and(|moving| moving.ends || moving.gives_way_to.is_some());
    moves || record.desired == Desired::Stopped
}

/// One that could not be saved for its last move is left alone.
fn is_preemptible(record: &SessionRecord, observed: &Content<ObservedSession>) -> bool {
    record.spec.preemptible == Some(true)
        && record.work.moving.is_none()
        && record.work.error.is_none()
        && observed_of(record, observed).is_some_and(|seen| seen.phase == SessionPhase::Ready)
}

fn frees(runner: &Candidate, ask: Ask<'_>) -> Held {
    let mut held = Held::default();
    held.add(runner.reserve(ask));
    held
}
