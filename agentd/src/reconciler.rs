//! The one loop: what shall run (the desired set) against what there is (a task per session of the ledger).
//!
//! Level-triggered: an activation takes no input but the current state and may run at any time. It runs when the
//! desired set changes, when a report is acknowledged, when a session task ends, and on a timer that also feeds the
//! watchdog. What is missing from the desired set is never stopped, only marked. `reaper` runs beside it.
//! A session task that panics ends agentd: the next start takes every session over again from the ledger.

pub mod kept;
mod reaper;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use helix_protocol::assignment::DesiredSession;
use helix_protocol::{Epoch, SessionId};
use tokio::sync::watch;

use crate::ledger::Entry;
use crate::notice::{Notice, notify};
use crate::session::{Context, SessionHandle, new_entry};
use crate::supervisor::Supervisor;

/// Between two activations when nothing happens.
const INTERVAL: Duration = Duration::from_secs(10);

/// What the reconciler reads.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The last desired set; None until a server was heard.
    pub desired: watch::Receiver<Option<Arc<Vec<DesiredSession>>>>,
    /// True once the sessions shall end with the runner.
    pub runner_stops: watch::Receiver<bool>,
    /// True while this runner may have been called lost ([`crate::fence`]).
    pub cut_off: watch::Receiver<bool>,
}

/// A session task ended that should not have.
#[derive(Debug, thiserror::Error)]
#[error("the task of session {0} failed; agentd must be started again, which takes its sessions over")]
pub struct TaskFailed(pub SessionId);

/// The loop's state.
#[derive(Debug)]
pub struct Reconciler<S: Supervisor> {
    context: Arc<Context<S>>,
    inputs: Inputs,
    sessions: BTreeMap<SessionId, SessionHandle>,
    /// Deleted sessions that are gone although the desired set in hand still names them.
    buried: BTreeMap<SessionId, Epoch>,
    /// Unit keys of all sessions, for the reaper.
    known: watch::Sender<BTreeSet<String>>,
}

impl<S: Supervisor> Reconciler<S> {
    /// Takes over the sessions of the ledger.
    pub fn new(context: Arc<Context<S>>, inputs: Inputs, entries: Vec<Entry>) -> Self {
        let keys = entries.iter().map(|entry| entry.session().unit_key()).collect();
        let sessions = entries
            .into_iter()
            .map(|entry| (entry.session().clone(), SessionHandle::spawn(context.clone(), entry)))
            .collect();
        Self { context, inputs, sessions, buried: BTreeMap::new(), known: watch::Sender::new(keys) }
    }

    /// Runs until a session task fails. Dropping it leaves every session running.
    pub async fn run(mut self) -> TaskFailed {
        let watchdog = sd_notify::watchdog_enabled().map_or(INTERVAL, |limit| (limit / 2).min(INTERVAL));
        let mut acknowledged = self.context.reports.watch();
        let reaper = reaper::run(self.context.clone(), self.known.subscribe());
        tokio::pin!(reaper);
        loop {
            if let Err(failed) = self.activate().await {
                return failed;
            }
            notify(Notice::Watchdog);
            tokio::select! {
                _ = self.inputs.desired.changed() => {}
                _ = self.inputs.runner_stops.changed() => {}
                _ = self.inputs.cut_off.changed() => {}
                _ = acknowledged.changed() => {}
                () = &mut reaper => {}
                () = tokio::time::sleep(watchdog) => {}
            }
        }
    }

    /// One comparison of desired and there.
    async fn activate(&mut self) -> Result<(), TaskFailed> {
        if let Some((id, _)) = self.sessions.iter().find(|(_, handle)| handle.is_finished()) {
            return Err(TaskFailed(id.clone()));
        }
        self.bury().await;
        // Before the desired set: a set that is read after contact came back is one that was sent after it.
        let cut_off = *self.inputs.cut_off.borrow_and_update();
        let desired = self.inputs.desired.borrow_and_update().clone();
        if let Some(desired) = desired {
            self.buried.retain(|id, _| desired.iter().any(|wanted| wanted.session == *id));
            for wanted in desired.iter() {
                self.apply(wanted, cut_off);
            }
            let named: BTreeSet<&SessionId> = desired.iter().map(|wanted| &wanted.session).collect();
            for (id, handle) in &self.sessions {
                handle.order(|order| order.unclaimed = !named.contains(id));
            }
        }
        if cut_off {
            self.sessions.values().for_each(|handle| handle.order(|order| order.hold = true));
        }
        if *self.inputs.runner_stops.borrow_and_update() {
            self.sessions.values().for_each(|handle| handle.order(|order| order.runner_stops = true));
        }
        Ok(())
    }

    fn apply(&mut self, wanted: &DesiredSession, cut_off: bool) {
        let id = &wanted.session;
        if let Some(handle) = self.sessions.get(id) {
            return handle.order(|order| {
                order.desired = wanted.clone();
                order.hold = cut_off;
            });
        }
        if self.buried.get(id).is_some_and(|epoch| wanted.epoch <= *epoch) {
            return;
        }
        // Known before its directories exist, so that the reaper never takes a new session for a leftover.
        self.known.send_modify(|known| _ = known.insert(id.unit_key()));
        let entry = new_entry(&self.context, wanted.clone());
        self.sessions.insert(id.clone(), SessionHandle::spawn(self.context.clone(), entry));
    }

    /// Lets go of sessions whose last report is acknowledged.
    async fn bury(&mut self) {
        for id in self.context.reports.gone() {
            if let Err(error) = self.context.ledger.remove(&id).await {
                // Tried again at the next activation.
                tracing::error!(HELIX_SESSION = %id, "cannot remove a forgotten session from the ledger: {error}");
                continue;
            }
            let epoch = self.context.reports.get(&id).map(|observed| observed.epoch).unwrap_or_default();
            self.sessions.remove(&id);
            self.context.reports.remove(&id);
            self.context.gates.forget(&id);
            self.known.send_modify(|known| _ = known.remove(&id.unit_key()));
            self.buried.insert(id, epoch);
        }
    }
}
