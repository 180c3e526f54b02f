//! Processes that are not our children: found by pid and start time, held by a pidfd, ended with a deadline.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process by proof of identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Clock ticks since boot at its start: `/proc/<pid>/stat`, field 22.
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now, unless it has ended.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start_time = start_time(&stat)?;
        Some(Self { pid, start_time })
    }

    /// This process.
    pub fn current() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// A handle on it, if it still lives.
    pub fn hold(self) -> Option<Held> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at after the handle is held: now the pid cannot pass to another process unnoticed. A zombie counts:
        // of a killed process that has threads the first one is a zombie while the others still hold its locks.
        // The pidfd tells when all of them are gone.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        (start_time_of(&stat)?.1 == self.start_time).then_some(())?;
        Some(Held { process: self, fd: Arc::new(fd) })
    }
}

/// Field 22 of a stat line; None for a zombie, which has ended although it is still listed.
fn start_time(stat: &str) -> Option<u64> {
    let (state, start_time) = start_time_of(stat)?;
    (!matches!(state, "Z" | "X")).then_some(start_time)
}

/// State and start time of a stat line, fields 3 and 22.
fn start_time_of(stat: &str) -> Option<(&str, u64)> {
    // The command in parentheses may hold anything, so count from its end.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A process that cannot be mistaken for another one.
#[derive(Debug)]
pub struct Held {
    /// Which.
    pub process: Process,
    fd: Arc<OwnedFd>,
}

impl Held {
    /// Sends a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&*self.fd, signal);
    }

    /// True when it ended within the time.
    pub async fn ended_within(&self, patience: Duration) -> bool {
        let fd = Arc::clone(&self.fd);
        // A thread that waits for the kernel's event: the reactor's interface to foreign descriptors is unsafe.
        tokio::task::spawn_blocking(move || wait(&fd, patience)).await.unwrap_or(false)
    }

    /// SIGTERM, and SIGKILL after `grace`. Returns when it has ended.
    pub async fn end(&self, grace: Duration) {
        self.signal(Signal::TERM);
        if !self.ended_within(grace).await {
            self.kill().await;
        }
    }

    /// SIGKILL. Returns when it has ended.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        // Only a process that hangs in the kernel takes longer, and nothing can be done about one.
        self.ended_within(Duration::from_secs(30)).await;
    }
}

/// Waits until the pidfd's process has ended; false when time is over.
fn wait(fd: &OwnedFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => return false,
            Ok(_) => return true,
        }
    }
}

/// This boot.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Every process of this user: pid and command line.
pub fn own_processes() -> Vec<(u32, Vec<Vec<u8>>)> {
    let uid = rustix::process::geteuid().as_raw();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let owner = std::os::unix::fs::MetadataExt::uid(&entry.metadata().ok()?);
            (owner == uid).then_some(())?;
            Some((pid, command_line(&entry.path())?))
        })
        .collect()
}

fn command_line(proc: &Path) -> Option<Vec<Vec<u8>>> {
    let bytes = std::fs::read(proc.join("cmdline")).ok()?;
    // Empty for a zombie and for kernel threads.
    let text = bytes.strip_suffix(&[0])?;
    Some(text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_confuse() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_time(&format!("7 (a) b (c)) {tail}")), Some(4711));
        assert_eq!(start_time(&format!("7 (a) {}", tail.replace('S', "Z"))), None);
        assert_eq!(start_time("7 (a"), None);
    }

    #[tokio::test]
    async fn a_process_is_held_and_ended() {
        // It says that it runs: in the moment after a start the kernel shows no command line yet.
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", "echo; read -r _", "here"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell starts");
        let mut said = [0];
        let stdout = child.stdout.as_mut().expect("its output");
        tokio::io::AsyncReadExt::read_exact(stdout, &mut said).await.expect("it runs");
        let process = Process::of(child.id().expect("a pid")).expect("it lives");
        assert!(Process { start_time: process.start_time + 1, ..process }.hold().is_none());
        let held = process.hold().expect("it lives");
        assert!(own_processes().iter().any(|(pid, line)| *pid == process.pid && line[3] == b"here"));
        held.end(Duration::from_secs(10)).await;
        assert!(!child.wait().await.expect("it ended").success());
        assert!(process.hold().is_none());
    }
}
