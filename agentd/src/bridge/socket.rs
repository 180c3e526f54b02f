//! The sync socket: one task that dials, carries frames and dials again, for ever.
//!
//! It decides nothing. Each connection is announced with a sender of its own; what was not written when it broke is
//! dropped with it, and the engine tells the next connection what matters. The server's end is asked to answer pings,
//! which shows that it lives and that it has taken what was written before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::link::backoff::jitter;

/// First pause before dialling again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A connection is tried no longer than this.
const DIAL: Duration = Duration::from_secs(10);
/// Between two questions whether the other end lives.
const PING: Duration = Duration::from_secs(20);
/// Without any frame for this long it does not.
const SILENCE: Duration = Duration::from_mins(1);
/// Largest frame that we take.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Of a refusal's body.
const MAX_REASON: usize = 300;

/// Where the server is, from the session's environment.
#[derive(Clone)]
pub struct Target {
    /// `ws://…?session_id=…`
    pub url: String,
    /// Bearer token; may be empty.
    pub token: String,
}

impl Target {
    /// From `ZED_HELIX_URL`, `ZED_HELIX_TOKEN`, `ZED_HELIX_TLS` and `HELIX_SESSION_ID`; else what is missing.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let need = |name: &str| var(name).filter(|value| !value.is_empty());
        let host = need("ZED_HELIX_URL").ok_or("ZED_HELIX_URL is not set: there is no server to talk to")?;
        let session =
            need("HELIX_SESSION_ID").ok_or("HELIX_SESSION_ID is not set: it is not known which session this is")?;
        let scheme = if var("ZED_HELIX_TLS").as_deref() == Some("true") { "wss" } else { "ws" };
        let url = format!("{scheme}://{host}/api/v1/external-agents/sync?session_id={session}");
        Ok(Self { url, token: var("ZED_HELIX_TOKEN").unwrap_or_default() })
    }
}

/// What happens on the socket.
#[derive(Debug)]
pub enum SocketEvent {
    /// There is a connection.
    Connected(Connection),
    /// A text frame came.
    Frame(Value),
    /// A text frame came that is no JSON.
    Nonsense,
    /// Everything that was sent before this ping has arrived.
    Pong(u64),
    /// The connection is gone.
    Disconnected,
    /// No connection can be had, and why; told again only when the reason changes.
    Refused(String),
}

/// The way to a connection.
#[derive(Debug, Clone)]
pub struct Connection {
    out: mpsc::UnboundedSender<Out>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Out {
    Text(String),
    Ping(u64),
}

impl Connection {
    /// Sends a frame. One that is not written any more is not missed: the next connection is told everything.
    pub fn send(&self, frame: &impl serde::Serialize) {
        // Types of ours always become JSON.
        let Ok(text) = serde_json::to_string(frame) else { return };
        self.push(Out::Text(text));
    }

    /// Asks for a [`SocketEvent::Pong`].
    pub fn ping(&self, number: u64) {
        self.push(Out::Ping(number));
    }

    /// Frames that are not written yet.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn push(&self, out: Out) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.out.send(out);
    }
}

/// Keeps a connection for ever.
pub async fn run(target: Target, events: mpsc::Sender<SocketEvent>) {
    let mut failures = 0;
    let mut told = String::new();
    loop {
        match dial(&target).await {
            Ok(socket) => {
                (failures, told) = (0, String::new());
                if carry(socket, &events).await.is_none() || events.send(SocketEvent::Disconnected).await.is_err() {
                    return;
                }
            }
            Err(reason) => {
                if reason != told {
                    told.clone_from(&reason);
                    if events.send(SocketEvent::Refused(reason)).await.is_err() {
                        return;
                    }
                }
            }
        }
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
        failures = (failures + 1).min(16);
        tokio::time::sleep(jitter(pause)).await;
    }
}

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn dial(target: &Target) -> Result<Socket, String> {
    let mut request = target.url.as_str().into_client_request().map_err(|error| format!("{}: {error}", target.url))?;
    if !target.token.is_empty() {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", target.token))
            .map_err(|_| "ZED_HELIX_TOKEN cannot be sent in a header".to_owned())?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let dialled = tokio::time::timeout(DIAL, connect_async_with_config(request, Some(config), true));
    match dialled.await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(answer))) => {
            let body = answer.body().as_deref().unwrap_or_default();
            let body: String =
                String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
            Err(format!("the server refuses this session's agent: {} {}", answer.status(), body.trim()))
        }
        Ok(Err(error)) => Err(format!("the server cannot be reached: {error}")),
        Err(_) => Err(format!("the server does not answer within {} s", DIAL.as_secs())),
    }
}

/// Until the connection ends; None when nobody listens any more.
async fn carry(socket: Socket, events: &mpsc::Sender<SocketEvent>) -> Option<()> {
    let (mut sink, mut stream) = socket.split();
    let (out, mut frames) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    events.send(SocketEvent::Connected(Connection { out, waiting: waiting.clone() })).await.ok()?;
    let mut beat = tokio::time::interval_at(Instant::now() + PING, PING);
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            frame = frames.recv() => {
                let Some(frame) = frame else { return Some(()) };
                waiting.fetch_sub(1, Ordering::Relaxed);
                let message = match frame {
                    Out::Text(text) => Message::text(text),
                    Out::Ping(number) => Message::Ping(Bytes::copy_from_slice(&number.to_be_bytes())),
                };
                // A peer that takes nothing is as good as gone.
                match tokio::time::timeout(SILENCE, sink.send(message)).await {
                    Ok(Ok(())) => continue,
                    _ => return Some(()),
                }
            }
            _ = beat.tick() => {
                if heard.elapsed() >= SILENCE || sink.send(Message::Ping(Bytes::new())).await.is_err() {
                    return Some(());
                }
                continue;
            }
        };
        heard = Instant::now();
        let event = match message {
            Some(Ok(Message::Text(text))) => {
                serde_json::from_str(text.as_str()).map_or(SocketEvent::Nonsense, SocketEvent::Frame)
            }
            Some(Ok(Message::Pong(number))) => match number.as_ref().try_into() {
                Ok(number) => SocketEvent::Pong(u64::from_be_bytes(number)),
                Err(_) => continue,
            },
            Some(Ok(Message::Ping(_) | Message::Binary(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Some(()),
        };
        events.send(event).await.ok()?;
    }
}
