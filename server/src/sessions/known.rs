//! What is known of a session, gathered from the views.

use std::sync::Arc;

use helix_protocol::api::SessionView;
use helix_protocol::record::{RunnerRecord, SessionRecord};
use helix_protocol::resources::Usage;
use helix_protocol::runner::Liveness;
use helix_protocol::session::{ObservedSession, SessionPhase};
use helix_protocol::{RunnerId, SessionId, subject};

use super::Sessions;
use super::list::waits;
use super::time_limits;
use super::view::{Known, sync_of};
use crate::store::Sought;

/// What runs without a record, which nobody claims yet.
impl Sought for ObservedSession {
    fn is_sought(&self) -> bool {
        self.unclaimed.is_some()
    }
}

impl Sessions {
    /// What is known of a record's session.
    pub(super) fn known_of<'a>(&self, own: &'a SessionRecord) -> KnownOwned<'a> {
        let desktop = own.desktop_of.as_ref().and_then(|id| self.inner.store.sessions.view().get(id.as_str()));
        let desktop = desktop.map(|entry| entry.value);
        let record = desktop.as_deref().unwrap_or(own);
        let runner = record.assignment.as_ref().map(|of| &of.runner);
        let key = runner.map(|runner| subject::runner_session_key(runner, &record.id));
        let seen = key.and_then(|key| self.inner.store.observed.view().get(&key)).map(|entry| entry.value);
        let liveness = runner.and_then(|runner| self.runner(runner)).map(|runner| runner.liveness);
        let usage = runner.and_then(|runner| self.usage(runner, &record.id));
        KnownOwned { own, desktop, seen, liveness, usage }
    }

    pub(super) fn view_of(&self, own: &SessionRecord) -> SessionView {
        let known = self.known_of(own);
        let position = known.record().filter(|record| waits(record)).map(|record| self.queue_position(record));
        self.seen(&known.known(), position)
    }

    /// The view, with how the desktop's agent is connected: that is in the leases.
    pub(super) fn seen(&self, known: &Known<'_>, queue_position: Option<u32>) -> SessionView {
        let mut view = known.view(queue_position, &self.inner.public_url);
        if !view.phase.is_terminal() {
            let desktop = known.record.map_or(known.id, |record| &record.id);
            let leases = self.inner.store.leases.view().read();
            view.sync = sync_of(desktop, &leases);
            known.record.into_iter().for_each(|record| time_limits::show(&mut view, record, &leases));
        }
        view
    }

    /// What a runner said in its last heartbeat that the session uses.
    pub(super) fn usage(&self, runner: &RunnerId, id: &SessionId) -> Option<Usage> {
        let lease = self.inner.store.leases.view().get(&subject::runner_lease_key(runner))?;
        lease.value.heartbeat.as_ref()?.usage.get(id).copied()
    }

    pub(super) fn runner(&self, id: &RunnerId) -> Option<Arc<RunnerRecord>> {
        self.inner.store.runners.view().get(id.as_str()).map(|entry| entry.value)
    }

    /// The report of a session that nobody claims.
    pub(super) fn unclaimed(&self, id: &SessionId) -> Option<Arc<ObservedSession>> {
        let observed = self.inner.store.observed.view().read();
        observed.sought().find(|entry| entry.value.session == *id).map(|entry| Arc::clone(&entry.value))
    }
}

/// [`Known`] with what it borrows.
pub(super) struct KnownOwned<'a> {
    own: &'a SessionRecord,
    /// Where `own` is another name of it.
    desktop: Option<Arc<SessionRecord>>,
    seen: Option<Arc<ObservedSession>>,
    liveness: Option<Liveness>,
    usage: Option<Usage>,
}

impl KnownOwned<'_> {
    /// The record of the session that has the desktop.
    fn record(&self) -> Option<&SessionRecord> {
        self.desktop.as_deref().or_else(|| self.own.desktop_of.is_none().then_some(self.own))
    }

    pub(super) fn known(&self) -> Known<'_> {
        Known {
            id: &self.own.id,
            record: self.record(),
            observed: self.seen.as_deref(),
            liveness: self.liveness,
            usage: self.usage,
            name: self.own.desktop_of.is_some().then_some(self.own),
        }
    }

    pub(super) fn phase(&self) -> SessionPhase {
        self.known().phase()
    }
}
