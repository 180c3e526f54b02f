//! Kills at the memory limit, told by the kernel the moment they happen (version 2: inotify on `memory.events`).

use std::fs;
use std::io;

use inotify::WatchMask;

use super::{Cgroups, number_of};
use crate::file_events::FileEvents;

/// Waits for kills. Clones share the inotify instance.
#[derive(Debug, Clone)]
pub struct OomEvents(FileEvents);

impl OomEvents {
    /// Needs a runtime.
    pub fn new() -> io::Result<Self> {
        FileEvents::new().map(Self)
    }

    /// Waits until more than `seen` processes of the group have been killed, and answers how many. Ends with
    /// `NotFound` when the group is gone, at once where the machine does not tell. Cancel safe.
    pub async fn next(&self, cgroups: &Cgroups, group: &str, seen: u64) -> io::Result<u64> {
        let file = cgroups.unified_file(group, "memory.events").ok_or(io::ErrorKind::NotFound)?;
        let kills = || Ok(number_of(&fs::read_to_string(&file)?, "oom_kill").filter(|kills| *kills > seen));
        self.0.until(&file, WatchMask::MODIFY, kills).await
    }
}
