//! A command that somebody runs in the session: its streams are carried, its end is told.
//!
//! One task per command with two sides that do not wait for each other, beside the one that reads frames
//! ([`caller`](super::caller)): a caller who takes no output can still send signals. Who leaves takes the command
//! along, with its process group; the end of the command takes what it left in that group. Neither where it was started to
//! stay (`detach`): a task of its own then reads its output away.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use helix_protocol::ErrorCode;
use helix_protocol::tools::{Control, ExecRequest, Failure, FrameKind, MAX_DATA, MAX_DETACHED, Started};
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedWriteHalf, pipe};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::caller::{Frames, Taken, incoming, tell_end};
use super::failure::of_start;
use super::files::Files;
use super::frames;
use super::program::{Program, signal};
use super::tty;
use crate::bridge::terminal::{PtyInput, PtyOutput};

/// What a command wrote last is there within this time after its end.
const LAST_OUTPUT: Duration = Duration::from_millis(200);
/// Most bytes of one read.
const READ_BYTES: usize = 32 * 1024;
/// `^D`: the end of input on a terminal.
const END_OF_INPUT: &[u8] = &[4];

/// A command that was just started.
struct Running {
    program: Program,
    input: Option<PtyInput>,
    output: Output,
    /// Our side of its terminal.
    tty: Option<File>,
}

/// Where its words come from.
enum Output {
    Pipes { out: Option<pipe::Receiver>, errors: Option<pipe::Receiver> },
    Tty(Box<PtyOutput>),
}

/// Runs a command for the other end of `stream`. `places` are those of commands that are started to stay.
pub(super) async fn serve(
    stream: UnixStream,
    request: ExecRequest,
    files: &Files,
    places: &Arc<Semaphore>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let begun = request.detach.then(|| place(places)).transpose();
    let (place, running) = match begun.and_then(|place| Ok((place, start(&request, files)?))) {
        Ok(begun) => begun,
        Err(failure) => return frames::refuse(&mut writer, &failure).await,
    };
    let Running { program, mut input, mut output, tty } = running;
    frames::write_json(&mut writer, FrameKind::Answer, &Started { pid: program.pid() }).await.ok();

    let (mut incoming, _reading) = incoming(reader);
    let taken = Taken::default();
    let has_ended = tokio::select! {
        () = listen(&mut incoming, &program, &mut input, tty.as_ref(), &taken) => false,
        told = tell(&mut writer, &program, &mut output, &taken, request.detach) => told.is_ok(),
    };
    if has_ended {
        drop((input, tty));
        let exit = program.collect();
        if let Some(place) = place {
            tokio::task::spawn_local(stay(None, output, place));
        } else {
            drop(output);
        }
        return tell_end(&mut writer, &mut incoming, &exit).await;
    }
    // The caller is gone.
    if let Some(place) = place {
        tokio::task::spawn_local(stay(Some(program), output, place));
    } else {
        program.end(Signal::HUP).await;
    }
    Ok(())
}

/// For a command that is started to stay: it holds its place when its stream is gone.
fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
    places.clone().try_acquire_owned().map_err(|_| {
        let detail = format!(
            "{MAX_DETACHED} commands of the session were started with detach and have not ended, or left something \
             running that holds their output; end one of them and repeat"
        );
        Failure::new(ErrorCode::TooManyStreams, detail)
    })
}

/// Passes on input and signals until the caller leaves.
async fn listen(
    incoming: &mut Frames,
    program: &Program,
    input: &mut Option<PtyInput>,
    tty: Option<&File>,
    taken: &Taken,
) {
    let mut is_over = false;
    loop {
        if is_over && input.as_ref().is_some_and(PtyInput::is_empty) {
            *input = None;
        }
        let sends = async {
            match input.as_mut().filter(|input| !input.is_empty()) {
                Some(input) => input.send().await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            count = sends => {
                taken.add(count);
                continue;
            }
            frame = incoming.recv() => frame,
        };
        match frame {
            None => return,
            Some((FrameKind::Data, bytes)) => match input.as_mut().filter(|_| !is_over) {
                Some(input) => input.push(&bytes),
                // It has none: gone, as with a closed pipe.
                None => taken.add(bytes.len()),
            },
            Some((FrameKind::End, _)) => is_over |= end_input(input.as_mut(), tty.is_some()),
            Some((FrameKind::Control, payload)) => match frames::parse(&payload) {
                Ok(Control::Signal { signal: name }) => {
                    if let Some(signal) = signal(&name)
                        && !tty.is_some_and(|tty| tty::signal(tty, signal))
                    {
                        program.signal(signal);
                    }
                }
                Ok(Control::Resize(size)) if size.is_valid() => {
                    if let Some(tty) = tty {
                        tty::resize(tty, size);
                    }
                }
                Ok(Control::StdinEnd {}) => is_over |= end_input(input.as_mut(), tty.is_some()),
                // Whoever says more than we know says it to a later one.
                Ok(Control::Resize(_)) | Err(_) => {}
            },
            Some(_) => {}
        }
    }
}

/// A terminal has no end: the program is told by a key. True once the input is over.
fn end_input(input: Option<&mut PtyInput>, is_tty: bool) -> bool {
    if let Some(input) = input.filter(|_| is_tty) {
        input.push(END_OF_INPUT);
    }
    !is_tty
}

/// Passes on output until the command has ended and said all. An error: the caller is gone.
async fn tell(
    writer: &mut OwnedWriteHalf,
    program: &Program,
    output: &mut Output,
    taken: &Taken,
    detach: bool,
) -> io::Result<()> {
    let (mut is_silent, mut deadline) = (false, None);
    loop {
        if is_silent && deadline.is_some() {
            return Ok(());
        }
        // Output last: something that the command left may write for ever.
        let (kind, bytes) = tokio::select! {
            biased;
            () = until(deadline) => break,
            () = program.ended(), if deadline.is_none() => {
                deadline = Some(Instant::now() + LAST_OUTPUT);
                if !detach {
                    program.kill();
                }
                continue;
            }
            count = taken.some() => (FrameKind::Taken, count.to_vec()),
            said = output.read(), if !is_silent => said,
        };
        if bytes.is_empty() {
            is_silent = true;
            continue;
        }
        frames::write(writer, kind, &bytes).await?;
    }
    // A slow caller: what the command itself wrote is here, however long ago it ended.
    for (kind, bytes) in output.rest() {
        for piece in bytes.chunks(MAX_DATA) {
            frames::write(writer, kind, piece).await?;
        }
    }
    Ok(())
}

/// For ever where there is none.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Lets a command go on that nobody listens to, and what it has left (`program` is none): neither shall end because
/// nobody takes its output.
async fn stay(program: Option<Program>, mut output: Output, _place: OwnedSemaphorePermit) {
    let ends = async {
        if let Some(program) = program {
            program.ended().await;
            program.collect();
        }
    };
    let read_away = async { while !output.read().await.1.is_empty() {} };
    tokio::join!(ends, read_away);
}

impl Output {
    /// What it said, and where; nothing when it will say nothing more. Cancel safe.
    async fn read(&mut self) -> (FrameKind, Vec<u8>) {
        match self {
            Self::Tty(output) => {
                let bytes = if output.is_closed() { None } else { output.read().await };
                (FrameKind::Data, bytes.or_else(|| output.read_now()).unwrap_or_default())
            }
            Self::Pipes { out, errors } => loop {
                if out.is_none() && errors.is_none() {
                    return (FrameKind::Data, Vec::new());
                }
                let (kind, bytes) = tokio::select! {
                    bytes = read_some(out) => (FrameKind::Data, bytes),
                    bytes = read_some(errors) => (FrameKind::ErrorData, bytes),
                };
                if !bytes.is_empty() {
                    return (kind, bytes);
                }
            },
        }
    }

    /// What is there now, without waiting.
    fn rest(&mut self) -> [(FrameKind, Vec<u8>); 2] {
        match self {
            Self::Tty(output) => [(FrameKind::Data, tty::rest(output)), (FrameKind::ErrorData, Vec::new())],
            Self::Pipes { out, errors } => {
                [(FrameKind::Data, held(out.as_ref())), (FrameKind::ErrorData, held(errors.as_ref()))]
            }
        }
    }
}

/// What is in a pipe now: never more than a pipe holds, whoever writes meanwhile.
fn held(pipe: Option<&pipe::Receiver>) -> Vec<u8> {
    let Some(pipe) = pipe else { return Vec::new() };
    let count = rustix::io::ioctl_fionread(pipe).ok().and_then(|count| usize::try_from(count).ok());
    let mut bytes = vec![0; count.unwrap_or(0)];
    let count = rustix::io::read(pipe, &mut bytes[..]).unwrap_or(0);
    bytes.truncate(count);
    bytes
}

/// Nothing at the pipe's end, which closes it here; waits for ever where there is none.
async fn read_some(pipe: &mut Option<pipe::Receiver>) -> Vec<u8> {
    let Some(open) = pipe else { return std::future::pending().await };
    let mut bytes = vec![0; READ_BYTES];
    let count = open.read(&mut bytes).await.unwrap_or(0);
    if count == 0 {
        *pipe = None;
    }
    bytes.truncate(count);
    bytes
}

fn start(request: &ExecRequest, files: &Files) -> Result<Running, Failure> {
    let invalid = |detail: &str| Failure::new(ErrorCode::InvalidRequest, detail);
    let words = request.command.argv().ok_or_else(|| invalid("command: it is empty"))?;
    if words.iter().any(|word| word.contains('\0')) {
        return Err(invalid("command: a word holds a NUL"));
    }
    check_environment(&request.env)?;
    let [name, arguments @ ..] = words.as_slice() else { return Err(invalid("command: it is empty")) };
    let cwd = files.directory(request.cwd.as_deref().unwrap_or("."))?;
    let failed = |error: io::Error| of_start(name, &error);
    let begin = |command: &mut Command, leads_session: bool| {
        // By the descriptor: its name may lead elsewhere by now.
        command.current_dir(format!("/proc/self/fd/{}", cwd.as_raw_fd())).envs(&request.env);
        Program::start(command, leads_session).map_err(failed)
    };
    if let Some(size) = request.terminal {
        if !size.is_valid() {
            return Err(invalid("terminal: columns and rows are 1 to 1000"));
        }
        let pty = tty::command(size, OsStr::new(name), OsStr::new(name), arguments);
        let (pty, mut command) = pty.map_err(|error| failed(io::Error::other(format!("{error:#}"))))?;
        let program = begin(&mut command, true)?;
        let tty = Some(pty.output.handle().map_err(failed)?);
        return Ok(Running { program, input: Some(pty.input), output: Output::Tty(Box::new(pty.output)), tty });
    }
    let ours = |reader| pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map(Some);
    let (out, writes_out) = io::pipe().map_err(failed)?;
    let (errors, writes_errors) = io::pipe().map_err(failed)?;
    let output = Output::Pipes { out: ours(out).map_err(failed)?, errors: ours(errors).map_err(failed)? };
    let (stdin, input) = if request.stdin {
        let (reads, input) = io::pipe().map_err(failed)?;
        let input = pipe::Sender::from_owned_fd(OwnedFd::from(input)).map_err(failed)?;
        (Stdio::from(reads), Some(PtyInput::pipe(input)))
    } else {
        (Stdio::null(), None)
    };
    let mut command = Command::new(name);
    command.args(arguments).process_group(0).stdin(stdin).stdout(writes_out).stderr(writes_errors);
    let program = begin(&mut command, false)?;
    Ok(Running { program, input, output, tty: None })
}

fn check_environment(env: &BTreeMap<String, String>) -> Result<(), Failure> {
    let bad = env.iter().find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'));
    match bad {
        Some((name, _)) => {
            let name = name.escape_debug().take(80).collect::<String>();
            Err(Failure::new(
                ErrorCode::InvalidRequest,
                format!("env: {name:?} is no variable that a program can have"),
            ))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests;
