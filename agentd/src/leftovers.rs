//! What this runner has removed that belonged to no session, what it cannot remove, and what it keeps of sessions that
//! live elsewhere: told with each heartbeat. Kept in memory only: the reaper says it anew every minute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use helix_protocol::reap::{KeptWorkspace, MAX_KEPT_TOLD, MAX_STUCK_TOLD, Reaped, RunnerLeftovers};

/// The last word of the reaper. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct LeftoverBoard(Arc<Mutex<RunnerLeftovers>>);

impl LeftoverBoard {
    /// All of it, for a heartbeat.
    pub fn told(&self) -> RunnerLeftovers {
        self.lock().clone()
    }

    /// This went.
    pub fn reaped(&self, what: &Reaped) {
        self.lock().reaped.add(what);
    }

    /// Unit keys of which something is left.
    pub fn stuck(&self, mut keys: Vec<String>) {
        keys.truncate(MAX_STUCK_TOLD);
        self.lock().stuck = keys;
    }

    /// Workspaces that are kept, the next to go first.
    pub fn kept(&self, mut kept: Vec<KeptWorkspace>) {
        kept.truncate(MAX_KEPT_TOLD);
        self.lock().kept = kept;
    }

    fn lock(&self) -> MutexGuard<'_, RunnerLeftovers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
