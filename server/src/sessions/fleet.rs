//! What the scheduler is told, read from the views: for the pass that places sessions, for places in the queue, and for
//! people who ask why a session is where it is.

use std::collections::HashMap;
use std::sync::Arc;

use helix_protocol::image::Digest;
use helix_protocol::pool::PoolSpec;
use helix_protocol::record::{ImageRecord, RunnerRecord, SessionRecord};
use helix_protocol::runner::{Heartbeat, RunnerFacts};
use helix_protocol::session::{Desired, ObservedSession, SessionSpec};
use helix_protocol::{PoolName, subject};
use jiff::Timestamp;

use super::view::has_ended;
use crate::runners::occupancy;
use crate::scheduler::pass::{Applicant, Running};
use crate::scheduler::queue::Waiting;
use crate::scheduler::{Ask, Candidate, ImageAsk};
use crate::store::Store;
use crate::store::view::Content;

/// What pools and images say of sessions. Read before the views of sessions: see the order of locks at `View::read`.
pub struct Rules {
    pools: HashMap<PoolName, PoolSpec>,
    /// For which machines each image is.
    arches: HashMap<Digest, String>,
}

impl Rules {
    /// Of these pools, and of no images.
    pub fn of(pools: HashMap<PoolName, PoolSpec>) -> Self {
        Self { pools, arches: HashMap::new() }
    }

    /// As they are now.
    pub fn read(store: &Store) -> Self {
        let pools = {
            let pools = store.pools.view().read();
            pools.iter().map(|(_, entry)| (entry.value.name.clone(), entry.value.spec.clone())).collect()
        };
        let images = store.images.view().read();
        let arch = |record: &ImageRecord| match record {
            ImageRecord::Image(image) => Some((image.signed.digest(), image.arch.clone())),
            ImageRecord::Name { .. } | ImageRecord::Collection { .. } => None,
        };
        Self { pools, arches: images.iter().filter_map(|(_, entry)| arch(&entry.value)).collect() }
    }

    /// A session as the scheduler is told of it; one that preempts nobody.
    pub fn applicant<'a>(&'a self, record: &'a SessionRecord) -> Applicant<'a> {
        let SessionSpec { kind, resources, reserve, .. } = &record.spec;
        let image = record.spec.image_digest();
        let image = image.map(|digest| ImageAsk { digest, arch: self.arches.get(&digest).map(String::as_str) });
        let spec = record.pool.as_ref().and_then(|pool| self.pools.get(pool));
        let ask = Ask {
            kind: kind.as_ref(),
            pool: record.pool.as_ref(),
            selector: spec.map(|spec| &spec.selector),
            placement: spec.map(|spec| spec.placement).unwrap_or_default(),
            runner: record.work.to.as_ref().or(record.on_runner.as_ref()),
            left: record.work.left.as_ref(),
            image,
            resources: *resources,
            reserve: *reserve,
        };
        Applicant { waiting: self.waiting(record), ask, pool_max: spec.and_then(|spec| spec.max), may_preempt: false }
    }

    /// Its place in the queue.
    pub fn waiting<'a>(&self, record: &'a SessionRecord) -> Waiting<'a> {
        let spec = record.pool.as_ref().and_then(|pool| self.pools.get(pool));
        Waiting {
            id: &record.id,
            owner: &record.owner,
            is_warm: record.warm.is_some(),
            priority: spec.map_or(0, |spec| spec.priority),
            since: record.created_at,
        }
    }
}

/// Every runner, with what is held of it.
pub fn candidates(
    store: &Store,
    sessions: &Content<SessionRecord>,
    observed: &Content<ObservedSession>,
) -> Vec<Candidate> {
    // After the others: see the order of locks at `View::read`.
    let (runners, leases) = (store.runners.view().read(), store.leases.view().read());
    let held = occupancy::count(sessions, observed, &runners);
    let now = Timestamp::now();
    let candidate = |record: &RunnerRecord| {
        let lease = leases.get(&subject::runner_lease_key(&record.id));
        let heartbeat = lease.and_then(|lease| lease.value.heartbeat.as_ref());
        let slots = record.facts.as_ref().map_or(0, |facts| facts.slots);
        Candidate {
            id: record.id.clone(),
            liveness: record.liveness,
            cordoned: record.cordoned,
            draining: heartbeat.is_some_and(|heartbeat| heartbeat.draining),
            degraded: heartbeat.and_then(Heartbeat::degradations),
            unsteady: record.losses.unsteady_until().is_some_and(|until| now < until),
            slots: heartbeat.map_or(slots, |heartbeat| heartbeat.slots),
            held: held.get(&record.id).copied().unwrap_or_default(),
            images: heartbeat.map(|heartbeat| heartbeat.images.present.clone()).unwrap_or_default(),
            facts: record.facts.clone().map(|facts| Arc::new(RunnerFacts { labels: record.all_labels(), ..facts })),
        }
    };
    runners.iter().map(|(_, entry)| candidate(&entry.value)).collect()
}

/// How many sessions have runners.
pub fn running<'a>(sessions: &'a Content<SessionRecord>, observed: &Content<ObservedSession>) -> Running<'a> {
    let mut running = Running::default();
    for (_, entry) in sessions.iter() {
        let record = &*entry.value;
        if record.assignment.is_none() || has_ended(record, observed) {
            continue;
        }
        if record.warm.is_none() {
            *running.by_owner.entry(record.owner.as_str()).or_default() += 1;
        }
        // An agent that is given up makes room at once: its runner counts its slot until it has ended.
        let goes_on = record.warm.is_none() || record.desired == Desired::Running;
        if let Some(pool) = record.pool.as_ref().filter(|_| goes_on) {
            *running.by_pool.entry(pool).or_default() += 1;
        }
    }
    running
}
