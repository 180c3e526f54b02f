//! Commands and terminals of a session: what is asked for, and what is said while they run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Failure;

/// A command to run in the session.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecRequest {
    /// Program and arguments, or one line for `/bin/sh`.
    pub command: Command,
    /// Working directory inside the workspace; the workspace itself where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// More environment. Not for secrets that other programs of the session must not see.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Run it on a terminal of this size: its output and its errors are one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// It reads standard input; otherwise there is none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// It goes on when its caller leaves, and so does what it leaves running.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
}

impl std::fmt::Debug for ExecRequest {
    /// Without command and environment, which may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cwd, terminal, stdin, detach, .. } = self;
        let mut shown = f.debug_struct("ExecRequest");
        shown.field("cwd", cwd).field("terminal", terminal).field("stdin", stdin).field("detach", detach);
        shown.finish_non_exhaustive()
    }
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Command {
    /// Program (searched in PATH) and arguments.
    Program(Vec<String>),
    /// A line for `/bin/sh -c`.
    Line(String),
}

impl Default for Command {
    fn default() -> Self {
        Self::Program(Vec::new())
    }
}

impl Command {
    /// Program and arguments; None for a command without any.
    pub fn argv(&self) -> Option<Vec<String>> {
        match self {
            Self::Program(argv) => argv.first().is_some_and(|name| !name.is_empty()).then(|| argv.clone()),
            Self::Line(line) if line.trim().is_empty() => None,
            Self::Line(line) => Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]),
        }
    }
}

/// What a caller says to a running program, beside its input. On a WebSocket of the API: a text frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Control {
    /// A signal for its process group.
    Signal {
        /// `INT`, `TERM`, `HUP` …, with or without `SIG`.
        signal: String,
    },
    /// The terminal has this size now.
    Resize(TerminalSize),
    /// Its input is over.
    StdinEnd {},
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TerminalSize {
    /// Columns, 1 to 1000.
    pub cols: u16,
    /// Rows, 1 to 1000.
    pub rows: u16,
}

impl TerminalSize {
    /// Where nobody says anything.
    pub const DEFAULT: Self = Self { cols: 80, rows: 24 };

    /// True for a size that a terminal can have.
    pub fn is_valid(self) -> bool {
        let possible = 1..=1000;
        possible.contains(&self.cols) && possible.contains(&self.rows)
    }
}

/// A program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// In the session's own count.
    pub pid: u32,
}

/// How a program ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Exit {
    /// As a shell tells it: 128 + signal where it was killed.
    pub exit_status: i32,
    /// The signal that killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// What a server says on the WebSocket of a command or a terminal, beside its bytes: a text frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Notice {
    /// The program runs; its input may come.
    Started {
        /// In the session's own count.
        pid: u32,
    },
    /// You see this terminal; what it showed last comes first.
    Attached(TerminalView),
    /// So many more bytes of input were taken. Who has more than 262144 bytes under way has its signals wait.
    Taken {
        /// Bytes.
        bytes: u32,
    },
    /// It has ended; nothing follows.
    Exit(Exit),
    /// It was not done, or not to its end; nothing follows.
    Failed(Failure),
}

/// First byte of a binary frame from a command: its standard output follows.
pub const STDOUT: u8 = 1;
/// The same for standard error.
pub const STDERR: u8 = 2;

/// A terminal of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TerminalView {
    /// Its name.
    pub name: String,
    /// Its shell, in the session's own count.
    pub pid: u32,
    /// Its size.
    pub size: TerminalSize,
    /// Who sees it now.
    pub viewers: u32,
    /// When its shell was started.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
}

/// `GET /api/v1/sessions/{id}/terminals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TerminalList {
    /// By name.
    pub terminals: Vec<TerminalView>,
}

/// `POST /api/v1/sessions/{id}/exec`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunCommand {
    /// Program and arguments, or one line for `/bin/sh`.
    pub command: Command,
    /// Working directory inside the workspace; the workspace itself where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// More environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What it reads; nothing where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// It is killed after this many milliseconds; 60000 where absent, at most 3600000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a command did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CommandResult {
    /// As a shell tells it: 128 + signal where it was killed. Absent where its time was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// The signal that killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// It took longer than `timeout_ms`, and was killed.
    pub timed_out: bool,
    /// What it wrote, at most 1 MiB. Bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// The same of its errors.
    pub stderr: String,
    /// Something is missing at the end of one of them.
    pub truncated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_program_or_a_line() {
        let argv = |json: &str| serde_json::from_str::<Command>(json).expect("a command").argv();
        assert_eq!(argv(r#"["ls","-l"]"#).expect("some"), ["ls", "-l"]);
        assert_eq!(argv(r#""ls | wc""#).expect("some"), ["/bin/sh", "-c", "ls | wc"]);
        for none in ["[]", "[\"\"]", "\"\"", "\" \""] {
            assert_eq!(argv(none), None, "{none}");
        }
    }
}
