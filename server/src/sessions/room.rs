//! Who could give way to sessions that wait, and who does already, read from the views.

use std::collections::HashMap;

use helix_protocol::record::SessionRecord;
use helix_protocol::session::{Desired, ObservedSession};
use helix_protocol::{RunnerId, SessionId};

use super::fleet::Rules;
use super::view::has_ended;
use crate::scheduler::room::{Making, Occupant};
use crate::scheduler::{Ask, Candidate, Held};
use crate::store::view::Content;

/// The session for which this one ends.
pub fn gives_way_to(record: &SessionRecord) -> Option<&SessionId> {
    record.warm.as_ref()?.gave_way_to.as_ref()
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
        if record.desired == Desired::Stopped {
            making.leaving.push((runner, frees));
            making.reserved.extend(gives_way_to(record).map(|to| (to, runner)));
        } else if record.warm.is_some() {
            let (priority, since) = (applicant.waiting.priority, record.created_at);
            occupants.push(Occupant { id: &record.id, runner, frees, priority, since });
        }
    }
    (occupants, making)
}

fn frees(runner: &Candidate, ask: Ask<'_>) -> Held {
    let mut held = Held::default();
    held.add(runner.reserve(ask));
    held
}
