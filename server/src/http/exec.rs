//! Commands in a session: run to their end with one request, or on a WebSocket with all their streams.
//!
//! One task per WebSocket. A command ends with its caller, unless it was started to stay.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use bytes::Bytes;
use helix_protocol::tools::{
    CommandResult, ExecRequest, Exit, FrameKind, INPUT_WINDOW, MAX_DATA, Notice, Request, RunCommand, Started,
};
use helix_protocol::{ErrorCode, SessionId};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::Instrument as _;
use utoipa_axum::routes;

use super::extract::{Body, Id, Upgrade};
use super::registry::Registry;
use super::streams::stop;
use super::tools::{ANSWER_WITHIN, LAST_WORDS, MAX_MESSAGE, Output, Place, carry, gone, pings, refuse, spend};
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::relay::{ToolsSink, ToolsSource, failure};

/// Most bytes of each of a command's streams in one answer.
const MAX_OUTPUT: usize = 1 << 20;
/// Where a command's time is not given, and at most, in milliseconds.
const TIMEOUT_MS: (u64, u64) = (60_000, 3_600_000);
/// For a client to say what is to be run.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Change, routes!(run_command, exec))
}

/// Runs a command as the session's user, in its workspace, and answers what it wrote. It has the session's display and
/// environment, but for secrets. What it leaves running in its process group ends with it.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/exec", tag = "commands",
    params(("id" = SessionId, Path, description = "Session id")), request_body = RunCommand,
    responses((status = 200, body = CommandResult)))]
async fn run_command(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Body(request): Body<RunCommand>,
) -> Result<Json<CommandResult>> {
    let RunCommand { command, cwd, env, stdin, timeout_ms } = request;
    let patience = timeout_ms.unwrap_or(TIMEOUT_MS.0);
    if !(1..=TIMEOUT_MS.1).contains(&patience) {
        let detail = format!("timeout_ms: 1 to {}", TIMEOUT_MS.1);
        return Err(Error::new(ErrorCode::InvalidRequest, detail));
    }
    let place = Place::find(&app, &principal, &id).await?;
    let exec = ExecRequest { command, cwd, env, terminal: None, stdin: stdin.is_some(), detach: false };
    let (mut sink, mut source) = place.open(&app, &Request::Exec(exec)).await?;
    let started: Started = source.answer(ANSWER_WITHIN).await?;
    tracing::info!(session.id = %id, principal = principal.name, pid = started.pid, "command started");

    let credit = Semaphore::new(INPUT_WINDOW as usize);
    let mut result = CommandResult::default();
    let (mut out, mut errors) = (Kept::default(), Kept::default());
    let told = async {
        let input = feed(stdin.unwrap_or_default().into(), &mut sink, &credit);
        let output = listen(&mut source, &credit, &mut out, &mut errors);
        tokio::pin!(output);
        tokio::select! {
            exit = &mut output => exit,
            Err(error) = input => {
                // It may have ended: what it said last is on its way.
                timeout(LAST_WORDS, output).await.unwrap_or_else(|_| Err(gone(&error).into()))
            }
        }
    };
    tokio::select! {
        end = stop(&app, &principal.token_hash) => {
            return Err(Error::new(ErrorCode::ServiceUnavailable, end.code_and_reason().1));
        }
        told = timeout(Duration::from_millis(patience), told) => match told {
            Ok(exit) => {
                let Exit { exit_status, signal } = exit?;
                (result.exit_status, result.signal) = (Some(exit_status), signal);
            }
            Err(_elapsed) => result.timed_out = true,
        },
    }
    result.truncated = out.is_cut || errors.is_cut;
    (result.stdout, result.stderr) = (out.text(), errors.text());
    Ok(Json(result))
}

/// Sends all of the input, then keeps the line alive. An error: the session takes nothing more.
async fn feed(mut input: Bytes, sink: &mut ToolsSink, credit: &Semaphore) -> io::Result<Infallible> {
    let mut ping = pings();
    while !input.is_empty() {
        let piece = spend(credit, input.len().min(MAX_DATA)).await;
        sink.send(FrameKind::Data, input.split_to(piece)).await?;
    }
    sink.send(FrameKind::End, Bytes::new()).await?;
    loop {
        ping.tick().await;
        sink.ping().await?;
    }
}

async fn listen(source: &mut ToolsSource, credit: &Semaphore, out: &mut Kept, errors: &mut Kept) -> Result<Exit> {
    loop {
        match source.next().await {
            Ok(Some((FrameKind::Data, bytes))) => out.add(&bytes),
            Ok(Some((FrameKind::ErrorData, bytes))) => errors.add(&bytes),
            Ok(Some((FrameKind::Taken, payload))) => {
                let bytes = payload.as_ref().try_into().map_or(0, u32::from_be_bytes);
                credit.add_permits(bytes.min(INPUT_WINDOW) as usize);
            }
            Ok(Some((FrameKind::End, payload))) => return Ok(serde_json::from_slice(&payload).unwrap_or_default()),
            Ok(Some((FrameKind::Failed, payload))) => return Err(failure(&payload).into()),
            Ok(Some(_)) => {}
            Ok(None) => return Err(gone(&"the session's tools broke off").into()),
            Err(error) => return Err(gone(&error).into()),
        }
    }
}

/// The beginning of what a command wrote.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Kept {
    fn add(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT - self.bytes.len();
        self.is_cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(self) -> String {
        String::from_utf8(self.bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// Runs a command on a WebSocket. The client's first text frame is an `ExecRequest`; after `{"type":"started"}` its binary
/// frames are standard input and its text frames `{"type":"signal","signal":"INT"}`, `{"type":"resize","cols":…,"rows":…}`
/// and `{"type":"stdin_end"}`. The server's binary frames begin with one byte, 1 for standard output and 2 for standard
/// error; its text frames are notices, the last one `exit` or `failed`. A client that leaves takes the command along, unless
/// it was started with `detach`.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/exec", tag = "commands",
    params(("id" = SessionId, Path, description = "Session id")),
    responses((status = 101, body = Notice, description = "Notices as text frames, output as binary ones"),
        (status = 200, body = ExecRequest, description = "Never: the shape of the client's first text frame")))]
async fn exec(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    let place = Place::find(&app, &principal, &id).await?;
    let span = tracing::info_span!("exec", session.id = %id, principal = principal.name);
    let live = (app.relay.track(), app.uses.begin(&id));
    let serve = async move |mut client: WebSocket| {
        match begin(&app, &place, &mut client).await {
            Ok((stream, started)) => {
                tracing::info!(pid = started.pid, "command started");
                let first = Notice::Started { pid: started.pid };
                carry(&app, &principal.token_hash, client, stream, Output::Marked, first).await;
                tracing::info!("over");
            }
            Err(error) => refuse(client, error).await,
        }
        drop(live);
    };
    Ok(upgrade?.messages(MAX_MESSAGE).on_upgrade(move |client| serve(client).instrument(span)))
}

async fn begin(app: &App, place: &Place, client: &mut WebSocket) -> Result<((ToolsSink, ToolsSource), Started)> {
    let invalid = |why: String| Error::new(ErrorCode::InvalidRequest, why);
    let first = timeout(REQUEST_WITHIN, client.recv()).await;
    let first = first.map_err(|_| invalid(format!("no command within {} s", REQUEST_WITHIN.as_secs())))?;
    let Some(Ok(Message::Text(text))) = first else {
        return Err(invalid("the first frame is text: {\"command\": [\"ls\", \"-l\"]}".to_owned()));
    };
    let request: ExecRequest =
        serde_json::from_str(text.as_str()).map_err(|error| invalid(format!("the first frame: {error}")))?;
    let mut stream = place.open(app, &Request::Exec(request)).await?;
    let started = stream.1.answer(ANSWER_WITHIN).await?;
    Ok((stream, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_much_output_the_beginning_is_kept() {
        let mut kept = Kept::default();
        kept.add(b"begin");
        kept.add(&vec![b'x'; MAX_OUTPUT - 5]);
        assert!(!kept.is_cut);
        kept.add(b"more");
        kept.add(b"");
        assert!(kept.is_cut);
        let text = kept.text();
        assert!(text.len() == MAX_OUTPUT && text.starts_with("beginx") && text.ends_with('x'));
    }
}
