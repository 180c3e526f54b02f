//! Where a session's files are: `<state>/s/<unit key>/…` and the workspace.
//!
//! ```text
//! <root>/slice        marker: value of HELIX_SLICE in every process of the session
//! <root>/open.lock    held (flock) while a guest is being started
//! <root>/guest.lock   held by the guest as long as it lives: there is never a second one
//! <root>/guest.sock   the guest's socket, JSON lines (crate::guest::wire)
//! <root>/guest.json   what the guest knows, kept after its end
//! <root>/log/         one bounded log per unit, and the guest's own
//! <root>/sync.sock, tools.sock, note.sock, rdp.sock
//!                     agentd's sockets for the forward, the tools, the recorder and the rdp unit
//! <root>/rdp/         the rdp unit's own files
//! <root>/vnc.sock, Xauthority, home/, tmp/, run/, ready/
//! ```

use std::path::{Path, PathBuf};

use crate::supervisor::{HostPaths, SessionPaths, UnitName};

/// Longest path of a unix socket: `sun_path` has 108 bytes, the last one NUL.
pub const MAX_SOCKET_PATH: usize = 107;

/// What survives [`crate::supervisor::Supervisor::kill`].
pub const KEPT_AFTER_KILL: [&str; 4] = ["log", "guest.json", "guest.lock", "open.lock"];

/// Paths inside one session's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// `<state>/s/<unit key>`.
    pub root: PathBuf,
}

impl Layout {
    /// The layout of the session whose directory is `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Marker of the session's processes.
    pub fn slice(&self) -> PathBuf {
        self.root.join("slice")
    }

    /// Lock of whoever starts a guest.
    pub fn open_lock(&self) -> PathBuf {
        self.root.join("open.lock")
    }

    /// Lock of the guest.
    pub fn guest_lock(&self) -> PathBuf {
        self.root.join("guest.lock")
    }

    /// Socket of the guest.
    pub fn guest_socket(&self) -> PathBuf {
        self.root.join("guest.sock")
    }

    /// The guest's record.
    pub fn record(&self) -> PathBuf {
        self.root.join("guest.json")
    }

    /// Directory of the logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    /// A unit's log.
    pub fn log(&self, unit: UnitName) -> PathBuf {
        self.logs().join(format!("{}.log", unit.as_str()))
    }

    /// A unit's log before its last rotation.
    pub fn rotated_log(&self, unit: UnitName) -> PathBuf {
        self.logs().join(format!("{}.log.1", unit.as_str()))
    }

    /// Complaints of the guest itself.
    pub fn guest_log(&self) -> PathBuf {
        self.logs().join("guest.log")
    }

    /// Directory of the readiness files.
    pub fn ready_dir(&self) -> PathBuf {
        self.root.join("ready")
    }

    /// Readiness file of a unit.
    pub fn ready(&self, unit: UnitName) -> PathBuf {
        self.ready_dir().join(unit.as_str())
    }

    /// As the session's units see it.
    pub fn session_paths(&self, workspace: PathBuf) -> SessionPaths {
        let at = |name: &str| self.root.join(name);
        SessionPaths {
            root: self.root.clone(),
            home: at("home"),
            tmp: at("tmp"),
            runtime: at("run"),
            vnc_socket: at("vnc.sock"),
            xauthority: at("Xauthority"),
            workspace,
            sync_socket: at("sync.sock"),
            tools_socket: at("tools.sock"),
            notes_socket: at("note.sock"),
            recorder_apart: false,
            rdp_socket: at("rdp.sock"),
            rdp_files: at("rdp"),
            own_network: false,
            private_tmp: false,
        }
    }

    /// As agentd opens it: the same paths, since they share user and file system.
    pub fn host_paths(&self, workspace: PathBuf) -> HostPaths {
        let SessionPaths { vnc_socket, xauthority, workspace, .. } = self.session_paths(workspace);
        HostPaths { ready: self.ready_dir(), xauthority, vnc_socket, x_sockets: None, workspace }
    }
}

/// Parent of all sessions' directories.
pub fn sessions_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("s")
}

/// Bytes of the longest socket path below `state_dir`.
pub fn longest_socket_path(state_dir: &Path) -> usize {
    let layout = Layout::new(sessions_dir(state_dir).join("0123456789abcdef"));
    let paths = layout.session_paths(PathBuf::new());
    let sockets =
        [layout.guest_socket(), paths.vnc_socket, paths.sync_socket, paths.tools_socket, paths.runtime.join("bus")];
    sockets.iter().map(|path| path.as_os_str().len()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_socket_path_is_known() {
        assert_eq!(longest_socket_path(Path::new("/x")), "/x/s/0123456789abcdef/guest.sock".len());
    }
}
