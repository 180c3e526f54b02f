//! Readiness lines: files that a unit writes its line to (`-displayfd 1`, `--print-address=1`).
//!
//! One inotify instance for all sessions (the kernel allows few per user), read by one task that wakes whoever waits;
//! each waiter looks at its file first and after every wake. The task ends when the last [`ReadyLines`] is dropped.

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use inotify::{EventMask, Inotify, WatchMask, Watches};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// No readiness line is longer.
const MAX_LINE_BYTES: u64 = 4096;

/// Waits for readiness lines. Clones share the inotify instance.
#[derive(Debug, Clone)]
pub struct ReadyLines {
    watches: Watches,
    changes: watch::Receiver<u64>,
    _task: Arc<DropGuard>,
}

impl ReadyLines {
    /// Starts the reading task. Needs a runtime.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let mut events = inotify.into_event_stream(vec![0; 4096])?;
        let (sender, changes) = watch::channel(0_u64);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    event = events.next() => match event {
                        // A removed directory removes its watch; nobody waits for it any more.
                        Some(Ok(event)) if event.mask == EventMask::IGNORED => {}
                        // After an overflow everybody looks again, which is what they do after any event.
                        Some(Ok(_)) => sender.send_modify(|count| *count += 1),
                        Some(Err(error)) => tracing::warn!(%error, "cannot read inotify events"),
                        None => return,
                    },
                }
            }
        });
        Ok(Self { watches, changes, _task: Arc::new(stop.drop_guard()) })
    }

    /// Waits until `dir/name` has a whole line and answers it, without its end. Cancel safe.
    pub async fn line(&self, dir: &Path, name: &str) -> io::Result<String> {
        let mut watches = self.watches.clone();
        // The watch goes with the directory, when the session ends; adding it twice is the same watch.
        watches.add(dir, WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO)?;
        let mut changes = self.changes.clone();
        loop {
            changes.mark_unchanged();
            if let Some(line) = read_line(&dir.join(name))? {
                return Ok(line);
            }
            changes.changed().await.map_err(|_| io::Error::other("the readiness watch has ended"))?;
        }
    }
}

fn read_line(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(MAX_LINE_BYTES).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(text.split_once('\n').map(|(line, _)| line.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_line_counts_once_it_is_whole() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let ready = ReadyLines::new().expect("inotify");
        let path = dir.path().join("display");
        let waiting = tokio::spawn({
            let (ready, dir) = (ready.clone(), dir.path().to_owned());
            async move { ready.line(&dir, "display").await }
        });
        let mut file = std::fs::File::create(&path).expect("created");
        file.write_all(b"1").expect("written");
        file.write_all(b"7\nnoise").expect("written");
        let line = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time");
        assert_eq!(line.expect("task ran").expect("read"), "17");
        // A later agentd finds the line that is there already.
        let again = tokio::time::timeout(Duration::from_secs(5), ready.line(dir.path(), "display")).await;
        assert_eq!(again.expect("in time").expect("read"), "17");
    }
}
