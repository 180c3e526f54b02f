//! A session that takes an agent which is ready: one revision-checked write makes it the caller's.
//!
//! The session has the agent's own id, which was in use before: so a request that brings an id of its own gets a
//! session that starts for it, as ever. Who loses the race for an agent takes the next.

use std::sync::Arc;

use helix_protocol::api::CreateSession;
use helix_protocol::image::ImageRef;
use helix_protocol::pool::{DEFAULT_POOL, PoolRecord};
use helix_protocol::record::SessionRecord;
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Desired, SessionPhase};
use helix_protocol::{ErrorCode, PoolName, RecordingId, SessionId};
use jiff::Timestamp;

use super::Pools;
use super::fit::{Agent, fits};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::images::Images;
use crate::sessions::fleet;
use crate::sessions::validate::{self, Accepted};
use crate::sessions::view::{observed_of, sync_of};
use crate::sessions::{Created, inherit};
use crate::store::Versioned;

impl Pools {
    /// Makes a session: of an agent of its pool that is ready, where one is what it asks for; else as
    /// [`SpecTasks::begin`](crate::spec_tasks::SpecTasks::begin) does. Durable when this returns.
    pub async fn begin(&self, by: &Principal, request: CreateSession, thread: Option<&str>) -> Result<Created> {
        let pool = match &request.pool {
            Some(name) => self.known(name).await?,
            None => PoolName::parse(DEFAULT_POOL).ok().and_then(|name| self.in_view(&name)),
        };
        let Some(pool) = pool else { return self.spec_tasks.begin(by, request, thread).await };
        if request.id.is_none() && request.spec_task.is_none() {
            // A bad request is refused, also where nothing is ready.
            let accepted = validate::accept(request.clone())?;
            if let Some(created) = self.claim(by, &request, accepted, &pool).await? {
                return Ok(created);
            }
        }
        if request.pool.is_some() {
            self.check_queue(&request, &pool)?;
        }
        self.spec_tasks.begin(by, request, thread).await
    }

    async fn claim(
        &self,
        by: &Principal,
        request: &CreateSession,
        accepted: Accepted,
        pool: &PoolRecord,
    ) -> Result<Option<Created>> {
        if self.has_its_quota(&by.name) {
            return Ok(None);
        }
        let Accepted { labels, spec, request_hash, .. } = accepted;
        let mut request = request.clone();
        if let Some(image) = &request.image {
            request.image = Some(ImageRef::Digest(Images::resolve(&self.store, image).await?.0));
        }
        for entry in self.ready(&request, pool) {
            let mut record = SessionRecord {
                owner: by.name.clone(),
                labels: labels.clone(),
                request_hash: request_hash.clone(),
                warm: None,
                claimed_at: Some(Timestamp::now()),
                ..(*entry.value).clone()
            };
            inherit::labels(&mut record.labels, &pool.spec);
            record.spec.input.clone_from(&spec.input);
            // The pool may have others by now than when the agent was made.
            record.spec.idle_timeout = spec.idle_timeout.or(pool.spec.idle_timeout);
            record.spec.lifetime = spec.lifetime.or(pool.spec.lifetime);
            validate::check_stored_size(&record.spec, &record.labels)?;
            match self.store.sessions.update(record.id.as_str(), &record, entry.revision).await {
                Ok(revision) => {
                    tracing::info!(session.id = %record.id, pool = %pool.name, by = by.name, "an agent of a pool was taken");
                    self.sessions.tell(&record, revision).await;
                    self.hand_over_recording(&record).await?;
                    let record = Versioned::new(record, revision);
                    let created = Created { view: self.sessions.get(by, &record.value.id).await?, fresh: true, record };
                    return self.spec_tasks.with_first_turn(created).await.map(Some);
                }
                // Somebody else has it, or it was given up.
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// As far as this server has read: of several requests at the same moment each may be the last one.
    fn has_its_quota(&self, owner: &str) -> bool {
        let Some(most) = self.quotas.of(owner) else { return false };
        let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
        fleet::running(&sessions, &observed).by_owner.get(owner).is_some_and(|running| *running >= most)
    }

    /// Agents that are ready, nobody's, and what is asked for; those first that were made first.
    fn ready(&self, request: &CreateSession, pool: &PoolRecord) -> Vec<Versioned<SessionRecord>> {
        // In this order: see `View::read`.
        let sessions = self.store.sessions.view().read();
        let observed = self.store.observed.view().read();
        let runners = self.store.runners.view().read();
        let leases = self.store.leases.view().read();
        let fit = |record: &SessionRecord| {
            let Some(warm) = &record.warm else { return false };
            let is_of_it = record.pool.as_ref() == Some(&pool.name) && warm.generation == pool.generation;
            let seen = observed_of(record, &observed).filter(|seen| seen.phase == SessionPhase::Ready);
            let (Some(seen), true) = (seen, is_of_it && record.desired == Desired::Running) else { return false };
            let Some(runner) = runners.get(seen.runner.as_str()).map(|entry| &entry.value) else { return false };
            if runner.liveness != Liveness::Online || runner.cordoned {
                return false;
            }
            let default_kind = runner.facts.as_ref().map(|facts| &facts.default_kind);
            let takes_prompts = sync_of(&record.id, &leases).connected;
            fits(request, request.pool.is_some(), self.records, Agent { record, seen, default_kind, takes_prompts })
        };
        let mut ready: Vec<_> =
            sessions.iter().map(|(_, entry)| entry).filter(|entry| fit(&entry.value)).cloned().collect();
        ready.sort_by(|a, b| (a.value.created_at, &a.value.id).cmp(&(b.value.created_at, &b.value.id)));
        ready
    }

    /// One that waits already may wait on.
    fn check_queue(&self, request: &CreateSession, pool: &PoolRecord) -> Result<()> {
        let most = pool.spec.queue.unwrap_or(helix_protocol::pool::DEFAULT_QUEUE);
        let sessions = self.store.sessions.view().read();
        let is_there = |id: &SessionId| sessions.get(id.as_str()).is_some();
        if request.id.as_ref().is_some_and(is_there) {
            return Ok(());
        }
        let queued = |record: &SessionRecord| record.warm.is_none() && record.pool.as_ref() == Some(&pool.name);
        let waiting = sessions.sought().filter(|entry| queued(&entry.value)).count();
        if waiting < usize::try_from(most).unwrap_or(usize::MAX) {
            return Ok(());
        }
        let name = &pool.name;
        let detail = format!(
            "{waiting} sessions wait for pool {name}, more may not; try again later, or let it have more: helixctl pool \
             show {name}"
        );
        Err(Error::new(ErrorCode::PoolQueueFull, detail))
    }

    /// What was recorded of the agent before belongs to whoever has it now.
    async fn hand_over_recording(&self, record: &SessionRecord) -> Result<()> {
        let Some(assignment) = record.assignment.as_ref().filter(|_| record.spec.recording.is_some()) else {
            return Ok(());
        };
        let recording = RecordingId::of(&record.id, assignment.epoch);
        let hand_over = |known: &helix_protocol::record::RecordingRecord| {
            let owned = helix_protocol::record::RecordingRecord { owner: record.owner.clone(), ..known.clone() };
            Ok((known.owner != record.owner).then_some(owned))
        };
        let missing = || Error::new(ErrorCode::RecordingNotFound, format!("there is no recording {recording} yet"));
        match self.store.recordings.modify(recording.as_str(), hand_over, missing).await {
            // It begins with its first chunk, and asks then whose the session is.
            Err(error) if error.code == ErrorCode::RecordingNotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn in_view(&self, name: &PoolName) -> Option<Arc<PoolRecord>> {
        self.store.pools.view().get(name.as_str()).map(|entry| entry.value)
    }

    /// A pool that another replica may have made a moment ago.
    async fn known(&self, name: &PoolName) -> Result<Option<Arc<PoolRecord>>> {
        match self.in_view(name) {
            Some(pool) => Ok(Some(pool)),
            None => Ok(self.store.pools.get(name.as_str()).await?.found().map(|entry| entry.value)),
        }
    }
}
