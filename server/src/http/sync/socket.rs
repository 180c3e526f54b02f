//! One agent's socket: frames in, commands out, for as long as it shows life.
//!
//! Both directions live in one task and never wait for each other: an agent that reads nothing is still heard, one
//! that is slow to be dealt with still gets its commands. No closing handshake is waited for: Zed drops its
//! connection at a close frame without a word.

use std::time::Duration;

use axum::body::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::SessionId;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as SocketError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::app::App;
use crate::auth::Principal;
use crate::http::streams;
use crate::relay::{End, GOODBYE, PING_EVERY, SILENCE, Socket as Upgraded};
use crate::sessions::view::has_ended;
use crate::threads::sync::{Commands, Socket, Voice};

/// Longest message of an agent: tools print much.
const MAX_MESSAGE: usize = 64 << 20;
/// Read and write buffer.
const BUFFER: usize = 8 * 1024;
/// How long an agent that was cut off may take to read why.
const LATE_GOODBYE: Duration = Duration::from_secs(10);
/// Most that is read and thrown away while a socket is closed.
const THROWN_AWAY: u64 = 1 << 30;

type Ws = WebSocketStream<Upgraded>;

/// Why a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// As other sockets do.
    As(End),
    /// It reads nothing.
    Slow,
    /// A message is above [`MAX_MESSAGE`].
    TooLarge,
}

impl Close {
    fn code_and_reason(self) -> (u16, &'static str) {
        match self {
            Self::As(end) => end.code_and_reason(),
            Self::Slow => (1013, "commands were not read: connect again"),
            Self::TooLarge => (1009, "a message may have at most 64 MiB"),
        }
    }
}

/// Completes when a socket must end whatever its agent does: token revoked, session over, process ending.
pub async fn stop(app: &App, principal: &Principal, session: &SessionId) -> Close {
    tokio::select! {
        end = streams::stop(app, &principal.token_hash) => Close::As(end),
        // The session's own token ends with it.
        () = ended(app, session), if principal.session().is_none() => Close::As(End::Revoked),
    }
}

async fn ended(app: &App, session: &SessionId) {
    let (sessions, observed) = (app.store.sessions.view(), app.store.observed.view());
    let (mut records, mut reports) = (sessions.changes(), observed.changes());
    loop {
        records.borrow_and_update();
        reports.borrow_and_update();
        // One that runs without a record ends with its socket.
        let over = match sessions.get(session.as_str()) {
            Some(entry) => has_ended(&entry.value, &observed.read()),
            None => sessions.read().was_deleted(session.as_str()),
        };
        if over {
            return;
        }
        let changed = tokio::select! {
            changed = records.changed() => changed,
            changed = reports.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Carries frames until the agent leaves, shows no life, or `stop` completes. Says why it ended.
pub async fn carry(upgraded: Upgraded, socket: Socket, stop: impl Future<Output = Close>) -> Close {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let ws = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await;
    let (mut sink, mut stream) = ws.split();
    let (voice, mut commands) = socket.split();
    let seen = watch::Sender::new(Instant::now());
    let mut reading = Box::pin(read(&mut stream, &voice, &seen));
    let (end, last_read) = tokio::select! {
        end = &mut reading => (end, Some(end)),
        end = write(&mut sink, &mut commands, &seen) => match end {
            // What was said before the line broke is still there to be read.
            Close::As(End::Broken) => (end, timeout(GOODBYE, &mut reading).await.ok()),
            Close::As(_) | Close::Slow | Close::TooLarge => (end, None),
        },
        end = stop => (end, None),
    };
    drop(reading);
    // A line that was dead before it was given up has lost what was on it.
    let alive = seen.borrow().elapsed() <= PING_EVERY + GOODBYE;
    let heard_out = alive && matches!(last_read, Some(Close::As(End::Closed | End::Broken)));
    voice.closed(heard_out, commands).await;
    if let Ok(ws) = sink.reunite(stream) {
        say_goodbye(ws, end).await;
    }
    end
}

async fn read(stream: &mut SplitStream<Ws>, voice: &Voice, seen: &watch::Sender<Instant>) -> Close {
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(SocketError::Capacity(CapacityError::MessageTooLong { size, .. }))) => {
                tracing::warn!(size, "a message is too large");
                return Close::TooLarge;
            }
            Some(Err(error)) => {
                tracing::debug!("the socket broke: {error}");
                return Close::As(End::Broken);
            }
            None => return Close::As(End::Closed),
        };
        seen.send_replace(Instant::now());
        match message {
            Message::Text(text) => voice.text(&text).await,
            Message::Binary(bytes) => voice.binary(bytes.len()).await,
            Message::Close(_) => return Close::As(End::Closed),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
        // While the owner was busy the agent was not silent.
        seen.send_replace(Instant::now());
    }
}

async fn write(sink: &mut SplitSink<Ws, Message>, commands: &mut Commands, seen: &watch::Sender<Instant>) -> Close {
    let mut cut = std::pin::pin!(commands.cut());
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            command = commands.next() => {
                let Some(command) = command else {
                    // The owner gave it up.
                    let cut = timeout(GOODBYE, cut).await;
                    return if cut.is_ok() { Close::Slow } else { Close::As(End::Shutdown) };
                };
                Message::Text(Utf8Bytes::from(command.text))
            }
            () = &mut cut => return Close::Slow,
            _ = ping.tick() => {
                if seen.borrow().elapsed() > SILENCE {
                    return Close::As(End::Broken);
                }
                Message::Ping(Bytes::new())
            }
        };
        let sent = tokio::select! {
            sent = timeout(SILENCE, sink.send(message)) => sent,
            () = &mut cut => return Close::Slow,
        };
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Close::As(End::Broken),
            Err(_) => return Close::Slow,
        }
    }
}

/// A close frame for who still reads. What is on its way here meanwhile is read and thrown away: a line that is
/// dropped with something unread breaks, and takes what was said last with it.
async fn say_goodbye(mut ws: Ws, end: Close) {
    let (code, reason) = end.code_and_reason();
    let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) };
    let patience = match end {
        // It has left, or nobody is there.
        Close::As(End::Closed | End::Broken) => Duration::ZERO,
        Close::As(_) => GOODBYE,
        Close::Slow | Close::TooLarge => LATE_GOODBYE,
    };
    let goodbye = async {
        if ws.send(Message::Close(Some(frame))).await.is_ok() && !patience.is_zero() {
            let mut rest = ws.get_mut().take(THROWN_AWAY);
            let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
        }
    };
    let _ = timeout(patience.max(GOODBYE), goodbye).await;
}
