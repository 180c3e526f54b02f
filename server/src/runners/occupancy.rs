//! Pure: which sessions occupy a slot, and where.

use std::collections::HashMap;

use helix_protocol::RunnerId;
use helix_protocol::record::SessionRecord;
use helix_protocol::session::ObservedSession;

use crate::sessions::view::has_ended;
use crate::store::view::Content;

/// Slots in use by runner.
pub type Occupancy = HashMap<RunnerId, u32>;

/// Counts every session that has a runner and has not ended there, and those that run without a record.
pub fn count(sessions: &Content<SessionRecord>, observed: &Content<ObservedSession>) -> Occupancy {
    let mut used = Occupancy::new();
    for (_, entry) in sessions.iter() {
        let record = &entry.value;
        if let Some(assignment) = &record.assignment
            && !has_ended(record, observed)
        {
            *used.entry(assignment.runner.clone()).or_insert(0) += 1;
        }
    }
    for (_, entry) in observed.iter() {
        let seen = &entry.value;
        if !seen.phase.is_terminal() && sessions.get(seen.session.as_str()).is_none() {
            *used.entry(seen.runner.clone()).or_insert(0) += 1;
        }
    }
    used
}
