//! Conversations: a session's threads, their turns and entries, and the sync socket over which its agent takes part.
//!
//! Everything that happened is an event in stream `HELIX_THREADS` ([`log`]), written with the last sequence that its
//! writer knew of the thread; a conversation is their fold ([`model`], pure). Whoever needs one follows it
//! ([`live`]): the routes that accept prompts, the event feed, and the *owner*, the one server that holds the
//! session's newest sync socket. Servers say nothing to each other but through the log, so a prompt that was
//! accepted by one reaches the agent through another, and what a dead server had begun the next one finds written.
//!
//! Deleting this folder, `http/threads` and their routes deletes the capability: nothing else depends on it.

pub mod live;
pub mod log;
pub mod model;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::live::Hub;
use self::log::Log;
use crate::bus::Bus;

/// Conversations of this server. Cheap to clone.
#[derive(Clone)]
pub struct Threads {
    /// Conversations that are followed.
    pub hub: Hub,
}

impl Threads {
    /// Nothing is followed yet.
    pub fn new(bus: Bus, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { hub: Hub::new(Log::new(bus), tasks, shutdown) }
    }
}
