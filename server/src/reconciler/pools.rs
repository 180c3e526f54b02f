//! Pools keep themselves: their records name the agents that shall be there, those are made, and no others stay.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::pool::PoolRecord;
use helix_protocol::record::SessionRecord;
use helix_protocol::session::Desired;
use helix_protocol::{ErrorCode, PoolName, SessionId};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{CONCURRENCY, Reconciler};
use crate::error::Result;
use crate::pools::plan::{Plan, Snapshot, Standing, plan};
use crate::pools::standing::{counted, member};
use crate::sessions::fresh_id;
use crate::store::{Lookup, Versioned};

/// What to do about one pool.
struct Decision {
    entry: Versioned<PoolRecord>,
    plan: Plan,
    /// Agents that it names and that are not there.
    absent: Vec<SessionId>,
}

impl Reconciler {
    /// Makes and ends agents. Answers when the next try after failures is due.
    pub(super) async fn keep_pools(&self) -> Result<Option<Instant>> {
        let decisions = self.decide_pools();
        let due =
            decisions.iter().filter_map(|decision| decision.plan.trouble.as_ref()).map(|trouble| trouble.retry_at);
        let due = due.min().and_then(|at| Duration::try_from(at.duration_since(Timestamp::now())).ok());
        futures::stream::iter(decisions)
            .map(|decision| self.keep_pool(decision))
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        self.end_unnamed_agents().await?;
        Ok(due.map(|due| Instant::now() + due))
    }

    fn decide_pools(&self) -> Vec<Decision> {
        // Looks at no other view meanwhile: see the order of locks at `View::read`.
        let pools: Vec<_> = self.store.pools.view().read().iter().map(|(_, entry)| entry.clone()).collect();
        if pools.is_empty() {
            return Vec::new();
        }
        let records: Vec<_> = pools.iter().map(|entry| Arc::clone(&entry.value)).collect();
        let counts = counted(&self.store, &records);
        let now = Timestamp::now();
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let (sessions, observed, runners) =
            (self.store.sessions.view().read(), self.store.observed.view().read(), self.store.runners.view().read());
        let decide = |(entry, counts): (Versioned<PoolRecord>, crate::pools::standing::Counts)| {
            let pool = &entry.value;
            let members: Vec<_> =
                pool.members.iter().map(|id| member(pool, id, &sessions, &observed, &runners, (now, &clock))).collect();
            let snapshot = Snapshot {
                min_ready: pool.spec.min_ready,
                max: pool.spec.max,
                members: &members,
                taken: counts.taken(),
                trouble: pool.trouble.as_ref(),
                gave_way_to: pool.gave_way_to.as_ref(),
                now,
            };
            let plan = plan(snapshot);
            let absent = members.iter().filter(|member| member.standing == Standing::Absent);
            let absent = absent.map(|member| member.id.clone()).filter(|id| plan.keep.contains(id)).collect();
            Decision { entry, plan, absent }
        };
        pools.into_iter().zip(counts).map(decide).collect()
    }

    /// The record first: what it names is made by whoever comes, and once.
    async fn keep_pool(&self, decision: Decision) -> Result<()> {
        let Decision { entry, plan: Plan { keep, make, trouble, gave_way_to }, mut absent } = decision;
        let mut members: BTreeSet<_> = keep.into_iter().collect();
        for _ in 0..make {
            let id = fresh_id()?;
            members.insert(id.clone());
            absent.push(id);
        }
        let mut pool = (*entry.value).clone();
        if members != pool.members || trouble != pool.trouble || gave_way_to != pool.gave_way_to {
            if let Some(trouble) = trouble.as_ref().filter(|_| trouble != pool.trouble) {
                let (failures, why) = (trouble.failures, &trouble.cause.message);
                tracing::warn!(pool = %pool.name, failures, why, retry_at = %trouble.retry_at, "agents do not get ready");
            }
            pool = PoolRecord { members, trouble, gave_way_to, ..pool };
            match self.store.pools.update(pool.name.as_str(), &pool, entry.revision).await {
                Ok(_) => {}
                // Changed meanwhile, or another leader was faster: the next pass sees it.
                Err(error) if error.code == ErrorCode::Conflict => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let pool = &pool;
        futures::stream::iter(absent)
            .map(|id| async move { self.make_agent(pool, &id).await })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    async fn make_agent(&self, pool: &PoolRecord, id: &SessionId) -> Result<()> {
        // The view may be behind another leader that made it, and it was had and deleted since.
        if !matches!(self.store.sessions.get(id.as_str()).await?, Lookup::Absent) {
            return Ok(());
        }
        let record = self.sessions.agent(pool, id).await?;
        match self.store.sessions.create(id.as_str(), &record).await {
            Ok(revision) => self.sessions.tell(&record, revision).await,
            Err(error) if error.code == ErrorCode::Conflict => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Ends every agent that is nobody's and that no pool's record names (any more).
    async fn end_unnamed_agents(&self) -> Result<()> {
        let mut unnamed: BTreeMap<PoolName, Vec<Versioned<SessionRecord>>> = BTreeMap::new();
        {
            let named: HashMap<_, _> = {
                let pools = self.store.pools.view().read();
                pools.iter().map(|(_, entry)| (entry.value.name.clone(), Arc::clone(&entry.value))).collect()
            };
            let sessions = self.store.sessions.view().read();
            for (_, entry) in sessions.iter() {
                let record = &entry.value;
                let Some(pool) = record.pool.as_ref().filter(|_| record.warm.is_some() && !record.deleted) else {
                    continue;
                };
                if named.get(pool).is_none_or(|named| !named.members.contains(&record.id)) {
                    unnamed.entry(pool.clone()).or_default().push(entry.clone());
                }
            }
        }
        for (pool, agents) in unnamed {
            // The view may be behind another leader that made them.
            let pool = self.store.pools.get(pool.as_str()).await?.found();
            for entry in agents {
                if pool.as_ref().is_some_and(|pool| pool.value.members.contains(&entry.value.id)) {
                    continue;
                }
                let ended = SessionRecord { desired: Desired::Stopped, deleted: true, ..(*entry.value).clone() };
                match self.store.sessions.update(ended.id.as_str(), &ended, entry.revision).await {
                    Ok(revision) => {
                        tracing::info!(session.id = %ended.id, "an agent of a pool is not wanted any more");
                        self.sessions.tell(&ended, revision).await;
                    }
                    // Somebody took it.
                    Err(error) if error.code == ErrorCode::Conflict => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}
