//! The processes of a group: who they are, ending all of them, and holding all of them still.
//!
//! Nothing here trusts a bare pid: a process is signalled through a descriptor that was opened before its group was
//! looked at again.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::usage::groups;
use super::{Cgroups, number_of, within};

/// Pause between two looks where the kernel tells nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Cgroups {
    /// Every process in the group and below it. None where the group is gone.
    pub fn processes(&self, group: &str) -> io::Result<Vec<u32>> {
        let Some(tree) = self.trees().map(|tree| within(tree, group)).find(|dir| dir.is_dir()) else {
            return Ok(Vec::new());
        };
        let (mut found, mut dirs) = (Vec::new(), vec![tree]);
        while let Some(dir) = dirs.pop() {
            match fs::read_to_string(dir.join("cgroup.procs")) {
                // 0 is a process that this process namespace does not see.
                Ok(text) => {
                    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
                }
                // Gone meanwhile: NotFound when opening, ENODEV when reading.
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            }
            dirs.extend(groups(&dir));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Ends every process of the group and below it, whatever they do, and answers those that are left after
    /// `timeout`: none, unless the kernel itself holds one.
    pub fn kill_all(&self, group: &str, timeout: Duration) -> io::Result<Vec<u32>> {
        let deadline = Instant::now() + timeout;
        // At once and without a race; otherwise one by one, until nobody is left who could have made another.
        let at_once = self.unified_file(group, "cgroup.kill");
        loop {
            if let Some(file) = &at_once {
                tolerate_gone(fs::write(file, "1"))?;
            }
            let left = self.processes(group)?;
            if left.is_empty() || Instant::now() >= deadline {
                return Ok(left);
            }
            let mut dying = Vec::new();
            for pid in left {
                if let Some(process) = open_member(group, pid) {
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                    dying.push(process);
                }
            }
            wait_for_ends(&dying, deadline);
        }
    }

    /// Holds every process of the group still, or lets them go on, and returns when it is so.
    pub fn freeze(&self, group: &str, frozen: bool, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        if let Some(file) = self.unified_file(group, "cgroup.freeze") {
            fs::write(&file, if frozen { "1" } else { "0" })?;
            return wait_for_events(&file.with_file_name("cgroup.events"), "frozen", frozen.into(), deadline);
        }
        let freezer = self.v1.get("freezer").map(|mount| within(&mount.path, group).join("freezer.state"));
        if let Some(file) = freezer.filter(|file| file.exists()) {
            let word = if frozen { "FROZEN" } else { "THAWED" };
            fs::write(&file, word)?;
            return look_until(deadline, || Ok(fs::read_to_string(&file)?.trim() == word));
        }
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        look_until(deadline, || {
            // Again for those that were made while others were stopped.
            let mut still = true;
            for pid in self.processes(group)? {
                if is_stopped(pid) != Some(!frozen) {
                    continue;
                }
                still = false;
                if let Some(process) = open_member(group, pid) {
                    let _ = pidfd_send_signal(&process, signal);
                }
            }
            Ok(still)
        })
    }
}

/// A descriptor of the process, if it is in the group still.
fn open_member(group: &str, pid: u32) -> Option<OwnedFd> {
    let process = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    is_within(&groups, group).then_some(process)
}

/// True if a line of `/proc/<pid>/cgroup` (`number:controllers:/path`) names the group or one below it.
fn is_within(groups: &str, group: &str) -> bool {
    let group = format!("/{}", group.trim_matches('/'));
    groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| {
        path.strip_prefix(group.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || group == "/")
    })
}

/// None for a process that has ended.
fn is_stopped(pid: u32) -> Option<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    match stat.rsplit_once(") ")?.1.chars().next()? {
        'T' | 't' => Some(true),
        'Z' | 'X' => None,
        _ => Some(false),
    }
}

/// Until all have ended, or the deadline.
fn wait_for_ends(processes: &[OwnedFd], deadline: Instant) {
    if processes.is_empty() {
        // In the list and not to be opened: between the two, or not killable. Not again in the same moment.
        pause(LOOK_AGAIN);
    }
    for process in processes {
        let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left_until(deadline)));
    }
}

/// Until `word` has this value in a file that the kernel tells of.
fn wait_for_events(path: &Path, word: &str, value: u64, deadline: Instant) -> io::Result<()> {
    let mut file = File::open(path)?;
    loop {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        if number_of(&text, word) == Some(value) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} did not say {word} {value}", path.display()),
            ));
        }
        let _ = poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&left_until(deadline)));
    }
}

fn look_until(deadline: Instant, mut is_so: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    while !is_so()? {
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "some processes did not follow in time"));
        }
        pause(LOOK_AGAIN);
    }
    Ok(())
}

/// Where no event can be waited for.
fn pause(time: Duration) {
    let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    let _ = poll(&mut [], Some(&time));
}

fn left_until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn tolerate_gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_holds_those_below_it_and_no_namesake() {
        let groups = "4:memory:/elsewhere\n1:name=systemd:/helix.slice/helix-sa.slice/helix-sa-app.service\n";
        assert!(is_within(groups, "/helix.slice/helix-sa.slice"));
        assert!(is_within(groups, "/elsewhere"));
        assert!(!is_within(groups, "/helix.slice/helix-s"));
        assert!(!is_within("0::/\n", "/helix.slice"));
    }
}
