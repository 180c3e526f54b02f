//! `agentd forward`: the session's end, run as unit `forward` by the session's user.
//!
//! One thread and one `poll`. A connection holds a buffer only while one side does not take what the other has sent, at
//! most [`CHUNK`] bytes each way, so an idle one costs two descriptors. Half-closed connections stay half-closed. A
//! connection that agentd does not take is closed at once. Where several users share a machine's network, nobody but the
//! session's own user is let in: others could only use up the connections, but they have no business here.

mod peer;
mod way;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use self::way::Way;
use super::MAX_CONNECTIONS;

/// Bytes that are read at once.
const CHUNK: usize = 16 * 1024;
/// Before the next try where the system lets nobody in (no descriptors).
const PAUSE: Duration = Duration::from_millis(100);
/// An end that says nothing more.
const GONE: PollFlags = PollFlags::HUP.union(PollFlags::ERR).union(PollFlags::NVAL);

/// What to connect with what. Nothing of it is secret.
#[derive(Debug, clap::Parser)]
#[command(name = "agentd forward", about = "Lets a session's agent reach the servers (internal)")]
struct Args {
    /// Port of the loopback interface to listen on.
    #[arg(long)]
    port: u16,
    /// agentd's socket.
    #[arg(long)]
    socket: PathBuf,
}

/// Arguments of the unit, after the program's own path.
pub fn arguments(port: u16, socket: &Path) -> Vec<String> {
    vec!["forward".to_owned(), format!("--port={port}"), format!("--socket={}", socket.display())]
}

/// Runs `agentd forward`; `args` are the arguments after that word. Ends only with an error.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let args = Args::parse_from(std::iter::once(OsString::from("agentd forward")).chain(args));
    let address = (Ipv4Addr::LOCALHOST, args.port);
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen on port {} of the loopback interface", args.port))?;
    listener.set_nonblocking(true)?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?.port())
        .and_then(|()| out.flush())
        .context("cannot say that it listens")?;
    Forward { listener, socket: args.socket, connections: Vec::new(), paused: false }.run()
}

struct Forward {
    listener: TcpListener,
    socket: PathBuf,
    connections: Vec<Connection>,
    /// The system let nobody in a moment ago.
    paused: bool,
}

/// One connection of the agent's.
struct Connection {
    agent: OwnedFd,
    host: OwnedFd,
    /// From the agent to the server.
    out: Way,
    back: Way,
}

/// Whose event it is.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    /// Index of a connection, and whether it is for something that was asked for.
    Connection(usize, bool),
}

impl Forward {
    fn run(mut self) -> anyhow::Result<()> {
        let mut buffer = vec![0_u8; CHUNK];
        loop {
            let mut gone = Vec::new();
            for (source, events) in self.wait()? {
                match source {
                    Source::Listener => self.accept(),
                    // Nothing is expected of that side any more, and it has ended: nothing more can be passed on.
                    Source::Connection(index, false) if events.intersects(GONE) => gone.push(index),
                    Source::Connection(..) => {}
                }
            }
            let mut index = 0;
            self.connections.retain_mut(|connection| {
                let keep = !gone.contains(&index) && connection.advance(&mut buffer).is_ok_and(|over| !over);
                index += 1;
                keep
            });
        }
    }

    fn wait(&mut self) -> anyhow::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::with_capacity(1 + 2 * self.connections.len());
        let mut fds = Vec::with_capacity(sources.capacity());
        if !self.paused {
            sources.push(Source::Listener);
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            let Connection { agent, host, out, back } = connection;
            for (side, read, written) in [(agent, out, back), (host, back, out)] {
                let wanted = interest(read, written);
                // A side of which nothing is wanted is looked at only for its end, and only when that says something:
                // one that is full would be told about over and over again.
                if !wanted.is_empty() || read.is_over() {
                    sources.push(Source::Connection(index, !wanted.is_empty()));
                    fds.push(PollFd::from_borrowed_fd(side.as_fd(), wanted));
                }
            }
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: PAUSE.subsec_nanos().into() };
        let timeout = std::mem::take(&mut self.paused).then_some(&pause);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        let events = sources.into_iter().zip(&fds).map(|(source, fd)| (source, fd.revents()));
        Ok(events.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((agent, _)) => {
                    if let Some(connection) = self.connect(agent) {
                        self.connections.push(connection);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The agent has gone again already.
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                Err(error) => {
                    complain(format_args!("no connection can be taken: {error}"));
                    self.paused = true;
                    return;
                }
            }
        }
    }

    /// None closes the agent's connection.
    fn connect(&self, agent: TcpStream) -> Option<Connection> {
        if self.connections.len() >= MAX_CONNECTIONS {
            complain(format_args!("refused: the session has {MAX_CONNECTIONS} connections already"));
            return None;
        }
        if !peer::is_own(&agent).unwrap_or(false) {
            complain(format_args!("refused: a connection of another user"));
            return None;
        }
        let connected = || -> io::Result<OwnedFd> {
            agent.set_nonblocking(true)?;
            agent.set_nodelay(true)?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let host = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            // Never waits: with agentd away it is refused, and with too many waiting there is nothing to wait for.
            connect(&host, &SocketAddrUnix::new(&self.socket)?)?;
            Ok(host)
        };
        match connected() {
            Ok(host) => Some(Connection { agent: agent.into(), host, out: Way::default(), back: Way::default() }),
            Err(error) => {
                complain(format_args!("refused: agentd does not answer: {error}"));
                None
            }
        }
    }
}

impl Connection {
    /// Passes on what there is. True when both sides have said all.
    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.out.advance(&self.agent, &self.host, buffer)?;
        self.back.advance(&self.host, &self.agent, buffer)?;
        Ok(self.out.is_over() && self.back.is_over())
    }
}

/// What is wanted of a side that is read by one way and written by the other.
fn interest(read: &Way, written: &Way) -> PollFlags {
    let mut wanted = PollFlags::empty();
    wanted.set(PollFlags::IN, read.wants_to_read());
    wanted.set(PollFlags::OUT, written.wants_to_write());
    wanted
}

/// Into the unit's log.
fn complain(what: std::fmt::Arguments<'_>) {
    // Nobody is left to tell where that fails.
    let _ = writeln!(io::stderr(), "{what}");
}
