//! Lifecycle events: written to `EXTERNAL_AGENTS` by whoever caused them, fanned out to watchers.

use futures::stream::BoxStream;
use helix_protocol::event::FeedItem;

use crate::error::Result;

/// The feed. Cheap to clone.
#[derive(Clone)]
pub struct Events {}

/// What a watcher gets.
#[derive(Debug, Clone)]
pub enum FeedMessage {
    /// The next event.
    Item(FeedItem),
    /// Events from `from` up to but without `to` are gone (older than the stream keeps, or the watcher too slow).
    Gap {
        /// First missing sequence.
        from: u64,
        /// First sequence that follows.
        to: u64,
    },
}

impl Events {
    /// Events after sequence `after`, stored ones first, then live ones, without a hole or a repeat between them;
    /// live ones only where `None`.
    pub async fn subscribe(&self, _after: Option<u64>) -> Result<BoxStream<'static, FeedMessage>> {
        unimplemented!()
    }
}
