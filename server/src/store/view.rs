//! A bucket in memory: filled by one task from a watch, and by own writes at once.
//!
//! [`Bucket::spawn_feed`] starts the task. With each generation of the bus it reads the whole bucket into a second
//! copy, swaps it in, and then follows. What it says is at most a moment behind the store; own writes enter by
//! revision, so a server reads what it wrote. While NATS is away the old content stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use helix_protocol::subject::BUCKET_LEASES;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::jetstream::{Bucket, is_marker};
use crate::bus::follow::{Follow, Stored};
use crate::bus::unavailable;
use crate::error::Result;

/// Longest silence within the first read of a bucket.
const SNAPSHOT_SILENCE: Duration = Duration::from_secs(2);
/// Before a watch that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// A record with its place in the store's history.
#[derive(Debug)]
pub struct Versioned<T> {
    /// The record.
    pub value: Arc<T>,
    /// Its revision: what a revision-checked write must name.
    pub revision: u64,
    /// When this process learnt it, by the monotonic clock.
    pub seen: Instant,
}

impl<T> Clone for Versioned<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), revision: self.revision, seen: self.seen }
    }
}

impl<T> Versioned<T> {
    /// A record learnt now.
    pub fn new(value: T, revision: u64) -> Self {
        Self { value: Arc::new(value), revision, seen: Instant::now() }
    }
}

/// A record of a view. Few of a bucket may be sought by every request: they are found without a look at the others.
pub trait Sought {
    /// True for one of these few.
    fn is_sought(&self) -> bool {
        false
    }
}

/// Every record and every marker of a bucket.
pub struct Content<T> {
    entries: BTreeMap<String, Versioned<T>>,
    /// Keys of the records that are sought.
    sought: BTreeSet<String>,
    /// Keys that were deleted on purpose (or expired), with the marker's revision.
    markers: HashMap<String, u64>,
}

impl<T> Clone for Content<T> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), sought: self.sought.clone(), markers: self.markers.clone() }
    }
}

impl<T> Default for Content<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), sought: BTreeSet::new(), markers: HashMap::new() }
    }
}

impl<T> Content<T> {
    /// One record.
    pub fn get(&self, key: &str) -> Option<&Versioned<T>> {
        self.entries.get(key)
    }

    /// Every record, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Versioned<T>)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    /// Every record that is sought, by key.
    pub fn sought(&self) -> impl Iterator<Item = &Versioned<T>> {
        self.sought.iter().filter_map(|key| self.entries.get(key))
    }

    /// Every record whose key begins with `prefix`, by key.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Versioned<T>)> {
        self.entries
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (key.as_str(), entry))
    }

    /// True when the key was deleted on purpose.
    pub fn was_deleted(&self, key: &str) -> bool {
        self.markers.contains_key(key)
    }

    /// How many keys were deleted on purpose (or expired) not long ago.
    pub fn deletions(&self) -> usize {
        self.markers.len()
    }

    /// True when a key that begins so was deleted on purpose not long ago.
    pub fn deleted_with_prefix(&self, prefix: &str) -> bool {
        self.markers.keys().any(|key| key.starts_with(prefix))
    }
}

impl<T: Sought> Content<T> {
    /// Puts `entry`, or a marker, unless what is known is newer. True when something changed.
    pub fn apply(&mut self, key: &str, revision: u64, entry: Option<Versioned<T>>) -> bool {
        let known = self.entries.get(key).map(|entry| entry.revision).or_else(|| self.markers.get(key).copied());
        if known.is_some_and(|known| known >= revision) {
            return false;
        }
        if entry.as_ref().is_some_and(|entry| entry.value.is_sought()) {
            self.sought.insert(key.to_owned());
        } else {
            self.sought.remove(key);
        }
        if let Some(entry) = entry {
            self.markers.remove(key);
            self.entries.insert(key.to_owned(), entry);
        } else {
            self.entries.remove(key);
            self.markers.insert(key.to_owned(), revision);
        }
        true
    }
}

struct State<T> {
    current: Content<T>,
    /// The second copy while a bucket is read anew. Own writes enter both.
    building: Option<Content<T>>,
}

/// How far the watch has come.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    /// Generation of the bus that `current` is of; 0 = nothing read yet.
    generation: u64,
    /// Sequence up to which everything is in.
    sequence: u64,
}

/// Records of one bucket in memory.
pub struct View<T> {
    state: RwLock<State<T>>,
    version: watch::Sender<u64>,
    cursor: watch::Sender<Cursor>,
}

/// The records while they are looked at. Not to be held across an await.
pub struct Snapshot<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Snapshot<'_, T> {
    type Target = Content<T>;

    fn deref(&self) -> &Content<T> {
        &self.0.current
    }
}

impl<T> View<T> {
    pub(super) fn new() -> Self {
        let state = State { current: Content::default(), building: None };
        Self {
            state: RwLock::new(state),
            version: watch::Sender::new(0),
            cursor: watch::Sender::new(Cursor::default()),
        }
    }

    /// Looks at the records. Who looks at several views at once: locks are taken in the order sessions, observed,
    /// desired, runners, leases, and none twice. A writer that waits keeps new readers out, so that readers in
    /// different orders would wait for each other for ever.
    pub fn read(&self) -> Snapshot<'_, T> {
        Snapshot(self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One record.
    pub fn get(&self, key: &str) -> Option<Versioned<T>> {
        self.read().get(key).cloned()
    }

    /// Changes with every change of a record.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits until the whole bucket was read in this generation of the bus or a later one.
    pub async fn synced(&self, generation: u64) {
        self.reached(generation, 0).await;
    }

    /// Waits until everything up to `sequence` is in.
    pub(super) async fn reached(&self, generation: u64, sequence: u64) {
        let mut cursor = self.cursor.subscribe();
        let there =
            |at: &Cursor| at.generation > generation || (at.generation == generation && at.sequence >= sequence);
        // The sender is a field of self, so this cannot fail while self is borrowed.
        let _ = cursor.wait_for(there).await;
    }

    pub(super) fn revision_of_marker(&self, key: &str) -> u64 {
        self.read().markers.get(key).copied().unwrap_or(0)
    }
}

impl<T: Sought> View<T> {
    /// An own write.
    pub(super) fn put(&self, key: &str, entry: &Versioned<T>) {
        self.apply(key, entry.revision, Some(entry));
    }

    /// An own deletion.
    pub(super) fn remove(&self, key: &str, revision: u64) {
        self.apply(key, revision, None);
    }

    fn apply(&self, key: &str, revision: u64, entry: Option<&Versioned<T>>) {
        let changed = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(building) = &mut state.building {
                building.apply(key, revision, entry.cloned());
            }
            state.current.apply(key, revision, entry.cloned())
        };
        if changed {
            self.version.send_modify(|version| *version += 1);
        }
    }

    fn begin(&self) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).building = Some(Content::default());
    }

    fn build(&self, key: &str, revision: u64, entry: Option<Versioned<T>>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(building) = &mut state.building {
            building.apply(key, revision, entry);
        }
    }

    fn swap(&self, cursor: Cursor) {
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(built) = state.building.take() {
                state.current = built;
            }
        }
        self.version.send_modify(|version| *version += 1);
        self.cursor.send_replace(cursor);
    }

    fn advance(&self, sequence: u64) {
        self.cursor.send_modify(|cursor| cursor.sequence = cursor.sequence.max(sequence));
    }
}

impl<T: Sought + Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Bucket<T> {
    /// Starts the task that fills the view until `shutdown`.
    pub(super) fn spawn_feed(&self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let (bucket, shutdown) = (self.clone(), shutdown.clone());
        let span = tracing::info_span!("view", bucket = bucket.stream_name());
        tasks.spawn(async move { shutdown.run_until_cancelled(bucket.feed()).await }.instrument(span));
    }

    async fn feed(self) {
        let mut health = self.bus().health();
        loop {
            // The sender lives in the bus, which this bucket holds.
            let Ok(up) = health.wait_for(|health| health.up_since.is_some()).await.map(|health| *health) else {
                return;
            };
            let generation = up.generation;
            // Both arms are cancel safe; a broken read begins again from scratch.
            let ended = tokio::select! {
                result = self.follow_bucket(generation) => result,
                _ = health.wait_for(|health| health.generation != generation) => continue,
            };
            if let Err(err) = ended {
                tracing::warn!(error = %err, source = ?err.source, "the watch broke; reading the bucket again");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_bucket(&self, generation: u64) -> Result<()> {
        let filter = self.subject(">");
        let mut follow = self.bus().follow(&self.stream_name(), &filter, DeliverPolicy::LastPerSubject).await?;
        self.view().begin();
        let last = self.read_all(&mut follow).await?;
        self.view().swap(Cursor { generation, sequence: last });
        loop {
            let stored = follow.next().await?;
            let sequence = stored.sequence;
            if let Some((key, entry)) = self.entry(&stored) {
                self.view().apply(key, sequence, entry.as_ref());
            }
            self.view().advance(sequence);
        }
    }

    async fn read_all(&self, follow: &mut Follow) -> Result<u64> {
        let mut last = follow.last;
        let mut pending = follow.pending;
        while pending > 0 {
            let stored = match tokio::time::timeout(SNAPSHOT_SILENCE, follow.next()).await {
                Ok(stored) => stored?,
                // What expired while the bucket was read never arrives. Of leases that is the rule: all there is came.
                Err(_) if self.expires() => break,
                // Elsewhere half a bucket would be taken for the truth.
                Err(_) => return Err(unavailable(format!("{pending} records of a bucket did not arrive"))),
            };
            pending = stored.pending;
            last = last.max(stored.sequence);
            if let Some((key, entry)) = self.entry(&stored) {
                self.view().build(key, stored.sequence, entry);
            }
        }
        Ok(last)
    }

    /// True where records, not only markers, end by a TTL.
    fn expires(&self) -> bool {
        self.stream_name().strip_prefix("KV_") == Some(BUCKET_LEASES)
    }

    /// Key and record of a message, no record for a marker. `None` for what cannot be read: that is neither a record
    /// nor proof of a deletion.
    fn entry<'a>(&self, stored: &'a Stored) -> Option<(&'a str, Option<Versioned<T>>)> {
        let prefix = self.subject("");
        let key = stored.message.subject.strip_prefix(&prefix)?;
        if stored.message.headers.as_ref().is_some_and(is_marker) {
            return Some((key, None));
        }
        match self.decode(key, &stored.message.payload) {
            Ok(value) => Some((key, Some(Versioned::new(value, stored.sequence)))),
            Err(err) => {
                tracing::error!(key, error = %err, source = ?err.source, "a record is left out of lists");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of numbers, the odd ones are sought.
    impl Sought for i32 {
        fn is_sought(&self) -> bool {
            self % 2 == 1
        }
    }

    impl Sought for () {}

    #[test]
    fn what_is_sought_is_found_until_it_changes_or_goes() {
        let view = View::new();
        let sought = || view.read().sought().map(|entry| *entry.value).collect::<Vec<_>>();
        for (key, value) in [("a", 1), ("b", 2), ("c", 3), ("d", 5)] {
            view.put(key, &Versioned::new(value, 1));
        }
        assert_eq!(sought(), [1, 3, 5]);
        view.put("a", &Versioned::new(4, 2));
        view.put("b", &Versioned::new(7, 2));
        view.remove("d", 2);
        // What is old changes nothing.
        view.put("a", &Versioned::new(9, 1));
        assert_eq!(sought(), [7, 3]);
        view.begin();
        view.build("c", 1, Some(Versioned::new(11, 1)));
        view.swap(Cursor::default());
        assert_eq!(sought(), [11]);
    }

    #[test]
    fn older_revisions_never_win() {
        let view = View::new();
        view.put("a", &Versioned::new(1, 5));
        view.put("a", &Versioned::new(0, 4));
        assert_eq!(view.get("a").map(|entry| *entry.value), Some(1));
        view.remove("a", 6);
        view.put("a", &Versioned::new(1, 5));
        assert!(view.get("a").is_none() && view.read().was_deleted("a"));
        view.put("a", &Versioned::new(2, 7));
        assert!(view.get("a").is_some() && !view.read().was_deleted("a"));
    }

    #[test]
    fn a_new_generation_forgets_the_old_revisions_but_keeps_own_writes() {
        let view = View::new();
        view.put("old", &Versioned::new(1, 900));
        view.begin();
        view.put("own", &Versioned::new(2, 3));
        view.build("read", 1, Some(Versioned::new(3, 1)));
        view.build("own", 2, Some(Versioned::new(0, 2)));
        view.swap(Cursor { generation: 2, sequence: 3 });
        let keys: Vec<_> = view.read().iter().map(|(key, entry)| (key.to_owned(), *entry.value)).collect();
        assert_eq!(keys, [("own".to_owned(), 2), ("read".to_owned(), 3)]);
    }

    #[test]
    fn prefixes_end_where_they_end() {
        let view = View::new();
        for key in ["r.a", "r.b", "r-1.a", "s.a"] {
            view.put(key, &Versioned::new((), 1));
        }
        let snapshot = view.read();
        assert_eq!(snapshot.with_prefix("r.").map(|(key, _)| key).collect::<Vec<_>>(), ["r.a", "r.b"]);
    }
}
