//! `agentd task`: runs a session's command in the terminal on its desktop (kind `command`).
//!
//! `agentd task <root>` is what the terminal runs. It starts a shell with the script `<root>/input` on a PTY of its
//! own, copies output to the terminal and input and window size to the PTY, keeps the end of the output, and gives
//! the outcome to the session's guest, which has it on disk before it answers. Then it stays, and with it what is on
//! the screen, until the session ends. The script is a file and never an argument: arguments are limited in size
//! and can be read by everybody.
//!
//! `agentd task <root> shell` is its child, which makes the PTY its controlling terminal and becomes the shell.
//!
//! `main.rs` calls [`main`] before any runtime starts; a small one is made here, for the window-size signal.

mod tail;
mod terminal;

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use helix_protocol::session::SessionResult;
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::tail::Tail;
use self::terminal::{Pty, Terminal};
use crate::guest::call::call;
use crate::guest::wire::{Answer, Request};
use crate::supervisor::process::layout::Layout;

/// Writing the outcome waits for the disk.
const RESULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two attempts to have the outcome written: the disk may be full.
const RESULT_RETRY: Duration = Duration::from_secs(5);

/// Lines of the command that are shown before it runs.
const ANNOUNCED_LINES: usize = 20;

/// As a shell says that a program cannot be run.
const CANNOT_RUN: i32 = 127;

/// Runs `agentd task`. `args` are the arguments after the word `task`.
pub fn main(mut args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let root = PathBuf::from(args.next().context("agentd task is internal: a session's terminal runs it")?);
    match args.next() {
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(&root))
        }
        Some(stage) if stage == "shell" => become_shell(&root),
        Some(other) => bail!("agentd task does not know {}", other.display()),
    }
}

/// Makes standard input the controlling terminal of a new session and runs the script in it.
fn become_shell(root: &Path) -> anyhow::Result<()> {
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(std::io::stdin())?;
    let error = std::process::Command::new("/bin/sh").arg(script(root)).exec();
    Err(error).context("cannot run /bin/sh")
}

fn script(root: &Path) -> PathBuf {
    root.join("input")
}

async fn run(root: &Path) -> anyhow::Result<()> {
    let terminal = Terminal::open()?;
    let pty = Pty::open(terminal.size())?;
    let mut tail = Tail::default();
    let mut copy = Copy { terminal, pty };
    copy.announce(root)?;
    let exit_status = match copy.spawn(root) {
        Ok(mut shell) => shell_status(copy.until_exit(&mut shell, &mut tail).await?),
        Err(error) => {
            let complaint = format!("{error:#}\r\n");
            copy.terminal.show(complaint.as_bytes())?;
            tail.push(complaint.as_bytes());
            CANNOT_RUN
        }
    };
    let (output_tail, output_truncated) = tail.into_text();
    let result = SessionResult { exit_status, output_tail, output_truncated, finished_at: Timestamp::now() };
    let break_line = if result.output_tail.is_empty() || result.output_tail.ends_with('\n') { "" } else { "\r\n" };
    write!(copy.terminal, "{break_line}\x1b[0m\r\n[exit status {exit_status}]\r\n")?;
    let socket = Layout::new(root).guest_socket();
    copy.deliver(socket, Request::Result { result }).await?;
    // The screen stays. Processes that the command left running are still shown.
    copy.show_while(std::future::pending()).await
}

fn shell_status(status: ExitStatus) -> i32 {
    status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(255)
}

/// The terminal on the desktop and the PTY of the command.
struct Copy {
    terminal: Terminal,
    pty: Pty,
}

impl Copy {
    /// Shows what is about to run, as if it had been typed. Not part of the output.
    fn announce(&mut self, root: &Path) -> anyhow::Result<()> {
        // What cannot be read cannot be run either: that complaint follows.
        let script = std::fs::read_to_string(script(root)).unwrap_or_default();
        for (number, line) in script.trim_end().lines().take(ANNOUNCED_LINES).enumerate() {
            let prompt = if number == 0 { '$' } else { '>' };
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            write!(self.terminal, "\x1b[1;34m{prompt}\x1b[0m {line}\r\n")?;
        }
        Ok(())
    }

    fn spawn(&mut self, root: &Path) -> anyhow::Result<tokio::process::Child> {
        if !script(root).is_file() {
            bail!("there is nothing to run: {} is missing", script(root).display());
        }
        let [stdin, stdout, stderr] = self.pty.take_command_side()?;
        tokio::process::Command::new("/proc/self/exe")
            .arg0("agentd")
            .arg("task")
            .arg(root)
            .arg("shell")
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .context("cannot start a shell")
    }

    async fn until_exit(&mut self, shell: &mut tokio::process::Child, tail: &mut Tail) -> anyhow::Result<ExitStatus> {
        let mut resized = signal(SignalKind::window_change())?;
        let status = loop {
            // The shell first: once it has ended, its output is taken below.
            tokio::select! {
                biased;
                status = shell.wait() => break status?,
                done = self.step(&mut resized, Some(&mut *tail)) => done?,
            }
        };
        while let Some(bytes) = self.pty.output.read_now() {
            tail.push(&bytes);
            self.terminal.show(&bytes)?;
            if tail.is_flooded() {
                break;
            }
        }
        Ok(status)
    }

    /// Gives the outcome to the guest until that has it on disk.
    async fn deliver(&mut self, socket: PathBuf, result: Request) -> anyhow::Result<()> {
        let message = Arc::new((socket, result));
        let mut complained = false;
        loop {
            let message = message.clone();
            let attempt = tokio::task::spawn_blocking(move || call(&message.0, &message.1, RESULT_TIMEOUT));
            let refused = match self.show_while(attempt).await?? {
                Ok(Answer::Done) => return Ok(()),
                Ok(other) => format!("{other:?}"),
                Err(error) => error.to_string(),
            };
            if !complained {
                complained = true;
                write!(self.terminal, "[the result is not recorded yet: {refused}]\r\n")?;
            }
            self.show_while(tokio::time::sleep(RESULT_RETRY)).await?;
        }
    }

    /// Goes on copying until `work` is done.
    async fn show_while<T>(&mut self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let mut resized = signal(SignalKind::window_change())?;
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                step = self.step(&mut resized, None) => step?,
            }
        }
    }

    /// Copies one piece in one direction. Cancel-safe: every arm takes what is there or nothing.
    async fn step(&mut self, resized: &mut Signal, tail: Option<&mut Tail>) -> anyhow::Result<()> {
        let Self { terminal, pty } = self;
        let idle = pty.input.is_empty();
        tokio::select! {
            bytes = pty.output.read() => {
                if let Some(tail) = tail {
                    tail.push(&bytes);
                }
                terminal.show(&bytes)?;
            }
            () = pty.input.send(), if !idle => {}
            bytes = terminal.read(), if idle => pty.input.push(&bytes?),
            _ = resized.recv() => pty.resize(terminal.size()),
        }
        Ok(())
    }
}
