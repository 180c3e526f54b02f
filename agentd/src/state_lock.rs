//! One agentd per state directory: two would fight about its sessions.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};

const FILE: &str = "agentd.lock";

/// Makes the directory where it is missing, and takes it until the file is dropped; None while another process has it.
pub fn try_take(state_dir: &Path) -> anyhow::Result<Option<File>> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).with_context(|| {
        format!("cannot make state directory {}; choose another with --state-dir", state_dir.display())
    })?;
    let path = state_dir.join(FILE);
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).with_context(|| {
            format!("cannot write {}; choose another --state-dir or run as its owner", path.display())
        })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// As [`try_take`]; that another process has it is an error.
pub fn take(state_dir: &Path) -> anyhow::Result<File> {
    match try_take(state_dir)? {
        Some(file) => Ok(file),
        None => bail!(
            "another agentd runs with state directory {}; stop it, or give this one its own --state-dir and --runner-id",
            state_dir.display()
        ),
    }
}
