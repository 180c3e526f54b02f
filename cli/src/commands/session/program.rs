//! A program of a session's, with this process's streams: what `session exec` and `session shell` share.
//!
//! One task carries both ways. A thread reads standard input, which ends with it or with the process. No more input is sent
//! ahead than the program's side has room for, so that a signal never waits behind it.

use std::io::Read as _;
use std::process::ExitCode;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::tools::{Control, Exit, Failure, INPUT_WINDOW, MAX_DATA, Notice, STDERR};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::client::socket::Socket;
use crate::error::{CliError, Kind, Result, chain};
use crate::terminal;
use crate::ui::Ui;

/// Signals that are passed on.
const SIGNALS: [(SignalKind, &str); 4] = [
    (SignalKind::interrupt(), "INT"),
    (SignalKind::terminate(), "TERM"),
    (SignalKind::hangup(), "HUP"),
    (SignalKind::quit(), "QUIT"),
];
/// Exit code where nobody reads the output any more: of a program that SIGPIPE has ended.
const NOBODY_READS: i32 = 141;

/// How a program is carried.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// For errors.
    pub what: &'static str,
    /// What to do when the line breaks.
    pub next: &'static str,
    /// Its input is ours.
    pub stdin: bool,
    /// It is on a terminal, which is ours.
    pub tty: bool,
    /// Its frames tell output from errors.
    pub marked: bool,
    /// The key that leaves it alone.
    pub detach: Option<u8>,
}

/// How it was left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It has ended.
    Exited(Exit),
    /// It goes on.
    Detached,
}

impl Left {
    /// The command's exit code.
    pub(super) fn code(&self) -> ExitCode {
        match self {
            Self::Exited(exit) => ExitCode::from(u8::try_from(exit.exit_status & 0xff).unwrap_or(255)),
            Self::Detached => ExitCode::SUCCESS,
        }
    }
}

/// Says one order or request.
pub(super) async fn say(
    to: &mut SplitSink<Socket, Message>,
    value: &impl Serialize,
) -> std::result::Result<(), tokio_tungstenite::tungstenite::Error> {
    let text = serde_json::to_string(value).unwrap_or_default();
    to.send(Message::Text(text.into())).await
}

/// Carries until the program ends, or is left. `socket` has said its request.
pub(super) async fn carry(
    (mut to, mut from): (SplitSink<Socket, Message>, SplitStream<Socket>),
    how: How,
    ui: &Ui,
) -> Result<Left> {
    let broken = |kind: Kind, why: String| CliError::new(kind, how.what).because(why).next(how.next);
    let lost = |error: tokio_tungstenite::tungstenite::Error| broken(Kind::Unreachable, chain(&error));
    let mut signals = signals()?;
    let mut resized = signal(SignalKind::window_change()).map_err(|error| broken(Kind::Failed, error.to_string()))?;
    let mut input = how.stdin.then(stdin);
    let (mut started, mut pending, mut credit) = (false, Vec::new(), INPUT_WINDOW as usize);
    loop {
        if started && !pending.is_empty() && credit > 0 {
            let count = pending.len().min(credit).min(MAX_DATA);
            let piece: Vec<u8> = pending.drain(..count).collect();
            credit -= count;
            to.send(Message::Binary(piece.into())).await.map_err(lost)?;
            continue;
        }
        let reads = async {
            match &mut input {
                Some(input) if started && pending.is_empty() => input.recv().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            message = from.next() => {
                let bytes = match message {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Text(text))) => {
                        match notice(text.as_str(), how)? {
                            Notice::Started { .. } | Notice::Attached(_) => started = true,
                            Notice::Taken { bytes } => credit += bytes as usize,
                            Notice::Exit(exit) => return Ok(Left::Exited(exit)),
                            Notice::Failed(failure) => return Err(failed(how, &failure)),
                        }
                        continue;
                    }
                    Some(Ok(Message::Close(Some(close)))) => {
                        return Err(broken(Kind::Unreachable, format!("the server closed it: {}", close.reason)));
                    }
                    Some(Ok(Message::Close(None))) | None => {
                        return Err(broken(Kind::Unreachable, "the server closed it".to_owned()));
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(lost(error)),
                };
                let taken = match bytes.split_first() {
                    Some((&STDERR, errors)) if how.marked => ui.stream_raw_errors(errors),
                    Some((_, output)) if how.marked => ui.stream_raw(output)?,
                    _ => ui.stream_raw(&bytes)?,
                };
                if !taken {
                    return Ok(Left::Exited(Exit { exit_status: NOBODY_READS, signal: None }));
                }
            }
            bytes = reads => {
                if let Some(bytes) = bytes {
                    if let Some(at) = how.detach.and_then(|key| bytes.iter().position(|byte| *byte == key)) {
                        // What was typed before it is the program's.
                        let _ = to.send(Message::Binary(bytes[..at].to_vec().into())).await;
                        let _ = to.close().await;
                        return Ok(Left::Detached);
                    }
                    pending = bytes;
                } else {
                    input = None;
                    say(&mut to, &Control::StdinEnd {}).await.map_err(lost)?;
                }
            }
            Some((name, again)) = signals.recv() => {
                if again || (how.tty && name != "INT") {
                    // Meant for this command: the program goes with it, a terminal stays.
                    let number = 128 + i32::from(if name == "INT" { 2_u8 } else { 15 });
                    return Ok(Left::Exited(Exit { exit_status: number, signal: None }));
                }
                say(&mut to, &Control::Signal { signal: name.to_owned() }).await.map_err(lost)?;
            }
            _ = resized.recv(), if how.tty => {
                if let Some(size) = terminal::size() {
                    say(&mut to, &Control::Resize(size)).await.map_err(lost)?;
                }
            }
        }
    }
}

fn notice(text: &str, how: How) -> Result<Notice> {
    serde_json::from_str(text).map_err(|error| {
        CliError::failed(how.what)
            .because(format!("a word of the server's is not what this helixctl expects: {error}"))
            .next("helixctl version")
    })
}

fn failed(how: How, failure: &Failure) -> CliError {
    let (kind, next) = crate::client::class_of(failure.code);
    let mut error = CliError::new(kind, how.what).because(format!("{} ({})", failure.detail, failure.code));
    error.next = next.map(str::to_owned);
    error.code = Some(failure.code);
    error
}

/// What is typed or piped in. The channel ends with it. One piece is read ahead, no more.
fn stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let mut bytes = vec![0; MAX_DATA];
            match std::io::stdin().lock().read(&mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(count) => bytes.truncate(count),
            }
            if sender.blocking_send(bytes).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Signals as they come, each with whether it is the second within a moment. A task per kind, which ends with the process.
fn signals() -> Result<mpsc::Receiver<(&'static str, bool)>> {
    const TWICE: std::time::Duration = std::time::Duration::from_secs(2);
    let (sender, receiver) = mpsc::channel(8);
    for (kind, name) in SIGNALS {
        let mut caught = signal(kind).map_err(|error| CliError::failed("cannot catch signals").because(error))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            let mut last: Option<tokio::time::Instant> = None;
            while caught.recv().await.is_some() {
                let again = last.is_some_and(|last| last.elapsed() <= TWICE);
                last = Some(tokio::time::Instant::now());
                if sender.send((name, again)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}
