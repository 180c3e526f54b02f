//! The machine that the suite runs in: directories, users and processes of one check's runner.

use std::path::{Path, PathBuf};
use std::process::Command;

use helix_agentd::supervisor::systemd::slots::Slots;
use helix_agentd::supervisor::systemd::{SlotUsers, SystemdConfig, SystemdSupervisor};
use helix_protocol::{RunnerId, SessionId};

use crate::conformance::Fixture;

/// Of everything that the suite makes.
const TOP: &str = "/var/lib/helix-suite";
/// Users that the suite takes.
const SLOTS: u32 = 4;

/// One runner with directories of its own.
#[derive(Debug, Clone)]
pub struct Host {
    pub dir: PathBuf,
    pub runner: RunnerId,
}

impl Host {
    pub fn new(name: &str) -> Self {
        let dir = Path::new(TOP).join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir, runner: RunnerId::parse("suite").unwrap() }
    }

    pub fn config(&self) -> SystemdConfig {
        SystemdConfig {
            state_dir: self.dir.join("state"),
            workspace_dir: self.dir.join("workspaces"),
            program: self.program(),
            runner: self.runner.clone(),
            slot_users: SlotUsers { prefix: "helix-u".to_owned(), first: 1, count: SLOTS },
        }
    }

    /// The session's directory.
    pub fn session_dir(&self, session: &SessionId) -> PathBuf {
        self.dir.join("state/s").join(session.unit_key())
    }
}

impl Fixture for Host {
    type Backend = SystemdSupervisor;

    const ENVIRONMENT: &'static str = "PATH PWD";
    const GONE: &'static str = "slice_gone";
    // journald drops what is above 10,000 lines of one unit in a second.
    const FLOOD: u32 = 9_000;

    async fn supervisor(&self) -> SystemdSupervisor {
        SystemdSupervisor::new(self.config()).await.unwrap()
    }

    fn program(&self) -> PathBuf {
        let beside = || std::env::current_exe().unwrap().with_file_name("agentd");
        std::env::var_os("HELIX_AGENTD").map_or_else(beside, PathBuf::from)
    }

    fn outside(&self, session: &SessionId, inside: &Path) -> PathBuf {
        let own = self.session_dir(session);
        let seen = [
            ("/home/agent", own.join("home")),
            ("/tmp", own.join("tmp")),
            ("/run/session", own.join("run")),
            ("/run/display", own.join("display")),
            ("/home/workspace", self.dir.join("workspaces").join(session.as_str())),
        ];
        let found = seen.iter().find_map(|(view, host)| Some(host.join(inside.strip_prefix(view).ok()?)));
        let found = found.unwrap_or_else(|| panic!("{} is not the session's", inside.display()));
        // Joining nothing leaves a slash behind.
        found.components().collect()
    }

    fn processes(&self, _: &SessionId) -> Vec<String> {
        slot_processes()
    }

    fn log_bytes(&self, _: &SessionId) -> Vec<u64> {
        Vec::new()
    }
}

fn slots() -> Slots {
    Slots::resolve("helix-u", 1, SLOTS).unwrap()
}

/// Names of all processes of slot users; a check has the machine for itself.
fn slot_processes() -> Vec<String> {
    let slots = slots();
    let uids = (1..=SLOTS).filter_map(|number| Some(slots.by_number(number)?.uid));
    let pids = uids.flat_map(|uid| Slots::processes_of(uid).unwrap());
    pids.filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()).collect()
}

/// A command and what it prints.
pub fn command(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Ends what a check has left, and says what that was.
pub fn clean_up(name: &str) -> Option<String> {
    let units = command("systemctl", &["list-units", "--all", "--plain", "--no-legend", "helix-s*"]);
    let left: Vec<&str> = units.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let processes = slot_processes();
    for unit in &left {
        let _ = Command::new("systemctl").args(["kill", "-s", "KILL", unit]).output();
        let _ = Command::new("systemctl").args(["stop", unit]).output();
        let _ = Command::new("systemctl").args(["reset-failed", unit]).output();
    }
    let _ = std::fs::remove_dir_all(Path::new(TOP).join(name));
    (!left.is_empty() || !processes.is_empty()).then(|| format!(": left behind: {left:?} {processes:?}"))
}
