//! `up.lock`: one supervisor (or `down`) per state directory. The kernel frees it when its holder dies.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::process::Process;
use super::state_dir::StateDir;
use crate::error::{CliError, Result};

/// What the holder does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Supervises.
    Up,
    /// Ends leftovers.
    Down,
}

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What it does.
    pub role: Role,
    /// Which process.
    pub process: Process,
}

/// The held lock; free when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Closing would do, were there not the moment in which a child that is being started still holds a copy.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Outcome of [`take`].
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Lock),
    /// Somebody else has it; None in the moment before it has said who it is.
    Held(Option<Holder>),
}

/// Tries to take the lock. The directory must exist.
pub fn take(dir: &StateDir, role: Role) -> Result<Taken> {
    let path = dir.lock();
    let bad = |why: String| {
        CliError::failed("cannot lock the state directory")
            .at(path.display())
            .because(why)
            .next("helixctl up --state-dir with a directory that this user can write")
    };
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| bad(error.to_string()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            return Ok(Taken::Held(holder));
        }
        Err(error) => return Err(bad(error.to_string())),
    }
    signed(file, role).map(Taken::Ours).map_err(bad)
}

/// The lock on the locked `file`, with its holder in it. Ending must work on a full disk, too, and the text only tells
/// others who it is: `down` goes without.
fn signed(mut file: File, role: Role) -> std::result::Result<Lock, String> {
    match sign(&mut file, role) {
        Err(why) if role == Role::Up => Err(why),
        _ => Ok(Lock { file }),
    }
}

fn sign(file: &mut File, role: Role) -> std::result::Result<(), String> {
    let process = Process::current().ok_or("this process is not listed in /proc")?;
    let holder = serde_json::to_vec(&Holder { role, process }).map_err(|error| error.to_string())?;
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(&holder))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_learns_who_is_first() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = StateDir::new(temp.path()).expect("a path");
        let Taken::Ours(lock) = take(&dir, Role::Up).expect("taken") else { panic!("not ours") };
        let Taken::Held(Some(holder)) = take(&dir, Role::Down).expect("asked") else { panic!("not held") };
        assert_eq!((holder.role, holder.process.pid), (Role::Up, std::process::id()));
        drop(lock);
        assert!(matches!(take(&dir, Role::Down), Ok(Taken::Ours(_))));
    }

    #[test]
    fn only_up_needs_to_be_able_to_write_who_it_is() {
        let temp = tempfile::NamedTempFile::new().expect("a file");
        // A file that is open for reading refuses the text as one on a full disk does.
        let refusing = || File::open(temp.path()).expect("opened");
        assert!(signed(refusing(), Role::Up).is_err());
        assert!(signed(refusing(), Role::Down).is_ok());
    }
}
