//! How a run ends. Each of these starts this very program once more, inside the lab, where it makes a lab of its own:
//! as it passes, as it fails, as somebody types Ctrl-C, and as its processes are killed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::{runs, signal_pid};
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::harness::cgroup::Cgroup;
use crate::harness::janitor::LAB;
use crate::harness::{Boot, Case, root};

/// Where the inner run says that its hosts are up; also that it is one, which has one more case.
const PREY: &str = "HELIX_TEST_HOSTS_PREY";
/// What the inner run does when its hosts are up.
const FATE: &str = "HELIX_TEST_HOSTS_FATE";
const PREY_CASE: &str = "harness::prey";

pub fn cases() -> Vec<Case> {
    if std::env::var_os(PREY).is_some() {
        return vec![Case::always(PREY_CASE, prey)];
    }
    vec![
        Case::always("harness::runs_do_not_disturb_each_other", runs_do_not_disturb_each_other),
        Case::always("harness::nothing_is_left_of_a_panic", nothing_is_left_of_a_panic),
        Case::always("harness::nothing_is_left_of_an_interrupted_run", nothing_is_left_of_an_interrupted_run),
        Case::always("harness::nothing_is_left_of_a_killed_launcher", nothing_is_left_of_a_killed_launcher),
        Case::always("harness::nothing_is_left_of_a_killed_run", nothing_is_left_of_a_killed_run),
    ]
}

/// Boots a container, with a guest on its way up, and meets its fate once the outer run has taken its file away.
async fn prey() -> Result<()> {
    let ready = PathBuf::from(std::env::var_os(PREY).context("not an inner run")?);
    let _guest = tokio::spawn(Boot::guest().start());
    let container = Boot::container().start().await?;
    let staged = ready.with_extension("new");
    fs::write(&staged, std::env::var(LAB)?)?;
    fs::rename(staged, &ready)?;
    eventually("the outer run has looked at everything", secs(60), async || {
        ensure!(!ready.exists());
        Ok(())
    })
    .await?;
    let fate = std::env::var(FATE)?;
    assert!(fate != "panic", "as it was asked to");
    container.run("sleep 60").await?;
    bail!("nobody came");
}

/// An inner run whose hosts are up.
struct Run {
    launcher: Child,
    lab: String,
    /// All its processes: those of launcher, init and trials first.
    processes: Vec<u32>,
    /// Its namespaces of network and mounts, hosts' included.
    namespaces: Vec<PathBuf>,
    /// The same, open: as long as they are, no other namespace gets a number of theirs.
    _open: Vec<File>,
    temporary: Vec<PathBuf>,
}

impl Run {
    async fn start(fate: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?; // not in the lab's /run: the inner lab has another
        let ready = dir.path().join("ready");
        let temporary = temporary()?;
        let mut launcher = again(&["--exact", PREY_CASE])?.env(PREY, &ready).env(FATE, fate).spawn()?;
        let pid = launcher.id().context("it has just begun")?;
        let begun = eventually("the inner run's hosts are up", secs(60), async || Ok(fs::read_to_string(&ready)?));
        let lab = tokio::select! {
            lab = begun => lab?,
            status = launcher.wait() => bail!("the inner run ended: {status:?}"),
        };
        let processes = descendants(pid)?;
        ensure!(processes.len() > 10, "where are its hosts? {processes:?}");
        let own = namespaces(std::process::id());
        let (mut namespaces, mut open) = (Vec::new(), Vec::new());
        for path in processes.iter().flat_map(|pid| namespace_files(*pid)) {
            // A process may have ended since.
            let Ok(file) = File::open(&path) else { continue };
            let Ok(name) = fs::read_link(Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())) else {
                continue;
            };
            if !own.contains(&name) && !namespaces.contains(&name) {
                namespaces.push(name);
                open.push(file);
            }
        }
        ensure!(!Cgroup::of_lab(&lab).present().is_empty(), "where are its cgroups?");
        fs::remove_file(&ready)?;
        Ok(Self { launcher, lab, processes, namespaces, _open: open, temporary })
    }

    async fn end(&mut self) -> Result<ExitStatus> {
        Ok(timeout(secs(60), self.launcher.wait()).await.context("the launcher does not end")??)
    }

    /// Kernel objects go when their last user does; what is left would hold one of these.
    fn processes_are_gone(&self) -> Result<()> {
        let left: Vec<_> = self.processes.iter().filter(|pid| runs(**pid)).collect();
        ensure!(left.is_empty(), "processes are left: {left:?}");
        // A link, a mount and a bound namespace live in a namespace, and that lives while a process is in it or a mount
        // holds it.
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mounted: Vec<_> = self.namespaces.iter().filter(|name| mounts.contains(&*name.to_string_lossy())).collect();
        ensure!(mounted.is_empty(), "namespaces are mounted: {mounted:?}");
        for pid in pids()? {
            let shared: Vec<_> = namespaces(pid).into_iter().filter(|name| self.namespaces.contains(name)).collect();
            ensure!(shared.is_empty(), "process {pid} is in {shared:?}");
        }
        let new: Vec<_> = temporary()?.into_iter().filter(|path| !self.temporary.contains(path)).collect();
        ensure!(new.is_empty(), "files are left: {new:?}");
        Ok(())
    }

    fn nothing_is_left(&self) -> Result<()> {
        self.processes_are_gone()?;
        let cgroups = Cgroup::of_lab(&self.lab).present();
        ensure!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
        ensure!(!root::cache()?.join("labs").join(&self.lab).exists(), "the lab's file is left");
        Ok(())
    }
}

async fn runs_do_not_disturb_each_other() -> Result<()> {
    let ours = Boot::container().start().await?;
    let inner = async || {
        let output = again(&["--exact", "harness::partitions"])?.stdout(Stdio::piped()).output();
        let output = timeout(secs(120), output).await??;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    };
    let ((), ()) = tokio::try_join!(inner(), inner())?;
    ensure!(ours.run_ok("systemctl is-system-running").await? == "running", "our host suffered");
    ours.stop().await
}

async fn nothing_is_left_of_a_panic() -> Result<()> {
    let mut run = Run::start("panic").await?;
    let status = run.end().await?;
    ensure!(status.code() == Some(101), "a panic ended with {status}");
    run.nothing_is_left()
}

async fn nothing_is_left_of_an_interrupted_run() -> Result<()> {
    let mut run = Run::start("interrupt").await?;
    signal_pid(run.processes[0], Signal::INT)?;
    let status = run.end().await?;
    ensure!(status.code() == Some(130), "Ctrl-C ended with {status}");
    run.nothing_is_left()
}

async fn nothing_is_left_of_a_killed_launcher() -> Result<()> {
    let mut run = Run::start("kill the launcher").await?;
    signal_pid(run.processes[0], Signal::KILL)?;
    run.end().await?;
    // Init sees it, at once.
    eventually("nothing is left", secs(30), async || run.nothing_is_left()).await
}

async fn nothing_is_left_of_a_killed_run() -> Result<()> {
    let mut run = Run::start("kill all").await?;
    // The launcher and what it started, but no host: those the kernel ends.
    for pid in &run.processes[..4] {
        // The kernel may have been quicker: whatever ends unshare ends init, and that ends all the rest.
        let _ = signal_pid(*pid, Signal::KILL);
    }
    run.end().await?;
    eventually("no process is left", secs(10), async || run.processes_are_gone()).await?;
    // The next run takes the rest away before it does anything else.
    let next = again(&["--exact", "harness::files_go_in_and_out"])?.status().await?;
    ensure!(next.success(), "the next run failed");
    run.nothing_is_left()
}

/// This program once more, as somebody outside would start it.
fn again(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args).env_remove(LAB).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true);
    Ok(command)
}

/// What nspawn makes when it is not kept from it.
fn temporary() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir("/tmp")?.flatten().map(|entry| entry.path());
    Ok(entries.filter(|path| path.to_string_lossy().contains("nspawn")).collect())
}

fn namespaces(pid: u32) -> Vec<PathBuf> {
    namespace_files(pid).iter().filter_map(|path| fs::read_link(path).ok()).collect()
}

fn namespace_files(pid: u32) -> [PathBuf; 2] {
    ["net", "mnt"].map(|kind| Path::new("/proc").join(pid.to_string()).join("ns").join(kind))
}

fn pids() -> Result<Vec<u32>> {
    Ok(fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// A process and all below it, parents before their children.
fn descendants(pid: u32) -> Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in pids()? {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        children.entry(parent.unwrap_or_default()).or_default().push(pid);
    }
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    Ok(found)
}
