//! What one watcher of a conversation is told: every event after the one that it knows, in order, none twice.
//!
//! Stored events come from the stream, live ones from the channel that all watchers of the conversation share. A
//! watcher that falls behind the channel reads from the stream what it misses and goes on live. One whose client takes
//! nothing while more than [`QUEUE`] events come is *overrun*: its route tells it the gap and ends. What a watcher
//! holds does not grow with what it misses.

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::ThreadId;
use helix_protocol::subject::STREAM_THREADS;
use helix_protocol::thread::{ThreadEvent, ThreadFeedItem};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::Threads;
use super::live::{Live, QUEUE};
use super::log::{Log, item_of};
use crate::bus::follow::Follow;
use crate::error::Result;
use crate::sessions::Found;

/// A client that took nothing for less time than this was merely not looked at yet.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a watcher gets.
#[derive(Debug, Clone)]
pub enum FeedMessage {
    /// The next event.
    Item(Arc<ThreadFeedItem>),
    /// Events that it is not told.
    Gap(Gap),
}

/// Events from `from` up to but without `to` are not told here: the client was too slow. `to` is not above `from` when
/// the stream was emptied and counts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "gap")]
pub struct Gap {
    /// First missing sequence.
    pub from: u64,
    /// First sequence that follows.
    pub to: u64,
}

/// Where a watcher reads.
enum Place {
    /// Something may be stored that it has not seen.
    Behind,
    /// It reads what is stored.
    Stored(Box<Follow>),
    /// It has seen all that is stored.
    Live,
}

/// One watcher.
pub struct Watcher {
    log: Log,
    live: Arc<Live>,
    events: broadcast::Receiver<Arc<ThreadFeedItem>>,
    thread: Option<ThreadId>,
    last: u64,
    generation: u64,
    place: Place,
}

/// How far the channel was when a client was given something.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    waiting: usize,
    at: Instant,
}

impl Threads {
    /// Events of a session, or of one thread, after sequence `after`; only what comes from now on where `None`.
    pub async fn watch(&self, at: &Found, thread: Option<ThreadId>, after: Option<u64>) -> Result<Watcher> {
        let live = self.hub.open_of(&at.desktop, at.since).await?;
        // Before the fold is read: what is applied after it arrives here.
        let events = live.watch();
        let generation = live.places().borrow().generation;
        let (last, place) = match after {
            Some(after) => (after, Place::Behind),
            None => (self.hub.look(&live, |conversation| conversation.applied).await?, Place::Live),
        };
        Ok(Watcher { log: self.hub.log().clone(), live, events, thread, last, generation, place })
    }
}

impl Watcher {
    /// The next message; `None` ends the feed (the store cannot be reached): resume by sequence. Cancel safe.
    pub async fn next(&mut self) -> Option<FeedMessage> {
        loop {
            let message = match &mut self.place {
                Place::Behind => match self.catch_up().await {
                    Ok(gap) => gap.map(FeedMessage::Gap),
                    Err(error) => {
                        tracing::info!("a watcher of a conversation is let go; it resumes by sequence: {error}");
                        return None;
                    }
                },
                Place::Stored(_) => self.next_stored().await,
                Place::Live => self.next_live().await,
            };
            if message.is_some() {
                return message;
            }
        }
    }

    /// Remembers that the client is being given something.
    pub fn mark(&self) -> Mark {
        Mark { waiting: self.events.len(), at: Instant::now() }
    }

    /// True when the client took nothing since `mark` while more came than it may be behind.
    pub fn is_overrun(&self, mark: Mark) -> bool {
        mark.at.elapsed() >= PATIENCE && self.events.len() > mark.waiting + QUEUE
    }

    /// Completes when that is so.
    pub async fn overrun(&mut self, mark: Mark) {
        tokio::time::sleep_until(mark.at + PATIENCE).await;
        let (events, mut places) = (&self.events, self.live.places());
        // The sender lives in what this watcher holds.
        let _ = places.wait_for(|_| events.len() > mark.waiting + QUEUE).await;
    }

    /// What a client that is let go is not told.
    pub fn gap(&self) -> Gap {
        let newest = self.live.places().borrow().applied;
        Gap { from: self.last + 1, to: newest.max(self.last) + 1 }
    }

    async fn next_live(&mut self) -> Option<FeedMessage> {
        let mut places = self.live.places();
        let generation = self.generation;
        // Both arms are cancel safe: a channel and a watch.
        let received = tokio::select! {
            biased;
            _ = places.wait_for(|place| place.generation > generation && place.synced) => None,
            received = self.events.recv() => Some(received),
        };
        match received {
            Some(Ok(item)) => self.fresh(item),
            // The store may have been emptied, or the channel told more than this watcher took. It is never closed:
            // its sender is in what this watcher holds.
            None | Some(Err(RecvError::Lagged(_) | RecvError::Closed)) => {
                self.place = Place::Behind;
                None
            }
        }
    }

    /// Begins to read what is stored after `last`; tells a gap first.
    async fn catch_up(&mut self) -> Result<Option<Gap>> {
        self.generation = self.log.bus().require_up()?;
        let (_, newest) = self.log.bus().stream_range(STREAM_THREADS).await?;
        if self.last > newest {
            let from = std::mem::take(&mut self.last) + 1;
            return Ok(Some(Gap { from, to: 1 }));
        }
        let follow = self.log.follow(&self.live.session, self.thread.as_ref(), self.last).await?;
        self.place = if follow.pending == 0 { Place::Live } else { Place::Stored(Box::new(follow)) };
        Ok(None)
    }

    async fn next_stored(&mut self) -> Option<FeedMessage> {
        let Place::Stored(follow) = &mut self.place else { return None };
        let mut health = self.log.bus().health();
        let generation = self.generation;
        // Cancel safe; a broken read begins again after `last`.
        let stored = tokio::select! {
            stored = follow.next() => stored.ok(),
            _ = health.wait_for(|health| health.generation != generation) => None,
        };
        let Some(stored) = stored else {
            self.place = Place::Behind;
            return None;
        };
        if stored.pending == 0 {
            self.place = Place::Live;
        }
        item_of(&stored).and_then(|item| self.fresh(Arc::new(item)))
    }

    /// The item, unless it was given already or is of another thread.
    fn fresh(&mut self, item: Arc<ThreadFeedItem>) -> Option<FeedMessage> {
        if item.sequence <= self.last {
            return None;
        }
        self.last = item.sequence;
        self.thread.as_ref().is_none_or(|thread| *thread == item.thread).then_some(FeedMessage::Item(item))
    }
}

/// The `type` of an event: also its name in a stream of server-sent events.
pub fn name_of(event: &ThreadEvent) -> &'static str {
    match event {
        ThreadEvent::ThreadStarted { .. } => "thread_started",
        ThreadEvent::ThreadBound { .. } => "thread_bound",
        ThreadEvent::ThreadRenamed { .. } => "thread_renamed",
        ThreadEvent::TurnQueued { .. } => "turn_queued",
        ThreadEvent::TurnMoved { .. } => "turn_moved",
        ThreadEvent::CancelRequested { .. } => "cancel_requested",
        ThreadEvent::Entry { .. } => "entry",
        ThreadEvent::QuestionAsked { .. } => "question_asked",
        ThreadEvent::QuestionAnswered { .. } => "question_answered",
        ThreadEvent::QuestionClosed { .. } => "question_closed",
        ThreadEvent::Sync { .. } => "sync",
        ThreadEvent::Custom { .. } => "custom",
        ThreadEvent::Unreadable => "unreadable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_event_is_its_type_on_the_wire() {
        let text = |word: &str| word.to_owned();
        for event in [
            ThreadEvent::ThreadRenamed { title: text("x") },
            ThreadEvent::ThreadBound { acp_thread_id: None },
            ThreadEvent::QuestionClosed { question: text("q"), status: text("accepted") },
            ThreadEvent::Sync { state: text("ready"), detail: None, in_doubt: Vec::new(), epoch: None },
            ThreadEvent::Custom { name: text("x"), data: serde_json::Value::Null },
            ThreadEvent::Unreadable,
        ] {
            assert_eq!(serde_json::to_value(&event).expect("JSON")["type"], name_of(&event));
        }
        let gap = serde_json::to_string(&Gap { from: 3, to: 7 }).expect("JSON");
        assert_eq!(gap, r#"{"type":"gap","from":3,"to":7}"#);
    }
}
