//! Durable records with revision check.
//!
//! Each [`Bucket`] is one key-value bucket of JetStream with one type of record. Reads of one key ask the store
//! itself; lists, waits and the reconciler use the bucket's [`View`], which one task per bucket (see [`view`]) fills
//! from a watch and which own writes enter at once. A view starts from scratch with each generation of the bus.

pub mod jetstream;
pub mod view;

use helix_protocol::assignment::{DesiredSession, Lease};
use helix_protocol::checkpoint::CheckpointsRecord;
use helix_protocol::pool::PoolRecord;
use helix_protocol::reap::ReaperRecord;
use helix_protocol::record::{
    ImageRecord, RecordingRecord, RunnerRecord, SecretRecord, SessionRecord, SpecTaskRecord, TicketRecord, TokenRecord,
};
use helix_protocol::session::ObservedSession;
use helix_protocol::subject;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::jetstream::{Bucket, Lookup};
pub use self::view::{Snapshot, Sought, Versioned, View};

use crate::bus::Bus;
use crate::error::Result;

// Sessions that wait, and those that run unclaimed, are sought: see `sessions`.
impl Sought for DesiredSession {}
impl Sought for RunnerRecord {}
impl Sought for TokenRecord {}
impl Sought for TicketRecord {}
impl Sought for Lease {}
impl Sought for SecretRecord {}
impl Sought for SpecTaskRecord {}
impl Sought for PoolRecord {}
impl Sought for RecordingRecord {}
impl Sought for CheckpointsRecord {}
impl Sought for ImageRecord {}
impl Sought for ReaperRecord {}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// The truth about sessions, by session.
    pub sessions: Bucket<SessionRecord>,
    /// Projection per runner, by `<runner>.<session>`.
    pub desired: Bucket<DesiredSession>,
    /// What runners reported, by `<runner>.<session>`.
    pub observed: Bucket<ObservedSession>,
    /// Runners, by runner.
    pub runners: Bucket<RunnerRecord>,
    /// Tokens, by hash.
    pub tokens: Bucket<TokenRecord>,
    /// One-use tickets, by hash. Read from the store alone: it has no view.
    pub tickets: Bucket<TicketRecord>,
    /// Leases of runners and of the leader.
    pub leases: Bucket<Lease>,
    /// Sealed secrets, by `<hash of owner>.<name>`.
    pub secrets: Bucket<SecretRecord>,
    /// Spec tasks, by spec task.
    pub spec_tasks: Bucket<SpecTaskRecord>,
    /// Pools, by pool.
    pub pools: Bucket<PoolRecord>,
    /// Recordings, by recording.
    pub recordings: Bucket<RecordingRecord>,
    /// Checkpoints, by session.
    pub checkpoints: Bucket<CheckpointsRecord>,
    /// Images and their names.
    pub images: Bucket<ImageRecord>,
    /// What the reaper found. Read from the store alone: it has no view.
    pub reaper: Bucket<ReaperRecord>,
}

impl Store {
    /// Opens every bucket and starts the tasks that fill their views.
    pub async fn open(bus: &Bus, tasks: &TaskTracker, shutdown: &CancellationToken) -> Result<Self> {
        let store = Self {
            sessions: Bucket::open(bus, subject::BUCKET_SESSIONS).await?,
            desired: Bucket::open(bus, subject::BUCKET_DESIRED).await?,
            observed: Bucket::open(bus, subject::BUCKET_OBSERVED).await?,
            runners: Bucket::open(bus, subject::BUCKET_RUNNERS).await?,
            tokens: Bucket::open(bus, subject::BUCKET_TOKENS).await?,
            tickets: Bucket::open_unviewed(bus, subject::BUCKET_TICKETS).await?,
            leases: Bucket::open(bus, subject::BUCKET_LEASES).await?,
            secrets: Bucket::open(bus, subject::BUCKET_SECRETS).await?,
            spec_tasks: Bucket::open(bus, subject::BUCKET_SPEC_TASKS).await?,
            pools: Bucket::open(bus, subject::BUCKET_POOLS).await?,
            recordings: Bucket::open(bus, subject::BUCKET_RECORDINGS).await?,
            checkpoints: Bucket::open(bus, subject::BUCKET_CHECKPOINTS).await?,
            images: Bucket::open(bus, subject::BUCKET_IMAGES).await?,
            reaper: Bucket::open_unviewed(bus, subject::BUCKET_REAPER).await?,
        };
        store.sessions.spawn_feed(tasks, shutdown);
        store.desired.spawn_feed(tasks, shutdown);
        store.observed.spawn_feed(tasks, shutdown);
        store.runners.spawn_feed(tasks, shutdown);
        store.tokens.spawn_feed(tasks, shutdown);
        store.leases.spawn_feed(tasks, shutdown);
        store.secrets.spawn_feed(tasks, shutdown);
        store.spec_tasks.spawn_feed(tasks, shutdown);
        store.pools.spawn_feed(tasks, shutdown);
        store.recordings.spawn_feed(tasks, shutdown);
        store.checkpoints.spawn_feed(tasks, shutdown);
        store.images.spawn_feed(tasks, shutdown);
        Ok(store)
    }

    /// Waits until every view holds what the store held in this generation of the bus.
    pub async fn synced(&self, generation: u64) {
        tokio::join!(
            self.sessions.view().synced(generation),
            self.desired.view().synced(generation),
            self.observed.view().synced(generation),
            self.runners.view().synced(generation),
            self.tokens.view().synced(generation),
            self.leases.view().synced(generation),
            self.secrets.view().synced(generation),
            self.spec_tasks.view().synced(generation),
            self.pools.view().synced(generation),
            self.recordings.view().synced(generation),
            self.checkpoints.view().synced(generation),
            self.images.view().synced(generation),
        );
    }
}
