//! One program under test as a process: its log in a file, its readiness by sd-notify, its end by pid.
//!
//! Whatever happens to the test, dropping a [`Process`] kills the process it started.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a program may take to be ready or to end on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// For messages and the log's name.
    pub name: String,
    /// Executable.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment beside PATH, HOME and LANG.
    pub env: Vec<(String, String)>,
    /// Directory for the log and the notify socket; also HOME.
    pub dir: PathBuf,
    /// What it says on the notify socket when it is ready.
    pub ready: &'static str,
}

/// A running (or ended) program.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    ready: watch::Receiver<bool>,
    _listener: AbortOnDrop,
}

/// Ends its task when dropped.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Launch {
    /// Starts it without waiting for anything.
    pub fn spawn(&self) -> Result<Process> {
        let log = self.dir.join(format!("{}.log", self.name));
        let file = std::fs::File::options().create(true).append(true).open(&log)?;
        let socket = self.dir.join(format!("{}.notify", self.name));
        let _ = std::fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).with_context(|| format!("notify socket {}", socket.display()))?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.dir)
            .env("LANG", "C.UTF-8")
            .env("NOTIFY_SOCKET", &socket)
            .envs(self.env.iter().cloned())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true);
        let (said, ready) = watch::channel(false);
        let listener = AbortOnDrop(tokio::spawn(listen(notify, self.ready, said)));
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(Process { name: self.name.clone(), log, child, ready, _listener: listener })
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(&self) -> Result<Process> {
        let mut process = self.spawn()?;
        process.ready(PATIENCE).await?;
        Ok(process)
    }
}

impl Process {
    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it says that it is ready; an end before it is an error with the log's last lines.
    pub async fn ready(&mut self, within: Duration) -> Result<()> {
        let mut ready = self.ready.clone();
        let outcome = tokio::select! {
            heard = timeout(within, ready.wait_for(|ready| *ready)) => heard.map(|_| None),
            status = self.child.wait() => Ok(Some(status?)),
        };
        match outcome {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!("{} ended before it was ready: {status}\n{}", self.name, self.tail()),
            Err(_) => bail!("{} was not ready within {within:?}\n{}", self.name, self.tail()),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        signal_pid(pid, signal)
    }

    /// `kill -9`, and its body is collected.
    pub async fn kill(&mut self) -> Result<()> {
        if self.pid().is_some() {
            self.signal(Signal::KILL)?;
            self.child.wait().await?;
        }
        Ok(())
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        if self.pid().is_some() {
            self.signal(Signal::TERM)?;
        }
        self.wait(within).await
    }

    /// Waits for its end.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        match timeout(within, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} did not end within {within:?}\n{}", self.name, self.tail()),
        }
    }

    /// The log's last lines.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

/// Reads what the program says about itself, to its end: it would block on a full socket.
async fn listen(socket: UnixDatagram, word: &'static str, ready: watch::Sender<bool>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer).await {
        if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == word) {
            ready.send_replace(true);
        }
    }
}

/// Sends a signal to a process that may be anyone's child.
pub fn signal_pid(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    rustix::process::kill_process(pid, signal).with_context(|| format!("{signal:?} to {pid:?}"))
}

/// Resident memory of a process, in KiB.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// True while a process with this id exists and is no zombie.
pub fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

/// The last lines of a log, with its name.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(25)..];
    format!("--- {}\n{}", log.display(), last.join("\n"))
}

/// Exit code as a shell tells it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs a program to its end, at most for `within`; its whole output.
pub async fn run(
    program: &Path,
    args: &[&str],
    env: &[(String, String)],
    within: Duration,
) -> Result<std::process::Output> {
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
    match timeout(within, command.output()).await {
        Ok(output) => output.with_context(|| format!("cannot start {}", program.display())),
        Err(_) => bail!("{} {} did not end within {within:?}", program.display(), args.join(" ")),
    }
}
