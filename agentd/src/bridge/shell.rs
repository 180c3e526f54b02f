//! Turns as shell commands: each is a script that `/bin/sh` runs in the project's directory on a PTY of its own.
//!
//! One task takes orders; each command has a task, which ends when the shell has ended and nobody has its PTY open any
//! more: what a command leaves running goes on and is still shown. The script is a file and never an argument:
//! arguments are limited in size and can be read by everybody.

pub mod tail;
pub mod text;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::Winsize;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::tail::Tail;
use self::text::Text;
use super::agent::{Change, News, NewsSender, Order, Over, new_id};
use super::record::End;
use super::terminal::Pty;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// As a shell says that a program cannot be run.
const CANNOT_RUN: i32 = 127;

/// Takes orders until there are none any more. Scripts are in `dir`.
pub async fn run(
    dir: PathBuf,
    mut size: Option<Winsize>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    news: NewsSender,
) {
    let mut commands: BTreeMap<String, mpsc::UnboundedSender<Control>> = BTreeMap::new();
    if news.send(News::Ready).await.is_err() {
        return;
    }
    while let Some(order) = orders.recv().await {
        let answer = match order {
            Order::Prepare { request, thread } => {
                let thread = thread.unwrap_or_else(|| new_id("sh_"));
                Some(News::Prepared { request, thread })
            }
            Order::Prompt { request, text, .. } => {
                commands.retain(|_, control| !control.is_closed());
                let (control, controls) = mpsc::unbounded_channel();
                commands.insert(request.clone(), control);
                let script = dir.join(format!("{}.sh", new_id("")));
                tokio::spawn(command(request, script, text, size, controls, news.clone()));
                None
            }
            Order::Cancel { request } => {
                control(&commands, &request, Control::Cancel);
                None
            }
            Order::Keys { request, bytes } => {
                control(&commands, &request, Control::Keys(bytes));
                None
            }
            Order::Resize(now) => {
                size = Some(now);
                for request in commands.keys() {
                    control(&commands, request, Control::Resize(now));
                }
                None
            }
            // The engine knows every thread of a shell, and a shell asks nothing and offers nothing.
            Order::Open { .. } | Order::Answer { .. } | Order::Set { .. } => None,
        };
        if let Some(answer) = answer
            && news.send(answer).await.is_err()
        {
            return;
        }
    }
}

fn control(commands: &BTreeMap<String, mpsc::UnboundedSender<Control>>, request: &str, control: Control) {
    if let Some(command) = commands.get(request) {
        // One that has ended needs none.
        let _ = command.send(control);
    }
}

#[derive(Debug)]
enum Control {
    Cancel,
    Keys(Vec<u8>),
    Resize(Winsize),
}

/// Runs one command to its end.
async fn command(
    request: String,
    script: PathBuf,
    text: String,
    size: Option<Winsize>,
    controls: mpsc::UnboundedReceiver<Control>,
    news: NewsSender,
) {
    let mut run = Run { request, news, text: Text::default(), tail: Tail::default(), cancelled: false };
    let started = write(&script, &text).and_then(|()| {
        let mut pty = Pty::open(size)?;
        let shell = spawn(&mut pty, &script)?;
        Ok((pty, shell))
    });
    let (pty, exit_status) = match started {
        Ok((mut pty, mut shell)) => {
            let mut controls = controls;
            let exit_status = run.until_exit(&mut pty, &mut shell, &mut controls).await;
            (Some((pty, controls)), exit_status)
        }
        Err(error) => {
            run.output(format!("{error:#}\r\n").into_bytes()).await;
            (None, CANNOT_RUN)
        }
    };
    let _ = fs::remove_file(&script);
    let Run { request, news, text, tail, cancelled } = run;
    let last = text.finish();
    let change = Change { request: request.clone(), key: 0, tool: None, keep: last.keep, text: last.text };
    if (!change.text.is_empty() || change.keep != usize::MAX) && news.send(News::Change(change)).await.is_err() {
        return;
    }
    let end = if cancelled { End::Cancelled } else { End::Completed };
    let (exit_status, tail) = (Some(exit_status), Some(tail.into_text()));
    let over = Over { request: request.clone(), end, usage: None, exit_status, tail };
    if news.send(News::Over(over)).await.is_ok()
        && let Some((pty, controls)) = pty
    {
        linger(request, pty, controls, &news).await;
    }
}

/// Shows what a command left running, and lets it be typed to: nothing, since it is not in front any more.
async fn linger(request: String, mut pty: Pty, mut controls: mpsc::UnboundedReceiver<Control>, news: &NewsSender) {
    loop {
        tokio::select! {
            bytes = pty.output.read() => {
                let Some(bytes) = bytes else { return };
                if news.send(News::Raw { request: request.clone(), bytes }).await.is_err() {
                    return;
                }
            }
            control = controls.recv() => match control {
                Some(Control::Resize(size)) => pty.output.resize(size),
                Some(Control::Cancel | Control::Keys(_)) => {}
                None => return,
            }
        }
    }
}

fn write(script: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(script);
    let mut file = file.with_context(|| format!("cannot write {}", script.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", script.display()))
}

fn spawn(pty: &mut Pty, script: &Path) -> anyhow::Result<Child> {
    let [stdin, stdout, stderr] = pty.take_command_side()?;
    tokio::process::Command::new("/proc/self/exe")
        .arg0("agentd")
        .args(["acp-bridge", "shell"])
        .arg(script)
        // The bridge's alone: what a command prints is stored.
        .env_remove("ZED_HELIX_TOKEN")
        .env_remove("HELIX_BRIDGE_REASON")
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .context("cannot start a shell")
}

/// `agentd acp-bridge shell <script>`: makes standard input the controlling terminal of a new session and becomes the
/// shell.
pub fn become_shell(mut args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let script = args.next().context("a script is wanted: this is internal")?;
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(std::io::stdin())?;
    let error = std::process::Command::new("/bin/sh").arg(script).exec();
    Err(error).context("cannot run /bin/sh")
}

fn shell_status(status: ExitStatus) -> i32 {
    status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(255)
}

struct Run {
    request: String,
    news: NewsSender,
    text: Text,
    tail: Tail,
    cancelled: bool,
}

impl Run {
    async fn until_exit(
        &mut self,
        pty: &mut Pty,
        shell: &mut Child,
        controls: &mut mpsc::UnboundedReceiver<Control>,
    ) -> i32 {
        let group = shell.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let kill = |signal| {
            // The shell is the head of its group, and is not waited for yet: the number is nobody else's.
            group.map(|group| kill_process_group(group, signal))
        };
        let mut deadline = None;
        let mut ordered = true;
        let status = loop {
            let idle = pty.input.is_empty();
            // The shell first: once it has ended, its output is taken below.
            tokio::select! {
                biased;
                status = shell.wait() => break status.map_or(255, shell_status),
                () = until(deadline) => {
                    deadline = None;
                    kill(Signal::KILL);
                }
                control = controls.recv(), if ordered && idle => match control {
                    Some(Control::Cancel) => {
                        self.cancelled = true;
                        kill(Signal::TERM);
                        // One that was stopped by somebody must go on to hear it.
                        kill(Signal::CONT);
                        deadline.get_or_insert(Instant::now() + GRACE);
                    }
                    Some(Control::Keys(bytes)) => pty.input.push(&bytes),
                    Some(Control::Resize(size)) => pty.output.resize(size),
                    None => ordered = false,
                },
                bytes = pty.output.read() => if let Some(bytes) = bytes {
                    self.output(bytes).await;
                },
                _ = pty.input.send(), if !idle => {}
            }
        };
        if self.cancelled {
            // What the shell started and did not wait for has the same time to end.
            let until_closed = async {
                while let Some(bytes) = pty.output.read().await {
                    self.output(bytes).await;
                }
            };
            let rest = deadline.unwrap_or_else(Instant::now);
            if tokio::time::timeout_at(rest, until_closed).await.is_err() {
                kill(Signal::KILL);
            }
        }
        while let Some(bytes) = pty.output.read_now() {
            self.output(bytes).await;
            if self.tail.is_flooded() {
                break;
            }
        }
        status
    }

    async fn output(&mut self, bytes: Vec<u8>) {
        self.tail.push(&bytes);
        let edit = self.text.push(&bytes);
        let change = Change { request: self.request.clone(), key: 0, tool: None, keep: edit.keep, text: edit.text };
        // Without the engine there is nobody to tell.
        let _ = self.news.send(News::Raw { request: self.request.clone(), bytes }).await;
        if edit.keep != usize::MAX || !change.text.is_empty() {
            let _ = self.news.send(News::Change(change)).await;
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
