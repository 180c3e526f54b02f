//! Where recordings are kept on a runner until the server has them.
//!
//! ```text
//! <state>/recordings/<recording>/   agentd's, 0700
//!     about.json                    of which session it is: agentd's own word, for the server
//!     spool/                        the recorder's ([`super::spool`])
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use helix_protocol::{Epoch, RecordingId, SessionId};
use serde::{Deserialize, Serialize};

/// Of which session a recording is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Which.
    pub session: SessionId,
    /// Under which assignment.
    pub epoch: Epoch,
}

/// The parent of all.
pub fn all(state_dir: &Path) -> PathBuf {
    state_dir.join("recordings")
}

/// One recording.
pub fn place(state_dir: &Path, recording: &RecordingId) -> PathBuf {
    all(state_dir).join(recording.as_str())
}

/// Its spool.
pub fn spool(state_dir: &Path, recording: &RecordingId) -> PathBuf {
    place(state_dir, recording).join("spool")
}

/// Makes the place of a recording, without its spool. May be repeated.
pub fn prepare(state_dir: &Path, about: &About) -> io::Result<RecordingId> {
    let recording = RecordingId::of(&about.session, about.epoch);
    let place = place(state_dir, &recording);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&place)?;
    let draft = place.join("about.new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(about).map_err(io::Error::other)?)?;
    fs::rename(draft, place.join("about.json"))?;
    Ok(recording)
}

/// Makes a recording's spool, for this user alone, or finds it.
pub fn make_spool(state_dir: &Path, recording: &RecordingId) -> io::Result<PathBuf> {
    let spool = spool(state_dir, recording);
    match fs::DirBuilder::new().mode(0o700).create(&spool) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(spool),
    }
}

/// Every recording that is here, with what it is about where that is known.
pub fn list(state_dir: &Path) -> io::Result<Vec<(RecordingId, Option<About>)>> {
    let entries = match fs::read_dir(all(state_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(recording) = entry.file_name().to_str().and_then(|name| RecordingId::parse(name).ok()) else {
            continue;
        };
        let about = fs::read(entry.path().join("about.json")).ok();
        let about = about.and_then(|text| serde_json::from_slice::<About>(&text).ok());
        let about = about.filter(|about| RecordingId::of(&about.session, about.epoch) == recording);
        found.push((recording, about));
    }
    Ok(found)
}

/// Removes a recording from the runner.
pub fn remove(state_dir: &Path, recording: &RecordingId) -> io::Result<()> {
    match fs::remove_dir_all(place(state_dir, recording)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
