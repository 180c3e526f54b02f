//! Lifecycle events: written to `EXTERNAL_AGENTS` by whoever caused them, fanned out to watchers.
//!
//! One task per process ([`Events::run`]) follows the stream live and hands each event to every watcher through one
//! bounded channel. A watcher that resumes, or that was too slow for the channel, reads what it misses from the
//! stream itself and then goes on live: nothing is missed or repeated unless the stream no longer has it, and then
//! the watcher is told the gap.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use helix_protocol::event::{Event, FeedItem};
use helix_protocol::external_agents::{AgentResponse, Register};
use helix_protocol::{RecordingId, subject};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::follow::{Follow, Stored};
use crate::bus::{Bus, unavailable};
use crate::error::Result;

/// Events that a watcher may be behind before it reads from the stream again.
const LIVE_BUFFER: usize = 1024;
/// For the next of the stored events.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// Before a broken follow is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// The feed. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    bus: Bus,
    live: broadcast::Sender<Live>,
    /// Acknowledgements under way; the process waits for them at its end.
    tasks: TaskTracker,
}

/// An event with its text: all watchers share them.
#[derive(Debug)]
pub struct Told {
    /// The event.
    pub item: FeedItem,
    /// As JSON.
    pub text: Bytes,
}

/// What a watcher gets.
#[derive(Debug, Clone)]
pub enum FeedMessage {
    /// The next event.
    Item(Arc<Told>),
    /// Events from `from` up to but without `to` are gone (older than the stream keeps, or the watcher too slow).
    /// `to` is not above `from` when the stream was emptied and counts anew.
    Gap {
        /// First missing sequence.
        from: u64,
        /// First sequence that follows.
        to: u64,
    },
}

#[derive(Debug, Clone)]
enum Live {
    Item(Arc<Told>),
    /// The stream was emptied and counts anew.
    Emptied,
}

impl Events {
    /// The feed over a bus. Nothing is live until [`Events::run`] runs.
    pub fn new(bus: Bus, tasks: TaskTracker) -> Self {
        Self { bus, live: broadcast::Sender::new(LIVE_BUFFER), tasks }
    }

    /// Stores an event; it is stored when this returns. The same `id` within two minutes is stored once.
    pub async fn publish(&self, event: &Event, id: &str) -> Result<()> {
        self.store(subject_of(event), id, event).await
    }

    /// Something that the process waits for at its end.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// The same where the fact itself is durable already: nobody waits for the acknowledgement, events of one caller
    /// keep their order. A failure is logged, watchers see the next event.
    pub async fn tell(&self, event: &Event, id: &str) {
        let missing = |err: &dyn std::fmt::Display, id: &str| {
            tracing::warn!(error = %err, event.id = id, "an event is missing in the feed");
        };
        match self.bus.send_stored(subject_of(event), id, event).await {
            Ok(stored) => {
                let id = id.to_owned();
                self.tasks.spawn(async move {
                    if let Err(err) = stored.await {
                        missing(&err, &id);
                    }
                });
            }
            Err(err) => missing(&err, id),
        }
    }

    async fn store<T: Serialize>(&self, subject: String, id: &str, body: &T) -> Result<()> {
        self.bus.send_stored(subject, id, body).await?.await.map(|_| ()).map_err(unavailable)
    }

    /// Stores the documents' `external_agents.response`.
    pub async fn respond(&self, response: &AgentResponse, id: &str) -> Result<()> {
        self.store(subject::RESPONSE.to_owned(), id, response).await
    }

    /// Stores the documents' `external_agents.register`.
    pub async fn register(&self, register: &Register, id: &str) -> Result<()> {
        self.store(subject::REGISTER.to_owned(), id, register).await
    }

    /// Events after sequence `after`, stored ones first, then live ones, without a hole or a repeat between them;
    /// live ones only where `None`.
    pub async fn subscribe(&self, after: Option<u64>) -> Result<BoxStream<'static, FeedMessage>> {
        // Before the range is read: what is stored after it arrives here.
        let live = self.live.subscribe();
        let (_, newest) = self.bus.stream_range(subject::STREAM_EXTERNAL_AGENTS).await?;
        let watcher = match after {
            Some(after) => Watcher { bus: self.bus.clone(), live, last: after, place: Place::Behind },
            None => Watcher { bus: self.bus.clone(), live, last: newest, place: Place::Live },
        };
        Ok(futures::stream::unfold(watcher, async |mut watcher| Some((watcher.next().await?, watcher))).boxed())
    }

    /// First and last sequence that the stream holds.
    pub async fn range(&self) -> Result<(u64, u64)> {
        self.bus.stream_range(subject::STREAM_EXTERNAL_AGENTS).await
    }

    /// What is stored now after this sequence.
    pub async fn stored_after(&self, sequence: u64) -> Result<StoredEvents> {
        let follow = follow_after(&self.bus, sequence).await?;
        Ok(StoredEvents { left: follow.pending, follow })
    }

    /// All that is stored of one recording, oldest first.
    pub async fn of_recording(&self, recording: &RecordingId) -> Result<Vec<FeedItem>> {
        let filter = subject::recording_event(recording);
        let follow = self.bus.follow(subject::STREAM_EXTERNAL_AGENTS, &filter, DeliverPolicy::All).await?;
        let mut stored = StoredEvents { left: follow.pending, follow };
        let mut items = Vec::new();
        while let Some(item) = stored.next().await? {
            items.push(item);
        }
        Ok(items)
    }

    /// Follows the stream live until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.follow_live()).await;
    }

    async fn follow_live(&self) {
        let mut health = self.bus.health();
        let mut last = None;
        loop {
            let Ok(up) = health.wait_for(|health| health.up_since.is_some()).await.map(|health| *health) else {
                return;
            };
            // Both arms are cancel safe: `last` says where to go on.
            let ended = tokio::select! {
                ended = self.follow_generation(&mut last) => ended,
                _ = health.wait_for(|health| health.generation != up.generation) => continue,
            };
            if let Err(err) = ended {
                tracing::warn!(error = %err, source = ?err.source, "the event stream broke; following it again");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_generation(&self, last: &mut Option<u64>) -> Result<()> {
        let (_, newest) = self.bus.stream_range(subject::STREAM_EXTERNAL_AGENTS).await?;
        let from = last.get_or_insert(newest);
        if *from > newest {
            *from = 0;
            // Nobody listening is no failure.
            let _ = self.live.send(Live::Emptied);
        }
        let mut follow = follow_after(&self.bus, *from).await?;
        loop {
            let stored = follow.next().await?;
            *from = stored.sequence;
            if let Some(told) = told_of(&stored) {
                let _ = self.live.send(Live::Item(Arc::new(told)));
            }
        }
    }
}

fn subject_of(event: &Event) -> String {
    match event {
        Event::Session { session, .. } | Event::SessionDeleted { session, .. } | Event::Control { session, .. } => {
            subject::session_event(session)
        }
        Event::Runner { runner, .. } => subject::runner_event(runner),
        Event::Recording { recording, .. } => subject::recording_event(recording),
        Event::Audit { .. } => subject::AUDIT_EVENT.to_owned(),
    }
}

async fn follow_after(bus: &Bus, sequence: u64) -> Result<Follow> {
    let from = DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 };
    bus.follow(subject::STREAM_EXTERNAL_AGENTS, subject::EVENTS_ALL, from).await
}

fn item_of(stored: &Stored) -> Option<FeedItem> {
    match serde_json::from_slice(&stored.message.payload) {
        Ok(event) => Some(FeedItem { sequence: stored.sequence, event }),
        Err(err) => {
            tracing::warn!(sequence = stored.sequence, error = %err, "an event cannot be read and is left out");
            None
        }
    }
}

fn told_of(stored: &Stored) -> Option<Told> {
    let item = item_of(stored)?;
    match serde_json::to_vec(&item) {
        Ok(text) => Some(Told { item, text: text.into() }),
        Err(err) => {
            tracing::warn!(sequence = item.sequence, error = %err, "an event does not become JSON and is left out");
            None
        }
    }
}

/// Events that were stored when it was made, oldest first.
pub struct StoredEvents {
    follow: Follow,
    left: u64,
}

impl StoredEvents {
    /// The next one; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<FeedItem>> {
        while self.left > 0 {
            let stored = tokio::time::timeout(READ_WITHIN, self.follow.next()).await.map_err(unavailable)??;
            self.left = stored.pending.min(self.left - 1);
            if let Some(item) = item_of(&stored) {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }
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

struct Watcher {
    bus: Bus,
    live: broadcast::Receiver<Live>,
    last: u64,
    place: Place,
}

impl Watcher {
    /// The next message; `None` ends the feed (the server ends, or the store cannot be reached): resume by sequence.
    async fn next(&mut self) -> Option<FeedMessage> {
        loop {
            let message = match &mut self.place {
                Place::Behind => match self.catch_up().await {
                    Ok(gap) => gap,
                    Err(err) => {
                        tracing::info!(error = %err, "a watcher is let go; it resumes by sequence");
                        return None;
                    }
                },
                Place::Stored(_) => self.next_stored().await,
                Place::Live => match self.live.recv().await {
                    Ok(Live::Item(item)) => self.fresh(item),
                    Ok(Live::Emptied) => {
                        let from = std::mem::take(&mut self.last) + 1;
                        self.place = Place::Behind;
                        Some(FeedMessage::Gap { from, to: 1 })
                    }
                    Err(RecvError::Lagged(_)) => {
                        self.place = Place::Behind;
                        None
                    }
                    Err(RecvError::Closed) => return None,
                },
            };
            if message.is_some() {
                return message;
            }
        }
    }

    /// Begins to read what is stored after `last`; tells a gap first.
    async fn catch_up(&mut self) -> Result<Option<FeedMessage>> {
        let (oldest, newest) = self.bus.stream_range(subject::STREAM_EXTERNAL_AGENTS).await?;
        if self.last > newest || self.last + 1 < oldest {
            let gap = FeedMessage::Gap { from: self.last + 1, to: oldest.max(1) };
            self.last = oldest.saturating_sub(1);
            return Ok(Some(gap));
        }
        let follow = follow_after(&self.bus, self.last).await?;
        self.place = if follow.pending == 0 { Place::Live } else { Place::Stored(Box::new(follow)) };
        Ok(None)
    }

    async fn next_stored(&mut self) -> Option<FeedMessage> {
        let Place::Stored(follow) = &mut self.place else { return None };
        let mut health = self.bus.health();
        let generation = health.borrow().generation;
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
        told_of(&stored).and_then(|told| self.fresh(Arc::new(told)))
    }

    /// The item, unless it was given already.
    fn fresh(&mut self, told: Arc<Told>) -> Option<FeedMessage> {
        if told.item.sequence <= self.last {
            return None;
        }
        self.last = told.item.sequence;
        Some(FeedMessage::Item(told))
    }
}
