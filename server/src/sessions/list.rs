//! Lists and counts: everything here reads the views.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
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
use crate::store::Sought;
use crate::store::view::Content;

/// Most sessions of a page.
const MAX_LIMIT: usize = 1000;

/// Place of a session in a list: newest first, ids break ties.
type Place = (Reverse<Timestamp>, SessionId);

/// The views that say which sessions there are.
#[derive(Clone, Copy)]
struct Views<'a> {
    sessions: &'a Content<SessionRecord>,
    observed: &'a Content<ObservedSession>,
}

/// One session of them, which nothing was copied of: most are on no page.
#[derive(Clone, Copy)]
struct Listed<'a> {
    created_at: Timestamp,
    id: &'a SessionId,
    /// Its own record; none where it runs without one.
    own: Option<&'a Arc<SessionRecord>>,
    /// What runs without a record.
    unclaimed: Option<&'a Arc<ObservedSession>>,
}

impl<'a> Listed<'a> {
    fn place(&self) -> (Reverse<Timestamp>, &'a SessionId) {
        (Reverse(self.created_at), self.id)
    }

    fn owner(&self) -> &'a str {
        self.own.map_or("", |record| &record.owner)
    }
}

impl<'a> Views<'a> {
    /// Every session with a record, then those that run without one.
    fn all(self) -> impl Iterator<Item = Listed<'a>> {
        let with_record = self.sessions.iter().map(|(_, entry)| &entry.value).map(|own| Listed {
            created_at: own.created_at,
            id: &own.id,
            own: Some(own),
            unclaimed: None,
        });
        let without = self.observed.sought().filter_map(move |entry| {
            let (id, received_at) = (&entry.value.session, entry.value.unclaimed.as_ref()?.received_at);
            let found = Listed { created_at: received_at, id, own: None, unclaimed: Some(&entry.value) };
            self.sessions.get(id.as_str()).is_none().then_some(found)
        });
        with_record.chain(without)
    }

    /// The record of the session that has the desktop.
    fn record(self, own: &'a Arc<SessionRecord>) -> Option<&'a Arc<SessionRecord>> {
        match &own.desktop_of {
            Some(desktop) => self.sessions.get(desktop.as_str()).map(|entry| &entry.value),
            None => Some(own),
        }
    }

    /// What was reported of the desktop.
    fn seen(self, found: Listed<'a>) -> Option<&'a Arc<ObservedSession>> {
        let Some(record) = found.own.and_then(|own| self.record(own)) else { return found.unclaimed };
        let key = subject::runner_session_key(&record.assignment.as_ref()?.runner, &record.id);
        self.observed.get(&key).map(|entry| &entry.value)
    }

    fn row(self, found: Listed<'a>) -> Row {
        Row {
            place: (Reverse(found.created_at), found.id.clone()),
            record: found.own.and_then(|own| self.record(own)).cloned(),
            observed: self.seen(found).cloned(),
            name: found.own.filter(|own| own.desktop_of.is_some()).cloned(),
        }
    }
}

/// One session with all that is known of its desktop, held by reference counts alone.
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
    fn known<'a>(&'a self, runners: &Content<RunnerRecord>) -> Known<'a> {
        let liveness = self.runner().and_then(|id| runners.get(id.as_str())).map(|entry| entry.value.liveness);
        let (record, observed) = (self.record.as_deref(), self.observed.as_deref());
        Known { id: &self.place.1, record, observed, liveness, usage: None, name: self.name.as_deref() }
    }

    fn usage(&self, leases: &Content<Lease>) -> Option<Usage> {
        let lease = leases.get(&subject::runner_lease_key(self.runner()?))?;
        let desktop = self.record.as_ref().map_or(&self.place.1, |record| &record.id);
        lease.value.heartbeat.as_ref()?.usage.get(desktop).copied()
    }
}

impl Sessions {
    pub(super) fn page(&self, by: &Principal, filter: &Filter) -> Result<SessionPage> {
        let after = filter.cursor.as_deref().map(parse_cursor).transpose()?;
        let limit = filter.limit.clamp(1, MAX_LIMIT);
        let store = &self.inner.store;
        let rules = Rules::read(store);
        let (rows, more, positions, runners) = {
            // In this order: see `View::read`.
            let (sessions, observed) = (store.sessions.view().read(), store.observed.view().read());
            let runners = store.runners.view().read();
            let views = Views { sessions: &sessions, observed: &observed };
            let has_phase = |found: Listed<'_>| filter.phases.contains(&views.row(found).known(&runners).phase());
            let is_wanted = |found: &Listed<'_>| {
                by.may_see(found.id, found.owner())
                    && after.as_ref().is_none_or(|(at, id)| found.place() > (*at, id))
                    && matches(filter, found.own.map(|own| &**own), || views.seen(*found).map(|seen| &**seen))
                    && (filter.phases.is_empty() || has_phase(*found))
            };
            let mut found: Vec<_> = views.all().filter(is_wanted).collect();
            let more = found.len() > limit;
            if more {
                // Only one page is put in order, however many sessions there are.
                found.select_nth_unstable_by_key(limit, Listed::place);
                found.truncate(limit);
            }
            found.sort_unstable_by_key(Listed::place);
            let rows: Vec<_> = found.into_iter().map(|found| views.row(found)).collect();
            let queued = rows.iter().any(|row| row.record.as_ref().is_some_and(|record| waits(record)));
            let positions = if queued { queue_positions(&rules, &sessions, &observed) } else { BTreeMap::new() };
            // Phases are shown as they were judged.
            (rows, more, positions, runners)
        };
        let leases = store.leases.view().read();
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
        let store = &self.inner.store;
        // In this order: see `View::read`.
        let (sessions, observed) = (store.sessions.view().read(), store.observed.view().read());
        let (runners, views) = (store.runners.view().read(), Views { sessions: &sessions, observed: &observed });
        let mut counts = BTreeMap::new();
        for found in views.all() {
            *counts.entry(PhaseName(views.row(found).known(&runners).phase())).or_insert(0) += 1;
        }
        counts
    }

    /// Place in the queue, from 1.
    pub(super) fn queue_position(&self, record: &SessionRecord) -> u32 {
        let store = &self.inner.store;
        let rules = Rules::read(store);
        // In this order: see `View::read`.
        let positions = {
            let (sessions, observed) = (store.sessions.view().read(), store.observed.view().read());
            queue_positions(&rules, &sessions, &observed)
        };
        // The view does not have it yet: it is behind all that it has.
        let last = || u32::try_from(positions.len() + 1).unwrap_or(u32::MAX);
        positions.get(&record.id).copied().unwrap_or_else(last)
    }
}

/// Of everything that somebody waits for.
fn queue_positions(
    rules: &Rules,
    sessions: &Content<SessionRecord>,
    observed: &Content<ObservedSession>,
) -> BTreeMap<SessionId, u32> {
    let records = sessions.sought().map(|entry| &*entry.value).filter(|record| record.warm.is_none());
    let waiting: Vec<_> = records.map(|record| rules.waiting(record)).collect();
    // Owners take turns; one alone does, whatever it has.
    let is_alone = waiting.windows(2).all(|two| two[0].owner == two[1].owner);
    let running = if is_alone { HashMap::default() } else { fleet::running(sessions, observed).by_owner };
    let turns = order(&waiting, &running);
    turns.into_iter().zip(1..).map(|(index, position)| (waiting[index].id.clone(), position)).collect()
}

/// What waits is asked for by each that is created.
impl Sought for SessionRecord {
    fn is_sought(&self) -> bool {
        waits(self)
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

fn matches<'a>(
    filter: &Filter,
    record: Option<&'a SessionRecord>,
    seen: impl Fn() -> Option<&'a ObservedSession>,
) -> bool {
    let assigned = record.and_then(|record| record.assignment.as_ref()).map(|of| &of.runner);
    let runner = || assigned.or_else(|| seen().map(|seen| &seen.runner));
    let kind = || seen().map(|seen| &seen.kind).or_else(|| record.and_then(|record| record.spec.kind.as_ref()));
    let label = |(key, value): &(String, String)| {
        record.and_then(|record| record.labels.get(key)).is_some_and(|found| found == value)
    };
    filter.runner.as_ref().is_none_or(|wanted| runner() == Some(wanted))
        && filter.kind.as_ref().is_none_or(|wanted| kind().is_some_and(|kind| kind.as_str() == wanted))
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
