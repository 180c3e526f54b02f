//! Conversations: a session's threads, their turns and entries, and the sync socket over which its agent takes part.
//!
//! Everything that happened is an event in stream `HELIX_THREADS` ([`log`]), written with the last sequence that its
//! writer knew of the thread; a conversation is their fold ([`model`], pure). Whoever needs one follows it
//! ([`live`]): the routes that accept prompts, the event feed, and the *owner*, the one server that holds the
//! session's newest sync socket. Servers say nothing to each other but through the log, so a prompt that was
//! accepted by one reaches the agent through another, and what a dead server had begun the next one finds written.
//!
//! Deleting this folder, `http/threads`, `http/thread_events` and their routes deletes the capability. Two others reach
//! in: `spec_tasks` for a session's first turn, and the reconciler, which removes the words of a deleted session.

pub mod commit;
pub mod decide;
pub mod feed;
pub mod initial;
pub mod live;
pub mod log;
pub mod model;
pub mod owner;
pub mod prompts;
pub mod sync;
pub mod turn;
pub mod views;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use std::sync::Arc;

use self::commit::Commits;
use self::decide::Timing;
use self::live::Hub;
use self::log::Log;
use self::sync::Sockets;
use crate::bus::Bus;
use crate::store::Store;
use crate::uses::Uses;

/// Conversations of this server. Cheap to clone.
#[derive(Clone)]
pub struct Threads {
    /// Conversations that are followed.
    pub hub: Hub,
    /// Sync sockets that are open here.
    pub sockets: Sockets,
}

impl Threads {
    /// Nothing is followed yet.
    pub fn new(
        bus: Bus,
        store: Store,
        uses: Uses,
        server_id: Arc<str>,
        timing: Timing,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let commits = Commits::begin(bus.clone(), &tasks, shutdown.clone());
        let hub = Hub::new(Log::new(bus.clone(), commits), store.sessions.clone(), tasks.clone(), shutdown.clone());
        let sockets = Sockets::new(hub.clone(), bus, (store, uses), server_id, timing, tasks, shutdown);
        Self { hub, sockets }
    }
}
