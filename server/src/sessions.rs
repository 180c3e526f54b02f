//! Rules for a session: create, read, amend, stop, delete, adopt, record what a runner saw. No HTTP and no NATS types.
//!
//! A session is its record (what was asked and decided) and the last report of its runner; [`view`] derives from both
//! how it is. Everything here changes the record, revision-checked, and returns once that is durable; the leader's
//! reconciler sees the change and acts.

mod amend;
pub mod list;
pub mod report;
pub mod validate;
pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use helix_protocol::api::{CreateSession, SessionPage, SessionView};
use helix_protocol::assignment::Assignment;
use helix_protocol::event::Event;
use helix_protocol::record::{RunnerRecord, SessionRecord};
use helix_protocol::resources::Usage;
use helix_protocol::session::{Cause, Desired, ObservedSession, SessionPhase};
use helix_protocol::{Epoch, ErrorCode, Generation, KindName, RunnerId, SessionId, subject};
use jiff::Timestamp;
use tokio::time::Instant;

pub use self::amend::Amendment;
use self::validate::Accepted;
use self::view::Known;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::keys::{Keys, random_id, token_epoch};
use crate::store::{Store, Versioned};

/// Rules for sessions over the store. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    events: Events,
    keys: Arc<Keys>,
    public_url: String,
}

/// What a creation did.
#[derive(Debug)]
pub struct Created {
    /// The session.
    pub view: SessionView,
    /// False when the same request had created it before.
    pub fresh: bool,
}

/// Which sessions a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only in these phases; empty = all.
    pub phases: Vec<SessionPhase>,
    /// Only on this runner.
    pub runner: Option<RunnerId>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this owner.
    pub owner: Option<String>,
    /// Only with all of these labels.
    pub labels: Vec<(String, String)>,
    /// At most this many, 1 to 1000.
    pub limit: usize,
    /// From a former page.
    pub cursor: Option<String>,
}

impl Sessions {
    /// Rules over a store.
    pub fn new(store: Store, events: Events, keys: Arc<Keys>, public_url: &str) -> Self {
        Self { inner: Arc::new(Inner { store, events, keys, public_url: public_url.to_owned() }) }
    }

    /// Validates and writes a session; durable when this returns. Same id and same request: the existing one;
    /// other request: [`SessionExists`](helix_protocol::ErrorCode::SessionExists). An unknown kind is refused
    /// where at least one runner is registered and none knows it.
    pub async fn create(&self, by: &Principal, request: CreateSession) -> Result<Created> {
        let Accepted { id, spec, pool, labels, request_hash } = validate::accept(request)?;
        if let Some(kind) = &spec.kind {
            self.check_kind(kind)?;
        }
        let id = match id {
            Some(id) => id,
            None => fresh_id()?,
        };
        // Otherwise a second session would meet the first on its runner.
        if self.unclaimed(&id).is_some() && self.inner.store.sessions.get(id.as_str()).await?.found().is_none() {
            let detail = format!("session {id} runs without a record; adopt it, or stop it first");
            return Err(Error::new(ErrorCode::SessionExists, detail));
        }
        let created_at = Timestamp::now();
        let record = SessionRecord {
            id: id.clone(),
            owner: by.name.clone(),
            spec,
            pool,
            labels,
            request_hash,
            desired: Desired::Running,
            generation: Generation(1),
            epoch: Epoch(u64::try_from(created_at.as_millisecond()).unwrap_or_default()),
            assignments: 0,
            assignment: None,
            cause: None,
            created_at,
            deleted: false,
            sealed_secrets: None,
            spec_task: None,
            desktop_of: None,
        };
        match self.inner.store.sessions.create(id.as_str(), &record).await {
            Ok(revision) => {
                self.tell(&record, revision).await;
                Ok(Created { view: self.view_of(&record), fresh: true })
            }
            Err(err) if err.code == ErrorCode::Conflict => self.existing(by, record).await,
            Err(err) => Err(err),
        }
    }

    async fn existing(&self, by: &Principal, asked: SessionRecord) -> Result<Created> {
        let found = self.inner.store.sessions.get(asked.id.as_str()).await?.found().map(|entry| entry.value);
        let same = |found: &Arc<SessionRecord>| {
            found.owner == by.name && found.request_hash == asked.request_hash && !found.deleted
        };
        match found.filter(same) {
            Some(record) => Ok(Created { view: self.view_of(&record), fresh: false }),
            None => Err(Error::new(
                ErrorCode::SessionExists,
                format!(
                    "session {} exists and was asked for differently; use another id, or delete it first",
                    asked.id
                ),
            )),
        }
    }

    fn check_kind(&self, kind: &KindName) -> Result<()> {
        let runners = self.inner.store.runners.view().read();
        let mut known = std::collections::BTreeSet::new();
        for (_, entry) in runners.iter() {
            let facts = entry.value.facts.iter();
            known.extend(facts.flat_map(|facts| facts.kinds.iter().chain(facts.unavailable_kinds.keys()).cloned()));
        }
        if known.is_empty() || known.contains(kind) {
            return Ok(());
        }
        let known: Vec<_> = known.iter().map(KindName::as_str).collect();
        Err(Error::new(ErrorCode::UnknownKind, format!("no runner knows kind {kind}; known are: {}", known.join(", "))))
    }

    /// One session, read from the store itself. Refuses a principal that may not see it as not found.
    pub async fn get(&self, by: &Principal, id: &SessionId) -> Result<SessionView> {
        let Some(entry) = self.inner.store.sessions.get(id.as_str()).await?.found() else {
            let seen = self.unclaimed(id).filter(|_| by.may_see(id, "")).ok_or_else(|| not_found(id))?;
            let view = self.known(id, None, Some(&seen), &seen.runner).view(None, &self.inner.public_url);
            return Ok(view::shown_to(by, view));
        };
        let record = entry.value;
        if !by.may_see(id, &record.owner) {
            return Err(not_found(id));
        }
        let Some(assignment) = &record.assignment else { return Ok(view::shown_to(by, self.view_of(&record))) };
        let key = subject::runner_session_key(&assignment.runner, id);
        let seen = self.inner.store.observed.get(&key).await?.found();
        let seen = seen.as_ref().map(|entry| &*entry.value);
        let view = self.known(id, Some(&record), seen, &assignment.runner).view(None, &self.inner.public_url);
        Ok(view::shown_to(by, view))
    }

    /// A page of the sessions that `by` may see, newest first. Knows all that was written before the call.
    pub async fn list(&self, by: &Principal, filter: &Filter) -> Result<SessionPage> {
        self.catch_up().await?;
        let SessionPage { sessions, next_cursor } = self.page(by, filter)?;
        Ok(SessionPage { sessions: sessions.into_iter().map(|view| view::shown_to(by, view)).collect(), next_cursor })
    }

    /// Asks for the end; answers at once with desired = stopped. Idempotent.
    pub async fn stop(&self, by: &Principal, id: &SessionId) -> Result<SessionView> {
        self.end(by, id, false).await
    }

    /// Stops it and removes its records once nothing of it runs. Idempotent until the record is gone.
    pub async fn delete(&self, by: &Principal, id: &SessionId) -> Result<SessionView> {
        self.end(by, id, true).await
    }

    async fn end(&self, by: &Principal, id: &SessionId, delete: bool) -> Result<SessionView> {
        let mut changed = false;
        let change = |record: &SessionRecord| {
            check_change(by, record)?;
            if record.desired == Desired::Stopped && (record.deleted || !delete) {
                return Ok(None);
            }
            changed = true;
            let mut record = record.clone();
            record.desired = Desired::Stopped;
            record.deleted |= delete;
            if record.assignment.is_none() {
                record.cause = Some(Cause::new("stopped_by_user", "it was stopped before it had a runner"));
            }
            Ok(Some(record))
        };
        let ended = self.inner.store.sessions.modify(id.as_str(), change, || not_found(id)).await;
        let entry = match ended {
            Err(err) if err.code == ErrorCode::SessionNotFound => self.end_unclaimed(by, id, delete).await?,
            other => other?,
        };
        if changed {
            self.tell(&entry.value, entry.revision).await;
        }
        Ok(self.view_of(&entry.value))
    }

    async fn end_unclaimed(&self, by: &Principal, id: &SessionId, delete: bool) -> Result<Versioned<SessionRecord>> {
        let seen = self.unclaimed(id).filter(|_| by.may_change(id, "")).ok_or_else(|| not_found(id))?;
        let mut record = claim(by, &seen)?;
        record.desired = Desired::Stopped;
        record.deleted = delete;
        let revision = self.inner.store.sessions.create(id.as_str(), &record).await?;
        Ok(Versioned::new(record, revision))
    }

    /// Makes a record for an unclaimed session, so that it is managed again.
    pub async fn adopt(&self, by: &Principal, id: &SessionId) -> Result<SessionView> {
        self.inner.store.observed.catch_up().await?;
        if let Some(entry) = self.inner.store.sessions.get(id.as_str()).await?.found() {
            return Err(if by.may_see(id, &entry.value.owner) { not_unclaimed(id) } else { not_found(id) });
        }
        let seen = self.unclaimed(id).filter(|_| by.may_see(id, "")).ok_or_else(|| not_found(id))?;
        if !by.may_change(id, "") {
            return Err(forbidden(id));
        }
        let record = claim(by, &seen)?;
        match self.inner.store.sessions.create(id.as_str(), &record).await {
            Ok(revision) => self.tell(&record, revision).await,
            Err(err) if err.code == ErrorCode::Conflict => return Err(not_unclaimed(id)),
            Err(err) => return Err(err),
        }
        Ok(self.view_of(&record))
    }

    /// Waits until the session is in one of `phases` or in a terminal one; `WaitTimeout` after `patience`.
    pub async fn wait(
        &self,
        by: &Principal,
        id: &SessionId,
        phases: &[SessionPhase],
        patience: Duration,
    ) -> Result<SessionView> {
        let deadline = Instant::now() + patience;
        let store = &self.inner.store;
        // Before the first look, so that no change is missed.
        let (mut records, mut reports, mut runners) =
            (store.sessions.view().changes(), store.observed.view().changes(), store.runners.view().changes());
        let mut view = self.get(by, id).await?;
        loop {
            if phases.contains(&view.phase) || view.phase.is_terminal() {
                return Ok(view);
            }
            // All arms are cancel safe: watches and a timer.
            let changed = tokio::select! {
                changed = records.changed() => changed.is_ok(),
                changed = reports.changed() => changed.is_ok(),
                changed = runners.changed() => changed.is_ok(),
                () = tokio::time::sleep_until(deadline) => false,
            };
            if !changed {
                let step = view.timeline.last().map_or_else(String::new, |step| format!(", last step: {}", step.step));
                let detail = format!(
                    "session {id} is {} after {} s{step}; it goes on, ask for it again",
                    view.phase,
                    patience.as_secs()
                );
                return Err(Error::new(ErrorCode::WaitTimeout, detail));
            }
            let entry = store.sessions.view().get(id.as_str());
            view = match entry {
                Some(entry) => view::shown_to(by, self.view_of(&entry.value)),
                // Deleted meanwhile, or the view is behind: the store knows.
                None => self.get(by, id).await?,
            };
        }
    }

    /// Number of sessions by phase.
    pub async fn count_by_phase(&self) -> Result<BTreeMap<String, u32>> {
        self.catch_up().await?;
        Ok(self.phases().into_iter().map(|(phase, count)| (phase.to_string(), count)).collect())
    }

    /// The session's own bearer: `ext_token_` + HMAC(server key, id, epoch). For its owner and admins only:
    /// anyone else gets None.
    pub fn auth_token(&self, by: &Principal, view: &SessionView) -> Option<String> {
        let told = !view.unclaimed && by.may_know_session_token(&view.owner);
        told.then(|| self.inner.keys.session_token(&view.id, token_epoch(view.epoch, view.runner.is_some())))
    }

    async fn catch_up(&self) -> Result<()> {
        let store = &self.inner.store;
        tokio::try_join!(store.sessions.catch_up(), store.observed.catch_up()).map(|_| ())
    }

    /// What is known of a record's session, from the views.
    fn known_of<'a>(&self, record: &'a SessionRecord) -> KnownOwned<'a> {
        let observed = self.inner.store.observed.view().read();
        let key = record.assignment.as_ref().map(|of| subject::runner_session_key(&of.runner, &record.id));
        let seen = key.and_then(|key| observed.get(&key)).map(|entry| Arc::clone(&entry.value));
        let runner = record.assignment.as_ref().map(|of| &of.runner);
        let liveness = runner.and_then(|runner| self.runner(runner)).map(|runner| runner.liveness);
        KnownOwned { record, seen, liveness, usage: runner.and_then(|runner| self.usage(runner, &record.id)) }
    }

    fn view_of(&self, record: &SessionRecord) -> SessionView {
        let waits = record.assignment.is_none() && record.desired == Desired::Running;
        let position = waits.then(|| self.queue_position(record));
        self.known_of(record).known().view(position, &self.inner.public_url)
    }

    fn known<'a>(
        &self,
        id: &'a SessionId,
        record: Option<&'a SessionRecord>,
        observed: Option<&'a ObservedSession>,
        runner: &RunnerId,
    ) -> Known<'a> {
        let liveness = self.runner(runner).map(|runner| runner.liveness);
        Known { id, record, observed, liveness, usage: self.usage(runner, id) }
    }

    /// What a runner said in its last heartbeat that the session uses.
    fn usage(&self, runner: &RunnerId, id: &SessionId) -> Option<Usage> {
        let lease = self.inner.store.leases.view().get(&subject::runner_lease_key(runner))?;
        lease.value.heartbeat.as_ref()?.usage.get(id).copied()
    }

    fn runner(&self, id: &RunnerId) -> Option<Arc<RunnerRecord>> {
        self.inner.store.runners.view().get(id.as_str()).map(|entry| entry.value)
    }

    /// The report of a session that nobody claims.
    fn unclaimed(&self, id: &SessionId) -> Option<Arc<ObservedSession>> {
        let observed = self.inner.store.observed.view().read();
        let found = observed.iter().find(|(_, entry)| entry.value.session == *id && entry.value.unclaimed.is_some());
        found.map(|(_, entry)| Arc::clone(&entry.value))
    }

    /// Tells watchers of every live session on a runner that is lost, or is heard again. `why` makes it once.
    pub async fn tell_of_runner(&self, runner: &RunnerId, why: &str) {
        let records: Vec<_> = {
            let sessions = self.inner.store.sessions.view().read();
            let here = |record: &SessionRecord| record.assignment.as_ref().is_some_and(|of| of.runner == *runner);
            sessions.iter().filter(|(_, entry)| here(&entry.value)).map(|(_, entry)| entry.clone()).collect()
        };
        for entry in records {
            if !self.known_of(&entry.value).phase().is_terminal() {
                self.tell_once(&entry.value, &format!("session.{}.{why}", entry.value.id)).await;
            }
        }
    }

    /// Tells watchers how a session is after a write of its record.
    pub async fn tell(&self, record: &SessionRecord, revision: u64) {
        self.tell_once(record, &format!("session.{}.{revision}", record.id)).await;
    }

    async fn tell_once(&self, record: &SessionRecord, id: &str) {
        let owned = self.known_of(record);
        let known = owned.known();
        let event = Event::Session {
            session: record.id.clone(),
            runner: record.assignment.as_ref().map(|of| of.runner.clone()),
            phase: known.phase(),
            step: None,
            cause: known.cause(),
            result: None,
            at: Timestamp::now(),
        };
        self.inner.events.tell(&event, id).await;
    }
}

/// [`Known`] with its report held.
struct KnownOwned<'a> {
    record: &'a SessionRecord,
    seen: Option<Arc<ObservedSession>>,
    liveness: Option<helix_protocol::runner::Liveness>,
    usage: Option<Usage>,
}

impl KnownOwned<'_> {
    fn known(&self) -> Known<'_> {
        Known {
            id: &self.record.id,
            record: Some(self.record),
            observed: self.seen.as_deref(),
            liveness: self.liveness,
            usage: self.usage,
        }
    }

    fn phase(&self) -> SessionPhase {
        self.known().phase()
    }
}

/// A record for a session that runs without one.
fn claim(by: &Principal, seen: &ObservedSession) -> Result<SessionRecord> {
    let unclaimed = seen.unclaimed.as_ref().ok_or_else(|| not_unclaimed(&seen.session))?;
    let assignment = Assignment { runner: seen.runner.clone(), epoch: seen.epoch, assigned_at: unclaimed.received_at };
    Ok(SessionRecord {
        id: seen.session.clone(),
        owner: by.name.clone(),
        spec: unclaimed.spec.clone(),
        pool: None,
        labels: BTreeMap::new(),
        request_hash: validate::request_hash(&unclaimed.spec, None, &BTreeMap::new())?,
        desired: Desired::Running,
        generation: seen.generation,
        epoch: seen.epoch,
        assignments: 1,
        assignment: Some(assignment),
        cause: None,
        created_at: unclaimed.received_at,
        deleted: false,
        sealed_secrets: None,
        spec_task: None,
        desktop_of: None,
    })
}

fn fresh_id() -> Result<SessionId> {
    let random =
        random_id().map_err(|err| Error::new(ErrorCode::Internal, "the system gives no random bytes").because(err))?;
    SessionId::parse(format!("ses_{random}"))
        .map_err(|err| Error::new(ErrorCode::Internal, "a made-up id is not valid").because(err))
}

fn check_change(by: &Principal, record: &SessionRecord) -> Result<()> {
    if !by.may_see(&record.id, &record.owner) {
        return Err(not_found(&record.id));
    }
    if by.may_change(&record.id, &record.owner) { Ok(()) } else { Err(forbidden(&record.id)) }
}

fn not_found(id: &SessionId) -> Error {
    Error::new(ErrorCode::SessionNotFound, format!("there is no session {id}, or it is not yours"))
}

fn forbidden(id: &SessionId) -> Error {
    Error::new(ErrorCode::Forbidden, format!("this token may see session {id} but not change it"))
}

fn not_unclaimed(id: &SessionId) -> Error {
    Error::new(ErrorCode::NotUnclaimed, format!("session {id} has its record; there is nothing to adopt"))
}
