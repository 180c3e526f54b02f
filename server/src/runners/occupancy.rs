//! Pure: which sessions hold slots, processors and memory, and where.

use std::collections::HashMap;

use helix_protocol::record::{RunnerRecord, SessionRecord};
use helix_protocol::resources::Reserve;
use helix_protocol::session::ObservedSession;
use helix_protocol::{KindName, RunnerId};

use crate::scheduler::{Held, reserve_on};
use crate::sessions::view::has_ended;
use crate::store::view::Content;

/// What is held, by runner.
pub type Occupancy = HashMap<RunnerId, Held>;

/// Counts every session that has a runner and has not ended there, and those that run without a record.
pub fn count(
    sessions: &Content<SessionRecord>,
    observed: &Content<ObservedSession>,
    runners: &Content<RunnerRecord>,
) -> Occupancy {
    let mut held = Occupancy::new();
    let mut add = |runner: &RunnerId, kind: Option<&KindName>, own: Reserve| {
        let facts = runners.get(runner.as_str()).and_then(|entry| entry.value.facts.as_ref());
        let reserve = facts.map_or(own, |facts| reserve_on(facts, kind, own));
        held.entry(runner.clone()).or_default().add(reserve);
    };
    for (_, entry) in sessions.iter() {
        let record = &entry.value;
        if let Some(assignment) = &record.assignment
            && !has_ended(record, observed)
        {
            add(&assignment.runner, record.spec.kind.as_ref(), record.spec.reserve);
        }
    }
    for (_, entry) in observed.iter() {
        let seen = &entry.value;
        if !seen.phase.is_terminal() && sessions.get(seen.session.as_str()).is_none() {
            let own = seen.unclaimed.as_ref().map_or_else(Reserve::default, |unclaimed| unclaimed.spec.reserve);
            add(&seen.runner, Some(&seen.kind), own);
        }
    }
    held
}

#[cfg(test)]
mod tests;
