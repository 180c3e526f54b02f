//! Lists and counts: everything here reads the views.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use helix_protocol::api::SessionPage;
use helix_protocol::assignment::Lease;
use helix_protocol::record::{RunnerRecord, SessionRecord};
use helix_protocol::resources::Usage;
use helix_protocol::session::{Desired, ObservedSession, SessionPhase};
use helix_protocol::{ErrorCode, RunnerId, SessionId, subject};
use jiff::Timestamp;

use super::fleet::{self, Rules};
use super::time_limits;
use super::view::{Known, sync_of};
use super::{Filter, Sessions};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::scheduler::queue::order;
use crate::store::Snapshot;

/// Most sessions of a page.
const MAX_LIMIT: usize = 1000;

/// Place of a session in a list: newest first, ids break ties.
type Place = (Reverse<Timestamp>, SessionId);

/// One session of the views, held by reference counts alone.
struct Row {
    place: Place,
    record: Option<Arc<SessionRecord>>,
    observed: Option<Arc<ObservedSession>>,
    /// Its own record, where it is another name of the desktop of `record`.
    name: Option<Arc<SessionRecord>>,
}

impl Row {
    fn runner(&self) -> Option<&RunnerId> {
        let assigned = self.record.as_ref().and_then(|record| record.assignment.as_ref()).map(|of| &of.runner);
        assigned.or_else(|| self.observed.as_ref().map(|seen| &seen.runner))
    }

    /// All but what it uses.
    fn known<'a>(&'a self, runners: &Snapshot<'_, RunnerRecord>) -> Known<'a> {
        let liveness = self.runner().and_then(|id| runners.get(id.as_str())).map(|entry| entry.value.liveness);
        let (record, observed) = (self.record.as_deref(), self.observed.as_deref());
        Known { id: &self.place.1, record, observed, liveness, usage: None, name: self.name.as_deref() }
    }

    fn usage(&self, leases: &Snapshot<'_, Lease>) -> Option<Usage> {
        let lease = leases.get(&subject::runner_lease_key(self.runner()?))?;
        let desktop = self.record.as_ref().map_or(&self.place.1, |record| &record.id);
        lease.value.heartbeat.as_ref()?.usage.get(desktop).copied()
    }
}

impl Sessions {
    pub(super) fn page(&self, by: &Principal, filter: &Filter) -> Result<SessionPage> {
        let after = filter.cursor.as_deref().map(parse_cursor).transpose()?;
        let limit = filter.limit.clamp(1, MAX_LIMIT);
        let mut rows = self.rows(|record, seen| {
            let owner = record.map_or("", |record| record.owner.as_str());
            let Some(id) = record.map(|record| &record.id).or_else(|| seen.map(|seen| &seen.session)) else {
                return false;
            };
            by.may_see(id, owner) && matches(filter, record, seen)
        });
        let positions = self.queue_positions();
        // After the others: see the order of locks at `View::read`.
        let (runners, leases) = (self.inner.store.runners.view().read(), self.inner.store.leases.view().read());
        rows.retain(|row| {
            after.as_ref().is_none_or(|after| row.place > *after)
                && (filter.phases.is_empty() || filter.phases.contains(&row.known(&runners).phase()))
        });
        let more = rows.len() > limit;
        if more {
            // Only one page is put in order, however many sessions there are.
            rows.select_nth_unstable_by(limit, |a, b| a.place.cmp(&b.place));
            rows.truncate(limit);
        }
        rows.sort_unstable_by(|a, b| a.place.cmp(&b.place));
        let next_cursor = rows.last().filter(|_| more).map(|row| cursor(&row.place));
        let view = |row: &Row| {
            let position = positions.get(&row.place.1).copied();
            let known = Known { usage: row.usage(&leases), ..row.known(&runners) };
            let mut view = known.view(position, &self.inner.public_url);
            if !view.phase.is_terminal() {
                view.sync = sync_of(known.record.map_or(known.id, |record| &record.id), &leases);
                known.record.into_iter().for_each(|record| time_limits::show(&mut view, record, &leases));
            }
            view
        };
        Ok(SessionPage { sessions: rows.iter().map(view).collect(), next_cursor })
    }

    pub(super) fn phases(&self) -> BTreeMap<PhaseName, u32> {
        let rows = self.rows(|_, _| true);
        // After the others: see the order of locks at `View::read`.
        let runners = self.inner.store.runners.view().read();
        let mut counts = BTreeMap::new();
        for row in rows {
            *counts.entry(PhaseName(row.known(&runners).phase())).or_insert(0) += 1;
        }
        counts
    }

    /// Place in the queue, from 1.
    pub(super) fn queue_position(&self, record: &SessionRecord) -> u32 {
        let place = self.queue_positions().get(&record.id).copied();
        // The view does not have it yet: it is behind all that it has.
        place.unwrap_or_else(|| u32::try_from(self.queue_positions().len() + 1).unwrap_or(u32::MAX))
    }

    fn queue_positions(&self) -> BTreeMap<SessionId, u32> {
        let rules = Rules::read(&self.inner.store);
        // In this order: see `View::read`.
        let (sessions, observed) = (self.inner.store.sessions.view().read(), self.inner.store.observed.view().read());
        let is_queued = |record: &SessionRecord| waits(record) && record.warm.is_none();
        let records = sessions.iter().map(|(_, entry)| &*entry.value).filter(|record| is_queued(record));
        let waiting: Vec<_> = records.map(|record| rules.waiting(record)).collect();
        let turns = order(&waiting, &fleet::running(&sessions, &observed).by_owner);
        turns.into_iter().zip(1..).map(|(index, position)| (waiting[index].id.clone(), position)).collect()
    }

    /// Every session with a record, then those that run without one.
    fn rows(&self, keep: impl Fn(Option<&SessionRecord>, Option<&ObservedSession>) -> bool) -> Vec<Row> {
        let sessions = self.inner.store.sessions.view().read();
        let observed = self.inner.store.observed.view().read();
        let mut rows = Vec::new();
        for (_, entry) in sessions.iter() {
            let own = &entry.value;
            let record = match &own.desktop_of {
                Some(desktop) => sessions.get(desktop.as_str()).map(|entry| &entry.value),
                None => Some(own),
            };
            let assigned = record.and_then(|record| Some((record, record.assignment.as_ref()?)));
            let key = assigned.map(|(record, of)| subject::runner_session_key(&of.runner, &record.id));
            let seen = key.and_then(|key| observed.get(&key)).map(|entry| &entry.value);
            if keep(Some(own), seen.map(|seen| &**seen)) {
                let place = (Reverse(own.created_at), own.id.clone());
                let name = own.desktop_of.as_ref().map(|_| Arc::clone(own));
                rows.push(Row { place, record: record.cloned(), observed: seen.cloned(), name });
            }
        }
        for (_, entry) in observed.iter() {
            let seen = &entry.value;
            let Some(unclaimed) = &seen.unclaimed else { continue };
            if sessions.get(seen.session.as_str()).is_none() && keep(None, Some(seen)) {
                let place = (Reverse(unclaimed.received_at), seen.session.clone());
                rows.push(Row { place, record: None, observed: Some(Arc::clone(seen)), name: None });
            }
        }
        rows
    }
}

/// True while it has no runner and shall have one.
pub fn waits(record: &SessionRecord) -> bool {
    record.assignment.is_none() && record.desired == Desired::Running && record.desktop_of.is_none()
}

/// Orders and prints as the phase does in a session's life.
#[derive(PartialEq, Eq)]
pub struct PhaseName(SessionPhase);

impl PhaseName {
    fn rank(&self) -> Option<usize> {
        SessionPhase::ALL.iter().position(|phase| *phase == self.0)
    }
}

impl Ord for PhaseName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for PhaseName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Display for PhaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn matches(filter: &Filter, record: Option<&SessionRecord>, seen: Option<&ObservedSession>) -> bool {
    let assigned = record.and_then(|record| record.assignment.as_ref()).map(|of| &of.runner);
    let runner = assigned.or_else(|| seen.map(|seen| &seen.runner));
    let kind = seen.map(|seen| &seen.kind).or_else(|| record.and_then(|record| record.spec.kind.as_ref()));
    let label = |(key, value): &(String, String)| {
        record.and_then(|record| record.labels.get(key)).is_some_and(|found| found == value)
    };
    filter.runner.as_ref().is_none_or(|wanted| runner == Some(wanted))
        && filter.kind.as_ref().is_none_or(|wanted| kind.is_some_and(|kind| kind.as_str() == wanted))
        && filter.owner.as_ref().is_none_or(|wanted| record.is_some_and(|record| record.owner == *wanted))
        && filter.labels.iter().all(label)
}

fn cursor((Reverse(at), id): &Place) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{id}", at.as_nanosecond()))
}

fn parse_cursor(text: &str) -> Result<Place> {
    let place = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (at, id) = text.split_once('.')?;
        Some((Reverse(Timestamp::from_nanosecond(at.parse().ok()?).ok()?), SessionId::parse(id).ok()?))
    };
    place().ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "cursor is not one that a former page gave"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_its_place() {
        let place = (
            Reverse(Timestamp::from_nanosecond(1_234_567_890).expect("valid")),
            SessionId::parse("a-b").expect("valid"),
        );
        assert_eq!(parse_cursor(&cursor(&place)).ok(), Some(place));
        for bad in ["", "x", "%%", &URL_SAFE_NO_PAD.encode("1"), &URL_SAFE_NO_PAD.encode("x.y")] {
            assert!(parse_cursor(bad).is_err(), "{bad}");
        }
    }
}
