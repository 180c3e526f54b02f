//! `agentd reap`: ends everything of a runner without an agentd.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};

use super::layout::{Layout, sessions_dir};
use super::{end, sweep};
use crate::guest::wire::Record;

/// Looks for sessions that came up while others were ended.
const LATECOMER_ROUNDS: u32 = 3;
/// Sessions that are ended at the same time.
const THREADS: usize = 16;

/// Ends every slice of the runner with this state directory, and proves that nothing of it runs. Logs, records and
/// workspaces stay; only empty workspaces go. Synchronous: for `agentd reap`, before any runtime.
pub fn reap_all(state_dir: &Path, workspace_dir: Option<&Path>) -> anyhow::Result<()> {
    let state_dir =
        resolve(state_dir).with_context(|| format!("cannot read state directory {}", state_dir.display()))?;
    let mut left = end_all(&state_dir, &markers(&state_dir)?)?;
    // A session that was just being started may have come up behind the first look; nobody starts another.
    for _ in 0..LATECOMER_ROUNDS {
        let late = markers(&state_dir)?;
        if late.is_empty() {
            break;
        }
        left = end_all(&state_dir, &late)?;
    }
    left.extend(markers(&state_dir)?.into_iter().map(|marker| format!("processes with {}={marker}", sweep::VARIABLE)));
    if let Some(workspace_dir) = workspace_dir {
        remove_empty_workspaces(&state_dir, workspace_dir);
    }
    if left.is_empty() { Ok(()) } else { bail!("left behind: {}", left.join("; ")) }
}

/// Ends every slice; what could not be ended. `markers` are those of the runner's living processes.
fn end_all(state_dir: &Path, markers: &HashSet<String>) -> anyhow::Result<Vec<String>> {
    let found = end::found_with(state_dir, markers).context("cannot look for sessions on this machine")?;
    let mut left = Vec::new();
    // Most have ended long ago and cost nothing.
    let mut running = Vec::new();
    for key in found {
        match end::end_ended_slice(state_dir, &key, markers) {
            Some(result) => left.extend(result.err().map(|left| format!("{key}: {left}"))),
            None => running.push(key),
        }
    }
    // Side by side: one slow session does not make the others wait.
    let threads = running.len().min(THREADS);
    let queue = Mutex::new(running.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let end = |key: String| end::end_slice(state_dir, &key).err().map(|left| format!("{key}: {left}"));
    std::thread::scope(|scope| {
        let ends: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| std::iter::from_fn(next).filter_map(end).collect::<Vec<_>>()))
            .collect();
        for end in ends {
            match end.join() {
                Ok(ended) => left.extend(ended),
                Err(_) => bail!("ending a session panicked"),
            }
        }
        Ok(left)
    })
}

fn markers(state_dir: &Path) -> anyhow::Result<HashSet<String>> {
    sweep::markers(&end::runner_mark(state_dir)).context("/proc cannot be read")
}

/// The path as it was when the directory existed: processes outlive it, and are marked by it.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(resolve(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?.join(name))
        }
        (result, ..) => result,
    }
}

fn remove_empty_workspaces(state_dir: &Path, workspace_dir: &Path) {
    let Ok(entries) = fs::read_dir(sessions_dir(state_dir)) else { return };
    for entry in entries.filter_map(io::Result::ok) {
        if let Ok(Some(record)) = Record::load(&Layout::new(entry.path()).record()) {
            // Refused where it is not empty: what is in it is the user's.
            let _ = fs::remove_dir(workspace_dir.join(record.session.as_str()));
        }
    }
}
