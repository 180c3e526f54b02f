//! Cgroups of a lab and of its hosts: what a host started is in the host's cgroup, and is ended by it.
//!
//! With version 1 there is one directory in each hierarchy, below the mount points that the machine has; a container
//! gets its own as delegated controllers. With version 2 alone there is one directory. Nothing else is touched.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const MOUNTS: &str = "/sys/fs/cgroup";
const PROCESSES: &str = "cgroup.procs";
/// A killed process may hang in its disk for a while, and holds its cgroup until then.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of one name in every hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup(String);

impl Cgroup {
    /// That of a lab; not made yet.
    pub fn of_lab(lab: &str) -> Self {
        Self(format!("helix-lab-{lab}"))
    }

    /// That of one of its hosts; not made yet.
    pub fn host(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }

    /// Makes it, in all hierarchies.
    pub fn make(&self) -> Result<()> {
        for dir in self.dirs()? {
            match fs::create_dir(&dir) {
                Err(fault) if fault.kind() != ErrorKind::AlreadyExists => {
                    return Err(fault).with_context(|| format!("cannot make the cgroup {}", dir.display()));
                }
                _ => {}
            }
            // An empty set of processors takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = dir.with_file_name(file);
                if above.is_file() && !unified() {
                    fs::write(dir.join(file), fs::read(above)?)?;
                }
            }
        }
        Ok(())
    }

    /// Where a process enters: one file per hierarchy.
    pub fn entrances(&self) -> Result<Vec<PathBuf>> {
        Ok(self.dirs()?.iter().map(|dir| dir.join(PROCESSES)).collect())
    }

    /// The same program with the same arguments and variables. It enters before it becomes the program: nothing of it is
    /// ever outside.
    pub fn command(&self, command: &Command) -> Result<tokio::process::Command> {
        let mut inside = tokio::process::Command::new("sh");
        inside.args(["-euc", r#"while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift; exec "$@""#, "sh"]);
        inside.args(self.entrances()?).arg("--").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            inside.current_dir(dir);
        }
        Ok(inside)
    }

    /// Processor time in milliseconds that was used in it.
    pub fn processor_ms(&self) -> Result<f64> {
        let mut files = self.present().into_iter();
        // Version 1 counts in one hierarchy, version 2 in the only one.
        let text = files.find_map(|dir| {
            let nanoseconds = fs::read_to_string(dir.join("cpuacct.usage")).ok();
            nanoseconds.and_then(|text| text.trim().parse::<f64>().ok()).or_else(|| {
                let text = fs::read_to_string(dir.join("cpu.stat")).ok()?;
                let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
                Some(micros.parse::<f64>().ok()? * 1e3)
            })
        });
        Ok(text.context("no controller counts processor time")? / 1e6)
    }

    /// Its directories that exist.
    pub fn present(&self) -> Vec<PathBuf> {
        self.dirs().unwrap_or_default().into_iter().filter(|dir| dir.is_dir()).collect()
    }

    /// Kills what is in it, and below it, and waits until that is dead; only the processes that `chosen` accepts.
    pub fn kill(&self, chosen: impl Fn(Pid) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pids: Vec<_> = self.processes().into_iter().filter(|pid| chosen(*pid)).collect();
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("processes of {} survive SIGKILL for {PATIENCE:?}: {pids:?}", self.0);
            }
            // Held by descriptor first: a number may be somebody else's by the time we kill.
            let descriptor = |pid: Pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?));
            let held: Vec<_> = pids.into_iter().filter_map(descriptor).collect();
            let still = self.processes();
            for (_, pidfd) in held.iter().filter(|(pid, _)| still.contains(pid)) {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
            for (_, pidfd) in &held {
                let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timespec(Duration::from_secs(2))));
            }
        }
    }

    /// Kills what is left in it and removes it, with all below it.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.kill(|_| true)?;
            let busy: Vec<_> = self.present().into_iter().filter(|dir| !gone(dir)).collect();
            if busy.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("cgroups cannot be removed: {busy:?}");
            }
            // A dying process holds its cgroup for a moment after its pidfd says so; there is no event for that.
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Everything in it and below it, in any hierarchy.
    fn processes(&self) -> HashSet<Pid> {
        let mut pids = HashSet::new();
        for dir in self.present() {
            walk(&dir, &mut |dir| {
                let text = fs::read_to_string(dir.join(PROCESSES)).unwrap_or_default();
                // 0 is a process outside of our process namespace, which cannot be one that we started.
                pids.extend(text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)));
            });
        }
        pids
    }

    fn dirs(&self) -> Result<Vec<PathBuf>> {
        Ok(hierarchies()?.into_iter().map(|hierarchy| hierarchy.join(&self.0)).collect())
    }
}

/// True on a machine with cgroup version 2 alone.
pub fn unified() -> bool {
    Path::new(MOUNTS).join("cgroup.controllers").is_file()
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    if unified() {
        return Ok(vec![MOUNTS.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(MOUNTS).with_context(|| format!("no cgroups in {MOUNTS}"))? {
        let entry = entry?;
        // A hierarchy of two controllers has links with the name of each.
        if entry.file_type()?.is_dir() && entry.path().join(PROCESSES).is_file() {
            found.push(entry.path());
        }
    }
    if found.is_empty() {
        bail!("no cgroup hierarchy is mounted in {MOUNTS}");
    }
    Ok(found)
}

/// Removes a directory of cgroups from its leaves; true when it is not there any more.
fn gone(dir: &Path) -> bool {
    walk(dir, &mut |dir| {
        let _ = fs::remove_dir(dir);
    });
    !dir.exists()
}

/// Visits the directories below, then the directory itself. One that goes away meanwhile is none.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(dir);
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: i64::from(duration.subsec_nanos()) }
}
