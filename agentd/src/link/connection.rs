//! One NATS connection: typed requests on it, and the events that end it.
//!
//! Every reply must name this runner and be of a type that answers the request; anything else is dropped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, Subscriber};
use helix_protocol::link::{Message, Reply, Request};
use helix_protocol::{ErrorCode, RunnerId, subject};
use tokio::sync::mpsc;

use super::backoff::jitter;
use crate::config::Secret;

/// Connecting, with TLS and the servers' decision about the token.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From a request to its reply.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Silence on the socket after which the client pings; two missed answers end the connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Before the client's own attempt to come back.
const RETURN_DELAY: Duration = Duration::from_secs(1);
/// Few and small messages flow here.
const CHANNEL_CAPACITY: usize = 256;
const READ_BUFFER_BYTES: u16 = 16 * 1024;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// NATS or the servers' auth callout refused: the token is unknown, or no server was there to say yes.
    #[error("NATS at {address} does not let this runner in: its token is unknown, or no server answers for it")]
    Refused {
        /// Where, without user and password.
        address: String,
    },
    /// No connection.
    #[error("NATS at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Where, without user and password.
        address: String,
        /// Why.
        reason: String,
    },
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not connected now.
    #[error("not connected to NATS")]
    NotConnected,
    /// No server listens.
    #[error("no server is connected to NATS")]
    NoServer,
    /// Nothing came in time.
    #[error("no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    TimedOut,
    /// The server said no.
    #[error("refused ({code}): {detail}")]
    Refused {
        /// Stable code.
        code: ErrorCode,
        /// For people.
        detail: String,
    },
    /// The answer is not one.
    #[error("the answer is dropped: {0}")]
    Foreign(String),
    /// The client failed.
    #[error("{0}")]
    Client(String),
}

/// A connection. Clones are the same.
#[derive(Debug, Clone)]
pub struct Connection {
    client: Client,
    runner: RunnerId,
    has_members: bool,
}

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is up, for the first time or again; the server knows nothing of before.
    Up,
    /// It is down; the client tries once to come back.
    Down,
    /// It will not come back: make a new one.
    Over,
}

impl Connection {
    /// Connects to one of the addresses, each tried once. The receiver tells what becomes of it.
    pub async fn open(
        address: &str,
        ca: Option<PathBuf>,
        runner: &RunnerId,
        token: &Secret,
    ) -> Result<(Self, mpsc::Receiver<Change>), ConnectError> {
        let (changes, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let addresses: Vec<String> = address.split(',').map(|one| one.trim().to_owned()).collect();
        let has_members = addresses.len() > 1;
        let was_connected = Arc::new(AtomicBool::new(false));
        let connected = Arc::clone(&was_connected);
        let mut options = ConnectOptions::with_token(token.expose().to_owned())
            .name(format!("agentd {runner}"))
            .custom_inbox_prefix(subject::inbox_prefix(runner))
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .ping_interval(PING_INTERVAL)
            .client_capacity(CHANNEL_CAPACITY)
            .subscription_capacity(CHANNEL_CAPACITY)
            .read_buffer_capacity(READ_BUFFER_BYTES)
            .require_tls(addresses.iter().any(|one| one.starts_with("tls://")))
            .ignore_discovered_servers()
            // See the header of `link`: one return by itself, everything else is ours.
            .max_reconnects(addresses.len())
            .reconnect_delay_callback(move |attempt| {
                let returns = attempt <= 1 && was_connected.load(Ordering::Relaxed);
                if returns { jitter(RETURN_DELAY) } else { Duration::ZERO }
            })
            .event_callback(move |event| {
                let changes = changes.clone();
                if event == Event::Connected {
                    connected.store(true, Ordering::Relaxed);
                }
                async move {
                    if let Some(change) = meaning(&event) {
                        // The receiver is gone when the link has given the connection up.
                        let _ = changes.send(change).await;
                    }
                }
            });
        if let Some(ca) = ca {
            options = options.add_root_certificates(ca);
        }
        let shown = without_user(address);
        let client = options.connect(addresses).await.map_err(|error| match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                ConnectError::Refused { address: shown.clone() }
            }
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Tls
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => {
                ConnectError::Unreachable { address: shown.clone(), reason: causes(&error) }
            }
        })?;
        Ok((Self { client, runner: runner.clone(), has_members }, receiver))
    }

    /// Asks any server.
    pub async fn request(&self, request: Request) -> Result<Reply, RequestError> {
        self.ask(subject::up(&self.runner, request.verb()), request).await
    }

    /// Asks one server for its dials.
    pub async fn request_dials(&self, server: &str) -> Result<Reply, RequestError> {
        self.ask(subject::up_dials(&self.runner, server), Request::Dials {}).await
    }

    async fn ask(&self, subject: String, body: Request) -> Result<Reply, RequestError> {
        // While the client is down its queue is not read: a request would wait there and be sent, stale, on return.
        if self.client.connection_state() != State::Connected {
            return Err(RequestError::NotConnected);
        }
        let message = Message { runner: self.runner.clone(), body };
        let payload = serde_json::to_vec(&message).map_err(|error| RequestError::Client(error.to_string()))?;
        // The client's own time-out starts after its queue took the request.
        let reply = tokio::time::timeout(REQUEST_TIMEOUT, self.client.request(subject, payload.into()))
            .await
            .map_err(|_| RequestError::TimedOut)?
            .map_err(|error| match error.kind() {
                RequestErrorKind::TimedOut => RequestError::TimedOut,
                RequestErrorKind::NoResponders => RequestError::NoServer,
                _ => RequestError::Client(error.to_string()),
            })?;
        let reply: Message<Reply> =
            serde_json::from_slice(&reply.payload).map_err(|error| RequestError::Foreign(error.to_string()))?;
        if reply.runner != self.runner {
            return Err(RequestError::Foreign(format!("it is for runner {}", reply.runner)));
        }
        match reply.body {
            Reply::Refused { code, detail } => Err(RequestError::Refused { code, detail }),
            other => Ok(other),
        }
    }

    /// Everything that servers nudge this runner with.
    pub async fn nudges(&self) -> Result<Subscriber, RequestError> {
        let subject = subject::down(&self.runner, ">");
        self.client.subscribe(subject).await.map_err(|error| RequestError::Client(error.to_string()))
    }

    /// There are several nats-servers: one that no helix-server is heard through may be cut off from the others.
    pub fn has_members(&self) -> bool {
        self.has_members
    }

    /// Drops the socket and connects anew: for a connection that is up but answers nothing.
    pub async fn renew(&self) {
        if let Err(error) = self.client.force_reconnect().await {
            tracing::warn!("cannot renew the NATS connection: {error}");
        }
    }
}

/// The error with its causes: which certificate was not believed, and why.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

fn meaning(event: &Event) -> Option<Change> {
    match event {
        Event::Connected => Some(Change::Up),
        Event::Disconnected => Some(Change::Down),
        Event::Closed | Event::ClientError(ClientError::MaxReconnects) => Some(Change::Over),
        Event::ServerError(error) => {
            // "user authentication expired", "permissions violation …": the first is followed by Disconnected.
            tracing::info!("NATS says: {error}");
            None
        }
        _ => None,
    }
}

pub(super) fn without_user(address: &str) -> String {
    let hide = |one: &str| match (one.split_once("://"), one.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => one.to_owned(),
    };
    address.split(',').map(hide).collect::<Vec<_>>().join(",")
}
