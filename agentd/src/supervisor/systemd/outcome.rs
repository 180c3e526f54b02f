//! The outcome of a session's task: the first whole line that `agentd guest result` wrote to the file that systemd
//! opened for it, `S/ready/guest`. It stays readable for an agentd that starts later.
//!
//! The guest runs as the session's user, so the file is read bounded and every line of it is doubted. One inotify
//! instance watches for all sessions (the kernel allows few per user); one task reads it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use helix_protocol::session::{OUTPUT_TAIL_BYTES, SessionResult};
use inotify::{EventMask, WatchDescriptor, WatchMask, Watches};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::layout::{GUEST, Layout};
use crate::file_events;

/// One outcome whose every byte had to be escaped (`\u0000`), with room for the rest and for a line that was cut
/// short before it.
const MAX_BYTES: u64 = 2 * (6 * OUTPUT_TAIL_BYTES as u64 + 4096);

/// The outcome in the file; None where there is none yet.
pub fn read(path: &Path) -> Option<SessionResult> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    // What follows the last line break may still be written.
    let end = text.iter().rposition(|&byte| byte == b'\n')?;
    let mut lines = text[..end].split(|&byte| byte == b'\n');
    let result: SessionResult = lines.find_map(|line| serde_json::from_slice(line).ok())?;
    (result.output_tail.len() <= OUTPUT_TAIL_BYTES).then_some(result)
}

/// Watches for outcomes.
#[derive(Debug)]
pub struct Outcomes {
    watches: Watches,
    layouts: Arc<Mutex<HashMap<WatchDescriptor, Layout>>>,
    _task: DropGuard,
}

impl Outcomes {
    /// Starts the reading task: `found` hears of every outcome, perhaps more than once. Needs a runtime.
    pub fn new(found: impl Fn(&Layout, SessionResult) + Send + 'static) -> io::Result<Self> {
        let inotify = file_events::inotify()?;
        let watches = inotify.watches();
        let mut events = inotify.into_event_stream(vec![0; 4096])?;
        let layouts: Arc<Mutex<HashMap<WatchDescriptor, Layout>>> = Arc::default();
        let (known, stop) = (layouts.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let task = async move {
            while let Some(event) = events.next().await {
                let Ok(event) = event else { continue };
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                if event.mask.contains(EventMask::IGNORED) {
                    known.remove(&event.wd);
                } else if event.name.as_deref().is_some_and(|name| name == GUEST)
                    && let Some(layout) = known.get(&event.wd)
                    && let Some(result) = read(&layout.ready_file(GUEST))
                {
                    found(layout, result);
                }
            }
        };
        tokio::spawn(async move { stopped.run_until_cancelled(task).await });
        Ok(Self { watches, layouts, _task: stop.drop_guard() })
    }

    /// Watches a session's file until its directory is removed. Once more is the same watch.
    pub fn watch(&self, layout: &Layout) -> io::Result<()> {
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = self.watches.clone().add(layout.at("ready"), WatchMask::MODIFY)?;
        layouts.insert(watch, layout.clone());
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    fn line(exit_status: i32, tail: &str) -> String {
        let result = SessionResult {
            exit_status,
            output_tail: tail.to_owned(),
            output_truncated: false,
            finished_at: jiff::Timestamp::UNIX_EPOCH,
        };
        serde_json::to_string(&result).unwrap() + "\n"
    }

    #[test]
    fn the_first_whole_outcome_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest");
        assert_eq!(read(&path), None);
        let cut = &line(3, "cut")[..20];
        std::fs::write(&path, format!("noise\n\n{}{}{cut}", line(2, "first"), line(1, "second"))).unwrap();
        assert_eq!(read(&path).unwrap().exit_status, 2);
        std::fs::write(&path, line(0, &"x".repeat(OUTPUT_TAIL_BYTES + 1))).unwrap();
        assert_eq!(read(&path), None);
        std::fs::write(&path, line(0, &"\0".repeat(OUTPUT_TAIL_BYTES))).unwrap();
        assert_eq!(read(&path).unwrap().output_tail.len(), OUTPUT_TAIL_BYTES);
    }
}
