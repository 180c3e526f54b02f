//! Kills at the memory limit, told by the kernel the moment they happen (version 2: inotify on `memory.events`).
//!
//! One inotify instance for all groups (the kernel allows few per user), read by one task that wakes whoever waits;
//! each looks at its own file first and after every wake. The task ends when the last [`OomEvents`] is dropped.

use std::fs;
use std::io;
use std::sync::Arc;

use futures::StreamExt as _;
use inotify::{EventMask, Inotify, WatchMask, Watches};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Cgroups, number_of};

/// Waits for kills. Clones share the inotify instance.
#[derive(Debug, Clone)]
pub struct OomEvents {
    watches: Watches,
    changes: watch::Receiver<u64>,
    _task: Arc<DropGuard>,
}

impl OomEvents {
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
                        // A group that is gone, too: whoever waits for it sees that its file is.
                        Some(Ok(event)) => {
                            let known = EventMask::MODIFY | EventMask::IGNORED | EventMask::Q_OVERFLOW;
                            if event.mask.intersects(known) {
                                sender.send_modify(|count| *count += 1);
                            }
                        }
                        Some(Err(error)) => tracing::warn!(%error, "cannot read inotify events"),
                        None => return,
                    },
                }
            }
        });
        Ok(Self { watches, changes, _task: Arc::new(stop.drop_guard()) })
    }

    /// Waits until more than `seen` processes of the group have been killed, and answers how many. Ends with
    /// `NotFound` when the group is gone, at once where the machine does not tell. Cancel safe.
    pub async fn next(&self, cgroups: &Cgroups, group: &str, seen: u64) -> io::Result<u64> {
        let file = cgroups.unified_file(group, "memory.events").ok_or(io::ErrorKind::NotFound)?;
        let mut watches = self.watches.clone();
        // The watch goes with the group; adding it twice is the same watch.
        watches.add(&file, WatchMask::MODIFY)?;
        let mut changes = self.changes.clone();
        loop {
            changes.mark_unchanged();
            let kills = number_of(&fs::read_to_string(&file)?, "oom_kill").unwrap_or(0);
            if kills > seen {
                return Ok(kills);
            }
            changes.changed().await.map_err(|_| io::Error::other("the watch of control groups has ended"))?;
        }
    }
}
