//! What an order changes while a session runs: its limits, and whether it is held still.

use helix_protocol::resources::OnLost;
use helix_protocol::session::Cause;

use super::{Order, Session};
use crate::supervisor::Supervisor;

impl<S: Supervisor> Session<S> {
    /// Does what a current order says beside running and ending.
    pub(super) async fn adjust(&self, order: &Order) {
        let (own, generation) = {
            let entry = self.entry();
            (entry.desired.epoch, entry.desired.generation)
        };
        if order.desired.epoch == own && order.desired.generation > generation {
            self.take_limits(order).await;
        }
        self.hold(order).await;
    }

    /// New limits. Taken over before they are set: a slice that is being opened gets them at its end.
    async fn take_limits(&self, order: &Order) {
        self.commit_or_later(|entry| {
            entry.desired.generation = order.desired.generation;
            entry.desired.spec.resources = order.desired.spec.resources;
        })
        .await;
        self.set_limits().await;
    }

    /// Sets the limits that the entry's spec asks for, if the slice is there and has others.
    pub(super) async fn set_limits(&self) {
        let resources = match self.plan() {
            Ok(plan) => plan.slice.resources,
            Err(ending) => return self.change(|entry| entry.cause = Some(*ending.cause)),
        };
        let known = self.entry().limits.as_ref().map(|limits| limits.resources);
        // Without limits there is no slice yet: whoever opens it looks again.
        if known.is_none_or(|known| known == resources) {
            return;
        }
        match self.context.supervisor.limit(&self.id(), &resources).await {
            Ok(()) => {
                tracing::info!(?resources, "limits changed");
                let limits = self.context.supervisor.enforcement().limits(resources);
                self.change(|entry| entry.limits = Some(limits));
            }
            Err(error) => {
                tracing::error!(%error, "limits not changed");
                self.change(|entry| entry.cause = Some(Cause::new("limit_failed", error.to_string())));
            }
        }
    }

    /// Holds the session still while a server may start it elsewhere, and lets it go on once its epoch is confirmed.
    async fn hold(&self, order: &Order) {
        let (frozen, restart) = {
            let entry = self.entry();
            (entry.frozen, entry.desired.spec.on_lost == Some(OnLost::Restart))
        };
        let hold = order.hold && restart;
        if hold == frozen || self.entry().identity.is_none() {
            return;
        }
        match self.context.supervisor.freeze(&self.id(), hold).await {
            Ok(()) => {
                tracing::warn!(frozen = hold, "session held still or let go on");
                self.commit_or_later(|entry| entry.frozen = hold).await;
            }
            // Tried again with the next order, which comes with every activation of the reconciler.
            Err(error) => tracing::error!(%error, frozen = hold, "cannot hold the session still or let it go on"),
        }
    }
}
