//! What an order changes while a session runs: its limits, its secrets, who comes to its desktop and may type there, and whether it is held still.
//!
//! All are level-triggered: every order is compared with what was done, and what failed or was cut off is done again
//! ([`Done::Again`]), also by the next agentd: the entry says what is meant before it is tried.

use helix_protocol::resources::OnLost;
use helix_protocol::session::Cause;

use super::{Order, Session};
use crate::supervisor::Supervisor;

/// Whether everything is as the order wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// It is.
    Yes,
    /// Not yet: to be tried again soon.
    Again,
}

impl<S: Supervisor> Session<S> {
    /// Does what a current order says beside running and ending.
    pub(super) async fn adjust(&self, order: &Order) -> Done {
        let (own, generation) = {
            let entry = self.entry();
            (entry.desired.epoch, entry.desired.generation)
        };
        if order.desired.epoch != own {
            // An old order says nothing, and what a newer one wants is not an adjustment.
            return Done::Yes;
        }
        if order.desired.generation > generation {
            self.commit_or_later(|entry| {
                entry.desired.generation = order.desired.generation;
                entry.desired.spec.resources = order.desired.spec.resources;
            })
            .await;
        }
        // Done beside everything else.
        self.asked.send_if_modified(|asked| {
            let is_new = order.desired.work.asked > *asked;
            *asked = order.desired.work.asked.max(*asked);
            is_new
        });
        if order.desired.control.epoch > self.entry().desired.control.epoch {
            // Enforced before it is reported: whoever took the desktop over waits for that.
            self.context.gates.set(&self.id(), &order.desired.control);
            self.commit_or_later(|entry| entry.desired.control.clone_from(&order.desired.control)).await;
            self.note_control();
        }
        if order.desired.grants > self.entry().desired.grants
            && let Some(access) = &order.desired.access
        {
            // The same: who made or revoked one waits for it.
            self.context.gates.grant(&self.id(), order.desired.grants, &access.grants);
            self.commit_or_later(|entry| {
                entry.desired.grants = order.desired.grants;
                entry.desired.access.clone_from(&order.desired.access);
            })
            .await;
        }
        let (is_old, differs) = {
            let known = &self.entry().desired;
            (order.desired.grants < known.grants, order.desired.access != known.access)
        };
        if order.desired.access.is_some() && differs && !is_old {
            // For the agent's next start. Its token is the same under one epoch; its secrets may be others.
            self.commit_or_later(|entry| entry.desired.access.clone_from(&order.desired.access)).await;
        }
        match (self.set_limits().await, self.hold(order.hold).await) {
            (Done::Yes, Done::Yes) => Done::Yes,
            _ => Done::Again,
        }
    }

    /// Sets the limits that the entry's spec asks for, if the slice has those of a former generation. New settings of
    /// the runner alone change nothing of a session that runs.
    pub(super) async fn set_limits(&self) -> Done {
        let (generation, opened) = {
            let entry = self.entry();
            let set = entry.limits_generation.unwrap_or(entry.desired.generation);
            ((set != entry.desired.generation).then_some(entry.desired.generation), entry.identity.is_some())
        };
        // Without a slice there is nothing to set yet: whoever opens it looks again.
        let Some(generation) = generation.filter(|_| opened) else { return Done::Yes };
        let resources = match self.plan() {
            Ok(plan) => plan.slice.resources,
            Err(ending) => {
                self.note_cause(*ending.cause);
                return Done::Yes;
            }
        };
        match self.context.supervisor.limit(&self.id(), &resources).await {
            Ok(()) => {
                tracing::info!(?resources, "limits changed");
                let limits = self.context.supervisor.enforcement().limits(resources);
                self.commit_or_later(|entry| {
                    entry.limits = Some(limits);
                    entry.limits_generation = Some(generation);
                    if entry.cause.as_ref().is_some_and(|cause| cause.code == LIMIT_FAILED) {
                        entry.cause = None;
                    }
                })
                .await;
                Done::Yes
            }
            Err(error) => {
                tracing::error!("limits not changed: {error}");
                self.note_cause(Cause::new(LIMIT_FAILED, error.to_string()));
                Done::Again
            }
        }
    }

    /// Holds the session still while a server may start it elsewhere, and lets it go on once its epoch is confirmed.
    async fn hold(&self, ordered: bool) -> Done {
        let (holding, restart, opened) = {
            let entry = self.entry();
            let restart = entry.desired.spec.on_lost == Some(OnLost::Restart);
            (entry.holding, restart, entry.identity.is_some())
        };
        let hold = ordered && restart;
        // What a former agentd did is known from the entry only.
        let known = *self.held.borrow();
        if known == Some(hold) || (known.is_none() && !hold && !holding) {
            return Done::Yes;
        }
        if !opened {
            // It is being opened: nothing of it runs yet, and in a moment something may.
            return if hold { Done::Again } else { Done::Yes };
        }
        if hold {
            // Before it is done: whoever finds it frozen knows why, and lets it go on again.
            self.commit_or_later(|entry| entry.holding = true).await;
        }
        // Not known until it is done: this future may be dropped in the middle.
        self.held.send_replace(None);
        let result = self.context.supervisor.freeze(&self.id(), hold).await;
        let now_known = result.is_ok().then_some(hold);
        self.held.send_replace(now_known);
        match result {
            Ok(()) => {
                if hold {
                    tracing::warn!("session held still");
                } else {
                    tracing::info!("session goes on");
                }
                self.commit_or_later(|entry| (entry.frozen, entry.holding) = (hold, hold)).await;
                Done::Yes
            }
            Err(error) => {
                tracing::error!(frozen = hold, "cannot hold the session still or let it go on: {error}");
                Done::Again
            }
        }
    }
}

const LIMIT_FAILED: &str = "limit_failed";
