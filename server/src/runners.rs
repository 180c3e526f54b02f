//! Rules for runners: enrol, register, hear, list; amend, rotate their tokens, remove.
//!
//! A runner is its record (identity, facts, the verdict how it is heard) and its lease (the last heartbeat). Whoever
//! hears a runner says `Online`; `Suspect` and `Lost` are the leader's to say.

mod amend;
pub mod disconnects;
mod enrol;
pub mod liveness;
pub mod occupancy;
mod reaped;
mod remove;
mod rotate;

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::api::RunnerView;
use helix_protocol::assignment::Lease;
use helix_protocol::event::Event;
use helix_protocol::external_agents::Register;
use helix_protocol::record::RunnerRecord;
use helix_protocol::runner::{Degradation, Degraded, Heartbeat, Liveness, RunnerFacts, RunnerStatus};
use helix_protocol::{ErrorCode, RunnerId, subject};
use jiff::{SignedDuration, Timestamp};

use self::disconnects::Disconnects;
use crate::bus::Bus;
use crate::config::{ServerConfig, is_tls};
use crate::error::{Error, Result};
use crate::events::Events;
use crate::store::{Store, Versioned};

/// As far as clocks may be apart; recordings of a runner whose clock is further ahead are not taken.
const CLOCKS_APART: SignedDuration = SignedDuration::from_mins(5);
/// How often a lease is renewed again after another replica was faster.
const MAX_TRIES: usize = 5;

/// Rules for runners over the store. Cheap to clone.
#[derive(Clone)]
pub struct Runners {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Bus,
    store: Store,
    events: Events,
    server_id: Arc<str>,
    nats_url: String,
    nats_ca: Option<String>,
    lease_ttl: Duration,
    disconnects: Disconnects,
}

impl Runners {
    /// Rules over a store.
    pub fn new(bus: Bus, store: Store, events: Events, server_id: Arc<str>, config: &ServerConfig) -> Self {
        // Whole seconds: what JetStream knows.
        let lease_ttl = Duration::from_secs(config.lost_timeout.as_millis().div_ceil(1000) as u64);
        let nats_url = config.runner_nats_url.clone();
        let nats_ca = config.nats.ca.as_ref().filter(|_| is_tls(&nats_url)).map(|ca| ca.pem.clone());
        Self {
            inner: Arc::new(Inner {
                bus,
                store,
                events,
                server_id,
                nats_url,
                nats_ca,
                lease_ttl,
                disconnects: Disconnects::default(),
            }),
        }
    }

    /// Whose connection has ended.
    pub fn disconnects(&self) -> &Disconnects {
        &self.inner.disconnects
    }

    /// One runner.
    pub async fn get(&self, id: &RunnerId) -> Result<RunnerView> {
        let entry = self.inner.store.runners.get(id.as_str()).await?.found().ok_or_else(|| not_found(id))?;
        Ok(self.view(&entry.value, self.active_tasks(id)))
    }

    /// Every runner, by id.
    pub async fn list(&self) -> Result<Vec<RunnerView>> {
        self.inner.store.runners.catch_up().await?;
        let records: Vec<_> = {
            let runners = self.inner.store.runners.view().read();
            runners.iter().map(|(_, entry)| Arc::clone(&entry.value)).collect()
        };
        let active = self.occupancy();
        Ok(records.iter().map(|record| self.view(record, slots_of(&active, &record.id))).collect())
    }

    /// A runner said what it offers. Durable when this returns.
    pub async fn register(&self, id: &RunnerId, facts: RunnerFacts) -> Result<()> {
        let change = |record: &RunnerRecord| {
            let record =
                RunnerRecord { facts: Some(facts.clone()), registered_at: Some(Timestamp::now()), ..online(record) };
            Ok(Some(record))
        };
        // The lease first: with the record the leader may give it work, and looks for the lease.
        self.known(id).await?;
        self.renew(id, None).await?;
        let entry = self.inner.store.runners.modify(id.as_str(), change, || not_found(id)).await?;
        let register = documents_register(id, &facts);
        self.inner.events.register(&register, &format!("register.{id}.{}", entry.revision)).await?;
        let view = self.view(&entry.value, self.active_tasks(id));
        self.tell(id, view.status, view.liveness, entry.revision).await;
        tracing::info!(runner.id = %id, slots = facts.slots, version = facts.version, "runner registered");
        Ok(())
    }

    /// A runner is alive. Its lease is renewed when this returns. True when it had been lost.
    pub async fn heard(&self, id: &RunnerId, mut heartbeat: Heartbeat) -> Result<bool> {
        let record = self.known(id).await?;
        heartbeat.degraded.extend(heartbeat.at.and_then(|at| clocks_apart(at, Timestamp::now())));
        let status = heartbeat.status();
        self.tell_reaped(id, &heartbeat.leftovers.reaped).await;
        self.renew(id, Some(heartbeat)).await?;
        if record.liveness == Liveness::Online {
            return Ok(false);
        }
        let back = |record: &RunnerRecord| Ok((record.liveness != Liveness::Online).then(|| online(record)));
        let entry = self.inner.store.runners.modify(id.as_str(), back, || not_found(id)).await?;
        self.tell(id, status, Liveness::Online, entry.revision).await;
        tracing::info!(runner.id = %id, "runner is heard again");
        Ok(record.liveness == Liveness::Lost)
    }

    /// The record of a runner; `RunnerNotFound` once it was removed.
    pub async fn known(&self, id: &RunnerId) -> Result<Arc<RunnerRecord>> {
        let store = &self.inner.store;
        if let Some(entry) = store.runners.view().get(id.as_str()) {
            return Ok(entry.value);
        }
        Ok(store.runners.get(id.as_str()).await?.found().ok_or_else(|| not_found(id))?.value)
    }

    /// Renews the lease; without a heartbeat the last one stays.
    async fn renew(&self, id: &RunnerId, heartbeat: Option<Heartbeat>) -> Result<()> {
        let (leases, key) = (&self.inner.store.leases, subject::runner_lease_key(id));
        let mut known = leases.view().get(&key);
        let mut revision = known.as_ref().map_or(0, |entry| entry.revision);
        for _ in 0..MAX_TRIES {
            let heartbeat =
                heartbeat.clone().or_else(|| known.as_ref().and_then(|entry| entry.value.heartbeat.clone()));
            let lease = Lease {
                server: self.inner.server_id.to_string(),
                renewed_at: Timestamp::now(),
                heartbeat,
                sync: None,
                scale: None,
            };
            match leases.lease(&key, &lease, revision, self.inner.lease_ttl).await {
                Ok(_) => return Ok(()),
                // Another replica answered the last heartbeat, or the lease expired: the store knows its revision.
                Err(err) if err.code == ErrorCode::Conflict => {
                    let lookup = leases.get(&key).await?;
                    revision = lookup.revision();
                    known = lookup.found();
                }
                Err(err) => return Err(err),
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("the lease of runner {id} met other writers too often; repeat it")))
    }

    /// Tells watchers how a runner is heard.
    pub async fn tell(&self, id: &RunnerId, status: RunnerStatus, liveness: Liveness, revision: u64) {
        let event = Event::Runner { runner: id.clone(), status, liveness, at: Timestamp::now() };
        self.inner.events.tell(&event, &format!("runner.{id}.{revision}.{liveness:?}")).await;
    }

    fn occupancy(&self) -> occupancy::Occupancy {
        let store = &self.inner.store;
        let (sessions, observed, runners) =
            (store.sessions.view().read(), store.observed.view().read(), store.runners.view().read());
        occupancy::count(&sessions, &observed, &runners)
    }

    fn active_tasks(&self, id: &RunnerId) -> u32 {
        slots_of(&self.occupancy(), id)
    }

    fn view(&self, record: &RunnerRecord, active_tasks: u32) -> RunnerView {
        let lease = self.inner.store.leases.view().get(&subject::runner_lease_key(&record.id));
        view(record, lease.as_ref(), active_tasks)
    }
}

/// As it is once it is heard again.
fn online(record: &RunnerRecord) -> RunnerRecord {
    let was_lost = record.liveness == Liveness::Lost;
    let losses = if was_lost { record.losses.back(Timestamp::now()) } else { record.losses };
    RunnerRecord { liveness: Liveness::Online, losses, ..record.clone() }
}

/// What is wrong where a runner's clock is far from ours: times of its reports and recordings would be of no use.
fn clocks_apart(its: Timestamp, ours: Timestamp) -> Option<Degraded> {
    let apart = its.duration_since(ours);
    (apart.abs() > CLOCKS_APART).then(|| {
        let (minutes, where_to) = (apart.abs().as_mins(), if apart.is_negative() { "behind" } else { "ahead of" });
        let detail = format!("its clock is {minutes} minutes {where_to} this server's: keep both by NTP");
        Degraded { what: Degradation::Clock, detail }
    })
}

fn slots_of(held: &occupancy::Occupancy, id: &RunnerId) -> u32 {
    held.get(id).map_or(0, |held| held.slots)
}

fn view(record: &RunnerRecord, lease: Option<&Versioned<Lease>>, active_tasks: u32) -> RunnerView {
    let heartbeat = lease.and_then(|lease| lease.value.heartbeat.as_ref());
    let draining = heartbeat.is_some_and(|heartbeat| heartbeat.draining);
    let facts_slots = record.facts.as_ref().map_or(0, |facts| facts.slots);
    let slots = heartbeat.map_or(facts_slots, |heartbeat| heartbeat.slots);
    let status = if record.liveness == Liveness::Online {
        Heartbeat { active_tasks, slots, draining, ..Heartbeat::default() }.status()
    } else {
        RunnerStatus::Offline
    };
    RunnerView {
        id: record.id.clone(),
        status,
        liveness: record.liveness,
        cordoned: record.cordoned,
        draining,
        degraded: heartbeat.map(|heartbeat| heartbeat.degraded.clone()).unwrap_or_default(),
        unsteady_until: record.losses.unsteady_until().filter(|until| Timestamp::now() < *until),
        active_tasks,
        slots,
        facts: record.facts.clone(),
        labels: record.all_labels(),
        images: heartbeat.map(|heartbeat| heartbeat.images.clone()).unwrap_or_default(),
        leftovers: heartbeat.map(|heartbeat| heartbeat.leftovers.clone()).unwrap_or_default(),
        rotating: record.rotation.is_some(),
        token_since: Some(record.token_since.unwrap_or(record.enrolled_at)),
        enrolled_at: record.enrolled_at,
        registered_at: record.registered_at,
        last_seen_at: lease.map(|lease| lease.value.renewed_at),
    }
}

fn documents_register(id: &RunnerId, facts: &RunnerFacts) -> Register {
    Register {
        agent_id: id.to_string(),
        agent_type: "zed_external".to_owned(),
        capabilities: facts.kinds.iter().map(ToString::to_string).collect(),
        max_tasks: facts.slots,
        reply_subject: subject::reply_subject(id),
        metadata: serde_json::to_value(facts).unwrap_or_default(),
    }
}

fn not_found(id: &RunnerId) -> Error {
    Error::new(
        ErrorCode::RunnerNotFound,
        format!("there is no runner {id}; it enrols with an enrolment token: helixctl token create --runner"),
    )
}
