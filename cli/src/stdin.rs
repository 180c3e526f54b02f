//! Standard input: a text as a whole, a secret that is not shown, or lines as they come.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::task::Poll;

use rustix::process::{Signal as Stop, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::error::{CliError, Kind, Result};

/// Longest line that is taken.
const MAX_LINE: u64 = 1 << 20;

/// A UTF-8 text of at most so many characters; `place` says which argument asked for it.
pub fn text(place: &str, max_chars: usize) -> Result<String> {
    let bad = |why: String| CliError::new(Kind::Usage, "cannot read the input").at(place).because(why);
    // No more than the server takes, plus one byte to see that there is more: four bytes are one character at most.
    let limit = max_chars as u64 * 4 + 1;
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(|error| bad(error.to_string()))?;
    if bytes.len() as u64 == limit {
        return Err(bad(format!("it is longer than {max_chars} characters")));
    }
    String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8 text".to_owned()))
}

/// True when a person types.
pub fn is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// One line that a person types without seeing it, once `ask` has asked for it. A signal that
/// ends the program, or stops it (Ctrl-Z), leaves the terminal as it was.
pub async fn hidden_line(ask: impl Fn()) -> Result<String> {
    let bad = |why: String| CliError::failed("cannot read the secret").at("standard input").because(why);
    // Before it is hidden: each of these would end or stop the program and leave the terminal so.
    let catch = |kind| signal(kind).map_err(|error| bad(error.to_string()));
    let mut ends = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()] {
        ends.push(catch(kind)?);
    }
    let mut stops = catch(SignalKind::from_raw(Stop::TSTP.as_raw()))?;
    let mut continues = catch(SignalKind::from_raw(Stop::CONT.as_raw()))?;
    let mut hidden = Hidden::begin().map_err(|error| bad(error.to_string()))?;
    // Not before: what was typed while it would be seen is thrown away.
    ask();
    let (sender, mut line) = oneshot::channel();
    // A thread of its own: the runtime would wait for its end, and it ends with the next line only.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().take(MAX_LINE).read_line(&mut line);
        let _ = sender.send(read.map(|_| line));
    });
    loop {
        tokio::select! {
            line = &mut line => {
                drop(hidden);
                tokio::spawn(obey(ends, stops));
                return line.map_err(|_| bad("it was closed".to_owned()))?.map_err(|error| bad(error.to_string()));
            }
            () = any(&mut ends) => return Err(bad("a signal ended it".to_owned())),
            _ = stops.recv() => {
                drop(hidden);
                kill_process(getpid(), Stop::STOP).map_err(|error| bad(error.to_string()))?;
                // Not before somebody has it go on: this thread may be the last to stop.
                continues.recv().await;
                hidden = Hidden::begin().map_err(|error| bad(error.to_string()))?;
                ask();
            }
        }
    }
}

/// What these signals do to a program that does not catch them: the runtime catches for ever what it once has caught.
#[expect(clippy::exit, reason = "nothing here has anything to bring to an end")]
async fn obey(mut ends: Vec<Signal>, mut stops: Signal) {
    loop {
        tokio::select! {
            // As shells tell an interrupted program.
            () = any(&mut ends) => std::process::exit(130),
            _ = stops.recv() => {
                let _ = kill_process(getpid(), Stop::STOP);
            }
        }
    }
}

/// Waits for the first of these signals.
async fn any(signals: &mut [Signal]) {
    std::future::poll_fn(|context| {
        let came = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if came { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The terminal does not show what is typed until this is dropped.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn begin() -> rustix::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Lines without their ends, as they are typed or written; the channel ends with the input. A thread reads them, which
/// ends with the input or the process.
pub fn lines() -> mpsc::Receiver<Result<String>> {
    // One line is read ahead, no more.
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let mut bytes = Vec::new();
            let line = match std::io::stdin().lock().take(MAX_LINE).read_until(b'\n', &mut bytes) {
                Ok(0) => break,
                Ok(read) if read as u64 == MAX_LINE => Err(format!("a line is longer than {MAX_LINE} bytes")),
                Ok(_) => String::from_utf8(bytes).map_err(|_| "a line is not UTF-8 text".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let line = line
                .map(|line| line.trim_end_matches(['\n', '\r']).to_owned())
                .map_err(|why| CliError::new(Kind::Usage, "cannot read what to say").at("standard input").because(why));
            let failed = line.is_err();
            if sender.blocking_send(line).is_err() || failed {
                break;
            }
        }
    });
    receiver
}
