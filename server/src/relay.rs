//! Viewers waiting for a runner to dial back, and the splice of the two sockets.
//!
//! A viewer's request registers a one-use dial and nudges the runner; the runner fetches `up.<me>.dials.<server>`,
//! which only this process answers, and dials `/api/v1/dial` here. Nothing of it is stored: dials die with the
//! viewer's socket or with the process.
//!
//! Tasks: none of its own. A spliced pair lives in the task of the viewer's upgraded connection; the runner's side
//! hands its socket over and ends. Logs ([`logs`]) are read by who asked for them, followed ones for as long as the
//! answer's body is wanted. On failure a waiting viewer gets `RunnerUnavailable`, a spliced one a close
//! frame, and comes back with a fresh ticket.

mod dials;
mod frame;
mod logs;
mod splice;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws;
use helix_protocol::control::Viewer;
use helix_protocol::link::{Dial, Nudge, Stream};
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

pub use dials::Answer;
pub use logs::LogQuery;
pub use splice::splice;
pub(crate) use splice::{GOODBYE, PING_EVERY, SILENCE};
pub use tools::{ToolsSink, ToolsSource, failure};

use crate::bus::Bus;
use crate::config::ServerConfig;
use crate::error::{Error, Result};
use dials::Dials;

/// How long a runner may take to dial back.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// A WebSocket after its handshake, as bytes of frames.
pub type Socket = TokioIo<Upgraded>;

/// Why a live socket ends: what its peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other side ended as it should.
    Closed,
    /// The other side broke off, or showed no life.
    Broken,
    /// A frame that this socket does not carry.
    Unexpected,
    /// The token that opened it was revoked or ended.
    Revoked,
    /// This server process leaves: connect again.
    Shutdown,
}

impl End {
    /// The WebSocket close code and its reason.
    pub fn code_and_reason(self) -> (u16, &'static str) {
        match self {
            Self::Closed => (1000, "the other side has ended"),
            Self::Broken => (1011, "the other side is gone"),
            Self::Unexpected => (1003, "only binary frames are carried here"),
            Self::Revoked => (1008, "the token was revoked"),
            Self::Shutdown => (1012, "the server restarts: connect again"),
        }
    }
}

impl From<End> for ws::Message {
    fn from(end: End) -> Self {
        let (code, reason) = end.code_and_reason();
        Self::Close(Some(ws::CloseFrame { code, reason: reason.into() }))
    }
}

/// Dials of this process. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

struct Inner {
    server_id: Arc<str>,
    advertise_url: String,
    bus: Bus,
    dials: Dials,
    sockets: TaskTracker,
}

impl Relay {
    /// A relay without dials, for the process `server_id` that runners reach under `config.advertise_url`.
    pub fn new(config: &ServerConfig, server_id: Arc<str>, bus: Bus) -> Self {
        let inner = Inner {
            server_id,
            advertise_url: config.advertise_url.clone(),
            bus,
            dials: Dials::default(),
            sockets: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes every dial that waits for this runner: the answer to its `dials` request. Called by `link`.
    pub fn take_dials(&self, runner: &RunnerId) -> Vec<Dial> {
        self.inner.dials.take(runner)
    }

    /// The viewer that waits for this ticket, if it was made for this very runner. One use.
    pub fn answer(&self, runner: &RunnerId, ticket: &str) -> Option<Answer> {
        self.inner.dials.answer(runner, ticket)
    }

    /// Asks the runner to dial back with a session's desktop, over VNC or RDP, for this viewer; see [`Relay::dial_back`].
    pub async fn dial_desktop(
        &self,
        runner: &RunnerId,
        session: &SessionId,
        stream: Stream,
        viewer: Viewer,
    ) -> Result<Socket> {
        let session = session.clone();
        self.dial_back(runner, |url, ticket| Dial {
            url,
            ticket,
            session,
            stream,
            viewer: Some(viewer),
            lines: None,
            unit: None,
            follow: false,
        })
        .await
    }

    /// The same for calls of the desktop API.
    pub(crate) async fn dial_calls(&self, runner: &RunnerId, session: &SessionId) -> Result<Socket> {
        let session = session.clone();
        self.dial_back(runner, |url, ticket| Dial {
            url,
            ticket,
            session,
            stream: Stream::Desktop,
            viewer: None,
            lines: None,
            unit: None,
            follow: false,
        })
        .await
    }

    /// Asks the runner to dial back and waits for its socket, at most 5 s. Dropping the future forgets the dial.
    async fn dial_back(&self, runner: &RunnerId, dial: impl FnOnce(String, String) -> Dial) -> Result<Socket> {
        let relay = &*self.inner;
        let dial = dial(relay.advertise_url.clone(), random_ticket()?);
        let waiting = relay.dials.register(runner, dial);
        let nudge_then_wait = async {
            relay.bus.nudge(runner, Nudge::Dial { server: relay.server_id.to_string() }).await;
            waiting.socket().await
        };
        match timeout(DIAL_DEADLINE, nudge_then_wait).await {
            Ok(Some(socket)) => Ok(socket),
            Ok(None) => Err(unavailable(runner, "its connection broke while it dialled back; try again")),
            Err(_) => {
                let seconds = DIAL_DEADLINE.as_secs();
                Err(unavailable(
                    runner,
                    &format!("it did not dial back within {seconds} s; see `helixctl runner show`"),
                ))
            }
        }
    }

    /// Held by the task of each live socket, so that [`Relay::drained`] knows them.
    pub fn track(&self) -> TaskTrackerToken {
        self.inner.sockets.token()
    }

    /// After `shutdown` is cancelled: completes when every live socket has been told to reconnect and is closed.
    pub async fn drained(&self) {
        self.inner.sockets.close();
        self.inner.sockets.wait().await;
    }
}

fn unavailable(runner: &RunnerId, why: &str) -> Error {
    Error::new(ErrorCode::RunnerUnavailable, format!("runner {runner} cannot be reached: {why}"))
}

/// 256 random bits in hex.
fn random_ticket() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorCode::Internal, "no random numbers for a dial ticket").because(error))?;
    Ok(helix_protocol::ids::hex(&bytes))
}
