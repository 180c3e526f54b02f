//! One child: started, waited for until it is ready, started again when it dies, ended on request.
//!
//! One task per service owns the child. It says once whether the first start succeeded ([`Handle::ready`]); after that
//! it restarts with a pause of 0.1, 1, 2, 4 … 30 s, which begins anew once the child has been up for a minute.
//! Meanwhile its log is kept small. Dropping the handle without [`Handle::end`] ends the child, too.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use helix_protocol::runner::REGISTERED_NOTICE;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::nats::PortsFile;
use super::notify::{self, NotifySocket};
use crate::error::{CliError, Kind, Result};

/// Logs are begun anew when they are larger.
const LOG_BYTES: u64 = 10 << 20;
/// Between two looks at the size of a log.
pub const LOG_CHECK: Duration = Duration::from_mins(1);
/// Before the first restart: everybody waits for it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const PAUSE_AT_MOST: Duration = Duration::from_secs(30);
/// Up for that long: the next death is a new one.
const SETTLED: Duration = Duration::from_mins(1);
/// Lines of a log shown when a start fails.
const TAIL_LINES: usize = 12;

/// Variables that decide what `up` decides itself, or that are meant for this process alone. A value from the shell
/// (`API_TOKEN` of something else) must not reach the children, where it would win over their settings file.
const SCRUBBED: [&str; 22] = [
    "API_HOST",
    "HELIX_API_HOST",
    "API_TOKEN",
    "HELIX_API_TOKEN",
    "RUNNER_ID",
    "CONCURRENCY",
    "AGENT_CONCURRENCY",
    "WORKSPACE_DIR",
    "NATS_URL",
    "NATS_SERVER_HOST",
    "NATS_SERVER_PORT",
    "RUNNER_TOKEN",
    "HELIX_URL",
    "HELIX_TOKEN",
    "HELIX_STATE_DIR",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "INVOCATION_ID",
];

/// How a child says that it is ready.
#[derive(Debug, Clone)]
pub enum Readiness {
    /// nats-server: by its ports file in this directory.
    PortsFile(PathBuf),
    /// helix-server: `READY=1` on this socket.
    Notify(PathBuf),
    /// agentd: that it is registered, on this socket.
    Registered(PathBuf),
}

/// What to run and how to treat it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name in logs and in `up.json`.
    pub name: &'static str,
    /// Program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where its output goes.
    pub log: PathBuf,
    /// How it says that it is ready.
    pub readiness: Readiness,
    /// Longest wait for the first readiness.
    pub ready_within: Duration,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

/// What the first readiness told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Port, for a service that tells one.
    pub port: Option<u16>,
}

/// Called with the pid of every child that was started.
pub type OnSpawn = Arc<dyn Fn(&'static str, u32) + Send + Sync>;

/// The caller's side of a running service.
pub struct Handle {
    ready: Option<oneshot::Receiver<Result<Ready>>>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Handle {
    /// Starts the service.
    pub fn start(spec: Spec, on_spawn: OnSpawn) -> Self {
        let (ready_tx, ready) = oneshot::channel();
        let (stop, stop_rx) = oneshot::channel();
        let service = Service { spec, on_spawn, ready: Some(ready_tx), stop: stop_rx };
        Self { ready: Some(ready), stop, task: tokio::spawn(service.run()) }
    }

    /// Outcome of the first start. To be asked once.
    pub async fn ready(&mut self) -> Result<Ready> {
        let gone = || CliError::failed("the supervision of a child ended before it was ready");
        self.ready.take().ok_or_else(gone)?.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Ends the child and returns when it is gone.
    pub async fn end(self) {
        // An error says that the task has ended already.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// A command for one of the children: no input, nothing of this process's settings, an own process group so that
/// Ctrl-C on the terminal reaches the supervisor alone.
pub fn scrubbed(program: &Path) -> Command {
    let mut command = Command::from(without_settings(program));
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// A command without this process's settings.
pub fn without_settings(program: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    for name in SCRUBBED {
        command.env_remove(name);
    }
    command
}

struct Service {
    spec: Spec,
    on_spawn: OnSpawn,
    ready: Option<oneshot::Sender<Result<Ready>>>,
    stop: oneshot::Receiver<()>,
}

/// How one run of the child ended.
enum Ended {
    OnRequest,
    ByItself(CliError),
}

impl Service {
    async fn run(self) {
        let log = self.spec.log.clone();
        tokio::select! {
            () = self.supervise() => {}
            never = keep_small(&log, LOG_CHECK) => match never {},
        }
    }

    async fn supervise(mut self) {
        let mut deaths = 0;
        loop {
            let begun = Instant::now();
            let why = match self.once().await {
                Ended::OnRequest => return,
                Ended::ByItself(why) => why,
            };
            if let Some(ready) = self.ready.take() {
                // The first start failed: whoever started it decides.
                let _ = ready.send(Err(why));
                return;
            }
            deaths = if begun.elapsed() >= SETTLED { 1 } else { deaths + 1 };
            let pause = restart_pause(deaths);
            warn!(
                service = self.spec.name,
                pause_s = pause.as_secs_f64(),
                why = why.why.as_deref(),
                "child ended, starting it again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut self.stop => return,
            }
        }
    }

    async fn once(&mut self) -> Ended {
        match self.spawn() {
            Ok((child, waiter, log_start)) => self.attend(child, waiter, log_start).await,
            Err(error) => Ended::ByItself(error),
        }
    }

    fn spawn(&self) -> Result<(Child, Waiter, u64)> {
        let spec = &self.spec;
        let failed = |error: std::io::Error| start_failed(spec, &error.to_string());
        let log = open_log(&spec.log).map_err(failed)?;
        let log_start = log.metadata().map_err(failed)?.len();
        let waiter = Waiter::new(&spec.readiness)?;
        let mut command = scrubbed(&spec.program);
        if let Readiness::Notify(socket) | Readiness::Registered(socket) = &spec.readiness {
            command.env("NOTIFY_SOCKET", socket);
        }
        let child =
            command.args(&spec.args).stdout(log.try_clone().map_err(failed)?).stderr(log).spawn().map_err(failed)?;
        if let Some(pid) = child.id() {
            (self.on_spawn)(spec.name, pid);
        }
        Ok((child, waiter, log_start))
    }

    /// From spawn to end. Every arm is cancel safe: a lost wake-up of `wait` or `ready` is seen by the next one.
    async fn attend(&mut self, mut child: Child, mut waiter: Waiter, log_start: u64) -> Ended {
        let pid = child.id().unwrap_or_default();
        // A restart may take as long as it needs: agentd waits for its server, and is not registered before.
        let patience = if self.ready.is_some() { self.spec.ready_within } else { Duration::MAX };
        tokio::select! {
            ready = waiter.ready(pid) => {
                info!(service = self.spec.name, pid, "child is ready");
                if let Some(sender) = self.ready.take() {
                    let _ = sender.send(Ok(ready));
                }
            }
            status = child.wait() => return Ended::ByItself(self.died(status, log_start)),
            _ = &mut self.stop => {
                end(&mut child, &waiter, self.spec.grace).await;
                return Ended::OnRequest;
            }
            () = tokio::time::sleep(patience) => {
                end(&mut child, &waiter, self.spec.grace).await;
                return Ended::ByItself(self.never_ready(log_start));
            }
        }
        tokio::select! {
            status = child.wait() => Ended::ByItself(self.died(status, log_start)),
            never = waiter.drain() => match never {},
            _ = &mut self.stop => {
                end(&mut child, &waiter, self.spec.grace).await;
                Ended::OnRequest
            }
        }
    }

    fn died(&self, status: std::io::Result<ExitStatus>, log_start: u64) -> CliError {
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        // Whoever waits for the first start has not seen the log; later it is where it always is.
        let said = if self.ready.is_some() { tail(&self.spec.log, log_start) } else { String::new() };
        start_failed(&self.spec, &format!("it ended with {how}{said}"))
    }

    fn never_ready(&self, log_start: u64) -> CliError {
        let seconds = self.spec.ready_within.as_secs();
        let why = format!("it was not ready within {seconds} s{}", tail(&self.spec.log, log_start));
        CliError { kind: Kind::TimedOut, ..start_failed(&self.spec, &why) }
    }
}

fn start_failed(spec: &Spec, why: &str) -> CliError {
    CliError::failed(format!("{} does not start", spec.name))
        .at(spec.program.display())
        .because(why)
        .next(format!("read its log: {}", spec.log.display()))
}

/// Pause after that many deaths in a row.
fn restart_pause(deaths: u32) -> Duration {
    match deaths.checked_sub(2) {
        None => FIRST_PAUSE,
        Some(doublings) => Duration::from_secs(1 << doublings.min(5)).min(PAUSE_AT_MOST),
    }
}

/// SIGTERM, and SIGKILL after `grace`. What the child says meanwhile is still read: it would block on a full socket.
async fn end(child: &mut Child, waiter: &Waiter, grace: Duration) {
    // A pid is only there while the child is not reaped, so it cannot be another process's.
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    let ended = tokio::select! {
        ended = tokio::time::timeout(grace, child.wait()) => ended.is_ok(),
        never = waiter.drain() => match never {},
    };
    if !ended {
        warn!(pid = pid.map(Pid::as_raw_nonzero), "child did not end in time, killing it");
        let _ = child.kill().await;
    }
}

/// The open end of a [`Readiness`].
enum Waiter {
    PortsFile(Box<PortsFile>),
    Notify(NotifySocket),
}

impl Waiter {
    fn new(readiness: &Readiness) -> Result<Self> {
        Ok(match readiness {
            Readiness::PortsFile(dir) => Self::PortsFile(Box::new(PortsFile::watch(dir)?)),
            Readiness::Notify(path) => Self::Notify(NotifySocket::bind(path, notify::READY)?),
            Readiness::Registered(path) => Self::Notify(NotifySocket::bind(path, REGISTERED_NOTICE)?),
        })
    }

    async fn ready(&mut self, pid: u32) -> Ready {
        match self {
            Self::PortsFile(file) => Ready { port: Some(file.port(pid).await) },
            Self::Notify(socket) => {
                socket.ready().await;
                Ready { port: None }
            }
        }
    }

    /// Reads and drops what the child says from now on.
    async fn drain(&self) -> Infallible {
        match self {
            Self::PortsFile(_) => std::future::pending().await,
            Self::Notify(socket) => socket.drain().await,
        }
    }
}

/// Opens a log to append to; one that is too large becomes `<name>.log.1` first.
pub fn open_log(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_BYTES) {
        std::fs::rename(path, path.with_added_extension("1"))?;
    }
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Looks at a log from time to time and empties it when it has become too large.
pub async fn keep_small(path: &Path, every: Duration) -> Infallible {
    loop {
        tokio::time::sleep(every).await;
        if let Err(error) = put_aside(path) {
            warn!(log = %path.display(), %error, "cannot put a large log aside");
        }
    }
}

/// Empties a log that is too large and that a child goes on appending to; its end becomes `<name>.log.1`. What is
/// written between the copy and the cut is lost. The copy is bounded, so it does not block for long.
fn put_aside(path: &Path) -> std::io::Result<()> {
    let length = match std::fs::metadata(path) {
        Ok(meta) if meta.len() > LOG_BYTES => meta.len(),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => return Ok(()),
    };
    let mut log = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let aside = path.with_added_extension("1");
    let mut aside = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(aside)?;
    log.seek(SeekFrom::Start(length - LOG_BYTES))?;
    std::io::copy(&mut (&log).take(2 * LOG_BYTES), &mut aside)?;
    log.set_len(0)
}

/// What was written to the log since `start`, or since it was emptied: its last lines, each on one of its own.
pub fn tail(log: &Path, start: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let fresh = bytes.get(usize::try_from(start).unwrap_or(usize::MAX)..).unwrap_or(&bytes);
    let text = String::from_utf8_lossy(fresh);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).flat_map(|line| ["\n| ", line]).collect()
}

#[cfg(test)]
mod tests;
