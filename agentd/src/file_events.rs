//! Waiting until a file says something: one inotify instance for all who wait (the kernel allows few per user), read by
//! one task that wakes them all; each looks at its own file first and after every wake.
//!
//! The task ends when the last [`FileEvents`] is dropped. Behind an overflow everybody looks again, as after any event.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use inotify::{Inotify, WatchMask, Watches};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A new inotify instance. Where the kernel gives no more, the error says which setting allows them.
pub fn inotify() -> io::Result<Inotify> {
    Inotify::init().map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::MFILE.raw_os_error() => {
            io::Error::other(format!("{error}: raise fs.inotify.max_user_instances, or this process's open files"))
        }
        _ => error,
    })
}

/// Wakes whoever waits for a file. Clones share the inotify instance.
#[derive(Debug, Clone)]
pub struct FileEvents {
    watches: Watches,
    changes: watch::Receiver<u64>,
    _task: Arc<DropGuard>,
}

impl FileEvents {
    /// Starts the reading task. Needs a runtime.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify()?;
        let watches = inotify.watches();
        let mut events = inotify.into_event_stream(vec![0; 4096])?;
        let (sender, changes) = watch::channel(0_u64);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = async move {
            while let Some(event) = events.next().await {
                match event {
                    Ok(_) => sender.send_modify(|count| *count += 1),
                    Err(error) => tracing::warn!("cannot read inotify events: {error}"),
                }
            }
        };
        tokio::spawn(async move { stopped.run_until_cancelled(task).await });
        Ok(Self { watches, changes, _task: Arc::new(stop.drop_guard()) })
    }

    /// Waits until `look` answers something, after each of these events of `path`. The watch goes with the path; the
    /// same path twice is the same watch. Cancel safe.
    pub async fn until<T>(
        &self,
        path: &Path,
        events: WatchMask,
        mut look: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        self.watches.clone().add(path, events)?;
        let mut changes = self.changes.clone();
        loop {
            changes.mark_unchanged();
            if let Some(seen) = look()? {
                return Ok(seen);
            }
            changes.changed().await.map_err(|_| io::Error::other("the watch of files has ended"))?;
        }
    }
}
