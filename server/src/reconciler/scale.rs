//! What room is missing and which runners idle, told to the operator's hook: see [`crate::scale`].
//!
//! A task of the leader beside the passes, as a call may take long. It looks again whenever a view changed or something
//! falls due, never before the bus has been healthy, and this process leading, for one lost-timeout: an outage looks as
//! if all runners were gone. What fails is tried again.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;
use std::time::Duration;

use helix_protocol::assignment::Lease;
use helix_protocol::record::SessionRecord;
use helix_protocol::resources::{Bytes, Cpus};
use helix_protocol::runner::Liveness;
use helix_protocol::scale::{ScaleRecord, Shortage, Wanted};
use helix_protocol::{ErrorCode, PoolName, RunnerId, subject};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::names::has_desktop;
use super::{PASS_INTERVAL, RETRY, Reconciler};
use crate::error::Result;
use crate::scale::plan::{self, Step};
use crate::scale::{ScaleConfig, hook};
use crate::scheduler::pass::{Applicant, Verdict, pass};
use crate::sessions::fleet::{self, Rules};
use crate::sessions::room;

/// Since when each runner that has no session has none.
type Idle = HashMap<RunnerId, Instant>;

impl Reconciler {
    pub(super) async fn tell_scale(self, config: ScaleConfig, mut leading: watch::Receiver<Option<Instant>>) {
        let (mut sessions, mut observed) = (self.store.sessions.view().changes(), self.store.observed.view().changes());
        let (mut runners, mut pools) = (self.store.runners.view().changes(), self.store.pools.view().changes());
        let mut health = self.bus.health();
        let (mut idle, mut idle_since) = (Idle::new(), None);
        loop {
            let Ok(Some(since)) = leading.wait_for(Option::is_some).await.map(|since| *since) else { return };
            let Ok(up) = health.wait_for(|health| health.up_since.is_some()).await.map(|health| *health) else {
                return;
            };
            self.store.synced(up.generation).await;
            sessions.borrow_and_update();
            observed.borrow_and_update();
            runners.borrow_and_update();
            pools.borrow_and_update();
            let steady_since = up.up_since.map_or(since, |up| up.max(since));
            // Nobody looked meanwhile.
            if idle_since.replace(steady_since) != Some(steady_since) {
                idle.clear();
            }
            let begin = steady_since + self.config.lost_timeout;
            let next = if Instant::now() < begin {
                begin
            } else {
                self.scale(&config, &mut idle).await.unwrap_or_else(|error| {
                    tracing::warn!(source = ?error.source, "what room is missing cannot be told yet: {error}");
                    Instant::now() + RETRY
                })
            };
            // Every arm is cancel safe: watches and a timer.
            let woken = tokio::select! {
                woken = sessions.changed() => woken,
                woken = observed.changed() => woken,
                woken = runners.changed() => woken,
                woken = pools.changed() => woken,
                woken = leading.changed() => woken,
                woken = health.changed() => woken,
                () = tokio::time::sleep_until(next.min(Instant::now() + PASS_INTERVAL)) => Ok(()),
            };
            if woken.is_err() {
                return;
            }
        }
    }

    /// Makes the call that is due, if one is. Answers when to look again.
    async fn scale(&self, config: &ScaleConfig, idle: &mut Idle) -> Result<Instant> {
        let (wanted, next) = self.wanted(config, idle);
        let entry = self.store.leases.view().get(subject::SCALE_KEY);
        let last = entry.as_ref().and_then(|entry| entry.value.scale.as_deref());
        let now = Timestamp::now();
        match plan::next(last, &wanted, &self.server_id, now, config.timeout + config.pause) {
            Step::Rest => Ok(next),
            Step::Wait(until) => {
                let pause = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                Ok(next.min(Instant::now() + pause))
            }
            Step::Call(record) => {
                let revision = entry.map(|entry| entry.revision);
                // Another leader was faster: it makes the call.
                let Some(revision) = self.write_scale(&record, revision).await? else {
                    return Ok(Instant::now() + RETRY);
                };
                let (key, number) = (record.call.key.clone(), record.call.number);
                tracing::info!(key, number, wanted = ?record.call.wanted, "the scale hook is called");
                let outcome = hook::call(&config.hook, &record.call, config.timeout).await;
                if let Err(error) = &outcome {
                    tracing::warn!(key, number, "the scale hook failed: {error}");
                }
                let record = plan::made(*record, outcome, Timestamp::now(), config.pause);
                self.write_scale(&record, Some(revision)).await?;
                Ok(Instant::now())
            }
        }
    }

    /// `None` where another writer was faster.
    async fn write_scale(&self, record: &ScaleRecord, revision: Option<u64>) -> Result<Option<u64>> {
        let (leases, server) = (&self.store.leases, self.server_id.to_string());
        let scale = Some(Box::new(record.clone()));
        let lease = Lease { server, renewed_at: Timestamp::now(), heartbeat: None, sync: None, scale };
        let written = match revision {
            Some(revision) => leases.update(subject::SCALE_KEY, &lease, revision).await,
            None => leases.create(subject::SCALE_KEY, &lease).await,
        };
        match written {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.code == ErrorCode::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is missing for long enough and who idles for long enough, and when that changes by time alone.
    fn wanted(&self, config: &ScaleConfig, idle: &mut Idle) -> (Wanted, Instant) {
        let now = Instant::now();
        let (desktops, rules) = (self.desktops(), Rules::read(&self.store));
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        // In this order: see `View::read`.
        let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
        let mut candidates = fleet::candidates(&self.store, &sessions, &observed);
        let is_idle = |id: &RunnerId| {
            let candidate = candidates.iter().find(|candidate| candidate.id == *id);
            candidate.is_some_and(|candidate| candidate.held.slots == 0 && candidate.liveness == Liveness::Online)
        };
        idle.retain(|id, _| is_idle(id));
        for candidate in candidates.iter().filter(|candidate| is_idle(&candidate.id)) {
            idle.entry(candidate.id.clone()).or_insert(now);
        }
        let waiting = sessions.sought().map(|entry| &*entry.value).filter(|record| has_desktop(record, &desktops));
        let waiting: Vec<_> = waiting.collect();
        let applicants: Vec<_> = waiting.iter().map(|record| rules.applicant(record)).collect();
        let running = fleet::running(&sessions, &observed);
        let (_, making) = room::occupants(&rules, &candidates, &sessions, &observed);
        let verdicts = pass(&applicants, &mut candidates, running, &self.config.quotas, &making);
        let (mut missing, mut next) = (BTreeMap::new(), now + PASS_INTERVAL);
        for (index, verdict) in verdicts {
            // Who waits for one certain runner gets no other, who may have no more gets nothing, and for whom agents give way
            // has room soon.
            let Verdict::Full(why) = verdict else { continue };
            let (record, applicant) = (waiting[index], &applicants[index]);
            if record.on_runner.is_some() || making.reserved.contains_key(&record.id) {
                continue;
            }
            match config.after.checked_sub(clock.age(record.created_at)).filter(|left| !left.is_zero()) {
                Some(left) => next = next.min(now + left),
                None => add(&mut missing, record, applicant, why),
            }
        }
        let mut idle_runners = Vec::new();
        if waiting.is_empty() {
            for (id, since) in idle.iter() {
                match config.shrink_after.checked_sub(now - *since).filter(|left| !left.is_zero()) {
                    Some(left) => next = next.min(now + left),
                    None => idle_runners.push(id.clone()),
                }
            }
        }
        idle_runners.sort();
        (Wanted { shortages: missing.into_values().map(|(_, shortage)| shortage).collect(), idle_runners }, next)
    }
}

/// By pool, with when the session that has waited longest was asked for.
type Missing = BTreeMap<Option<PoolName>, (Timestamp, Shortage)>;

fn add(missing: &mut Missing, record: &SessionRecord, applicant: &Applicant<'_>, why: String) {
    let of_label = || record.pool.iter().map(|pool| ("pool".to_owned(), pool.to_string())).collect();
    let (oldest, shortage) = missing.entry(record.pool.clone()).or_insert_with(|| {
        let shortage = Shortage {
            pool: record.pool.clone(),
            queued: 0,
            agents: 0,
            missing_slots: 0,
            missing_cpu: None,
            missing_memory: None,
            selector: applicant.ask.selector.cloned().unwrap_or_else(of_label),
            oldest: record.id.clone(),
            why: why.clone(),
        };
        (record.created_at, shortage)
    });
    let count = if record.warm.is_some() { &mut shortage.agents } else { &mut shortage.queued };
    *count += 1;
    shortage.missing_slots += 1;
    let reserve = applicant.ask.reserve;
    if let Some(Cpus(more)) = reserve.cpu {
        shortage.missing_cpu = Some(Cpus(shortage.missing_cpu.map_or(0, |Cpus(cpu)| cpu).saturating_add(more)));
    }
    if let Some(Bytes(more)) = reserve.memory {
        shortage.missing_memory = Some(Bytes(shortage.missing_memory.map_or(0, |Bytes(all)| all).saturating_add(more)));
    }
    if record.created_at < *oldest {
        *oldest = record.created_at;
        shortage.oldest.clone_from(&record.id);
        shortage.why = why;
    }
}
