//! The editor's socket: dials for ever, says `ping`, tells the backlog, then takes commands.
//!
//! An event is taken from the backlog before it is written, so the one that was being written when the connection
//! broke is lost, and no other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::{SinkExt as _, StreamExt as _};
use http::Request;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::state::{Outgoing, State, Zed};
use super::{Options, commands, events};

/// Pause after a connection that worked, in seconds; it doubles with every failure.
const FIRST_PAUSE: u32 = 1;
const LONGEST_PAUSE: u32 = 30;
/// After so many seconds without an `open_thread` a connection says that it is ready.
const FALLBACK: u32 = 5;

/// One connection after the other.
pub(super) async fn dial_for_ever(zed: Arc<Zed>) {
    let mut pause = FIRST_PAUSE;
    loop {
        zed.until(|state| (!state.away).then_some(())).await;
        match dial(&zed.options).await {
            Ok(socket) => {
                serve(&zed, socket).await;
                zed.change(|state| {
                    state.connected = false;
                    state.ledger.broke(&state.session);
                });
                pause = FIRST_PAUSE;
            }
            Err(fault) => {
                if let Some(Error::Http(answer)) = fault.downcast_ref() {
                    let status = answer.status().as_u16();
                    zed.change(|state| state.refusals.push(status));
                }
            }
        }
        sleep(zed.options.second * pause).await; // the contract's pause
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn dial(options: &Options) -> Result<WebSocketStream<TcpStream>> {
    let (authority, prefix) = options.address.split_once('/').unwrap_or((&options.address, ""));
    let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    let Some((host, _)) = authority.rsplit_once(':') else { bail!("no port in {authority}") };
    let session = &options.session;
    let mut request = Request::builder()
        .uri(format!("ws://{authority}{prefix}/api/v1/external-agents/sync?session_id={session}"))
        .header("Host", host)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", generate_key());
    if !options.token.is_empty() {
        request = request.header("authorization", format!("Bearer {}", options.token));
    }
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (socket, _) = tokio_tungstenite::client_async(request.body(())?, stream).await?;
    Ok(socket)
}

async fn serve(zed: &Arc<Zed>, mut socket: WebSocketStream<TcpStream>) {
    let (dialect, session) = (zed.options.dialect, zed.options.session.clone());
    let ping = events::ping(dialect, &session);
    if socket.send(Message::text(ping.to_string())).await.is_err() {
        return;
    }
    let breaks = zed.change(|state| {
        state.connections += 1;
        state.connected = true;
        state.told.push(ping);
        state.breaks
    });
    let mut fallback = Some(Instant::now() + zed.options.second * FALLBACK);
    loop {
        let due = fallback.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
        tokio::select! {
            biased;
            () = zed.until(|state| (state.breaks > breaks).then_some(())) => return,
            // Cancel-safe: what it takes it answers in the same poll.
            outgoing = zed.until(State::take_outgoing) => {
                let written = write(zed, &mut socket, outgoing).await;
                zed.change(|state| state.writing = false);
                if !written {
                    return;
                }
            }
            incoming = socket.next() => match incoming {
                Some(Ok(Message::Text(text))) => {
                    if text.contains("\"open_thread\"") {
                        fallback = None;
                    }
                    commands::take(zed, &text);
                }
                Some(Ok(Message::Ping(payload))) => {
                    // The library has answered already; Zed's own code answers once more.
                    if socket.send(Message::Pong(payload)).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    // No echo: the connection is dropped.
                    return zed.change(|state| state.closes.push(frame.map(|frame| frame.code.into())));
                }
                Some(Ok(Message::Binary(bytes))) => {
                    zed.change(|state| state.faults.push(format!("a binary frame of {} bytes", bytes.len())));
                }
                Some(Ok(_)) => {}
                Some(Err(fault)) => {
                    return zed.change(|state| {
                        if let Error::Capacity(fault) = &fault {
                            state.faults.push(format!("a frame that Zed cannot read: {fault}"));
                        }
                        state.closes.push(None);
                    });
                }
                None => return zed.change(|state| state.closes.push(None)),
            },
            () = sleep_until(due) => {
                fallback = None;
                zed.change(|state| state.tell_ready("zed-connection", None));
            }
        }
    }
}

/// Writes an event; false where the connection is gone, and the event with it.
async fn write(zed: &Zed, socket: &mut WebSocketStream<TcpStream>, outgoing: Outgoing) -> bool {
    let (text, event) = match outgoing {
        Outgoing::Event(event) => (event.to_string(), event),
        Outgoing::Raw(text) => (text.clone(), text.into()),
    };
    let lost = zed.change(|state| {
        let named = state.lose_named.as_deref().is_some_and(|name| event["event_type"] == name);
        if named {
            state.lose_named = None;
        }
        let lost = std::mem::take(&mut state.lose_next) || named;
        if event["event_type"] == "message_added" {
            let request = event["data"]["request_id"].as_str().unwrap_or_default();
            state.ledger.mark(request, |effect| {
                effect.lost_text |= lost;
                effect.said_at = Some(std::time::Instant::now());
            });
        }
        if let Some(request) = events::ended_request(&event) {
            state.ledger.mark(request, |effect| {
                effect.lost |= lost;
                effect.told_at = Some(std::time::Instant::now());
            });
        }
        lost
    });
    if lost || socket.send(Message::text(text)).await.is_err() {
        return false;
    }
    zed.change(|state| state.told.push(event));
    true
}
