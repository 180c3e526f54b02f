//! How the agents of pools are, from the views: what the planner decides by, and what people are shown.

use std::collections::HashMap;
use std::sync::Arc;

use helix_protocol::PoolName;
use helix_protocol::pool::PoolRecord;
use helix_protocol::record::{RunnerRecord, SessionRecord};
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Cause, Desired, ObservedSession, SessionPhase};
use jiff::{SignedDuration, Timestamp};

use super::plan::{Member, Standing};
use crate::clock::Clock;
use crate::sessions::list::waits;
use crate::sessions::view::{has_ended, observed_of};
use crate::store::Store;
use crate::store::view::Content;

/// An agent that lives so long after it had its runner has not what made others end.
const STEADY_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Numbers of one pool.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Ready, and nobody's.
    pub ready: u32,
    /// Nobody's, with a runner, not ready yet.
    pub starting: u32,
    /// Nobody's, without a runner.
    pub pending: u32,
    /// Somebody's, with a runner.
    pub claimed: u32,
    /// Somebody's, without a runner.
    pub queued: u32,
    /// Why one of those without a runner has none.
    pub cause: Option<Cause>,
}

impl Counts {
    /// Living sessions that somebody has, or waits for.
    pub fn taken(&self) -> u32 {
        self.claimed.saturating_add(self.queued)
    }
}

/// The numbers of each pool.
pub fn counted(store: &Store, pools: &[Arc<PoolRecord>]) -> Vec<Counts> {
    // In this order: see `View::read`.
    let (sessions, observed) = (store.sessions.view().read(), store.observed.view().read());
    let generations: HashMap<_, _> = pools.iter().map(|pool| (&pool.name, pool.generation)).collect();
    let mut all: HashMap<&PoolName, Counts> = HashMap::new();
    for (_, entry) in sessions.iter() {
        let record = &entry.value;
        let Some(pool) = &record.pool else { continue };
        if record.desktop_of.is_some() || has_ended(record, &observed) {
            continue;
        }
        let counts = all.entry(pool).or_default();
        let count = match (&record.warm, &record.assignment) {
            (None, Some(_)) => &mut counts.claimed,
            (None, None) if waits(record) => &mut counts.queued,
            (None, None) => continue,
            // It ends already, or is about to.
            (Some(warm), _)
                if record.desired == Desired::Stopped || generations.get(pool) != Some(&warm.generation) =>
            {
                continue;
            }
            (Some(_), None) => &mut counts.pending,
            (Some(_), Some(_)) => {
                let ready = observed_of(record, &observed).is_some_and(|seen| seen.phase == SessionPhase::Ready);
                if ready { &mut counts.ready } else { &mut counts.starting }
            }
        };
        *count += 1;
        if record.assignment.is_none() && counts.cause.is_none() {
            counts.cause.clone_from(&record.cause);
        }
    }
    pools.iter().map(|pool| all.get(&pool.name).cloned().unwrap_or_default()).collect()
}

/// What the planner is told of one agent that a pool's record names.
pub fn member(
    pool: &PoolRecord,
    id: &helix_protocol::SessionId,
    sessions: &Content<SessionRecord>,
    observed: &Content<ObservedSession>,
    runners: &Content<RunnerRecord>,
    (now, clock): (Timestamp, &Clock),
) -> Member {
    let record = sessions.get(id.as_str()).map(|entry| &*entry.value);
    let standing = match record {
        // An id is never an agent's twice: links to the former one would lead to the next.
        None if sessions.was_deleted(id.as_str()) => Standing::Taken,
        None => Standing::Absent,
        Some(record) => match standing(record, observed, runners, now) {
            Standing::Ready | Standing::Steady if has_outlived(pool, record, clock) => Standing::Outlived,
            standing => standing,
        },
    };
    let cause = record.and_then(|record| observed_of(record, observed)).and_then(|seen| seen.cause.clone());
    let is_current =
        record.is_none_or(|record| record.warm.as_ref().is_none_or(|warm| warm.generation == pool.generation));
    let gave_way_to = record.and_then(|record| record.warm.as_ref()?.gave_way_to.clone());
    Member { id: id.clone(), standing, is_current, cause, gave_way_to }
}

fn has_outlived(pool: &PoolRecord, record: &SessionRecord, clock: &Clock) -> bool {
    let assigned = record.assignment.as_ref().map(|of| of.assigned_at);
    pool.spec.lifetime.zip(assigned).is_some_and(|(limit, since)| clock.age(since) >= limit.duration())
}

fn standing(
    record: &SessionRecord,
    observed: &Content<ObservedSession>,
    runners: &Content<RunnerRecord>,
    now: Timestamp,
) -> Standing {
    if record.warm.is_none() || record.desired == Desired::Stopped {
        return Standing::Taken;
    }
    let Some(assignment) = &record.assignment else {
        return if record.cause.is_some() { Standing::Crowded } else { Standing::Pending };
    };
    let seen = observed_of(record, observed);
    let has_lived = now.duration_since(assignment.assigned_at) > STEADY_AFTER;
    if let Some(seen) = seen.filter(|seen| seen.phase.is_terminal()) {
        // One that was ready for long says nothing about the next one: its runner's time limit, most often.
        let was_good = has_lived && seen.timeline.iter().any(|step| step.step == "ready");
        return if was_good { Standing::Taken } else { Standing::Failed };
    }
    let runner = runners.get(assignment.runner.as_str()).map(|entry| &entry.value);
    if runner.is_none_or(|runner| runner.liveness == Liveness::Lost || runner.cordoned) {
        return Standing::Stranded;
    }
    match seen.map(|seen| seen.phase) {
        Some(SessionPhase::Ready) if has_lived => Standing::Steady,
        Some(SessionPhase::Ready) => Standing::Ready,
        _ => Standing::Starting,
    }
}
