//! Runners whose connection to NATS has ended: nats-server says so at once, and a heartbeat that stays away only later.
//!
//! One task per process, which follows the advisories of the system account; the leader makes a runner suspect by them
//! ([`super::liveness`]), never lost. An ordinary end (credentials that are renewed, an agentd that starts again) is
//! followed by a registration within a second or two, which counts as a heartbeat. A missed advisory, or a `nats.conf` of before that does not let us
//! hear them, costs nothing: silence is judged all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use helix_protocol::{RunnerId, subject};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;

/// What is older says nothing any more: silence of that length is judged by itself.
const KEPT: Duration = Duration::from_mins(2);

/// When whose connection ended last. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Disconnects {
    ended: Arc<watch::Sender<BTreeMap<RunnerId, Instant>>>,
}

/// nats-server's advisory `io.nats.server.advisory.v1.client_disconnect`, as far as we read it.
#[derive(Deserialize)]
struct Advisory {
    client: Client,
}

#[derive(Deserialize)]
struct Client {
    /// The name in the user JWT: the runner's id.
    #[serde(default)]
    user: String,
}

impl Disconnects {
    /// Follows until `shutdown`.
    pub async fn run(self, bus: Bus, shutdown: CancellationToken) {
        let mut advisories = match bus.client().subscribe(subject::SYS_DISCONNECT).await {
            Ok(advisories) => advisories,
            Err(error) => return tracing::warn!(%error, "ends of connections are not heard of; silence still is"),
        };
        // Both arms are cancel safe: a token and a stream.
        while let Some(Some(message)) = shutdown.run_until_cancelled(advisories.next()).await {
            if let Some(runner) = runner_of(&message.payload) {
                self.note(runner, Instant::now());
            }
        }
    }

    /// Wakes whoever judges.
    pub fn changes(&self) -> watch::Receiver<BTreeMap<RunnerId, Instant>> {
        self.ended.subscribe()
    }

    /// When the connection of this runner ended last, where that is not long ago.
    pub fn of(&self, runner: &RunnerId) -> Option<Instant> {
        self.ended.borrow().get(runner).copied()
    }

    fn note(&self, runner: RunnerId, at: Instant) {
        tracing::debug!(runner.id = %runner, "its connection to NATS has ended");
        self.ended.send_modify(|ended| {
            ended.retain(|_, at| at.elapsed() < KEPT);
            ended.insert(runner, at);
        });
    }
}

fn runner_of(payload: &[u8]) -> Option<RunnerId> {
    let advisory: Advisory = serde_json::from_slice(payload).ok()?;
    RunnerId::parse(&advisory.client.user).ok()
}
