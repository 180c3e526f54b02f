//! Pools: agents that are kept ready, and the sessions that take them.
//!
//! A pool's record says what it is and names its agents that are nobody's yet (`members`). The leader's reconciler keeps
//! as many as shall be ([`plan`], pure): it writes their ids into the record first, revision-checked, and only then makes
//! them; an agent that no record names is ended. So two leaders at once write one record, or one of them in vain, and
//! never make more than may be. An agent is a session without an owner's name that anybody could have, with the mark
//! `warm`; a session takes it with one revision-checked write ([`claim`]), which removes the mark.

pub mod ahead;
pub mod claim;
pub mod fit;
pub mod plan;
pub mod standing;

use std::collections::BTreeSet;

use helix_protocol::api::pools::{PoolList, PoolView, ScalePool};
use helix_protocol::pool::{MAX_AGENTS, PRIORITIES, PoolRecord, PoolSpec};
use helix_protocol::record::SessionRecord;
use helix_protocol::session::Cause;
use helix_protocol::{ErrorCode, PoolName, SessionId};
use jiff::Timestamp;

use crate::auth::{Need, Principal};
use crate::config::ServerConfig;
use crate::error::{Error, Result};
use crate::images::Images;
use crate::scheduler::queue::Quotas;
use crate::sessions::{Sessions, validate};
use crate::spec_tasks::SpecTasks;
use crate::store::{Lookup, Store, Versioned};

/// Rules for pools over the store. Cheap to clone.
#[derive(Clone)]
pub struct Pools {
    store: Store,
    sessions: Sessions,
    spec_tasks: SpecTasks,
    /// Sessions that say nothing of it are recorded.
    records: bool,
    /// Who has as many sessions as may be takes no agent, but waits.
    quotas: Quotas,
}

impl Pools {
    /// Rules over a store.
    pub fn new(store: Store, sessions: Sessions, spec_tasks: SpecTasks, config: &ServerConfig) -> Self {
        let (records, quotas) = (config.recording.on, config.quotas.clone());
        Self { store, sessions, spec_tasks, records, quotas }
    }

    /// Every pool. Knows all that was written before the call.
    pub async fn list(&self, by: &Principal) -> Result<PoolList> {
        tokio::try_join!(self.store.pools.catch_up(), self.store.sessions.catch_up(), self.store.observed.catch_up())?;
        let records: Vec<_> = self.store.pools.view().read().iter().map(|(_, entry)| entry.value.clone()).collect();
        Ok(PoolList { pools: self.views(by, &records) })
    }

    /// One pool.
    pub async fn get(&self, by: &Principal, name: &PoolName) -> Result<PoolView> {
        let record = self.store.pools.get(name.as_str()).await?.found().ok_or_else(|| not_found(name))?;
        tokio::try_join!(self.store.sessions.catch_up(), self.store.observed.catch_up())?;
        self.view(by, &record)
    }

    /// Makes a pool, or changes what it is; true where it is new. `version` is what the caller saw: 0 for none, and where
    /// absent it does not matter. The same spec again changes nothing.
    pub async fn put(
        &self,
        by: &Principal,
        name: &PoolName,
        spec: PoolSpec,
        version: Option<u64>,
    ) -> Result<(PoolView, bool)> {
        check(&spec)?;
        if let Some(image) = &spec.image {
            Images::resolve(&self.store, image).await?;
        }
        let now = Timestamp::now();
        let lookup = self.store.pools.get(name.as_str()).await?;
        if let Lookup::Absent | Lookup::Deleted(_) = lookup {
            if version.is_some_and(|version| version != 0) {
                let detail = format!("pool {name} is not there any more; somebody deleted it, look at the fleet again");
                return Err(Error::new(ErrorCode::Conflict, detail));
            }
            let record = PoolRecord {
                name: name.clone(),
                spec: spec.clone(),
                version: 1,
                // Agents of a former pool of this name are none of this one.
                generation: u64::try_from(now.as_millisecond()).unwrap_or_default(),
                changed_by: by.name.clone(),
                changed_at: now,
                created_at: now,
                members: BTreeSet::new(),
                trouble: None,
                gave_way_to: None,
            };
            match self.store.pools.create(name.as_str(), &record).await {
                Ok(revision) => {
                    tracing::info!(pool = %name, by = by.name, "pool made");
                    return Ok((self.view(by, &Versioned::new(record, revision))?, true));
                }
                // Somebody made it at the same moment.
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        let change = |record: &PoolRecord| {
            if let Some(version) = version.filter(|version| *version != record.version) {
                return Err(changed_meanwhile(record, version));
            }
            Ok((record.spec != spec).then(|| changed(record, spec.clone(), by)))
        };
        let entry = self.store.pools.modify(name.as_str(), change, || not_found(name)).await?;
        tracing::info!(pool = %name, by = by.name, version = entry.value.version, "pool applied");
        Ok((self.view(by, &entry)?, false))
    }

    /// Changes how many agents it has.
    pub async fn scale(&self, by: &Principal, name: &PoolName, how: ScalePool) -> Result<PoolView> {
        let ScalePool { min_ready, max } = how;
        let change = |record: &PoolRecord| {
            let mut spec = record.spec.clone();
            spec.min_ready = min_ready.unwrap_or(spec.min_ready);
            spec.max = max.or(spec.max);
            check(&spec)?;
            Ok((spec != record.spec).then(|| changed(record, spec, by)))
        };
        let entry = self.store.pools.modify(name.as_str(), change, || not_found(name)).await?;
        tracing::info!(pool = %name, by = by.name, min_ready = entry.value.spec.min_ready, "pool scaled");
        self.view(by, &entry)
    }

    /// Removes a pool. Its agents that are nobody's end; sessions that somebody has go on, unless `stop` says that they
    /// are stopped, too.
    pub async fn delete(&self, by: &Principal, name: &PoolName, stop: bool) -> Result<()> {
        let entry = self.store.pools.get(name.as_str()).await?;
        let Lookup::Found(entry) = entry else { return Err(not_found(name)) };
        let mut revision = entry.revision;
        // The leader writes the record, too.
        while let Err(error) = self.store.pools.delete(name.as_str(), revision).await {
            if error.code != ErrorCode::Conflict {
                return Err(error);
            }
            let Some(entry) = self.store.pools.get(name.as_str()).await?.found() else { break };
            revision = entry.revision;
        }
        tracing::info!(pool = %name, by = by.name, stop, "pool deleted");
        if stop {
            self.store.sessions.catch_up().await?;
            for id in self.claimed(name) {
                self.sessions.stop(by, &id).await?;
            }
        }
        Ok(())
    }

    fn claimed(&self, name: &PoolName) -> Vec<SessionId> {
        let sessions = self.store.sessions.view().read();
        let is_one = |record: &SessionRecord| record.pool.as_ref() == Some(name) && record.warm.is_none();
        sessions.iter().filter(|(_, entry)| is_one(&entry.value)).map(|(_, entry)| entry.value.id.clone()).collect()
    }

    fn view(&self, by: &Principal, entry: &Versioned<PoolRecord>) -> Result<PoolView> {
        let view = self.views(by, std::slice::from_ref(&entry.value)).pop();
        view.ok_or_else(|| Error::new(ErrorCode::Internal, "a pool has no view"))
    }

    fn views(&self, by: &Principal, records: &[std::sync::Arc<PoolRecord>]) -> Vec<PoolView> {
        let counted = standing::counted(&self.store, records);
        let secret = !Need::Operate.admits(&by.scope);
        let view = |(record, counts): (&std::sync::Arc<PoolRecord>, standing::Counts)| {
            let mut spec = record.spec.clone();
            if secret {
                spec.env.values_mut().for_each(String::clear);
            }
            let lacks = counts.ready < record.spec.min_ready;
            let trouble = record.trouble.as_ref().filter(|_| lacks);
            let gave_way = record.gave_way_to.as_ref().filter(|_| lacks).map(gave_way);
            PoolView {
                name: record.name.clone(),
                version: record.version,
                ready: counts.ready,
                starting: counts.starting,
                pending: counts.pending,
                claimed: counts.claimed,
                queued: counts.queued,
                cause: trouble.map(|trouble| trouble.cause.clone()).or(gave_way).or(counts.cause),
                retry_at: trouble.map(|trouble| trouble.retry_at),
                changed_by: record.changed_by.clone(),
                changed_at: record.changed_at,
                created_at: record.created_at,
                spec,
            }
        };
        records.iter().zip(counted).map(view).collect()
    }
}

fn changed(record: &PoolRecord, spec: PoolSpec, by: &Principal) -> PoolRecord {
    let same_agents = spec.makes_the_same_agents(&record.spec);
    PoolRecord {
        version: record.version + 1,
        generation: if same_agents { record.generation } else { record.generation + 1 },
        changed_by: by.name.clone(),
        changed_at: Timestamp::now(),
        // What is another thing now is tried at once, and so is what somebody asks for again.
        trouble: None,
        spec,
        ..record.clone()
    }
}

fn gave_way(to: &SessionId) -> Cause {
    let message = format!("gave way to session {to}; agents are made again, and start once there is room");
    Cause::new("gave_way", message)
}

fn changed_meanwhile(record: &PoolRecord, seen: u64) -> Error {
    let mut spec = record.spec.clone();
    spec.env.values_mut().for_each(|value| "…".clone_into(value));
    let now = serde_json::to_string(&spec).unwrap_or_default();
    let PoolRecord { name, version, changed_by, changed_at, .. } = record;
    let detail = format!(
        "pool {name} was changed by {changed_by} at {changed_at} (version {version}, you saw {seen}): it is {now} now; look \
         at it and apply again"
    );
    Error::new(ErrorCode::Conflict, detail)
}

/// Names the field that is wrong.
fn check(spec: &PoolSpec) -> Result<()> {
    let fault = |detail: String| Err(Error::new(ErrorCode::InvalidRequest, detail));
    if spec.min_ready > MAX_AGENTS || spec.max.is_some_and(|max| max > MAX_AGENTS) {
        return fault(format!("min_ready and max are at most {MAX_AGENTS}"));
    }
    if let Some(max) = spec.max.filter(|max| *max < spec.min_ready) {
        return fault(format!(
            "min_ready {} is above max {max}: so many can never be ready; raise max, or lower min_ready",
            spec.min_ready
        ));
    }
    if !PRIORITIES.contains(&spec.priority) {
        let (least, most) = (PRIORITIES.start(), PRIORITIES.end());
        return fault(format!("priority {} is out of range; it is {least} to {most}", spec.priority));
    }
    validate::check_env(&spec.env)?;
    validate::check_labels(&spec.labels)?;
    validate::check_labels(&spec.selector)
        .map_err(|error| Error { detail: format!("selector: {}", error.detail), ..error })?;
    validate::check_resources(&spec.resources, &spec.reserve)
}

fn not_found(name: &PoolName) -> Error {
    Error::new(ErrorCode::PoolNotFound, format!("there is no pool {name}; helixctl pool list names all"))
}
