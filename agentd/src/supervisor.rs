//! What starts and watches a session's processes: one narrow trait, one shared test suite, several backends.
//!
//! A *slice* is everything of one session on this machine; a *unit* is one of its services. Units are started in
//! the order that [`crate::session`] decides; the backend only starts, watches and ends them. Both outlive agentd:
//! after `kill -9` and restart, [`Supervisor::adopt`] finds them again by proof of identity.
//!
//! Backends: [`systemd`] (transient units in one slice per session, over D-Bus: the production way) and [`process`]
//! (one detached `agentd guest` per session is parent and subreaper of all its processes). Both are held to one
//! suite, `supervisor/conformance.rs`.

pub mod process;
pub mod systemd;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helix_protocol::image::Digest;
use helix_protocol::link::LogLine;
use helix_protocol::reap::Reaped;
use helix_protocol::resources::{Limits, Network, Resources, Usage};
use helix_protocol::session::SessionResult;
use helix_protocol::{RecordingId, SessionId};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
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
    /// Lets the agent reach the servers.
    Forward,
    /// Records the desktop, where that is asked for; not the session's own.
    Recorder,
    /// The agent.
    App,
    /// Files, commands and terminals for whoever reaches the session; started when somebody does.
    Tools,
    /// The desktop for RDP clients; started when one comes.
    Rdp,
}

impl UnitName {
    /// In the order in which they start.
    pub const ALL: [Self; 9] = [
        Self::Workspace,
        Self::Display,
        Self::Dbus,
        Self::Wm,
        Self::Forward,
        Self::Recorder,
        Self::App,
        Self::Tools,
        Self::Rdp,
    ];

    /// The word in logs, file names and causes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Display => "display",
            Self::Dbus => "dbus",
            Self::Wm => "wm",
            Self::Forward => "forward",
            Self::Recorder => "recorder",
            Self::App => "app",
            Self::Tools => "tools",
            Self::Rdp => "rdp",
        }
    }

    /// The unit of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.as_str() == word)
    }
}

/// Where a unit's standard output goes. Standard error always goes to the unit's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdout {
    /// To the unit's log.
    Log,
    /// To file `<unit>` in [`HostPaths::ready`]: a readiness line (`-displayfd 1`, `--print-address=1`) that stays
    /// readable for an agentd that starts later.
    Ready,
}

/// A unit to start.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Image that it runs in; the machine's own system where absent. It is here already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Something in it runs `agentd acp-bridge --result`, whose outcome becomes [`SliceEvent::TaskFinished`].
    #[serde(default)]
    pub has_task: bool,
}

impl fmt::Debug for UnitSpec {
    /// Without the values of its environment, some of which are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, argv, env, cwd, stdout, image, has_task } = self;
        f.debug_struct("UnitSpec")
            .field("name", name)
            .field("argv", argv)
            .field("env", &env.keys())
            .field("cwd", cwd)
            .field("stdout", stdout)
            .field("image", image)
            .field("has_task", has_task)
            .finish()
    }
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
    /// Its main process was killed because the session had used up its memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
}

/// Something happened in a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SliceEvent {
    /// A unit's main process ended.
    UnitExited(UnitStatus),
    /// Somebody else started the unit anew: another main process has taken its place.
    UnitReplaced(UnitStatus),
    /// The session has used up its memory, and one of its processes was killed for it.
    OutOfMemory,
    /// The session's task (kind `command`) has an outcome.
    TaskFinished(SessionResult),
    /// The slice itself is gone (its guest was killed): nothing in it is supervised any more.
    SliceGone(String),
}

/// Proof that a slice is the one we started. Kept in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Identity {
    /// Of the process backend.
    Guest(GuestIdentity),
    /// Of the systemd backend.
    Slice(SliceIdentity),
}

/// A process that cannot be mistaken for another with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestIdentity {
    /// Guest process.
    pub pid: u32,
    /// Its start time in clock ticks since boot, `/proc/<pid>/stat` field 22.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// A systemd slice that cannot be mistaken for another with the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceIdentity {
    /// `InvocationID` of the slice, 32 hex digits: new whenever somebody starts it.
    pub invocation: String,
    /// Number of the slot user that it runs as (`helix-u<slot>`).
    pub slot: u32,
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
    /// It is gone, and why as far as known (`host_rebooted`, `slice_gone`). Its record of exits may still hold a result.
    Gone {
        /// Stable word.
        code: &'static str,
        /// For people.
        message: String,
        /// Outcome that it recorded before.
        result: Option<SessionResult>,
    },
}

/// Directories and files of one session as its own units see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPaths {
    /// Directory of the files that are written for the session.
    pub root: PathBuf,
    /// HOME.
    pub home: PathBuf,
    /// TMPDIR.
    pub tmp: PathBuf,
    /// XDG_RUNTIME_DIR, holds `bus`.
    pub runtime: PathBuf,
    /// RFB socket of the display.
    pub vnc_socket: PathBuf,
    /// X cookie file.
    pub xauthority: PathBuf,
    /// Where the agent works.
    pub workspace: PathBuf,
    /// agentd's socket for unit [`UnitName::Forward`], which alone can reach it.
    pub sync_socket: PathBuf,
    /// agentd's socket for unit [`UnitName::Tools`].
    pub tools_socket: PathBuf,
    /// agentd's socket for unit [`UnitName::Recorder`].
    pub notes_socket: PathBuf,
    /// True where the recorder is another user than the session, which reaches the display's socket in its own view.
    pub recorder_apart: bool,
    /// agentd's socket for unit [`UnitName::Rdp`].
    pub rdp_socket: PathBuf,
    /// Directory of that unit's own files.
    pub rdp_files: PathBuf,
    /// True where a session without the machine's network has one of its own, in which every port is free.
    pub own_network: bool,
    /// True where `/tmp` is the session's own, so that its display needs no abstract socket and is always `:0`.
    pub private_tmp: bool,
}

/// What agentd itself opens of a session, in its own view of the file system. Nothing of it can be put elsewhere by
/// the session (invariant 11); the two sockets are the exception, and count only after their peer is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPaths {
    /// Readiness files, one per unit with [`Stdout::Ready`].
    pub ready: PathBuf,
    /// X cookie file.
    pub xauthority: PathBuf,
    /// RFB socket of the display.
    pub vnc_socket: PathBuf,
    /// Directory of the X sockets (`X0`); None where the display's abstract socket is used.
    pub x_sockets: Option<PathBuf>,
    /// The workspace.
    pub workspace: PathBuf,
}

/// What is made before the first unit starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SliceSpec {
    /// Files for the session, written once.
    pub files: Vec<SessionFile>,
    /// What it may use.
    pub resources: Resources,
    /// Its network.
    pub network: Network,
    /// The agent brings a sandbox of its own, which needs namespaces (Chromium).
    pub own_sandbox: bool,
    /// Image that some of its units run in: it is here already, and stays.
    pub image: Option<Digest>,
    /// What its recorder spools: its place is there already ([`crate::recorder::shelf`]), the spool itself is made.
    pub recording: Option<RecordingId>,
}

/// A file that is written for the session, readable by its user alone.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionFile {
    /// Below [`SessionPaths::root`]; below [`SessionPaths::home`] where it begins with `home/`.
    pub path: PathBuf,
    /// 0600 or 0700.
    pub mode: u32,
    /// What is in it.
    pub content: Vec<u8>,
}

impl fmt::Debug for SessionFile {
    /// Without the content, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, mode, content } = self;
        write!(f, "{} {mode:04o} ({} bytes)", path.display(), content.len())
    }
}

/// What a backend separates and enforces on this machine, in words that promise nothing that is not so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// What separates sessions from each other and from the operator.
    pub isolation: String,
    /// What limits are enforced, or why they are not, in one sentence.
    pub limits: String,
    /// Names of the limits that are enforced, as in [`Resources`].
    pub enforced: Vec<String>,
    /// What is missing, each with its reason.
    pub missing: Vec<String>,
}

impl Enforcement {
    /// How far `resources` are enforced.
    pub fn limits(&self, resources: Resources) -> Limits {
        Limits { resources, enforced: self.enforced.clone(), missing: self.missing.clone() }
    }
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
    /// Every slot user is busy: with sessions, or with files that could not be removed.
    #[error("no slot user is free for session {session}: {reason}")]
    NoSlot {
        /// Which session.
        session: SessionId,
        /// Who holds them, and what to do.
        reason: String,
    },
    /// Nobody listens for the session's agent.
    #[error("cannot listen for the agent of session {session}: {reason}")]
    Listen {
        /// Which session.
        session: SessionId,
        /// What failed.
        reason: String,
    },
    /// Limits could not be changed.
    #[error("the limits of session {session} cannot be set: {reason}")]
    Limit {
        /// Which session.
        session: SessionId,
        /// What failed.
        reason: String,
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

    /// What this machine separates and enforces.
    fn enforcement(&self) -> Enforcement;

    /// Paths of a session in its own view, existing or not.
    fn paths(&self, session: &SessionId) -> SessionPaths;

    /// Where a recording is spooled, in the view of its recorder.
    fn spool(&self, recording: &RecordingId) -> PathBuf;

    /// What agentd opens of it.
    fn host_paths(&self, session: &SessionId) -> HostPaths;

    /// Makes the session's directories, files, X cookie and slice, or finds the one that lives.
    fn open(&self, session: &SessionId, spec: &SliceSpec) -> impl Future<Output = Result<Identity>> + Send;

    /// Finds a slice again after a restart of agentd.
    fn adopt(&self, session: &SessionId, identity: &Identity) -> impl Future<Output = Result<Adopted>> + Send;

    /// Events of a slice from now on. One receiver per session; the former one ends.
    fn events(&self, session: &SessionId) -> impl Future<Output = Result<mpsc::Receiver<SliceEvent>>> + Send;

    /// Listens on the socket of agentd's that this unit connects to ([`SessionPaths::sync_socket`] for
    /// [`UnitName::Forward`], [`SessionPaths::tools_socket`] for [`UnitName::Tools`], [`SessionPaths::rdp_socket`] for
    /// [`UnitName::Rdp`], [`SessionPaths::notes_socket`] for [`UnitName::Recorder`]), in the place of an agentd that is
    /// gone. In a directory of agentd's own, and for the unit's user alone.
    fn listen(&self, session: &SessionId, unit: UnitName) -> impl Future<Output = Result<UnixListener>> + Send;

    /// Starts a unit, or answers the status of the one with that name that was started before (running or ended).
    fn start(&self, session: &SessionId, unit: &UnitSpec) -> impl Future<Output = Result<UnitStatus>> + Send;

    /// Ends a unit: SIGTERM to it, SIGKILL after `grace`. Returns when it is gone and forgotten: a later
    /// [`Supervisor::start`] starts it anew, so stop and start are a restart, also of a unit that has ended.
    fn stop(&self, session: &SessionId, unit: UnitName, grace: Duration) -> impl Future<Output = Result<()>> + Send;

    /// Every unit started so far.
    fn units(&self, session: &SessionId) -> impl Future<Output = Result<Vec<UnitStatus>>> + Send;

    /// Changes the limits of a slice that lives.
    fn limit(&self, session: &SessionId, resources: &Resources) -> impl Future<Output = Result<()>> + Send;

    /// What the session uses now; empty where this machine does not say.
    fn usage(&self, session: &SessionId) -> impl Future<Output = Result<Usage>> + Send;

    /// Holds every process of the session still, or lets them go on.
    fn freeze(&self, session: &SessionId, frozen: bool) -> impl Future<Output = Result<()>> + Send;

    /// Ends every process of the session, proves it, and removes its sockets and directories but for logs and
    /// workspace. Works without its guest, and on a frozen session, too.
    fn kill(&self, session: &SessionId) -> impl Future<Output = Result<()>> + Send;

    /// The last `lines` lines of each unit's log, or of one unit's, also after the end.
    fn logs(
        &self,
        session: &SessionId,
        unit: Option<UnitName>,
        lines: u32,
    ) -> impl Future<Output = Result<Vec<LogLine>>> + Send;

    /// The same, then every new line as it is written. Ends when the receiver is dropped or the session is gone.
    fn follow_logs(
        &self,
        session: &SessionId,
        unit: Option<UnitName>,
        lines: u32,
    ) -> impl Future<Output = Result<mpsc::Receiver<LogLine>>> + Send;

    /// Removes what [`Supervisor::kill`] left: logs and workspace.
    fn forget(&self, session: &SessionId) -> impl Future<Output = Result<()>> + Send;

    /// Unit keys of everything of this runner on this machine, alive or not: what the reaper compares with the ledger.
    fn found(&self) -> impl Future<Output = Result<Vec<String>>> + Send;

    /// [`Supervisor::kill`] for a slice whose session is not known any more; its logs go, too.
    /// Answers what was there of it.
    fn reap(&self, unit_key: &str) -> impl Future<Output = Result<Reaped>> + Send;

    /// Removes a workspace that was put aside: something directly in the directory of workspaces.
    fn discard(&self, workspace: &Path) -> impl Future<Output = io::Result<()>> + Send;
}
