//! What is said on `guest.sock`, one JSON object per line, and what the guest keeps in `guest.json`.
//!
//! A connection carries any number of requests; each is answered by one [`Answer`], in order. After
//! [`Request::Subscribe`] every [`Answer::Event`] follows on that connection as it happens.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use helix_protocol::SessionId;
use helix_protocol::session::SessionResult;
use serde::{Deserialize, Serialize};

use crate::supervisor::{GuestIdentity, UnitName, UnitSpec, UnitStatus};

/// Longest line that either side accepts: a unit with its environment is far smaller.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// To the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// How is everything? Answered by [`Answer::State`].
    List,
    /// Start this unit unless one of its name was started. Answered by [`Answer::Unit`] or [`Answer::Failed`].
    Start {
        /// What to start.
        unit: UnitSpec,
    },
    /// End this unit and forget it. Answered by [`Answer::Done`] when it is gone.
    Stop {
        /// Which.
        unit: UnitName,
        /// Milliseconds between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
    /// The task's outcome. Answered by [`Answer::Done`] once it is on disk; may be repeated until then.
    Result {
        /// The outcome.
        result: SessionResult,
    },
    /// Answered by [`Answer::State`], then events.
    Subscribe,
    /// End everything and yourself. Answered by [`Answer::Done`] when no process is left.
    Kill,
}

/// From the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Everything now.
    State {
        /// Who answers.
        guest: GuestIdentity,
        /// Every unit started and not forgotten.
        units: Vec<UnitStatus>,
        /// Outcome of the task.
        result: Option<SessionResult>,
    },
    /// One unit.
    Unit {
        /// How it is.
        unit: UnitStatus,
    },
    /// It is done.
    Done,
    /// It is not done, and why.
    Failed {
        /// For people.
        reason: String,
    },
    /// Something happened.
    Event {
        /// What.
        event: Event,
    },
}

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A unit's main process ended.
    UnitExited {
        /// How.
        unit: UnitStatus,
    },
    /// The task has an outcome.
    TaskFinished {
        /// The outcome.
        result: SessionResult,
    },
}

/// A unit in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// Which.
    pub name: UnitName,
    /// Its main process, also after its end: the X lock file is recognised by it.
    pub pid: u32,
    /// Start time of that process.
    pub start_time: u64,
    /// Exit status once ended.
    pub exit_status: Option<i32>,
}

impl UnitRecord {
    /// As the supervisor tells it.
    pub fn status(&self) -> UnitStatus {
        let pid = self.exit_status.is_none().then_some(self.pid);
        UnitStatus { name: self.name, pid, exit_status: self.exit_status, out_of_memory: false }
    }
}

/// `guest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which session.
    pub session: SessionId,
    /// The guest that wrote it.
    pub guest: GuestIdentity,
    /// Its units.
    #[serde(default)]
    pub units: Vec<UnitRecord>,
    /// Outcome of the task.
    #[serde(default)]
    pub result: Option<SessionResult>,
    /// True when the guest ended everything on request.
    #[serde(default)]
    pub ended: bool,
}

impl Record {
    /// The record at `path`; None where there is none. One that cannot be parsed is an error.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
    }

    /// Replaces the record at `path`. `durable` also waits for the disk: processes do not survive a power cut, so
    /// only an outcome needs that.
    pub fn save(&self, path: &Path, durable: bool) -> io::Result<()> {
        let draft = path.with_extension("json.new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&draft, path)?;
        match path.parent() {
            Some(directory) if durable => fs::File::open(directory)?.sync_all(),
            _ => Ok(()),
        }
    }
}

/// `message` as a line.
pub fn line<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}
