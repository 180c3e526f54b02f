//! Where a session's files are on the host and in its own view, and how its units are called.
//!
//! ```text
//! <state>/s/<key>/             root's, 0700: nobody but root can put anything directly into it
//!     home  tmp  run  display  the slot user's, 0700; bound to /home/agent, /tmp, /run/session, /run/display (0711: the
//!                              recorder, into whose view it is bound, too, passes through)
//!     ready/<unit>             standard output of units whose first line says that they are ready; root's
//!     env/<unit>               environments; root's, 0600: unit properties can be read by everybody over D-Bus
//!     sync/sock, tools/sock, notes/sock, rdp/sock
//!                              agentd's sockets for the forward, the tools, the recorder and the rdp unit; root's, bound
//!                              to /run/sync, /run/tools, /run/notes and /run/rdp of that unit alone
//!     etc/                     passwd and group of a session in an image; root's, bound to /etc
//!     Xauthority.agentd        agentd's own copy of the X cookie
//!     unit.json                what the backend must remember across a restart of agentd
//! <state>/s/<key>.new/         the same while it is being made
//! <state>/recordings/<recording>/spool/   the recorder's, bound to its /run/spool ([`crate::recorder::shelf`])
//! <workspaces>/<session>/      the slot user's, bound to /home/workspace
//! ```
//!
//! Pure: nothing here touches the file system.

use std::path::{Path, PathBuf};

use helix_protocol::SessionId;

use crate::supervisor::{HostPaths, SessionPaths, UnitName};

/// Slice of all sessions of this machine. A dash in a slice's name is its hierarchy.
pub const PARENT_SLICE: &str = "helix.slice";
/// Word of the unit that takes the task's outcome.
pub const GUEST: &str = "guest";
/// Hexadecimal digits of a unit key.
const KEY_DIGITS: usize = 16;

/// Where the session's directories appear in its own view.
pub(super) mod inside {
    pub const HOME: &str = "/home/agent";
    pub const TMP: &str = "/tmp";
    pub const VAR_TMP: &str = "/var/tmp";
    pub const RUN: &str = "/run/session";
    pub const DISPLAY: &str = "/run/display";
    pub const SYNC: &str = "/run/sync";
    pub const TOOLS: &str = "/run/tools";
    pub const NOTES: &str = "/run/notes";
    pub const SPOOL: &str = "/run/spool";
    pub const RDP: &str = "/run/rdp";
    /// xrdp looks for this directory, and makes what it misses there.
    pub const RDP_FILES: &str = "/run/xrdp";
    pub const WORKSPACE: &str = "/home/workspace";
}

/// Control group of a session's slice.
pub fn slice_group(session: &SessionId) -> String {
    format!("/{PARENT_SLICE}/{}", Layout::of_key(Path::new(""), &session.unit_key()).slice_name())
}

/// Directories of one session that its user owns.
pub const OWNED: [&str; 4] = ["home", "tmp", "run", "display"];
/// Directories of one session that stay root's.
pub const ROOTS: [&str; 6] = ["ready", "env", SYNC, TOOLS, NOTES, RDP];
/// Directory of agentd's socket for the forward unit.
pub const SYNC: &str = "sync";
/// Directory of agentd's socket for the tools unit.
pub const TOOLS: &str = "tools";
/// Directory of agentd's socket for the recorder unit.
pub const NOTES: &str = "notes";
/// Directory of agentd's socket for the rdp unit.
pub const RDP: &str = "rdp";
/// Directory of `passwd` and `group` of a session in an image.
pub const ETC: &str = "etc";
/// The socket in each.
pub const SOCKET: &str = "sock";

/// Paths of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    key: String,
    dir: PathBuf,
    workspace: Option<PathBuf>,
}

impl Layout {
    /// Of a session.
    pub fn new(state_dir: &Path, workspace_dir: &Path, session: &SessionId) -> Self {
        let workspace = Some(workspace_dir.join(session.as_str()));
        Self { workspace, ..Self::of_key(state_dir, &session.unit_key()) }
    }

    /// Of a slice whose session is not known: it has no workspace.
    pub fn of_key(state_dir: &Path, key: &str) -> Self {
        Self { key: key.to_owned(), dir: sessions_dir(state_dir).join(key), workspace: None }
    }

    /// The unit key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The session's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The session's directory while it is being made.
    pub fn new_dir(&self) -> PathBuf {
        self.dir.with_added_extension("new")
    }

    /// Something directly below the session's directory.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The workspace, where the session is known.
    pub fn workspace(&self) -> Option<&Path> {
        self.workspace.as_deref()
    }

    /// Environment of a unit.
    pub fn env_file(&self, word: &str) -> PathBuf {
        self.at("env").join(word)
    }

    /// Standard output of a unit that says when it is ready, and of the guest.
    pub fn ready_file(&self, word: &str) -> PathBuf {
        self.at("ready").join(word)
    }

    /// Directory of agentd's socket for this unit, and where the unit sees it; None for units without one.
    pub fn agentd_dir(&self, unit: UnitName) -> Option<(PathBuf, &'static str)> {
        match unit {
            UnitName::Forward => Some((self.at(SYNC), inside::SYNC)),
            UnitName::Tools => Some((self.at(TOOLS), inside::TOOLS)),
            UnitName::Recorder => Some((self.at(NOTES), inside::NOTES)),
            UnitName::Rdp => Some((self.at(RDP), inside::RDP)),
            _ => None,
        }
    }

    /// The backend's record.
    pub fn record(&self) -> PathBuf {
        self.at("unit.json")
    }

    /// agentd's own copy of the X cookie.
    pub fn authority(&self) -> PathBuf {
        self.at("Xauthority.agentd")
    }

    /// The slice.
    pub fn slice_name(&self) -> String {
        slice_name(&self.key)
    }

    /// A unit.
    pub fn unit_name(&self, word: &str) -> String {
        unit_name(&self.key, word)
    }

    /// What the session sees: the same for every session.
    pub fn session_paths() -> SessionPaths {
        let (run, home) = (PathBuf::from(inside::RUN), PathBuf::from(inside::HOME));
        SessionPaths {
            xauthority: run.join("Xauthority"),
            runtime: run.clone(),
            root: run,
            home,
            tmp: PathBuf::from(inside::TMP),
            vnc_socket: Path::new(inside::DISPLAY).join("vnc.sock"),
            workspace: PathBuf::from(inside::WORKSPACE),
            sync_socket: Path::new(inside::SYNC).join(SOCKET),
            tools_socket: Path::new(inside::TOOLS).join(SOCKET),
            notes_socket: Path::new(inside::NOTES).join(SOCKET),
            recorder_apart: true,
            rdp_socket: Path::new(inside::RDP).join(SOCKET),
            rdp_files: PathBuf::from(inside::RDP_FILES),
            own_network: true,
            private_tmp: true,
        }
    }

    /// What agentd opens.
    pub fn host_paths(&self) -> HostPaths {
        HostPaths {
            ready: self.at("ready"),
            xauthority: self.authority(),
            vnc_socket: self.at("display").join("vnc.sock"),
            x_sockets: Some(self.at("tmp").join(".X11-unix")),
            workspace: self.workspace.clone().unwrap_or_default(),
        }
    }
}

/// Parent of all sessions' directories.
pub fn sessions_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("s")
}

/// The slice of a session.
pub fn slice_name(key: &str) -> String {
    format!("helix-s{key}.slice")
}

/// One of its units.
pub fn unit_name(key: &str, word: &str) -> String {
    format!("helix-s{key}-{word}.service")
}

/// Key of a session's slice; None for any other unit.
pub fn parse_slice_name(name: &str) -> Option<&str> {
    name.strip_prefix("helix-s")?.strip_suffix(".slice").filter(|key| is_key(key))
}

/// Key and word of a session's unit; None for any other unit.
pub fn parse_unit_name(name: &str) -> Option<(&str, &str)> {
    let (key, word) = name.strip_prefix("helix-s")?.strip_suffix(".service")?.split_once('-')?;
    (is_key(key) && is_word(word)).then_some((key, word))
}

/// True for what can be a unit key.
pub fn is_key(text: &str) -> bool {
    text.len() == KEY_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_word(word: &str) -> bool {
    word == GUEST || UnitName::parse(word).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_made() {
        let session = SessionId::parse("a-session").unwrap();
        let layout = Layout::new(Path::new("/state"), Path::new("/w"), &session);
        let key = session.unit_key();
        for word in UnitName::ALL.map(UnitName::as_str).into_iter().chain([GUEST]) {
            assert_eq!(parse_unit_name(&layout.unit_name(word)), Some((key.as_str(), word)));
        }
        assert_eq!(parse_slice_name(&layout.slice_name()), Some(key.as_str()));
        let foreign =
            ["helix-server.service", "helix-s0123456789abcdef-cron.service", "helix-sABCDEF0123456789-app.service"];
        for name in foreign {
            assert_eq!(parse_unit_name(name), None, "{name}");
        }
        assert_eq!(parse_slice_name("helix.slice"), None);
        assert_eq!(parse_slice_name("helix-s.slice"), None);
    }

    #[test]
    fn nothing_that_is_bound_into_a_session_is_below_another_of_its_directories() {
        let session = SessionId::parse("s").unwrap();
        let layout = Layout::new(Path::new("/state"), Path::new("/w"), &session);
        for name in OWNED.into_iter().chain(ROOTS) {
            assert_eq!(layout.at(name).parent(), Some(layout.dir()));
        }
        assert_eq!(layout.new_dir(), layout.dir().parent().unwrap().join(format!("{}.new", layout.key())));
        assert_eq!(layout.host_paths().workspace, Path::new("/w/s"));
    }
}
