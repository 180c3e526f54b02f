//! Conversations that somebody follows: one task per session and process, however many look.
//!
//! The task reads the session's events from the first on, folds them, and hands each to every watcher through one
//! bounded channel ([`QUEUE`]); it begins anew with each generation of the bus and ends some time after the last
//! [`Live`] handle is gone. Nobody waits for a watcher: one that is too slow is told by its channel.
//!
//! A deleted session leaves its id to others, and its conversation is purged behind the back of whoever follows it.
//! So a conversation is that of the session that was accepted at a certain time: one of a later time is read from the
//! log, and nobody of a former life gets it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use helix_protocol::record::SessionRecord;
use helix_protocol::thread::ThreadFeedItem;
use helix_protocol::{ErrorCode, SessionId};
use jiff::Timestamp;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::log::{Log, item_of};
use super::model::{Conversation, Keep};
use crate::bus::{REQUEST_TIMEOUT, unavailable};
use crate::error::{Error, Result};
use crate::store::Bucket;

/// Events that a watcher may be behind.
pub const QUEUE: usize = 100;
/// How long a conversation that nobody needs any more is kept up.
const LINGER: Duration = Duration::from_secs(30);
/// Before a broken follow is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Every conversation that is followed in this process. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    sessions: Bucket<SessionRecord>,
    live: Mutex<HashMap<SessionId, Arc<Live>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// One conversation, kept up to date.
pub struct Live {
    /// Whose.
    pub session: SessionId,
    /// When that session was accepted, as far as is known.
    since: Option<Timestamp>,
    state: RwLock<Conversation>,
    place: watch::Sender<Place>,
    feed: broadcast::Sender<Arc<ThreadFeedItem>>,
}

/// How far the fold is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Generation of the bus that it was read in; 0 = not read yet.
    pub generation: u64,
    /// Last sequence applied.
    pub applied: u64,
    /// Everything that was stored when this generation's reading began has been applied.
    pub synced: bool,
}

impl Hub {
    /// Nothing is followed yet.
    pub fn new(log: Log, sessions: Bucket<SessionRecord>, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { log, sessions, live: Mutex::default(), tasks, shutdown }) }
    }

    /// The log beneath.
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// The conversation of the session that has this id now, with everything that was stored when this was called.
    pub async fn open(&self, session: &SessionId) -> Result<Arc<Live>> {
        let since = self.inner.sessions.view().get(session.as_str()).map(|entry| entry.value.created_at);
        let live = self.follow(session, since);
        self.catch_up(&live).await?;
        Ok(live)
    }

    /// The same for the session that was accepted at this time, and no later one of its id.
    pub async fn open_of(&self, session: &SessionId, since: Timestamp) -> Result<Arc<Live>> {
        let live = self.follow(session, Some(since));
        if live.since != Some(since) {
            let detail = format!("session {session} was deleted and made again meanwhile; ask for it again");
            return Err(Error::new(ErrorCode::SessionNotFound, detail));
        }
        self.catch_up(&live).await?;
        Ok(live)
    }

    /// Looks at all of a conversation, also where it is just being read anew.
    pub async fn look<T>(&self, live: &Live, mut look: impl FnMut(&Conversation) -> T) -> Result<T> {
        loop {
            let looked = live.read(&mut look);
            if live.place.borrow().synced {
                return Ok(looked);
            }
            self.catch_up(live).await?;
        }
    }

    /// Waits until a conversation has everything that was stored when this was called.
    pub async fn catch_up(&self, live: &Live) -> Result<()> {
        let generation = self.inner.log.bus().require_up()?;
        let last = self.inner.log.last_sequence(&live.session).await?;
        let mut place = live.place.subscribe();
        let reached = place.wait_for(|place| place.generation >= generation && place.synced && place.applied >= last);
        tokio::time::timeout(REQUEST_TIMEOUT, reached).await.map_err(unavailable)?.map_err(unavailable)?;
        Ok(())
    }

    fn follow(&self, session: &SessionId, since: Option<Timestamp>) -> Arc<Live> {
        let mut all = self.inner.live.lock().unwrap_or_else(PoisonError::into_inner);
        // `None` is before any time. What is replaced lives on for those who have it.
        if let Some(live) = all.get(session).filter(|live| live.since >= since) {
            return Arc::clone(live);
        }
        let live = Arc::new(Live {
            session: session.clone(),
            since,
            state: RwLock::new(Conversation::new(Keep::Running)),
            place: watch::Sender::new(Place::default()),
            feed: broadcast::Sender::new(QUEUE),
        });
        all.insert(session.clone(), Arc::clone(&live));
        let span = tracing::info_span!("conversation", session.id = %session);
        self.inner.tasks.spawn(run(Arc::clone(&self.inner), Arc::clone(&live)).instrument(span));
        live
    }
}

impl Live {
    /// Looks at the conversation. `look` must be short: the fold waits for it.
    pub fn read<T>(&self, look: impl FnOnce(&Conversation) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows how far the fold is.
    pub fn places(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
    }

    /// Every event from now on, each after it was applied.
    pub fn watch(&self) -> broadcast::Receiver<Arc<ThreadFeedItem>> {
        self.feed.subscribe()
    }

    fn reset(&self) {
        // In this order: who finds the place unchanged after a look has not looked at half of it.
        self.place.send_modify(|place| *place = Place::default());
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Conversation::new(Keep::Running);
    }

    fn apply(&self, item: ThreadFeedItem) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).apply(item.sequence, &item.thread, &item.record);
        // Nobody watching is no failure.
        let _ = self.feed.send(Arc::new(item));
    }

    fn reached(&self, generation: u64, applied: u64, synced: bool) {
        self.place.send_modify(|place| *place = Place { generation, applied: place.applied.max(applied), synced });
    }
}

async fn run(inner: Arc<Inner>, live: Arc<Live>) {
    tokio::select! {
        () = follow(&inner.log, &live) => {}
        () = unused(&inner, &live) => {}
        () = inner.shutdown.cancelled() => {}
    }
}

/// Completes when nobody has needed the conversation for a while, and nobody can get it any more.
async fn unused(inner: &Inner, live: &Arc<Live>) {
    loop {
        tokio::time::sleep(LINGER).await;
        let mut all = inner.live.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = all.get(&live.session).is_some_and(|open| Arc::ptr_eq(open, live));
        // The task's own, and the map's.
        if Arc::strong_count(live) <= 1 + usize::from(is_open) {
            if is_open {
                all.remove(&live.session);
            }
            return;
        }
    }
}

async fn follow(log: &Log, live: &Live) {
    let mut health = log.bus().health();
    loop {
        let Ok(up) = health.wait_for(|health| health.up_since.is_some()).await.map(|health| *health) else { return };
        let ended = tokio::select! {
            ended = follow_generation(log, live, up.generation) => ended,
            _ = health.wait_for(|health| health.generation != up.generation) => continue,
        };
        if let Err(error) = ended {
            tracing::info!(source = ?error.source, "a conversation is read anew: {error}");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// From the first event on: what a generation holds may differ from what the former one held.
async fn follow_generation(log: &Log, live: &Live, generation: u64) -> Result<()> {
    live.reset();
    let mut follow = log.follow(&live.session, None, 0).await?;
    let (mut pending, mut synced) = (follow.pending, follow.pending == 0);
    live.reached(generation, 0, synced);
    loop {
        let stored = follow.next().await?;
        pending = pending.min(stored.pending);
        synced |= pending == 0;
        let sequence = stored.sequence;
        if let Some(item) = item_of(&stored) {
            live.apply(item);
        }
        live.reached(generation, sequence, synced);
    }
}
