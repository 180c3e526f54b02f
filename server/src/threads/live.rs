//! Conversations that somebody follows: one task per session and process, however many look.
//!
//! The task reads the session's events from the first on, folds them, and hands each to every watcher through one
//! bounded channel ([`QUEUE`]); it begins anew with each generation of the bus and ends some time after the last
//! [`Live`] handle is gone. Nobody waits for a watcher: one that is too slow is told by its channel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::thread::ThreadFeedItem;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::log::{Log, item_of};
use super::model::{Conversation, Keep};
use crate::bus::{REQUEST_TIMEOUT, unavailable};
use crate::error::Result;

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
    live: Mutex<HashMap<SessionId, Arc<Live>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// One conversation, kept up to date.
pub struct Live {
    /// Whose.
    pub session: SessionId,
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
    pub fn new(log: Log, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { log, live: Mutex::default(), tasks, shutdown }) }
    }

    /// The log beneath.
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// A session's conversation with everything that was stored when this was called.
    pub async fn open(&self, session: &SessionId) -> Result<Arc<Live>> {
        let live = self.follow(session);
        self.catch_up(&live).await?;
        Ok(live)
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

    fn follow(&self, session: &SessionId) -> Arc<Live> {
        let mut all = self.inner.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = all.get(session) {
            return Arc::clone(live);
        }
        let live = Arc::new(Live {
            session: session.clone(),
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
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Conversation::new(Keep::Running);
        self.place.send_modify(|place| *place = Place::default());
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
        // The map's and the task's own.
        if Arc::strong_count(live) <= 2 {
            all.remove(&live.session);
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
            tracing::info!(%error, source = ?error.source, "a conversation is read anew");
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
