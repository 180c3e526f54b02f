//! Ends what a session left behind when its guest is not there to do it, and proves that nothing is left.
//!
//! A process belongs to a session if `HELIX_SLICE` in its environment says so, or if it descends from such a process
//! or sits in a process group or POSIX session that one of them leads (programs may overwrite their environment).
//! Synchronous: run it on a blocking thread.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::layout::{KEPT_AFTER_KILL, Layout};
use super::procfs::{self, Process};

/// The variable that marks every process of a session.
pub const VARIABLE: &str = "HELIX_SLICE";

/// End of the marker of `agentd guest open`, which starts a session's guest. It carries one itself: whoever ends the
/// session ends its start, too, and no guest appears after the proof that nothing is left.
pub const OPENER: &str = "open";

/// How long processes may take to end after SIGKILL; only ones that hang in the kernel need more than moments.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A process that is between two programs (exec) shows no environment for a moment, so one clean scan proves nothing.
const CLEAN_SCANS: u32 = 2;

/// How the processes of one session are recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Every marker that this runner gives to the session begins with this.
    prefix: String,
    /// The marker on disk: right even if the state directory was moved.
    stored: Option<String>,
    /// Starts of the session are not meant.
    spare_openers: bool,
}

impl Mark {
    /// The mark of the session with this layout, whose markers begin with `prefix`.
    pub fn load(layout: &Layout, prefix: String) -> Self {
        let stored = fs::read_to_string(layout.slice()).ok().filter(|marker| !marker.is_empty());
        Self { prefix, stored, spare_openers: false }
    }

    /// Without those who start the session's guest: for one of them.
    #[must_use]
    pub fn sparing_openers(self) -> Self {
        Self { spare_openers: true, ..self }
    }

    fn fits(&self, marker: &str) -> bool {
        let opener = marker.strip_prefix(&self.prefix) == Some(OPENER);
        let ours = marker.starts_with(&self.prefix) || self.stored.as_deref() == Some(marker);
        ours && !(opener && self.spare_openers)
    }
}

/// Kills every process of the session until none is left. The error names those that could not be ended.
pub fn end_marked(mark: &Mark) -> Result<(), String> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    let mut clean_scans = 0;
    while clean_scans < CLEAN_SCANS {
        let left = marked(|marker| mark.fits(marker)).map_err(|error| format!("/proc cannot be read: {error}"))?;
        if left.is_empty() {
            clean_scans += 1;
            continue;
        }
        clean_scans = 0;
        let signalled: Vec<OwnedFd> = left.iter().filter_map(|process| signal(process, Signal::KILL).ok()).collect();
        let refused = signalled.is_empty() && left.iter().any(|process| procfs::process(process.pid).is_some());
        if refused || Instant::now() > deadline {
            return Err(describe(&left));
        }
        wait_for_ends(&signalled, deadline);
    }
    Ok(())
}

/// How many processes of the session live; none where that cannot be seen.
pub fn count(mark: &Mark) -> u64 {
    marked(|marker| mark.fits(marker)).map_or(0, |found| found.len() as u64)
}

/// Sends `signal` (stop or go on) to every process of the session but `spared`, until none is new.
pub fn signal_all(mark: &Mark, spared: u32, how: Signal) -> io::Result<()> {
    let (mut known, mut quiet_scans) = (HashSet::new(), 0);
    while quiet_scans < CLEAN_SCANS {
        let new: Vec<Process> = marked(|marker| mark.fits(marker))?
            .into_iter()
            .filter(|process| process.pid != spared && known.insert((process.pid, process.start_time)))
            .collect();
        quiet_scans = if new.is_empty() { quiet_scans + 1 } else { 0 };
        for process in &new {
            match signal(process, how) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Markers of all living processes that begin with `prefix`.
pub fn markers(prefix: &str) -> io::Result<HashSet<String>> {
    let all = procfs::processes()?;
    let living = all.iter().filter(|process| process.alive);
    let markers = living.filter_map(|process| procfs::environment_value(process.pid, VARIABLE));
    Ok(markers.filter(|marker| marker.starts_with(prefix)).collect())
}

/// Signals exactly this process: the pidfd is compared with the start time, so a reused pid is never hit. The pidfd
/// becomes readable when the process has ended.
pub fn signal(process: &Process, signal: Signal) -> io::Result<OwnedFd> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the process has ended");
    let fd = pidfd_open(procfs::pid(process.pid).ok_or_else(gone)?, PidfdFlags::empty())?;
    let same = procfs::process(process.pid).is_some_and(|now| now.start_time == process.start_time);
    if !same {
        return Err(gone());
    }
    pidfd_send_signal(&fd, signal)?;
    Ok(fd)
}

/// Waits until every process has ended, or for the deadline.
pub fn wait_for_ends(processes: &[OwnedFd], deadline: Instant) {
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        // Only a deadline ends the wait early; the next scan sees what is left.
        let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout));
    }
}

/// Pids and names, for people.
pub fn describe(processes: &[Process]) -> String {
    let one = |process: &Process| {
        let name = fs::read_to_string(format!("/proc/{}/comm", process.pid)).unwrap_or_default();
        format!("process {} ({})", process.pid, name.trim())
    };
    processes.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn marked(fits: impl Fn(&str) -> bool) -> io::Result<Vec<Process>> {
    let own = std::process::id();
    let all: Vec<Process> = procfs::processes()?.into_iter().filter(|process| process.alive).collect();
    let mut found: HashSet<u32> = all
        .iter()
        .filter(|process| process.pid != own)
        .filter(|process| procfs::environment_value(process.pid, VARIABLE).is_some_and(|marker| fits(&marker)))
        .map(|process| process.pid)
        .collect();
    loop {
        let before = found.len();
        for process in &all {
            let belongs = [process.ppid, process.group, process.session].iter().any(|pid| found.contains(pid));
            if belongs && process.pid != own {
                found.insert(process.pid);
            }
        }
        if found.len() == before {
            return Ok(all.into_iter().filter(|process| found.contains(&process.pid)).collect());
        }
    }
}

/// Removes everything in a session's directory but what is kept until it is forgotten.
pub fn remove_session_files(layout: &Layout) -> io::Result<()> {
    let entries = match fs::read_dir(&layout.root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let kept = KEPT_AFTER_KILL.iter().any(|kept| entry.file_name() == *kept);
        if !kept {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file or a whole directory, or nothing where there is nothing. Directories without write permission
/// (module caches have them) are opened up first.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let is_dir = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !is_dir {
        return remove_if_there(path);
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn open_up(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
