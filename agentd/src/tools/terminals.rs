//! Terminals of a session: shells on PTYs that go on when nobody looks, with the last of what they showed.
//!
//! One task per terminal copies between its PTY, its [`Ring`] and what is typed; it ends with its shell. One more per
//! viewer reads the ring from a place of its own, so that a slow viewer holds up nobody: one that falls behind what
//! is kept begins anew. All in this process, which outlives agentd.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::rc::Rc;

use helix_protocol::ErrorCode;
use helix_protocol::tools::{
    Control, Done, Exit, Failure, FrameKind, MAX_TERMINALS, TerminalList, TerminalSize, TerminalView, is_name,
};
use jiff::Timestamp;
use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Notify, mpsc};

use super::caller::{Frames, Taken, incoming, tell_end};
use super::failure::of_start;
use super::files::Files;
use super::frames;
use super::program::{Program, signal};
use super::ring::{Ring, without_questions};
use super::tty;
use crate::bridge::terminal::Pty;

/// Most bytes of one frame to a viewer.
const FRAME_BYTES: usize = 16 * 1024;
/// Pieces of input that wait for a shell, of all viewers together.
const INPUT_WAITING: usize = 4;
/// Where `SHELL` names none.
const SHELL: &str = "/bin/sh";

/// All of them.
#[derive(Default)]
pub(super) struct Terminals {
    open: RefCell<BTreeMap<String, Rc<Terminal>>>,
}

struct Terminal {
    name: String,
    pid: u32,
    started_at: Timestamp,
    size: Cell<TerminalSize>,
    viewers: Cell<u32>,
    ring: RefCell<Ring>,
    /// There is more in the ring, or the end is there.
    news: Notify,
    exit: RefCell<Option<Exit>>,
    input: mpsc::Sender<Vec<u8>>,
    /// Somebody ends it.
    ending: Notify,
    /// Our side of its PTY.
    tty: File,
}

impl Terminals {
    /// Those that are open.
    pub(super) fn list(&self) -> TerminalList {
        TerminalList { terminals: self.open.borrow().values().map(|terminal| terminal.view()).collect() }
    }

    /// Ends one; its shell is told to hang up, and killed if it does not.
    pub(super) fn end(&self, name: &str) -> Result<Done, Failure> {
        let open = self.open.borrow();
        let terminal = open.get(name).ok_or_else(|| {
            let name: String = name.chars().take(80).collect();
            Failure::new(ErrorCode::TerminalNotFound, format!("there is no terminal {name:?} in this session"))
        })?;
        terminal.ending.notify_one();
        Ok(Done {})
    }

    /// Shows one to the other end of `stream`, which types into it; makes it first where it is not there.
    pub(super) async fn attach(
        self: &Rc<Self>,
        stream: UnixStream,
        name: &str,
        size: Option<TerminalSize>,
        files: &Files,
    ) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let terminal = match self.find_or_start(name, size, files) {
            Ok(terminal) => terminal,
            Err(failure) => return frames::refuse(&mut writer, &failure).await,
        };
        let _seen = Seen::new(&terminal);
        let (mut incoming, _reading) = incoming(reader);
        let taken = Taken::default();
        let exit = tokio::select! {
            () = terminal.listen(&mut incoming, &taken) => return Ok(()),
            exit = terminal.tell(&mut writer, &taken) => exit?,
        };
        tell_end(&mut writer, &mut incoming, &exit).await
    }

    fn find_or_start(
        self: &Rc<Self>,
        name: &str,
        size: Option<TerminalSize>,
        files: &Files,
    ) -> Result<Rc<Terminal>, Failure> {
        let invalid = |detail: &str| Failure::new(ErrorCode::InvalidRequest, detail);
        if !is_name(name) {
            return Err(invalid("the terminal's name: use 1 to 64 letters, digits, _ and -"));
        }
        if size.is_some_and(|size| !size.is_valid()) {
            return Err(invalid("the terminal's size: columns and rows are 1 to 1000"));
        }
        if let Some(terminal) = self.open.borrow().get(name) {
            if let Some(size) = size {
                terminal.resize(size);
            }
            return Ok(terminal.clone());
        }
        if self.open.borrow().len() >= MAX_TERMINALS {
            let detail = format!("the session has {MAX_TERMINALS} terminals; end one of them first");
            return Err(Failure::new(ErrorCode::TooManyStreams, detail));
        }
        self.start(name, size.unwrap_or(TerminalSize::DEFAULT), files)
    }

    fn start(self: &Rc<Self>, name: &str, size: TerminalSize, files: &Files) -> Result<Rc<Terminal>, Failure> {
        let shell = std::env::var_os("SHELL").filter(|shell| Path::new(shell).exists()).unwrap_or_else(|| SHELL.into());
        let failed = |error: &io::Error| of_start(&shell.to_string_lossy(), error);
        let cwd = files.directory(".")?;
        // As login(1) calls it: a shell reads its profile by this.
        let mut arg0 = OsString::from("-");
        arg0.push(Path::new(&shell).file_name().unwrap_or(OsStr::new("sh")));
        let (pty, mut command) =
            tty::command(size, &arg0, &shell, &[]).map_err(|error| failed(&io::Error::other(format!("{error:#}"))))?;
        command.current_dir(format!("/proc/self/fd/{}", cwd.as_raw_fd()));
        let tty = pty.output.handle().map_err(|error| failed(&error))?;
        let program = Program::start(&mut command, true).map_err(|error| failed(&error))?;
        let (input, typed) = mpsc::channel(INPUT_WAITING);
        let terminal = Rc::new(Terminal {
            name: name.to_owned(),
            pid: program.pid(),
            started_at: Timestamp::now(),
            size: Cell::new(size),
            viewers: Cell::new(0),
            ring: RefCell::default(),
            news: Notify::new(),
            exit: RefCell::default(),
            input,
            ending: Notify::new(),
            tty,
        });
        self.open.borrow_mut().insert(name.to_owned(), terminal.clone());
        let (terminals, run) = (self.clone(), terminal.clone());
        tokio::task::spawn_local(async move {
            let exit = run.run(pty, program, typed).await;
            terminals.open.borrow_mut().remove(&run.name);
            run.exit.replace(Some(exit));
            run.news.notify_waiters();
        });
        Ok(terminal)
    }
}

impl Terminal {
    fn view(&self) -> TerminalView {
        let Self { name, pid, started_at, size, viewers, .. } = self;
        TerminalView {
            name: name.clone(),
            pid: *pid,
            size: size.get(),
            viewers: viewers.get(),
            started_at: *started_at,
        }
    }

    fn resize(&self, size: TerminalSize) {
        self.size.set(size);
        tty::resize(&self.tty, size);
    }

    /// Until its shell has ended.
    async fn run(&self, mut pty: Pty, program: Program, mut typed: mpsc::Receiver<Vec<u8>>) -> Exit {
        loop {
            let idle = pty.input.is_empty();
            tokio::select! {
                bytes = pty.output.read() => if let Some(bytes) = bytes {
                    self.show(&bytes);
                },
                _ = pty.input.send(), if !idle => {}
                Some(bytes) = typed.recv(), if idle => pty.input.push(&bytes),
                () = self.ending.notified() => {
                    // Whoever has the terminal now, too: its shell alone would wait for it.
                    tty::signal(&self.tty, Signal::HUP);
                    return program.end(Signal::HUP).await;
                }
                () = program.ended() => break,
            }
        }
        // What it left in its group goes with it, and what it wrote last is shown.
        program.signal(Signal::KILL);
        self.show(&tty::rest(&mut pty.output));
        program.collect()
    }

    fn show(&self, bytes: &[u8]) {
        self.ring.borrow_mut().push(bytes);
        self.news.notify_waiters();
    }

    /// Takes what one viewer types, until it leaves.
    async fn listen(&self, incoming: &mut Frames, taken: &Taken) {
        // Never more than the window: its viewer waits then.
        let mut waiting: VecDeque<Vec<u8>> = VecDeque::new();
        loop {
            let frame = tokio::select! {
                room = self.input.reserve(), if !waiting.is_empty() => {
                    let bytes = waiting.pop_front().unwrap_or_default();
                    taken.add(bytes.len());
                    if let Ok(room) = room {
                        room.send(bytes);
                    }
                    continue;
                }
                frame = incoming.recv() => frame,
            };
            match frame {
                None => return,
                Some((FrameKind::Data, bytes)) if !bytes.is_empty() => waiting.push_back(bytes),
                Some((FrameKind::Control, payload)) => match frames::parse(&payload) {
                    Ok(Control::Resize(size)) if size.is_valid() => self.resize(size),
                    Ok(Control::Signal { signal: name }) => {
                        if let Some(signal) = signal(&name) {
                            tty::signal(&self.tty, signal);
                        }
                    }
                    // A terminal's input has no end; whoever says more than we know says it to a later one.
                    Ok(_) | Err(_) => {}
                },
                Some(_) => {}
            }
        }
    }

    /// Shows one viewer what was shown before and what comes, until the shell has ended. An error: the viewer is gone.
    async fn tell(&self, writer: &mut OwnedWriteHalf, taken: &Taken) -> io::Result<Exit> {
        frames::write_json(writer, FrameKind::Answer, &self.view()).await?;
        let (mut place, old) = {
            let ring = self.ring.borrow();
            (ring.beginning(), ring.end())
        };
        loop {
            // Asked for before looking: what comes in between is not missed.
            let news = self.news.notified();
            let is_old = place < old;
            let (bytes, next) = self.ring.borrow().after(place, FRAME_BYTES);
            place = next;
            if !bytes.is_empty() {
                let bytes = if is_old { without_questions(&bytes) } else { bytes };
                frames::write(writer, FrameKind::Data, &bytes).await?;
                continue;
            }
            let exit = self.exit.borrow().clone();
            if let Some(exit) = exit {
                return Ok(exit);
            }
            tokio::select! {
                count = taken.some() => frames::write(writer, FrameKind::Taken, &count).await?,
                () = news => {}
            }
        }
    }
}

/// A viewer looks.
struct Seen<'a>(&'a Terminal);

impl<'a> Seen<'a> {
    fn new(terminal: &'a Terminal) -> Self {
        terminal.viewers.set(terminal.viewers.get() + 1);
        Self(terminal)
    }
}

impl Drop for Seen<'_> {
    fn drop(&mut self) {
        self.0.viewers.set(self.0.viewers.get().saturating_sub(1));
    }
}
