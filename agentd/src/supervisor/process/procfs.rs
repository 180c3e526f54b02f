//! What `/proc` says about processes: proof of identity and scans. Synchronous; nothing here signals anybody.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::supervisor::GuestIdentity;

/// One process at the moment of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Parent.
    pub ppid: u32,
    /// Process group.
    pub group: u32,
    /// POSIX session.
    pub session: u32,
    /// Clock ticks since boot when it started: with the pid it names one process of this boot.
    pub start_time: u64,
    /// False for a zombie: it has ended, only nobody has waited for it.
    pub alive: bool,
}

/// The process with this pid, if there is one.
pub fn process(pid: u32) -> Option<Process> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process that can be seen. A process that ends meanwhile is left out.
pub fn processes() -> io::Result<Vec<Process>> {
    let pids = fs::read_dir("/proc")?
        .filter_map(|entry| std::str::from_utf8(entry.ok()?.file_name().as_bytes()).ok()?.parse::<u32>().ok());
    Ok(pids.filter_map(process).collect())
}

/// `/proc/<pid>/stat`: the name in parentheses may itself hold spaces and parentheses.
fn parse_stat(text: &[u8]) -> Option<Process> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
    let fields: Vec<&str> = std::str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace().collect();
    // proc(5) counts from 1 and `fields` begins with field 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process {
        pid,
        ppid: number(4)? as u32,
        group: number(5)? as u32,
        session: number(6)? as u32,
        start_time: number(22)?,
        alive: !matches!(*fields.first()?, "Z" | "X"),
    })
}

/// Value of a variable in the environment that a process was started with. None where it may not be read.
pub fn environment_value(pid: u32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// Names this boot of the machine: pids and start times of another one prove nothing.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// GuestIdentity of the calling process.
pub fn own_identity() -> io::Result<GuestIdentity> {
    let pid = std::process::id();
    let process = process(pid).ok_or_else(|| io::Error::other(format!("cannot read /proc/{pid}/stat")))?;
    Ok(GuestIdentity { pid, start_time: process.start_time, boot_id: boot_id()? })
}

/// True while the very process of `identity` lives. The caller has compared the boot.
pub fn is_alive(identity: &GuestIdentity) -> bool {
    process(identity.pid).is_some_and(|found| found.alive && found.start_time == identity.start_time)
}

/// Waits until the very process of `identity` has ended, or for `timeout`. True if it has ended.
pub fn wait_for_end(identity: &GuestIdentity, timeout: Duration) -> bool {
    let opened = pid(identity.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Only after opening, so that it is known whose descriptor this is.
    if !is_alive(identity) {
        return true;
    }
    let Some(process) = opened else { return !is_alive(identity) };
    let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    matches!(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)), Ok(1))
}

/// A pid as rustix wants it; None for 0, which would address a whole group.
pub fn pid(raw: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(raw).ok()?)
}

/// Every descendant of `ancestor` in `processes`, alive or zombie, without itself.
pub fn descendants(processes: &[Process], ancestor: u32) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for process in processes.iter().filter(|process| process.ppid == parent && process.pid != ancestor) {
            parents.push(process.pid);
            found.push(*process);
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn a_hostile_process_name_is_read_past() {
        let stat = b"77 (a) R 1 (x) S 5 6 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3";
        let expected = Process { pid: 77, ppid: 5, group: 6, session: 7, start_time: 4242, alive: true };
        assert_eq!(parse_stat(stat), Some(expected));
        assert_eq!(parse_stat(b"77 (short) S 1"), None);
    }

    #[test]
    fn the_own_process_is_alive_and_another_start_time_is_not() {
        let mut identity = own_identity().unwrap();
        assert!(is_alive(&identity));
        identity.start_time += 1;
        assert!(!is_alive(&identity));
    }

    #[test]
    fn descendants_are_found_through_generations() {
        let process = |pid, ppid| Process { pid, ppid, group: 1, session: 1, start_time: 1, alive: true };
        let all = [process(2, 1), process(3, 2), process(4, 3), process(9, 1)];
        let mut found: Vec<u32> = descendants(&all, 2).iter().map(|process| process.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
    }
}
