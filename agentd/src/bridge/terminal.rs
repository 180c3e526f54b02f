//! The terminal on the desktop, and PTYs on which commands run.
//!
//! Both are waited for as unnamed pipe ends: that is tokio's wrapper for any file that can be polled which needs no
//! unsafe code.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;

use anyhow::Context as _;
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;

/// What one read took.
pub type Bytes = Vec<u8>;

/// Most bytes of one read.
const READ_BYTES: usize = 16 * 1024;

/// What the user sees. Without a terminal there is output only.
pub struct Terminal {
    output: io::Stdout,
    /// Opened anew: non-blocking mode must not reach the output, which shares its description with standard input.
    input: Option<Input>,
}

struct Input {
    tty: File,
    keys: pipe::Receiver,
}

impl Terminal {
    /// The terminal that this process runs in, in raw mode: the PTY inside does line editing and signals.
    pub fn open() -> anyhow::Result<Self> {
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let input = match OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/tty") {
            Ok(tty) => {
                let mut modes = tcgetattr(&tty)?;
                modes.make_raw();
                tcsetattr(&tty, OptionalActions::Now, &modes)?;
                Some(Input { keys: pipe::Receiver::from_file_unchecked(tty.try_clone()?)?, tty })
            }
            Err(_) => None,
        };
        Ok(Self { output: io::stdout(), input })
    }

    /// Somebody can type here.
    pub fn has_keys(&self) -> bool {
        self.input.is_some()
    }

    /// Window size.
    pub fn size(&self) -> Option<Winsize> {
        tcgetwinsize(&self.input.as_ref()?.tty).ok()
    }

    /// What the user typed; waits for ever where nobody can.
    pub async fn read(&mut self) -> io::Result<Bytes> {
        match &mut self.input {
            Some(input) => read(&mut input.keys).await,
            None => std::future::pending().await,
        }
    }

    /// Writes all of it.
    pub fn show(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.write_all(bytes).context("the terminal is gone")
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Bytes of a command are no lines: nothing may wait in the buffer of standard output.
        let count = self.output.write(bytes)?;
        self.output.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// A PTY: what is typed into it, what comes out of it, and the command's side until it is taken.
pub struct Pty {
    /// To the command.
    pub input: PtyInput,
    /// From the command.
    pub output: PtyOutput,
    command: Option<OwnedFd>,
}

/// To the command.
pub struct PtyInput {
    ours: pipe::Sender,
    /// What the command has not taken yet. Nothing more is read from the user meanwhile.
    pending: Bytes,
}

/// From the command.
pub struct PtyOutput {
    ours: File,
    events: pipe::Receiver,
    /// Nobody has the command's side open any more.
    closed: bool,
}

impl Pty {
    /// A new PTY with this window size.
    pub fn open(size: Option<Winsize>) -> anyhow::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).context("cannot make a PTY")?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let command = ioctl_tiocgptpeer(&ours, flags).context("cannot open the PTY's other side")?;
        let default = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size.unwrap_or(default))?;
        rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
        let ours = File::from(ours);
        let input = PtyInput { ours: pipe::Sender::from_file_unchecked(ours.try_clone()?)?, pending: Bytes::new() };
        let events = pipe::Receiver::from_file_unchecked(ours.try_clone()?)?;
        Ok(Self { input, output: PtyOutput { ours, events, closed: false }, command: Some(command) })
    }

    /// Standard streams for the command. We keep nothing of that side, so that its end can be seen.
    pub fn take_command_side(&mut self) -> anyhow::Result<[Stdio; 3]> {
        let side = self.command.take().context("the command's side is taken")?;
        Ok([side.try_clone()?.into(), side.try_clone()?.into(), side.into()])
    }
}

impl PtyInput {
    /// To a command that reads a pipe instead.
    pub fn pipe(ours: pipe::Sender) -> Self {
        Self { ours, pending: Bytes::new() }
    }

    /// Takes what the user typed.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The command has taken everything.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Gives the command a part of what is pending; says how much that was. Cancel-safe.
    pub async fn send(&mut self) -> usize {
        // Nobody is there to read it: it is as good as taken.
        let count = self.ours.write(&self.pending).await.unwrap_or(self.pending.len());
        self.pending.drain(..count);
        count
    }
}

impl PtyOutput {
    /// Our side once more, to tell the command of while its output is read.
    pub fn handle(&self) -> io::Result<File> {
        self.ours.try_clone()
    }

    /// Tells the command that its window changed.
    pub fn resize(&self, size: Winsize) {
        // A PTY that nobody uses any more needs no size.
        let _ = tcsetwinsize(&self.ours, size);
    }

    /// What the command wrote; None, once, when nobody has the other side open any more, and after that never.
    pub async fn read(&mut self) -> Option<Bytes> {
        if self.closed {
            std::future::pending::<()>().await;
        }
        // EIO: the last process that had the other side open has closed it.
        let bytes = read(&mut self.events).await.ok();
        self.closed = bytes.is_none();
        bytes
    }

    /// Nobody has the command's side open any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// What is there now. Reading, without asking for readiness first, makes the kernel hand over everything that
    /// was written before.
    pub fn read_now(&mut self) -> Option<Bytes> {
        let mut bytes = vec![0; READ_BYTES];
        let count = self.ours.read(&mut bytes).ok().filter(|count| *count > 0)?;
        bytes.truncate(count);
        Some(bytes)
    }
}

async fn read(file: &mut pipe::Receiver) -> io::Result<Bytes> {
    let mut bytes = vec![0; READ_BYTES];
    match file.read(&mut bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => {
            bytes.truncate(count);
            Ok(bytes)
        }
    }
}
