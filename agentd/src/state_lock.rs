//! One agentd per state directory: two would fight about its sessions.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

const FILE: &str = "agentd.lock";
/// [`crate::hold`] has it for a moment.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes the directory where it is missing, and takes it until the file is dropped.
pub async fn take(state_dir: &Path) -> anyhow::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).with_context(|| {
        format!("cannot make state directory {}; choose another with --state-dir", state_dir.display())
    })?;
    let path = state_dir.join(FILE);
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).with_context(|| {
            format!("cannot write {}; choose another --state-dir or run as its owner", path.display())
        })?;
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    match tokio::time::timeout(PATIENCE, locked).await {
        Ok(locked) => locked?.with_context(|| format!("cannot lock {}", path.display())),
        Err(_) => bail!(
            "another agentd runs with state directory {}; stop it, or give this one its own --state-dir and --runner-id",
            state_dir.display()
        ),
    }
}

/// Takes a directory that an agentd has used, without writing anything; None while another process has it.
pub fn look(state_dir: &Path) -> io::Result<Option<File>> {
    let file = File::open(state_dir.join(FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
