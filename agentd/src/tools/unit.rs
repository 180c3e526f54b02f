//! `agentd tools`: the session's end, run as unit `tools` by the session's user.
//!
//! One thread, which waits: a task keeps the connection to agentd, another serves each stream ([`exec`](super::exec),
//! [`terminals`](super::terminals)); files are copied by a thread each. While agentd is away the directory of its
//! socket is watched for a new one. Its own end means nothing for the session: agentd starts it again.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use futures::StreamExt as _;
use helix_protocol::ErrorCode;
use helix_protocol::tools::{Failure, FrameKind, MAX_DETACHED, MAX_STREAMS, Request};
use inotify::WatchMask;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::files::Files;
use super::terminals::Terminals;
use super::{CONTROL, checkpoint, exec, frames, tty};
use crate::file_events;

/// For the first frame of a stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks for agentd where the directory says nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Threads that copy files do nothing else.
const STACK_BYTES: usize = 256 * 1024;
/// A thread that has nothing to do ends.
const THREAD_LIFE: Duration = Duration::from_secs(1);

/// What to connect with what. Nothing of it is secret.
#[derive(Debug, clap::Parser)]
#[command(name = "agentd tools", about = "A session's files, commands and terminals (internal)")]
struct Args {
    /// agentd's socket.
    #[arg(long)]
    socket: PathBuf,
    /// The workspace.
    #[arg(long)]
    workspace: PathBuf,
}

/// Arguments of the unit, after the program's own path.
pub fn arguments(socket: &Path, workspace: &Path) -> Vec<String> {
    let (socket, workspace) = (socket.display(), workspace.display());
    vec!["tools".to_owned(), format!("--socket={socket}"), format!("--workspace={workspace}")]
}

/// Runs `agentd tools`; `args` are the arguments after that word. Ends only with an error.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let mut args = args.peekable();
    if args.peek().is_some_and(|word| word == "tty") {
        return tty::become_program(args.skip(1));
    }
    let args = Args::parse_from(std::iter::once(OsString::from("agentd tools")).chain(args));
    let files = Files::new(&args.workspace)
        .with_context(|| format!("the workspace {} cannot be opened", args.workspace.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_STREAMS)
        .thread_stack_size(STACK_BYTES)
        .thread_keep_alive(THREAD_LIFE)
        .build()?;
    let unit = Rc::new(Unit {
        socket: args.socket,
        workspace: args.workspace,
        files: Arc::new(files),
        terminals: Rc::default(),
        streams: Cell::new(0),
        detached: Arc::new(Semaphore::new(MAX_DETACHED)),
    });
    LocalSet::new().block_on(&runtime, unit.run())?;
    Ok(ExitCode::FAILURE)
}

struct Unit {
    socket: PathBuf,
    workspace: PathBuf,
    files: Arc<Files>,
    terminals: Rc<Terminals>,
    /// Streams that are open.
    streams: Cell<usize>,
    /// Places of commands that are started to stay: they need no stream.
    detached: Arc<Semaphore>,
}

impl Unit {
    async fn run(self: Rc<Self>) -> anyhow::Result<()> {
        let dir = self.socket.parent().unwrap_or(Path::new("/"));
        let inotify = file_events::inotify().context("cannot watch for agentd")?;
        // Watched before the first try: what appears after it is told.
        inotify.watches().add(dir, WatchMask::MOVED_TO).context("cannot watch for agentd")?;
        let mut appears = inotify.into_event_stream(vec![0; 1024])?;
        loop {
            // Refused, or not there: agentd is away.
            if let Ok(control) = UnixStream::connect(&self.socket).await {
                self.obey(control).await;
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, appears.next()).await;
        }
    }

    /// Opens the streams that agentd wants, until it is gone.
    async fn obey(self: &Rc<Self>, mut control: UnixStream) {
        if control.write_u64(CONTROL).await.is_err() {
            return;
        }
        while let Ok(number) = control.read_u64().await {
            let unit = self.clone();
            tokio::task::spawn_local(async move {
                unit.streams.set(unit.streams.get() + 1);
                if let Err(error) = unit.stream(number).await {
                    // The other side may leave at any time: only for whoever looks for a reason.
                    let _ = writeln!(io::stderr(), "a stream broke off: {error}");
                }
                unit.streams.set(unit.streams.get() - 1);
            });
        }
    }

    async fn stream(&self, number: u64) -> io::Result<()> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_u64(number).await?;
        let mut payload = Vec::new();
        let first = frames::read(&mut stream, &mut payload);
        let first = tokio::time::timeout(REQUEST_TIMEOUT, first).await.map_err(|_| io::ErrorKind::TimedOut)??;
        // A server that was not reached in time, or whose caller has left.
        let Some(kind) = first else { return Ok(()) };
        if kind != FrameKind::Request {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.streams.get() > MAX_STREAMS {
            let detail = format!("the session has {MAX_STREAMS} streams open; end one of them and repeat");
            return frames::refuse(&mut stream, &Failure::new(ErrorCode::TooManyStreams, detail)).await;
        }
        let request = match frames::parse(&payload) {
            Ok(request) => request,
            Err(error) => {
                let detail = format!("the session does not know this request: {error}");
                return frames::refuse(&mut stream, &Failure::new(ErrorCode::InvalidRequest, detail)).await;
            }
        };
        match request {
            Request::Exec(request) => exec::serve(stream, request, &self.files, &self.detached).await,
            Request::Terminal { name, size } => self.terminals.attach(stream, &name, size, &self.files).await,
            Request::Terminals {} => frames::write_json(&mut stream, FrameKind::Answer, &self.terminals.list()).await,
            Request::EndTerminal { name } => match self.terminals.end(&name) {
                Ok(done) => frames::write_json(&mut stream, FrameKind::Answer, &done).await,
                Err(failure) => frames::refuse(&mut stream, &failure).await,
            },
            request => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                let (files, workspace) = (self.files.clone(), self.workspace.clone());
                let serve = move || match request {
                    Request::Checkpoint {} => checkpoint::make(&workspace, stream),
                    Request::Restore { manifest } => checkpoint::fill(&workspace, manifest, stream),
                    request => files.serve(stream, request),
                };
                tokio::task::spawn_blocking(serve).await.map_err(io::Error::other)?
            }
        }
    }
}
