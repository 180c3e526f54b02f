//! A command that inherits nothing: no environment, no open files, no ignored signals.
//!
//! The standard library opens everything close-on-exec and clears the signal mask of what it starts, so normally
//! nothing is inherited. What agentd itself inherited from whoever started it (a job server's pipes, a terminal's
//! leaked files, an ignored SIGHUP from `nohup`) would pass through; only then a shell closes it on the way, since
//! closing a foreign file number here would need unsafe code.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// `O_CLOEXEC` in the octal `flags:` of `/proc/self/fdinfo/<n>`.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;
/// Signals whose disposition is not looked at: SIGPIPE, which Rust programs ignore themselves and the standard library
/// resets for what they start, and 32 and 33, which belong to the C library and cannot be reset through it.
const NOT_LOOKED_AT: u64 = 1 << 12 | 1 << 31 | 1 << 32;

/// This very program, also after its file was replaced. By pid, because `self` would be the shell on the way; good
/// for as long as this process waits for what it starts.
pub fn own_program() -> PathBuf {
    PathBuf::from(format!("/proc/{}/exe", std::process::id()))
}

/// A command for `program` without environment and standard input, which will find only descriptors 0, 1 and 2
/// open and no signal ignored.
pub fn command(program: &OsStr) -> Command {
    let files = inheritable_files();
    let mut command = if files.is_empty() && ignored_signals() == 0 {
        Command::new(program)
    } else {
        // bash, because other shells cannot name a descriptor above 9; env, because no shell can un-ignore a signal.
        let closes = files.iter().map(|file| format!("exec {file}>&-; ")).collect::<Vec<_>>().concat();
        let mut shell = Command::new("/bin/bash");
        shell.arg("-c").arg(format!("{closes}exec /usr/bin/env --default-signal \"$0\" \"$@\"")).arg(program);
        shell
    };
    command.env_clear().stdin(Stdio::null());
    command
}

/// Descriptors above 2 that a started program would find open.
fn inheritable_files() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut files: Vec<u32> = numbers.filter(|&file| file > 2 && !closes_on_exec(file)).collect();
    files.sort_unstable();
    files
}

fn closes_on_exec(file: u32) -> bool {
    // A descriptor that is gone meanwhile cannot be inherited.
    let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{file}")) else { return true };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & CLOSE_ON_EXEC != 0)
}

fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0) & !NOT_LOOKED_AT
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_leaked_file_is_seen_and_closed_on_the_way() {
        let leaked = tempfile::NamedTempFile::new().unwrap();
        let number = u32::try_from(leaked.as_raw_fd()).unwrap();
        assert!(!inheritable_files().contains(&number));
        rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
        assert!(inheritable_files().contains(&number));

        let output = command("/bin/ls".as_ref()).args(["-l", "/proc/self/fd"]).output().unwrap();
        let open = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{open}");
        assert!(!open.contains(&leaked.path().display().to_string()), "still open: {open}");
    }
}
