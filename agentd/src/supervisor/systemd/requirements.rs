//! What a machine must have for sessions to be systemd units, and why they cannot be: each error names its fix.

use std::io;
use std::path::PathBuf;

use super::bus::{Bus, BusError};
use super::layout::PARENT_SLICE;
use super::slots::SlotsError;
use super::start;

/// The oldest systemd whose properties are all that sessions need.
const OLDEST_SYSTEMD: u32 = 252;

/// Why sessions cannot run under systemd here.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Something else is process 1.
    #[error("systemd is not the init of this machine: /run/systemd/system is missing; use the process backend")]
    NotBooted,
    /// No system bus.
    #[error("the system bus does not answer; install dbus and run `systemctl start dbus.socket`")]
    NoBus(#[source] Box<zbus::Error>),
    /// Too old.
    #[error(
        "systemd {found} is too old, sessions need {OLDEST_SYSTEMD} or newer; upgrade it or use the process backend"
    )]
    TooOld {
        /// What it says of itself.
        found: String,
    },
    /// Units may not be made.
    #[error("agentd may not start units: {0}; run it as root, as agentd.service does, or use the process backend")]
    Permission(String),
    /// Processes of sessions could not be seen.
    #[error(
        "/proc is mounted with {option}, which hides processes of sessions from agentd; run `mount -o remount,hidepid=off \
         /proc` (and take the option out of /etc/fstab), or use the process backend"
    )]
    HiddenProcesses {
        /// What hides them.
        option: String,
    },
    /// Limits would have no effect.
    #[error(
        "sessions could not be limited: {}; boot with this controller (cgroup_enable=memory where it is switched off), in \
         a container have it delegated, or use the process backend, which limits nothing", faults.join("; ")
    )]
    Controllers {
        /// What is wrong with each.
        faults: Vec<String>,
    },
    /// Slot users are missing.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// A directory cannot be made or read.
    #[error("cannot use directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not tell what is needed.
    #[error("cannot watch control groups or files")]
    Watch(#[source] io::Error),
}

/// A unit must be made to know that units may be made: the parent of all sessions, which is needed anyway.
pub(super) async fn may_start(bus: &Bus) -> Result<(), BusError> {
    let description = start::owned("Sessions of Helix".into());
    let properties = vec![("Description".to_owned(), description)];
    let started = bus.job(PARENT_SLICE, async |manager| {
        manager.start_transient_unit(PARENT_SLICE.to_owned(), "fail".to_owned(), properties, Vec::new()).await
    });
    match started.await {
        Ok(_) | Err(BusError::Exists) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses a version that lacks what sessions need.
pub(super) fn new_enough(version: &str) -> Result<(), SystemdError> {
    match major(version) {
        Some(major) if major >= OLDEST_SYSTEMD => Ok(()),
        _ => Err(SystemdError::TooOld { found: version.to_owned() }),
    }
}

/// The number in front of `252.39-1~deb12u2` or `v257`.
fn major(version: &str) -> Option<u32> {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major("252.39-1~deb12u2"), Some(252));
        assert_eq!(major("v257"), Some(257));
        assert_eq!(major("systemd 247 (247.3-7)"), Some(247));
        assert_eq!(major(""), None);
        new_enough("252.39-1~deb12u2").unwrap();
        let refused = new_enough("247.3-7+deb11u7").unwrap_err().to_string();
        assert!(refused.contains("247.3-7+deb11u7") && refused.contains("252 or newer"), "{refused}");
    }
}
