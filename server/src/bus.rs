//! The NATS connection: typed publish, request and health. Names come from `protocol::subject`.
//!
//! One connection per process. [`monitor`](Bus::monitor) is the only task: after every (re)connect it ensures the
//! schema, so that a NATS that was emptied has its buckets again, and then begins a new *generation*; whoever follows
//! a stream starts from scratch with each generation. While there is none, [`Bus::require_up`] refuses at once and
//! nothing is queued for later.

mod connections;
pub mod follow;
mod room;
pub mod schema;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use helix_protocol::link::{Message, Nudge};
use helix_protocol::{ErrorCode, RunnerId, subject};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::room::{Room, is_full};
use crate::config::ServerConfig;
use crate::error::{Error, Result};

/// Longest wait for one answer of NATS.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server without NATS tries at its start; afterwards whoever supervises it starts it again.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Between two probes of JetStream while connected.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Between two tries to ensure the schema after a reconnect.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// First NATS with per-key TTL, limit markers and what else the schema needs.
const MIN_VERSION: (u64, u64) = (2, 11);

/// The bus. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    jetstream: Context,
    connections: watch::Receiver<Connection>,
    health: Arc<watch::Sender<Health>>,
    /// How what the schema lacks is made.
    wanted: schema::Wanted,
    /// Whether the last record found room.
    room: Room,
}

/// What the client's events said last.
#[derive(Debug, Clone, Copy, Default)]
struct Connection {
    connected: bool,
    /// Counts connects.
    count: u64,
}

/// Whether the bus can be used, and since when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Counts the times that the schema was ensured; 0 = never yet.
    pub generation: u64,
    /// Since when it is usable without a break; `None` = it is not.
    pub up_since: Option<Instant>,
}

impl Bus {
    /// Connects, checks the version and ensures the schema once.
    pub async fn connect(config: &ServerConfig, server_id: &str) -> anyhow::Result<Self> {
        let (events, mut connections) = watch::channel(Connection::default());
        let client = connect_within(config, server_id, &events, START_PATIENCE).await?;
        check_version(&client.server_info().version, &config.nats.url)?;
        let jetstream = ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
        let wanted = schema::Wanted {
            replicas: config.nats.replicas,
            recordings: config.recording.max_store,
            is_chosen: config.recording.is_chosen,
        };
        schema::ensure(&jetstream, wanted).await?;
        // The client's own event of this connect comes by another task; `require_up` relies on it.
        tokio::time::timeout(REQUEST_TIMEOUT, connections.wait_for(|connection| connection.connected)).await??;
        let health = Health { generation: 1, up_since: Some(Instant::now()) };
        Ok(Self {
            client,
            jetstream,
            connections,
            health: Arc::new(watch::Sender::new(health)),
            wanted,
            room: Room::default(),
        })
    }

    /// Keeps schema and health true until `shutdown`.
    pub async fn monitor(self, shutdown: CancellationToken) {
        let mut connections = self.connections.clone();
        // The connect of the start is not news: its schema is ensured.
        let mut ensured = Some(1_u64);
        loop {
            let pause = if ensured.is_some() { PROBE_INTERVAL } else { RETRY_INTERVAL };
            // All three arms are cancel safe: a watch, a timer and a token.
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = connections.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
            let connection = *connections.borrow_and_update();
            if !connection.connected {
                ensured = None;
                self.set_down("disconnected from NATS");
            } else if ensured.is_some_and(|count| connection.count <= count) {
                if let Err(err) = self.jetstream.query_account().await {
                    tracing::warn!(error = %err, "JetStream does not answer");
                    ensured = None;
                    self.set_down("JetStream does not answer");
                }
            } else {
                match schema::ensure(&self.jetstream, self.wanted).await {
                    Ok(()) => {
                        ensured = Some(connection.count);
                        self.set_up();
                    }
                    Err(err) => tracing::warn!(error = format!("{err:#}"), "cannot ensure the schema yet"),
                }
            }
        }
    }

    /// The raw client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// JetStream with this project's time-outs.
    pub fn jetstream(&self) -> &Context {
        &self.jetstream
    }

    /// Publishes a core message; a lost one is repaired by whoever needed it.
    pub async fn publish<T: Serialize>(&self, subject: String, body: &T) {
        match serde_json::to_vec(body) {
            Ok(payload) => self.publish_encoded(subject, payload).await,
            Err(err) => tracing::error!(error = %err, "cannot encode a message"),
        }
    }

    /// The same for what is encoded already.
    pub async fn publish_encoded(&self, subject: String, payload: Vec<u8>) {
        if let Err(err) = self.client.publish(subject, payload.into()).await {
            tracing::warn!(error = %err, "cannot publish");
        }
    }

    /// Publishes to a stream, in the order of the calls; stored when what this returns has completed. The same `id`
    /// within two minutes is stored once.
    pub async fn send_stored<T: Serialize>(&self, subject: String, id: &str, body: &T) -> Result<PublishAckFuture> {
        self.require_up()?;
        let payload = serde_json::to_vec(body).map_err(|err| internal("cannot encode a message").because(err))?;
        let message = PublishMessage::build().payload(payload.into()).message_id(id);
        self.jetstream.send_publish(subject, message).await.map_err(unavailable)
    }

    /// Nudges a runner; lost nudges are repaired by its timer.
    pub async fn nudge(&self, runner: &RunnerId, nudge: Nudge) {
        let subject = subject::down(runner, nudge.verb());
        self.publish(subject, &Message { runner: runner.clone(), body: nudge }).await;
    }

    /// True while connected and JetStream answers: what `/readyz` tells.
    pub fn healthy(&self) -> bool {
        self.health.borrow().up_since.is_some()
    }

    /// Whether the last record found room.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Follows health.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Refuses at once while NATS cannot be used; answers the generation otherwise.
    pub fn require_up(&self) -> Result<u64> {
        let health = *self.health.borrow();
        if health.up_since.is_some() && self.connections.borrow().connected {
            return Ok(health.generation);
        }
        Err(Error::new(
            ErrorCode::StoreUnavailable,
            "NATS JetStream cannot be reached; nothing was done. Sessions run on; repeat the request in a moment",
        ))
    }

    fn set_up(&self) {
        self.health.send_modify(|health| {
            health.generation += 1;
            health.up_since = Some(Instant::now());
        });
        tracing::info!("NATS is usable again");
    }

    fn set_down(&self, why: &'static str) {
        let was_up = self.health.send_if_modified(|health| health.up_since.take().is_some());
        if was_up {
            tracing::warn!(why, "NATS cannot be used; requests are refused until it is back");
        }
    }
}

/// The store failed beneath.
pub fn unavailable(err: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let detail = "NATS JetStream did not answer in time; repeat the request in a moment";
    Error::new(ErrorCode::StoreUnavailable, detail).because(err)
}

fn internal(what: &str) -> Error {
    Error::new(ErrorCode::Internal, what)
}

fn options(config: &ServerConfig, server_id: &str, events: &watch::Sender<Connection>) -> ConnectOptions {
    let events = events.clone();
    ConnectOptions::with_user_and_password(config.nats.user.clone(), config.secrets.nats_password.clone())
        .name(format!("helix-server {server_id}"))
        .connection_timeout(Duration::from_secs(3))
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(Duration::from_secs(5))
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            note(&events, &event);
            std::future::ready(())
        })
}

fn note(events: &watch::Sender<Connection>, event: &Event) {
    match event {
        Event::Connected => events.send_modify(|connection| {
            connection.connected = true;
            connection.count += 1;
        }),
        Event::Disconnected | Event::Closed => events.send_modify(|connection| connection.connected = false),
        Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
            tracing::warn!(event = %event, "NATS client");
        }
        Event::LameDuckMode | Event::Draining => tracing::info!(event = %event, "NATS client"),
    }
}

/// At once, then 0.1, 0.2, 0.4 … 60 s, each with jitter so that servers do not come back in one moment. Sooner than
/// runners, which begin with a second: NATS refuses a runner whose token no server can vouch for yet, after two
/// seconds. The client asks before the very first connect too.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let full = Duration::from_millis(100 << (attempts - 2).min(10)).min(Duration::from_mins(1));
    let mut random = [0_u8; 1];
    // Without randomness the delay is merely not spread.
    let _ = getrandom::fill(&mut random);
    full.mul_f64(0.5 + f64::from(random[0]) / 512.0)
}

async fn connect_within(
    config: &ServerConfig,
    server_id: &str,
    events: &watch::Sender<Connection>,
    patience: Duration,
) -> anyhow::Result<Client> {
    let url = &config.nats.url;
    let deadline = Instant::now() + patience;
    let mut delay = Duration::from_millis(100);
    loop {
        let err = match options(config, server_id, events).connect(url.as_str()).await {
            Ok(client) => return Ok(client),
            Err(err) => err,
        };
        if matches!(err.kind(), ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation) {
            anyhow::bail!(
                "NATS at {url} refuses user {:?}: {err}; fix: make [nats] password_file hold the password of that \
                 user in nats.conf (helix-server nats-config writes a matching one)",
                config.nats.user
            );
        }
        if Instant::now() + delay >= deadline {
            anyhow::bail!(
                "cannot connect to NATS at {url} within {patience:?}: {err}; fix: start nats-server, or correct [nats] \
                 url (environment NATS_SERVER_HOST, NATS_SERVER_PORT)"
            );
        }
        tracing::warn!(nats.url = %url, error = %err, "NATS cannot be reached yet; trying again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(1));
    }
}

fn check_version(version: &str, url: &str) -> anyhow::Result<()> {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    let found = parts.next().flatten().zip(parts.next().flatten());
    if found.is_some_and(|found| found >= MIN_VERSION) {
        return Ok(());
    }
    let (major, minor) = MIN_VERSION;
    anyhow::bail!(
        "nats-server at {url} is version {version:?}; {major}.{minor} or newer is needed, because older ones silently \
         drop the time-outs that leases depend on; fix: install nats-server {major}.{minor} or newer and restart it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused_by_name_with_the_fix() {
        for good in ["2.11.0", "2.15.1", "3.0.0-beta", "2.11.0-RC.1"] {
            assert!(check_version(good, "nats://x").is_ok(), "{good}");
        }
        for bad in ["2.9.10", "2.10.27", "1.4.1", "", "x.y"] {
            let err = check_version(bad, "nats://x").expect_err(bad).to_string();
            assert!(err.contains(bad) && err.contains("install nats-server 2.11"), "{err}");
        }
    }

    #[test]
    fn reconnects_wait_longer_each_time_but_never_above_a_minute() {
        for (attempt, seconds) in [(1, 0.0), (2, 0.1), (3, 0.2), (4, 0.4), (12, 60.0), (100, 60.0)] {
            let delay = reconnect_delay(attempt).as_secs_f64();
            assert!(delay >= 0.5 * seconds && delay <= seconds, "{attempt}: {delay}");
        }
    }
}
