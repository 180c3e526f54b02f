//! Nothing of a run outlives it, whoever dies and however. A run is three processes:
//!
//! - the *launcher*, which cargo starts. It sweeps what earlier runs left, builds the roots and starts
//! - *init*, as process 1 of network, mount and process namespaces of its own, with a private `/run`. It lays the
//!   network, collects orphans, and starts
//! - the *trials*: the test harness, and below it all hosts and helpers.
//!
//! Init's standard input is the *lifeline*, a pipe whose other end only the launcher has. A launcher that gets a signal
//! closes it; one that is killed loses it. Init then kills the trials, and when init ends, however, the kernel kills
//! all processes of the namespace, and with them go the links, the mounts and the files in `/run`. What the kernel does
//! not take away is cgroups. Init and the launcher both remove them; when both are killed, the next run's sweep does:
//! a lab's file in the cache is locked as long as either lives.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

use super::cgroup::Cgroup;
use super::lab;
use super::root::{Suite, cache, lock};

/// Names the lab that a process belongs to.
pub const LAB: &str = "HELIX_LAB";
/// What a test harness of Rust answers when it fails by itself.
const FAILED: u8 = 101;

/// Which of the three this process is.
#[derive(Debug)]
pub enum Role {
    /// Started by somebody outside.
    Launcher,
    /// Process 1 of this lab.
    Init(String),
    /// The test harness.
    Trials,
}

impl Role {
    /// Of this process.
    pub fn of_this_process() -> Self {
        match std::env::var(LAB) {
            Ok(lab) if std::process::id() == 1 => Self::Init(lab),
            Ok(_) => Self::Trials,
            Err(_) => Self::Launcher,
        }
    }
}

/// A lab's file, locked while it lives.
struct Claim {
    path: PathBuf,
    _file: File,
}

impl Claim {
    /// Of a new lab. Sweeping waits meanwhile: it would take a file that is not locked yet for a dead lab's.
    fn stake(lab: &str) -> Result<Self> {
        let _registry = lock(&registry()?.join(".lock"))?;
        Self::join(lab)
    }

    /// Of a lab that is claimed already: both processes hold it.
    fn join(lab: &str) -> Result<Self> {
        let path = registry()?.join(lab);
        let file = File::options().create(true).append(true).open(&path)?;
        file.lock_shared()?;
        Ok(Self { path, _file: file })
    }

    /// Everything of the lab is gone.
    fn release(self) {
        // The other one may have been here before.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what labs left whose processes are dead.
pub fn sweep() -> Result<()> {
    let registry = registry()?;
    let _registry = lock(&registry.join(".lock"))?;
    for entry in fs::read_dir(&registry)? {
        let entry = entry?;
        let lab = entry.file_name().to_string_lossy().into_owned();
        let Ok(file) = File::open(entry.path()) else { continue };
        match file.try_lock() {
            _ if lab.starts_with('.') => {}
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(fault)) => return Err(fault).context("cannot look at the lock of a lab"),
            Ok(()) => {
                super::say(&format!("sweeping what is left of lab {lab}, whose processes were killed"));
                Cgroup::of_lab(&lab).remove()?;
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// The same program by sudo, as the other parts of the set-up are run: hosts need namespaces, cgroups and mounts.
fn as_root() -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    super::say("booting hosts needs root: going on with sudo");
    let kept = ["HOME", "PATH", "CARGO_TARGET_DIR", "RUST_BACKTRACE"].into_iter().map(str::to_owned);
    let kept = kept.chain(std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("HELIX_")));
    let kept = kept.filter_map(|name| Some(format!("{name}={}", std::env::var(&name).ok()?)));
    let fault = std::process::Command::new("sudo")
        .arg("env")
        .args(kept)
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(anyhow::Error::new(fault).context("cannot start sudo"))
}

/// The launcher: prepares, starts init, waits for it, and cleans up.
pub fn launch(prepare: impl FnOnce() -> Result<()>) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() && lab::has("sudo") {
        return as_root();
    }
    lab::check_prerequisites()?;
    sweep()?;
    for suite in Suite::ALL {
        suite.build()?;
    }
    prepare()?;
    let unique = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let lab = unique[..8].to_owned();
    let claim = Claim::stake(&lab)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(watch(&lab));
    Cgroup::of_lab(&lab).remove()?;
    claim.release();
    code
}

/// Starts init and waits for its end, which a signal brings about.
async fn watch(lab: &str) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut init = tokio::process::Command::new("unshare")
        // Slave: what the machine unmounts goes here, too, and is not held up by our copy of its mounts.
        .args(["--net", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(LAB, lab)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start unshare")?;
    let lifeline = init.stdin.take();
    let status = tokio::select! {
        status = init.wait() => Some(status?),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        _ = hang_up.recv() => None,
    };
    drop(lifeline);
    if let Some(status) = status {
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED);
        return Ok(ExitCode::from(code));
    }
    super::say("interrupted: ending all hosts");
    init.wait().await?;
    Ok(ExitCode::from(130))
}

/// Init: lays the lab, starts the trials, collects whoever ends, and ends with the trials.
pub fn init(name: &str) -> Result<ExitCode> {
    let claim = Claim::join(name)?;
    lab::lay(name)?;
    let trials = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the trials")?;
    let pid = Pid::from_child(&trials);
    std::thread::spawn(move || {
        // Nobody ever writes: it ends when the launcher lets go.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = kill_process(pid, Signal::KILL);
    });
    let code = loop {
        match wait(WaitOptions::empty()).context("process 1 has no children")? {
            Some((ended, status)) if ended == pid => break status.exit_status(),
            _ => {}
        }
    };
    Cgroup::of_lab(name).remove()?;
    claim.release();
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)))
}

fn registry() -> Result<PathBuf> {
    let dir = cache()?.join("labs");
    fs::create_dir_all(&dir)?;
    ensure!(dir.is_dir(), "{} is no directory", dir.display());
    Ok(dir)
}
