//! The end of a session, and what may come after it: being forgotten, or running anew under a newer epoch.

use std::ops::ControlFlow;
use std::time::Duration;

use helix_protocol::resources::OnLost;
use helix_protocol::session::{Cause, Desired};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::state::{Event, Outcome, State};
use super::{Order, RETRY, Session, begin_step, finish_step, new_entry, take_order};
use crate::supervisor::{Supervisor, UnitName};

/// From a polite request to SIGKILL: the agent may want to save; the recorder notes its end while there is a display; that
/// removes its sockets.
const POLITE: [(UnitName, Duration); 3] = [
    (UnitName::App, Duration::from_secs(5)),
    (UnitName::Recorder, Duration::from_secs(1)),
    (UnitName::Display, Duration::from_secs(2)),
];
/// Cause of a session of which something could not be ended.
const LEFT_BEHIND: &str = "left_behind";
/// Between two attempts to end that all the same.
const CLEAN_AGAIN: Duration = Duration::from_mins(1);
/// From the order to a session that has ended, or is given up with what it left named.
const DEADLINE: Duration = Duration::from_mins(1);

impl<S: Supervisor> Session<S> {
    /// Kills everything of the session and proves it.
    pub(super) async fn end(&self) {
        let (supervisor, id) = (&self.context.supervisor, self.id());
        let begun = Instant::now();
        // A session that is held still may live on elsewhere: it gets no moment more.
        let (polite, recorded) = {
            let entry = self.entry();
            (entry.identity.is_some() && !entry.holding, entry.recording.is_some())
        };
        let asked = |unit| polite && (unit != UnitName::Recorder || recorded);
        for (unit, grace) in POLITE.into_iter().filter(|(unit, _)| asked(*unit)) {
            if let Err(error) = supervisor.stop(&id, unit, grace).await {
                // Its guest is gone, most likely; the kill below needs none.
                tracing::debug!(unit = unit.as_str(), "unit not stopped politely: {error}");
                break;
            }
            if unit == UnitName::App {
                self.last_checkpoint().await;
            }
        }
        // What the agent had to say at its end is said.
        self.outlet.send_replace(false);
        self.hold_port(None);
        let left = loop {
            match supervisor.kill(&id).await {
                Ok(()) => break None,
                Err(error) if begun.elapsed() >= DEADLINE => break Some(error),
                Err(error) => {
                    tracing::warn!("session not ended yet: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        self.commit_or_later(|entry| {
            finish_step(entry, "stopping", None);
            if let Some(error) = &left {
                entry.state = entry.state.after(Event::End(Outcome::Failed)).unwrap_or(entry.state);
                let message = format!("something of the session cannot be ended: {error}");
                entry.cause = Some(Cause::new(LEFT_BEHIND, message));
            }
            if let Some(state) = entry.state.after(Event::NothingRuns) {
                entry.state = state;
                entry.pid = None;
                // Nobody needs them any more, and nobody shall find them.
                entry.desired.access = None;
                entry.forward_port = None;
                (entry.frozen, entry.holding) = (false, false);
                begin_step(entry, if state == State::Ended(Outcome::Failed) { "failed" } else { "stopped" });
            }
        })
        .await;
        if left.is_none() {
            self.finish_recording().await;
        }
        self.context.ended.send_modify(|ended| *ended += 1);
        tracing::info!(took_ms = begun.elapsed().as_millis() as u64, "session ended");
    }

    /// After the end: waits for an order that changes something. Breaks when the task has nothing left to do.
    pub(super) async fn rest(&self, orders: &mut watch::Receiver<Order>) -> ControlFlow<()> {
        loop {
            let order = orders.borrow_and_update().clone();
            let (own, forgotten) = {
                let entry = self.entry();
                (entry.desired.epoch, entry.forgotten)
            };
            self.note_claim(order.unclaimed);
            let current = order.desired.epoch >= own;
            if current && order.desired.deleted && !forgotten {
                self.forget(&order).await;
            } else if order.desired.epoch > own {
                match order.desired.desired {
                    Desired::Running => {
                        self.begin_anew(&order).await;
                        return ControlFlow::Continue(());
                    }
                    Desired::Stopped => self.commit_or_later(|entry| take_order(entry, &order.desired)).await,
                }
            }
            let left = self.entry().cause.as_ref().is_some_and(|cause| cause.code == LEFT_BEHIND);
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return ControlFlow::Break(()) },
                () = tokio::time::sleep(CLEAN_AGAIN), if left => self.clean_again().await,
            }
        }
    }

    /// What could not be ended may end later: then its slot is free again.
    async fn clean_again(&self) {
        match self.context.supervisor.kill(&self.id()).await {
            Ok(()) => {
                tracing::info!("what a session left behind is gone");
                self.finish_recording().await;
                let message = "something of the session could not be ended in time; nothing is left of it now";
                self.commit_or_later(|entry| entry.cause = Some(Cause::new("ended_late", message))).await;
            }
            Err(error) => tracing::warn!("what a session left behind is still there: {error}"),
        }
    }

    /// Removes workspace and logs. Reported only when nothing is left, so a server never believes it too early.
    async fn forget(&self, order: &Order) {
        let (supervisor, id) = (&self.context.supervisor, self.id());
        loop {
            let removed = async {
                supervisor.kill(&id).await.map_err(|error| error.to_string())?;
                if order.desired.work.keep {
                    self.keep_workspace().map_err(|error| error.to_string())?;
                }
                supervisor.forget(&id).await.map_err(|error| error.to_string())
            };
            match removed.await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!("a deleted session is not gone yet: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        self.commit_or_later(|entry| {
            take_order(entry, &order.desired);
            entry.forgotten = true;
        })
        .await;
        tracing::info!("session forgotten");
    }

    /// A newer assignment of the same session to this runner: a new life, with nothing of the old one.
    async fn begin_anew(&self, order: &Order) {
        // Nothing is removed while a process of the former life may still have it open.
        let (supervisor, id) = (&self.context.supervisor, self.id());
        let gone = async || {
            supervisor.kill(&id).await.map_err(|error| error.to_string())?;
            let may_live_on = order.desired.spec.on_lost == Some(OnLost::Restart);
            if order.desired.work.restore.is_some() || may_live_on {
                self.keep_workspace().map_err(|error| error.to_string())?;
            }
            supervisor.forget(&id).await.map_err(|error| error.to_string())
        };
        while let Err(error) = gone().await {
            tracing::error!("the former life of a session is not gone yet: {error}");
            tokio::time::sleep(RETRY).await;
        }
        self.finish_recording().await;
        let entry = new_entry(&self.context, order.desired.clone());
        self.context.gates.begin(&entry.desired);
        self.held.send_replace(None);
        tracing::info!(epoch = %order.desired.epoch, at = %Timestamp::now(), "session begins anew");
        self.commit(|old| *old = entry).await;
    }
}
