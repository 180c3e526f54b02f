//! The NATS connection: typed publish, request and health. Names come from `protocol::subject`.
//!
//! One connection per process ([`connect`]). [`monitor`](Bus::monitor) is the only task: after every (re)connect it
//! ensures the schema, so that a NATS that was emptied has its buckets again, and then begins a new *generation*;
//! whoever follows a stream starts from scratch with each generation. While there is none, [`Bus::require_up`] refuses
//! at once and nothing is queued for later. The same while a backup is put into the store ([`restoring`]): what the
//! probe asks for is the mark of that. A member of a cluster whose JetStream does not answer may be cut off from the others:
//! another one is asked then.

pub mod connect;
mod connections;
pub mod follow;
pub mod restoring;
mod room;
pub mod schema;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, Event};
use helix_protocol::link::{Message, Nudge};
use helix_protocol::{ErrorCode, RunnerId, subject};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::room::{Room, is_full};
use self::schema::Silent;
use crate::config::ServerConfig;
use crate::error::{Error, Result};

/// Longest wait for one answer of NATS.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server without NATS tries at its start; afterwards whoever supervises it starts it again.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Between two probes of JetStream while connected.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// A member of a cluster whose JetStream does not answer for so long is left for another one.
const LEAVE_AFTER: Duration = Duration::from_secs(4);
/// Between two tries to ensure the schema after a reconnect.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

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
    /// There is more than one nats-server to ask.
    has_members: bool,
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
    /// It is not because a backup is being put into it.
    pub restoring: bool,
}

impl Bus {
    /// Connects, checks the version and ensures the schema once.
    pub async fn connect(config: &ServerConfig, server_id: &str) -> anyhow::Result<Self> {
        let (events, mut connections) = watch::channel(Connection::default());
        let name = format!("helix-server {server_id}");
        let options = || {
            let events = events.clone();
            connect::options(config, &name).event_callback(move |event| {
                note(&events, &event);
                std::future::ready(())
            })
        };
        let client = connect::within(config, options, START_PATIENCE).await?;
        let jetstream = ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
        let wanted = schema::Wanted {
            replicas: config.nats.replicas,
            recordings: config.recording.max_store,
            is_chosen: config.recording.is_chosen,
        };
        schema::ensure_within(&jetstream, wanted, START_PATIENCE).await?;
        // The client's own event of this connect comes by another task; `require_up` relies on it.
        tokio::time::timeout(REQUEST_TIMEOUT, connections.wait_for(|connection| connection.connected)).await??;
        let health = Health { generation: 1, up_since: Some(Instant::now()), restoring: false };
        Ok(Self {
            client,
            jetstream,
            connections,
            health: Arc::new(watch::Sender::new(health)),
            wanted,
            room: Room::default(),
            has_members: config.nats.url.contains(','),
        })
    }

    /// Keeps schema and health true until `shutdown`.
    pub async fn monitor(self, shutdown: CancellationToken) {
        let mut connections = self.connections.clone();
        // The connect of the start is not news: its schema is ensured.
        let mut ensured = Some(1_u64);
        // On which connection nobody answers, and since when.
        let mut silent = None;
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
                match restoring::standing(&self.jetstream).await {
                    Ok(None) => {}
                    Ok(Some(_)) => {
                        ensured = None;
                        self.health.send_modify(|health| health.restoring = true);
                        self.set_down("a backup is being restored");
                    }
                    Err(err) => {
                        tracing::warn!(error = format!("{err:#}"), "JetStream does not answer");
                        ensured = None;
                        self.set_down("JetStream does not answer");
                    }
                }
            } else {
                match schema::ensure(&self.jetstream, self.wanted).await {
                    Ok(()) => {
                        ensured = Some(connection.count);
                        silent = None;
                        self.set_up();
                    }
                    Err(err) => {
                        tracing::warn!(error = format!("{err:#}"), "cannot ensure the schema yet");
                        let since = match silent {
                            Some((count, since)) if count == connection.count => since,
                            _ => Instant::now(),
                        };
                        // A refusal is an answer.
                        silent = err.is::<Silent>().then_some((connection.count, since));
                        if self.has_members && silent.is_some() && since.elapsed() >= LEAVE_AFTER {
                            tracing::warn!("this member of NATS may be cut off from the others; another one is asked");
                            // It fails where the client has ended.
                            let _ = self.client.force_reconnect().await;
                        }
                    }
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
        let why = if health.restoring {
            "a backup is being restored; nothing was done. Sessions run on; repeat the request once `helixctl restore` has \
             ended"
        } else {
            "NATS JetStream cannot be reached; nothing was done. Sessions run on; repeat the request in a moment"
        };
        Err(Error::new(ErrorCode::StoreUnavailable, why))
    }

    fn set_up(&self) {
        self.health.send_modify(|health| {
            health.generation += 1;
            health.up_since = Some(Instant::now());
            health.restoring = false;
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
    let detail = "NATS JetStream did not answer in time; repeat the request in a moment. Where that goes on, its disk may be full: \
                  its log says so, and it needs room and a new start";
    Error::new(ErrorCode::StoreUnavailable, detail).because(err)
}

fn internal(what: &str) -> Error {
    Error::new(ErrorCode::Internal, what)
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
