//! What starts and watches a session's processes: one narrow trait, one shared test suite, several backends.
//!
//! A *slice* is everything of one session on this machine; a *unit* is one of its services. Units are started in
//! the order that [`crate::session`] decides; the backend only starts, watches and ends them. Both outlive agentd:
//! after `kill -9` and restart, [`Supervisor::adopt`] finds them again by proof of identity.
//!
//! Backends: [`process`] (one detached `agentd guest` per session is parent and subreaper of all its processes).

pub mod process;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::link::LogLine;
use helix_protocol::session::SessionResult;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// The services of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitName {
    /// Fills the workspace, then ends.
    Workspace,
    /// X and VNC server.
    Display,
    /// D-Bus session bus.
    Dbus,
    /// Window manager.
    Wm,
    /// The agent.
    App,
}

impl UnitName {
    /// In the order in which they start.
    pub const ALL: [Self; 5] = [Self::Workspace, Self::Display, Self::Dbus, Self::Wm, Self::App];

    /// The word in logs, file names and causes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Display => "display",
            Self::Dbus => "dbus",
            Self::Wm => "wm",
            Self::App => "app",
        }
    }
}

/// Where a unit's standard output goes. Standard error always goes to the unit's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdout {
    /// To the unit's log.
    Log,
    /// To `ready/<unit>` in the session's directory: a readiness line (`-displayfd 1`, `--print-address=1`) that
    /// stays readable for an agentd that starts later.
    Ready,
}

/// A unit to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSpec {
    /// Which service.
    pub name: UnitName,
    /// Program (searched in PATH) and arguments.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited from agentd.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Where standard output goes.
    pub stdout: Stdout,
}

/// How a unit is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Which.
    pub name: UnitName,
    /// Main process while it runs.
    pub pid: Option<u32>,
    /// Exit status as a shell tells it (128 + signal) once ended; None while it runs.
    pub exit_status: Option<i32>,
}

/// Something happened in a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SliceEvent {
    /// A unit's main process ended.
    UnitExited(UnitStatus),
    /// The session's task (kind `command`) has an outcome.
    TaskFinished(SessionResult),
    /// The slice itself is gone (its guest was killed): nothing in it is supervised any more.
    SliceGone(String),
}

/// Proof that a slice is the one we started. Kept in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Guest process (process backend).
    pub pid: u32,
    /// Its start time in clock ticks since boot, `/proc/<pid>/stat` field 22.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// What an adoption found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// It lives: the units it has started so far, and the task's outcome if there is one.
    Alive {
        /// Every unit started so far.
        units: Vec<UnitStatus>,
        /// Outcome of the session's task.
        result: Option<SessionResult>,
    },
    /// It is gone, and why as far as known (`host_rebooted`, `guest_died`). Its record of exits may still hold a result.
    Gone {
        /// Stable word.
        code: &'static str,
        /// For people.
        message: String,
        /// Outcome that it recorded before.
        result: Option<SessionResult>,
    },
}

/// Directories and sockets of one session. Paths only: who may open them is invariant 11's matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPaths {
    /// `<state>/s/<unit key>`, 0700.
    pub root: PathBuf,
    /// HOME.
    pub home: PathBuf,
    /// TMPDIR.
    pub tmp: PathBuf,
    /// XDG_RUNTIME_DIR, holds `bus`.
    pub runtime: PathBuf,
    /// Readiness files, `ready/<unit>`.
    pub ready: PathBuf,
    /// RFB socket of the display.
    pub vnc_socket: PathBuf,
    /// X cookie file.
    pub xauthority: PathBuf,
    /// Where the agent works: `<workspace_dir>/<session>`.
    pub workspace: PathBuf,
}

/// Why the supervisor could not do something.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The slice could not be opened.
    #[error("cannot open the slice of session {session}: {reason}")]
    Open {
        /// Which session.
        session: SessionId,
        /// What failed.
        reason: String,
    },
    /// A unit could not be started: missing program, no permission.
    #[error("cannot start unit {unit} ({program}): {reason}")]
    Start {
        /// Which unit.
        unit: &'static str,
        /// Its program.
        program: String,
        /// What failed.
        reason: String,
    },
    /// The slice does not answer.
    #[error("the slice of session {session} does not answer: {reason}")]
    Unreachable {
        /// Which session.
        session: SessionId,
        /// What failed.
        reason: String,
    },
    /// Something is left although everything was tried.
    #[error("session {session} left behind: {left}")]
    LeftBehind {
        /// Which session.
        session: SessionId,
        /// What is left.
        left: String,
    },
    /// The same for something whose session is not known.
    #[error("the slice with unit key {unit_key} left behind: {left}")]
    Reap {
        /// Its unit key.
        unit_key: String,
        /// What is left.
        left: String,
    },
    /// The machine could not be searched.
    #[error("cannot look for sessions on this machine: {reason}")]
    Search {
        /// What failed.
        reason: String,
    },
}

/// Result of a supervisor's operation.
pub type Result<T, E = SupervisorError> = std::result::Result<T, E>;

/// Starts, watches and ends the units of sessions. Every operation is idempotent.
pub trait Supervisor: Clone + Send + Sync + 'static {
    /// `process` or `systemd`.
    fn backend(&self) -> &'static str;

    /// Paths of a session, existing or not.
    fn paths(&self, session: &SessionId) -> SessionPaths;

    /// Makes the session's directories and its slice, or finds the one that lives.
    fn open(&self, session: &SessionId) -> impl Future<Output = Result<Identity>> + Send;

    /// Finds a slice again after a restart of agentd.
    fn adopt(&self, session: &SessionId, identity: &Identity) -> impl Future<Output = Result<Adopted>> + Send;

    /// Events of a slice from now on. One receiver per session; the former one ends.
    fn events(&self, session: &SessionId) -> impl Future<Output = Result<mpsc::Receiver<SliceEvent>>> + Send;

    /// Starts a unit, or answers the status of the one with that name that was started before (running or ended).
    fn start(&self, session: &SessionId, unit: &UnitSpec) -> impl Future<Output = Result<UnitStatus>> + Send;

    /// Ends a unit: SIGTERM to it, SIGKILL after `grace`. Returns when it is gone and forgotten: a later
    /// [`Supervisor::start`] starts it anew, so stop and start are a restart, also of a unit that has ended.
    fn stop(&self, session: &SessionId, unit: UnitName, grace: Duration) -> impl Future<Output = Result<()>> + Send;

    /// Every unit started so far.
    fn units(&self, session: &SessionId) -> impl Future<Output = Result<Vec<UnitStatus>>> + Send;

    /// Ends every process of the session, proves it, and removes its sockets and directories but for logs and
    /// workspace. Works without its guest, too.
    fn kill(&self, session: &SessionId) -> impl Future<Output = Result<()>> + Send;

    /// The last `lines` lines of each unit's log, also after the end.
    fn logs(&self, session: &SessionId, lines: u32) -> impl Future<Output = Result<Vec<LogLine>>> + Send;

    /// Removes what [`Supervisor::kill`] left: logs and workspace.
    fn forget(&self, session: &SessionId) -> impl Future<Output = Result<()>> + Send;

    /// Unit keys of everything of this runner on this machine, alive or not: what the reaper compares with the ledger.
    fn found(&self) -> impl Future<Output = Result<Vec<String>>> + Send;

    /// [`Supervisor::kill`] for a slice whose session is not known any more; its logs go, too.
    fn reap(&self, unit_key: &str) -> impl Future<Output = Result<()>> + Send;
}
