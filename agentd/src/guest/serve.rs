//! `agentd guest serve`: the loop. Every wait of the guest is the one `poll` in [`Guest::run`].

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::GuestArgs;
use super::connections::Connection;
use super::ending::{Ending, Progress};
use super::log::Copied;
use super::reaper::{Ended, Reaper, is_childless};
use super::units::{self, Unit};
use super::wire::{Answer, Event, Record, Request, line};
use crate::supervisor::UnitName;
use crate::supervisor::process::layout::Layout;
use crate::supervisor::process::lock::Lock;
use crate::supervisor::process::{display_files, procfs, sweep};

/// Runs until it is told to end everything.
pub(super) fn serve(args: &GuestArgs) -> anyhow::Result<()> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::setsid().context("cannot leave the session of agentd")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot become a subreaper")?;
    // Only for whoever reads a process list.
    let _ = rustix::thread::set_name(c"helix-guest");

    let layout = Layout::new(&args.root);
    let Some(_lock) = Lock::try_now(&layout.guest_lock())? else { bail!("another guest holds the session") };
    let marker = std::env::var(sweep::VARIABLE).context("the session's marker is missing")?;

    // Bound under another name first: whoever can see the socket can connect to it.
    let draft = layout.root.join("guest.new");
    let _ = fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft).context("cannot make the guest's socket")?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;

    let guest = procfs::own_identity()?;
    let record =
        Record { session: args.session.clone(), guest: guest.clone(), units: Vec::new(), result: None, ended: false };
    record.save(&layout.record(), false).context("cannot write the guest's record")?;
    fs::rename(&draft, layout.guest_socket())?;

    let mut out = io::stdout();
    out.write_all(&line(&guest)?)?;
    out.flush()?;

    let mut guest = Guest {
        layout,
        marker,
        listener,
        reaper: Reaper::start()?,
        record,
        units: Vec::new(),
        connections: Vec::new(),
        next_connection: 0,
        stop_waiters: Vec::new(),
        kill_waiters: Vec::new(),
        ending: None,
    };
    guest.run()
}

struct Guest {
    layout: Layout,
    marker: String,
    listener: UnixListener,
    reaper: Reaper,
    record: Record,
    units: Vec<Unit>,
    connections: Vec<Connection>,
    next_connection: u64,
    /// Connections to be told when a unit is gone.
    stop_waiters: Vec<(u64, UnitName)>,
    /// Connections to be told when everything is gone.
    kill_waiters: Vec<u64>,
    ending: Option<Ending>,
}

/// Whose event it is.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Reaper,
    /// Index of a unit.
    Log(usize),
    /// Id of a connection.
    Connection(u64),
}

impl Guest {
    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let mut next = self.units.iter().filter_map(|unit| unit.kill_at).min();
            if let Some(ending) = &mut self.ending {
                match ending.advance(&mut self.units, is_childless, Instant::now()) {
                    Progress::Gone => return self.finish(),
                    Progress::LeftBehind(left) => self.give_up(&left),
                    Progress::Wait(until) => next = Some(next.map_or(until, |at| at.min(until))),
                }
            }
            for source in self.wait(next)? {
                self.handle(source);
            }
            let now = Instant::now();
            self.units.iter_mut().for_each(|unit| unit.kill_when_due(now));
            self.connections.retain(|connection| !connection.is_broken());
        }
    }

    fn wait(&self, until: Option<Instant>) -> anyhow::Result<Vec<Source>> {
        let mut sources = vec![Source::Listener, Source::Reaper];
        let mut fds = vec![
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(self.reaper.event(), PollFlags::IN),
        ];
        for (index, unit) in self.units.iter().enumerate() {
            if let Some(log) = &unit.log {
                sources.push(Source::Log(index));
                fds.push(PollFd::from_borrowed_fd(log.pipe.as_fd(), PollFlags::IN));
            }
        }
        for connection in &self.connections {
            let write = if connection.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
            sources.push(Source::Connection(connection.id));
            fds.push(PollFd::new(&connection.stream, PollFlags::IN | write));
        }
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        let events = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(events.map(|(source, _)| *source).collect())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => {
                while let Ok((stream, _)) = self.listener.accept() {
                    self.next_connection += 1;
                    if let Ok(Some(connection)) = Connection::accept(self.next_connection, stream) {
                        self.connections.push(connection);
                    }
                }
            }
            Source::Reaper => self.collect(),
            Source::Log(index) => {
                // The index may be another unit's since a Stop in the same round: poll tells again.
                if let Some(unit) = self.units.get_mut(index)
                    && let Some(log) = &mut unit.log
                    && log.copy() == Copied::Closed
                {
                    unit.log = None;
                }
            }
            Source::Connection(id) => {
                let Some(connection) = self.connection(id) else { return };
                connection.flush();
                for request in connection.requests() {
                    if let Some(answer) = self.answer(id, request) {
                        self.send(id, &answer);
                    }
                }
            }
        }
    }

    /// None when the answer comes later.
    fn answer(&mut self, client: u64, request: Request) -> Option<Answer> {
        match request {
            Request::List => Some(self.state()),
            Request::Subscribe => {
                self.connection(client)?.subscribed = true;
                Some(self.state())
            }
            Request::Start { unit: spec } => {
                if let Some(unit) = units::find(&mut self.units, spec.name) {
                    return Some(Answer::Unit { unit: unit.record.status() });
                }
                if self.ending.is_some() {
                    return Some(Answer::Failed { reason: "the session is being ended".to_owned() });
                }
                match Unit::start(&spec, &self.layout, &self.marker) {
                    Ok(unit) => {
                        let status = unit.record.status();
                        self.units.push(unit);
                        self.save(false);
                        self.reaper.started();
                        Some(Answer::Unit { unit: status })
                    }
                    Err(reason) => Some(Answer::Failed { reason }),
                }
            }
            Request::Stop { unit: name, grace_ms } => {
                let kill_at = Instant::now() + Duration::from_millis(grace_ms);
                match units::find(&mut self.units, name) {
                    Some(unit) if unit.is_running() => {
                        unit.end(kill_at);
                        self.stop_waiters.push((client, name));
                        None
                    }
                    _ => {
                        self.forget(name);
                        Some(Answer::Done)
                    }
                }
            }
            Request::Result { result } => {
                if self.record.result.as_ref() == Some(&result) {
                    // Repeated: the task did not hear that it is on disk.
                    return Some(Answer::Done);
                }
                let former = self.record.result.replace(result.clone());
                if let Err(error) = self.record.save(&self.layout.record(), true) {
                    // Nobody hears of an outcome that is not on disk; the task tries again.
                    self.record.result = former;
                    return Some(Answer::Failed { reason: format!("the result cannot be written: {error}") });
                }
                self.publish(&Event::TaskFinished { result });
                Some(Answer::Done)
            }
            Request::Kill => {
                self.kill_waiters.push(client);
                if self.ending.is_none() {
                    self.ending = Some(Ending::begin(&mut self.units, Instant::now()));
                }
                None
            }
        }
    }

    /// Collects every child that has ended: units and orphans that came to us.
    fn collect(&mut self) {
        for unit in self.units.iter().filter(|unit| unit.is_running() && unit.kill_at.is_some()) {
            // Told to end: what its main process leaves in its group goes with it. Before collecting, as the number
            // of a collected leader may be given to a stranger.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if let Some(pid) = unit.pid()
                && matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_)))
            {
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
        while let Some(ended) = Reaper::collect() {
            self.ended(&ended);
        }
        self.reaper.collected();
    }

    fn ended(&mut self, ended: &Ended) {
        let is_it = |unit: &&mut Unit| unit.is_running() && unit.record.pid == ended.pid;
        let Some(unit) = self.units.iter_mut().find(is_it) else { return };
        unit.record.exit_status = Some(ended.exit_status);
        unit.kill_at = None;
        // Its last words, before anybody asks for them.
        if let Some(log) = &mut unit.log {
            log.copy_last_words();
        }
        let status = unit.record.status();
        self.save(false);
        let name = status.name;
        self.publish(&Event::UnitExited { unit: status });
        let (told, waiting): (Vec<_>, Vec<_>) = self.stop_waiters.drain(..).partition(|(_, unit)| *unit == name);
        self.stop_waiters = waiting;
        if !told.is_empty() {
            self.forget(name);
        }
        for (client, _) in told {
            self.send(client, &Answer::Done);
        }
    }

    /// Forgets a unit that has ended, so that one of its name can be started anew.
    fn forget(&mut self, name: UnitName) {
        let before = self.units.len();
        self.units.retain(|unit| unit.is_running() || unit.record.name != name);
        if self.units.len() != before {
            self.save(false);
        }
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        display_files::remove(&self.layout).context("cannot remove the display's sockets")?;
        for socket in [self.layout.guest_socket(), self.layout.root.join("vnc.sock")] {
            let _ = fs::remove_file(socket);
        }
        self.record.ended = true;
        self.save(false);
        for client in std::mem::take(&mut self.kill_waiters) {
            self.send(client, &Answer::Done);
        }
        for connection in &mut self.connections {
            connection.stream.set_nonblocking(false)?;
            connection.flush();
        }
        Ok(())
    }

    /// The ending stays begun; whoever asks again waits for another round.
    fn give_up(&mut self, left: &str) {
        for client in std::mem::take(&mut self.kill_waiters) {
            self.send(client, &Answer::Failed { reason: format!("these do not end: {left}") });
        }
        self.ending = Some(Ending::begin(&mut self.units, Instant::now()));
    }

    fn state(&self) -> Answer {
        let units = self.units.iter().map(|unit| unit.record.status()).collect();
        Answer::State { guest: self.record.guest.clone(), units, result: self.record.result.clone() }
    }

    fn save(&mut self, durable: bool) {
        self.record.units = self.units.iter().map(|unit| unit.record.clone()).collect();
        if let Err(error) = self.record.save(&self.layout.record(), durable) {
            // Standard error is the guest's own log. The state is still told to whoever asks.
            let _ = writeln!(io::stderr(), "cannot write {}: {error}", self.layout.record().display());
        }
    }

    fn publish(&mut self, event: &Event) {
        let answer = Answer::Event { event: event.clone() };
        self.connections.iter_mut().filter(|connection| connection.subscribed).for_each(|client| client.send(&answer));
    }

    fn send(&mut self, client: u64, answer: &Answer) {
        if let Some(connection) = self.connection(client) {
            connection.send(answer);
        }
    }

    fn connection(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }
}
