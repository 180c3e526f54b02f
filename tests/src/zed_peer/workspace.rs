//! What the editor keeps on disk: its threads, with what was said in them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Threads that outlive the editor. Cheap to clone; clones are the same workspace.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    made: u32,
    threads: BTreeMap<String, Kept>,
}

/// A thread on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Agent that made it.
    pub agent: String,
    /// What was said, in order; the place is the entry's number.
    pub entries: Vec<KeptEntry>,
}

/// An entry on disk. The turn's request is not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptEntry {
    /// `user` or `assistant`.
    pub role: &'static str,
    /// Its text.
    pub content: String,
    /// Name and status, of a use of a tool.
    pub tool: Option<(String, String)>,
}

impl Workspace {
    /// Makes a thread.
    pub fn new_thread(&self, agent: &str) -> String {
        let mut disk = self.disk();
        disk.made += 1;
        // Zed's ids are UUIDs: nothing can be read from them, not even an order.
        let id = format!("th-{:08x}", disk.made.wrapping_mul(0x9E37_79B1));
        disk.threads.insert(id.clone(), Kept { agent: agent.to_owned(), entries: Vec::new() });
        id
    }

    /// A thread, if it is there.
    pub fn thread(&self, id: &str) -> Option<Kept> {
        self.disk().threads.get(id).cloned()
    }

    /// The ids of all threads.
    pub fn ids(&self) -> Vec<String> {
        self.disk().threads.keys().cloned().collect()
    }

    /// Forgets a thread: it cannot be loaded any more.
    pub fn forget(&self, id: &str) {
        self.disk().threads.remove(id);
    }

    /// Gives a thread another id, as an agent may at a load.
    pub(super) fn rename(&self, from: &str, to: &str) {
        let mut disk = self.disk();
        if let Some(kept) = disk.threads.remove(from) {
            disk.threads.insert(to.to_owned(), kept);
        }
    }

    pub(super) fn keep(&self, id: &str, number: usize, entry: KeptEntry) {
        let mut disk = self.disk();
        let Some(kept) = disk.threads.get_mut(id) else { return };
        if number >= kept.entries.len() {
            kept.entries.resize(number + 1, KeptEntry::default());
        }
        kept.entries[number] = entry;
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
