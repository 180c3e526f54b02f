//! Rules for a session: create, read, amend, stop, delete, adopt, record what a runner saw. No HTTP and no NATS types.
//!
//! A session is its record (what was asked and decided) and the last report of its runner; [`view`] derives from both
//! how it is. Everything here changes the record, revision-checked, and returns once that is durable; the leader's
//! reconciler sees the change and acts.

mod access;
mod amend;
pub mod control;
mod create;
mod end;
mod explain;
pub mod fleet;
mod fork;
pub mod grants;
pub mod inherit;
mod known;
pub mod list;
pub mod report;
pub mod room;
pub mod steps;
pub mod time_limits;
pub mod validate;
pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use helix_protocol::api::{SessionPage, SessionView};
use helix_protocol::assignment::Assignment;
use helix_protocol::control::Control;
use helix_protocol::event::Event;
use helix_protocol::grant::Grants;
use helix_protocol::record::SessionRecord;
use helix_protocol::session::{ObservedSession, SessionPhase};
use helix_protocol::{ErrorCode, RunnerId, SessionId, subject};
use jiff::Timestamp;
use tokio::time::Instant;

pub use self::amend::Amendment;
pub use self::create::{Created, fresh_id};
use self::view::Known;
use crate::auth::Principal;
use crate::config::{RecordingDefaults, ServerConfig};
use crate::error::{Error, Result};
use crate::events::Events;
use crate::keys::{Keys, token_epoch};
use crate::secrets::Secrets;
use crate::store::Store;

/// Rules for sessions over the store. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    events: Events,
    keys: Arc<Keys>,
    secrets: Secrets,
    recording: RecordingDefaults,
    public_url: String,
}

/// A session as it is, and whose desktop it is.
#[derive(Debug, Clone)]
pub struct Found {
    /// The session under the id that was asked for.
    pub view: SessionView,
    /// The session that has the desktop and the conversation: the same, unless that id is another name of it.
    pub desktop: SessionId,
    /// When that one was accepted: tells it from a later one of the same id.
    pub since: Timestamp,
}

impl Found {
    /// The id that was asked for, where it is another name of the desktop.
    pub fn other_name(&self) -> Option<SessionId> {
        (self.view.id != self.desktop).then(|| self.view.id.clone())
    }
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
    pub fn new(store: Store, events: Events, keys: Arc<Keys>, secrets: Secrets, config: &ServerConfig) -> Self {
        let (recording, public_url) = (config.recording, config.public_url.clone());
        Self { inner: Arc::new(Inner { store, events, keys, secrets, recording, public_url }) }
    }

    /// One session and whose desktop it is, read from the store itself. Refuses a principal that may not see it as not
    /// found.
    pub async fn find(&self, by: &Principal, id: &SessionId) -> Result<Found> {
        let store = &self.inner.store;
        let Some(entry) = store.sessions.get(id.as_str()).await?.found() else {
            let seen = self.unclaimed(id).filter(|_| by.may_see(id, "")).ok_or_else(|| not_found(id))?;
            let view = self.shown(id, None, Some(&seen), None);
            return Ok(Found { desktop: id.clone(), since: view.created_at, view: view::shown_to(by, view) });
        };
        let own = entry.value;
        if !by.may_see(id, &own.owner) {
            return Err(not_found(id));
        }
        let (record, name) = match &own.desktop_of {
            Some(desktop) => {
                (store.sessions.get(desktop.as_str()).await?.found().map(|entry| entry.value), Some(&*own))
            }
            None => (Some(Arc::clone(&own)), None),
        };
        let assigned = record.as_ref().and_then(|record| Some((record, record.assignment.as_ref()?)));
        let view = match assigned {
            Some((record, of)) => {
                let key = subject::runner_session_key(&of.runner, &record.id);
                let seen = store.observed.get(&key).await?.found();
                self.shown(id, Some(record), seen.as_ref().map(|entry| &*entry.value), name)
            }
            None => self.view_of(&own),
        };
        let desktop = record.as_ref().unwrap_or(&own);
        let (desktop, since) = (desktop.id.clone(), desktop.created_at);
        Ok(Found { view: view::shown_to(by, view), desktop, since })
    }

    /// One session, read from the store itself. Refuses a principal that may not see it as not found.
    pub async fn get(&self, by: &Principal, id: &SessionId) -> Result<SessionView> {
        self.find(by, id).await.map(|found| found.view)
    }

    fn shown(
        &self,
        id: &SessionId,
        record: Option<&SessionRecord>,
        observed: Option<&ObservedSession>,
        name: Option<&SessionRecord>,
    ) -> SessionView {
        let runner = observed.map(|seen| &seen.runner);
        let runner = record.and_then(|record| record.assignment.as_ref()).map(|of| &of.runner).or(runner);
        let liveness = runner.and_then(|runner| self.runner(runner)).map(|runner| runner.liveness);
        let usage = runner.and_then(|runner| self.usage(runner, record.map_or(id, |record| &record.id)));
        self.seen(&Known { id, record, observed, liveness, usage, name }, None)
    }

    /// A page of the sessions that `by` may see, newest first. Knows all that was written before the call.
    pub async fn list(&self, by: &Principal, filter: &Filter) -> Result<SessionPage> {
        self.catch_up().await?;
        let SessionPage { sessions, next_cursor } = self.page(by, filter)?;
        Ok(SessionPage { sessions: sessions.into_iter().map(|view| view::shown_to(by, view)).collect(), next_cursor })
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

    /// Completes when the session that was found is there no more, though another of its id may be.
    pub async fn removed(&self, at: &Found) {
        let sessions = &self.inner.store.sessions;
        let mut changes = sessions.view().changes();
        let is_there = || {
            let content = sessions.view().read();
            let made_at = |id: &SessionId| content.get(id.as_str()).map(|entry| entry.value.created_at);
            made_at(&at.view.id) == Some(at.view.created_at) && made_at(&at.desktop) == Some(at.since)
        };
        loop {
            changes.borrow_and_update();
            // The view may be a moment behind the replica that made it; while the store cannot be asked, it stands. One
            // without a record has none to lose.
            if !at.view.unclaimed && !is_there() && sessions.catch_up().await.is_ok() && !is_there() {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
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

/// A record for a session that runs without one.
fn claim(by: &Principal, seen: &ObservedSession) -> Result<SessionRecord> {
    let unclaimed = seen.unclaimed.as_ref().ok_or_else(|| not_unclaimed(&seen.session))?;
    let assignment = Assignment { runner: seen.runner.clone(), epoch: seen.epoch, assigned_at: unclaimed.received_at };
    let request_hash = validate::request_hash(&unclaimed.spec, None, None, &BTreeMap::new())?;
    Ok(SessionRecord {
        generation: seen.generation,
        epoch: seen.epoch,
        assignments: 1,
        assignment: Some(assignment),
        // Behind what the gate knows: it takes nothing older, and what it knows holds no more.
        control: Control { epoch: seen.control + 1, holder: None },
        grants: Grants { epoch: seen.grants + 1, list: Vec::new() },
        created_at: unclaimed.received_at,
        ..create::new_record(seen.session.clone(), by.name.clone(), unclaimed.spec.clone(), request_hash)
    })
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
