//! What the routes of a session's files, commands and terminals share: who may, whether it runs, and the way to it; and
//! the WebSocket of a program, which has a client on one side and the session on the other.

use std::io;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::session::SessionPhase;
use helix_protocol::tools::{Control, Failure, FrameKind, INPUT_WINDOW, MAX_DATA, Notice, Request, STDERR, STDOUT};
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use tokio::sync::Semaphore;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::streams::{online_runner, stop};
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::relay::{End, PING_EVERY, ToolsSink, ToolsSource, failure};

/// For the session to answer what it answers at once; also the start of its tools.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Largest message of a client's.
pub(super) const MAX_MESSAGE: usize = 1 << 20;

/// For a client, or a session that takes nothing more, to say its last words and leave by itself.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(10);

/// Where a session's tools are, for a caller who may reach them.
pub(super) struct Place {
    runner: RunnerId,
    session: SessionId,
}

impl Place {
    /// The session, if it runs and this caller may have it do things.
    pub(super) async fn find(app: &App, principal: &Principal, id: &SessionId) -> Result<Self> {
        let at = app.sessions.find(principal, id).await?;
        if !principal.may_change(id, &at.view.owner) {
            let detail = format!("token {:?} may not reach this session's files and commands", principal.name);
            return Err(Error::new(ErrorCode::Forbidden, detail));
        }
        match at.view.phase {
            SessionPhase::Ready => {}
            SessionPhase::Lost => {
                let detail = format!("the runner of session {id} is not heard; it can be reached when that is back");
                return Err(Error::new(ErrorCode::RunnerUnavailable, detail));
            }
            phase => {
                let detail = format!("session {id} is {phase}; files and commands can be reached while it is Ready");
                return Err(Error::new(ErrorCode::SessionNotReady, detail));
            }
        }
        Ok(Self { runner: online_runner(app, &at.view).await?, session: at.desktop })
    }

    /// A stream to its tools, with its request already said.
    pub(super) async fn open(&self, app: &App, request: &Request) -> Result<(ToolsSink, ToolsSource)> {
        app.relay.dial_tools(&self.runner, &self.session, request).await
    }
}

/// Asks for something that is answered in one.
pub(super) async fn ask<T: serde::de::DeserializeOwned>(
    app: &App,
    principal: &Principal,
    id: &SessionId,
    request: &Request,
) -> Result<T> {
    let (_sink, mut source) = Place::find(app, principal, id).await?.open(app, request).await?;
    source.answer(ANSWER_WITHIN).await
}

/// Ticks as often as the other side of a socket is asked whether it is there.
pub(super) fn pings() -> Interval {
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping
}

/// How a client gets a program's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// As it is.
    Plain,
    /// Behind a byte that tells standard output from standard error.
    Marked,
}

/// How a program's WebSocket ends.
enum Over {
    /// The client was told the end.
    Told,
    /// The client is gone.
    Gone,
    /// It is to be told this.
    Failed(Failure),
    /// Whatever the program does.
    End(End),
}

/// Carries a program's words both ways until it ends, its client leaves, the token ends or the server does. The session is
/// let go of before the goodbye: what it does when its caller leaves, it does at once.
pub(super) async fn carry(
    app: &App,
    token_hash: &str,
    client: WebSocket,
    (mut sink, mut source): (ToolsSink, ToolsSource),
    output: Output,
    first: Notice,
) {
    let (mut to_client, mut from_client) = client.split();
    // Bytes of input that may be sent ahead.
    let credit = Semaphore::new(INPUT_WINDOW as usize);
    let told = async {
        let told = tell(&mut to_client, &mut source, &credit, output, first);
        tokio::pin!(told);
        tokio::select! {
            heard = listen(&mut from_client, &mut sink, &credit) => match heard {
                Ok(over) => over,
                // It may have ended: what it said last is on its way.
                Err(error) => timeout(LAST_WORDS, told).await.unwrap_or_else(|_| Over::Failed(gone(&error))),
            },
            over = &mut told => over,
        }
    };
    let over = tokio::select! {
        end = stop(app, token_hash) => Over::End(end),
        over = told => over,
    };
    drop((sink, source));
    let _ = timeout(LAST_WORDS, goodbye(to_client, from_client, over)).await;
}

/// A client that could not be served at all.
pub(super) async fn refuse(client: WebSocket, error: Error) {
    let (to_client, from_client) = client.split();
    let failure = Failure::new(error.code, error.detail);
    let _ = timeout(LAST_WORDS, goodbye(to_client, from_client, Over::Failed(failure))).await;
}

async fn goodbye(mut to: SplitSink<WebSocket, Message>, mut from: SplitStream<WebSocket>, over: Over) {
    let close = match over {
        Over::Gone => return,
        Over::Told => Message::Close(Some(CloseFrame { code: 1000, reason: "".into() })),
        Over::Failed(failure) => {
            let Ok(()) = say(&mut to, &Notice::Failed(failure)).await else { return };
            Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }))
        }
        Over::End(end) => end.into(),
    };
    if to.send(close).await.is_ok() {
        // A connection that is closed on unread bytes is reset, and takes what was said last with it.
        while let Some(Ok(_)) = from.next().await {}
    }
}

/// What the client types and orders. An error: the session takes nothing more.
async fn listen(from: &mut SplitStream<WebSocket>, sink: &mut ToolsSink, credit: &Semaphore) -> io::Result<Over> {
    let mut ping = pings();
    loop {
        let message = tokio::select! {
            message = from.next() => message,
            _ = ping.tick() => {
                sink.ping().await?;
                continue;
            }
        };
        match message {
            Some(Ok(Message::Binary(mut bytes))) => {
                while !bytes.is_empty() {
                    let most = bytes.len().min(MAX_DATA);
                    // As much as there is credit for: at least something.
                    tokio::select! {
                        piece = spend(credit, most) => sink.send(FrameKind::Data, bytes.split_to(piece)).await?,
                        _ = ping.tick() => sink.ping().await?,
                    }
                }
            }
            Some(Ok(Message::Text(text))) => match serde_json::from_str::<Control>(text.as_str()) {
                Ok(control) => sink.json(FrameKind::Control, &control).await?,
                Err(error) => {
                    let detail = format!("this text frame is no order that is known here: {error}");
                    return Ok(Over::Failed(Failure::new(ErrorCode::InvalidRequest, detail)));
                }
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(Over::Gone),
        }
    }
}

/// Waits for credit, and takes what there is of it, at most `most`. Cancel safe.
pub(super) async fn spend(credit: &Semaphore, most: usize) -> usize {
    let Ok(one) = credit.acquire().await else { return most };
    one.forget();
    let more = credit.available_permits().min(most - 1);
    match credit.try_acquire_many(u32::try_from(more).unwrap_or(0)) {
        Ok(rest) => {
            rest.forget();
            1 + more
        }
        Err(_) => 1,
    }
}

/// What the program says.
async fn tell(
    to: &mut SplitSink<WebSocket, Message>,
    source: &mut ToolsSource,
    credit: &Semaphore,
    output: Output,
    first: Notice,
) -> Over {
    let Ok(()) = say(to, &first).await else { return Over::Gone };
    let mut ping = pings();
    loop {
        let frame = tokio::select! {
            frame = source.next() => frame,
            _ = ping.tick() => {
                // One that is gone takes nothing: the connection finds that out.
                let Ok(()) = to.send(Message::Ping(Bytes::new())).await else { return Over::Gone };
                continue;
            }
        };
        let said = match frame {
            Ok(Some((FrameKind::Data, bytes))) => to.send(Message::Binary(marked(output, STDOUT, bytes))).await,
            Ok(Some((FrameKind::ErrorData, bytes))) => to.send(Message::Binary(marked(output, STDERR, bytes))).await,
            Ok(Some((FrameKind::Taken, payload))) => {
                let bytes = payload.as_ref().try_into().map_or(0, u32::from_be_bytes);
                credit.add_permits(bytes.min(INPUT_WINDOW) as usize);
                say(to, &Notice::Taken { bytes }).await
            }
            Ok(Some((FrameKind::End, payload))) => {
                let exit = serde_json::from_slice(&payload).unwrap_or_default();
                return if say(to, &Notice::Exit(exit)).await.is_ok() { Over::Told } else { Over::Gone };
            }
            Ok(Some((FrameKind::Failed, payload))) => return Over::Failed(failure(&payload)),
            Ok(Some(_)) => Ok(()),
            Ok(None) => return Over::Failed(gone(&"the session's tools broke off")),
            Err(error) => return Over::Failed(gone(&error)),
        };
        if said.is_err() {
            return Over::Gone;
        }
    }
}

fn marked(output: Output, mark: u8, bytes: Bytes) -> Bytes {
    match output {
        Output::Plain => bytes,
        Output::Marked => {
            let mut frame = BytesMut::with_capacity(1 + bytes.len());
            frame.put_u8(mark);
            frame.extend_from_slice(&bytes);
            frame.freeze()
        }
    }
}

async fn say(to: &mut SplitSink<WebSocket, Message>, notice: &Notice) -> std::result::Result<(), axum::Error> {
    let text = serde_json::to_string(notice).map_err(axum::Error::new)?;
    to.send(Message::Text(text.into())).await
}

/// The session cannot be heard any more.
pub(super) fn gone(why: &dyn std::fmt::Display) -> Failure {
    Failure::new(ErrorCode::RunnerUnavailable, format!("the session cannot be reached any more: {why}"))
}
