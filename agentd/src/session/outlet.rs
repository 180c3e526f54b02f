//! The session's way out: its port, and agentd's end of its forward ([`crate::forward`]).
//!
//! It runs beside everything else in the session's task, from the moment when the slice is known until the agent has had
//! its time to end. A restarted agentd listens anew as soon as it has found the slice again.

use std::convert::Infallible;
use std::sync::PoisonError;

use helix_protocol::resources::Network;
use helix_protocol::session::Cause;

use super::{RETRY, Session};
use crate::forward::{self, OWN_NETWORK_PORT, Reservation, host};
use crate::supervisor::{Supervisor, UnitName};

impl<S: Supervisor> Session<S> {
    /// The port that the session will have; held for it as long as this agentd lives.
    pub(super) fn choose_port(&self) -> Result<u16, Cause> {
        let (known, own_network) = {
            let entry = self.entry();
            let alone = entry.desired.spec.network == Some(Network::None);
            (entry.forward_port, alone && self.context.supervisor.paths(entry.session()).own_network)
        };
        if own_network {
            return Ok(OWN_NETWORK_PORT);
        }
        match (forward::reserve(known), known) {
            (Ok(reservation), _) => {
                let port = reservation.port();
                self.hold_port(Some(reservation));
                Ok(port)
            }
            // Its own forward listens there, or will say who does.
            (Err(_), Some(port)) => Ok(port),
            (Err(error), None) => {
                Err(Cause::new("forward_failed", format!("no port of the loopback interface can be had: {error}")))
            }
        }
    }

    /// Holds a port, or lets go of the one that is held.
    pub(super) fn hold_port(&self, reservation: Option<Reservation>) {
        *self.reservation.lock().unwrap_or_else(PoisonError::into_inner) = reservation;
    }

    /// Passes on what the agent has to say, while that is wanted.
    pub(super) async fn let_out(&self) -> Infallible {
        let mut open = self.outlet.subscribe();
        loop {
            // The sender lives in the session.
            let _ = open.wait_for(|open| *open).await;
            tokio::select! {
                never = self.serve_forward() => match never {},
                _ = open.wait_for(|open| !*open) => {}
            }
        }
    }

    async fn serve_forward(&self) -> Infallible {
        loop {
            match self.context.supervisor.listen(&self.id(), UnitName::Forward).await {
                Ok(listener) => match host::serve(listener, self.context.servers.clone()).await {},
                Err(error) => tracing::error!("the session's agent cannot reach a server: {error}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
