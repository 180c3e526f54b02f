//! What must be remembered of a session across a restart of agentd and cannot be asked of systemd: `unit.json`.
//!
//! Whose session it is, which slot it runs as, and which units were started. A unit that ended well and is not kept
//! (the display) is forgotten by systemd at once; by the record it is known to have ended. A unit with another
//! InvocationID than recorded was started anew by somebody else.
//!
//! Root's file in root's directory. Written whole under another name, then renamed. Synchronous.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use helix_protocol::resources::Network;
use helix_protocol::{RecordingId, SessionId};
use serde::{Deserialize, Serialize};

use crate::supervisor::UnitName;

/// The record of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    pub session: SessionId,
    /// Number of its slot user.
    pub slot: u32,
    /// InvocationID of its slice, once that is known.
    #[serde(default)]
    pub slice: Option<String>,
    /// True where its agent brings a sandbox of its own.
    #[serde(default)]
    pub own_sandbox: bool,
    /// Its network.
    #[serde(default)]
    pub network: Network,
    /// What its recorder spools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingId>,
    /// InvocationIDs of the units that were started and not forgotten.
    #[serde(default)]
    pub units: BTreeMap<UnitName, String>,
}

impl Record {
    /// The record at `path`; None where there is none.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the record at `path`. Nothing of it is worth waiting for the disk: units do not survive a power cut.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let draft = path.with_extension("json.new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        fs::rename(&draft, path)
    }
}
