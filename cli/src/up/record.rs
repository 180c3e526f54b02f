//! `up.json`: where a one-machine Helix is and which processes it is. 0600: the NATS address holds a password.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::process::Process;
use super::state_dir::{StateDir, write_private};
use crate::error::{CliError, Result};

/// What `up --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpInfo {
    /// Base URL of the server.
    pub url: String,
    /// File with the operator's token.
    pub token_file: PathBuf,
    /// NATS address with the credentials of the observer, who may read everything; null until nats-server listens.
    pub nats_url: Option<String>,
    /// Process ids: `nats`, `server`, `agentd`, `up`.
    pub pids: BTreeMap<String, u32>,
    /// Where all of it is.
    pub state_dir: PathBuf,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpRecord {
    /// The part that is printed.
    #[serde(flatten)]
    pub info: UpInfo,
    /// True once every child was ready.
    pub ready: bool,
    /// When this supervisor began.
    pub started_at: Timestamp,
    /// `/proc/sys/kernel/random/boot_id`: pids of another boot mean nothing.
    pub boot_id: String,
    /// Start time of each pid, in clock ticks since boot: a pid alone proves nothing.
    pub start_times: BTreeMap<String, u64>,
}

impl UpRecord {
    /// Reads `up.json`; None where nothing runs.
    pub fn read(dir: &StateDir) -> Result<Option<Self>> {
        let path = dir.record();
        let bad = |why: String| {
            CliError::failed("cannot read what `up` recorded")
                .at(path.display())
                .because(why)
                .next(format!("helixctl down --state-dir {}", dir.root().display()))
        };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| bad(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    /// Replaces `up.json`.
    pub fn write(&self, dir: &StateDir) -> Result<()> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| CliError::failed("cannot encode up.json").at(dir.root().display()).because(error))?;
        write_private(&dir.record(), &bytes)
    }

    /// Notes a process under a name.
    pub fn note(&mut self, name: &str, process: Process) {
        self.info.pids.insert(name.to_owned(), process.pid);
        self.start_times.insert(name.to_owned(), process.start_time);
    }

    /// The process noted under a name, if this boot's.
    pub fn process(&self, name: &str) -> Option<Process> {
        (self.boot_id == super::process::boot_id()).then_some(())?;
        Some(Process { pid: *self.info.pids.get(name)?, start_time: *self.start_times.get(name)? })
    }
}
