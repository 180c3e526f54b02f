//! One key-value bucket: typed, revision-checked, over raw publishes.
//!
//! Raw, because async-nats' `create_with_ttl` drops the TTL over a delete marker and its deletes do not say their
//! revision. On the wire it is the key-value layout that every NATS client knows.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use helix_protocol::ErrorCode;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::view::{Sought, Versioned, View};
use crate::bus::{Bus, REQUEST_TIMEOUT, is_full, unavailable};
use crate::error::{Error, Result};

/// How often a change is tried again after another writer was faster.
const MAX_TRIES: usize = 10;
/// How long the marker of a deleted key tells that it was deleted on purpose. Runners that come back later find
/// their sessions unclaimed.
const MARKER_TTL: Duration = Duration::from_hours(30 * 24);

const KV_OPERATION: &str = "KV-Operation";
const MARKER_REASON: &str = "Nats-Marker-Reason";

/// What one key holds.
pub enum Lookup<T> {
    /// A record.
    Found(Versioned<T>),
    /// A marker of this revision: it was deleted on purpose, or it expired.
    Deleted(u64),
    /// Nothing, or nothing any more.
    Absent,
}

impl<T> Lookup<T> {
    /// The record.
    pub fn found(self) -> Option<Versioned<T>> {
        match self {
            Self::Found(entry) => Some(entry),
            Self::Deleted(_) | Self::Absent => None,
        }
    }

    /// Revision that the next write must expect.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Found(entry) => entry.revision,
            Self::Deleted(revision) => *revision,
            Self::Absent => 0,
        }
    }
}

/// What became of a key, whatever its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has a record.
    There,
    /// Somebody removed it, then.
    Removed(Timestamp),
    /// Nothing is known of it: it never was, it ended by itself, or the store lost it.
    Unknown,
}

/// One bucket with records of type `T`. Cheap to clone.
pub struct Bucket<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    bus: Bus,
    name: &'static str,
    stream: Stream<()>,
    view: View<T>,
    /// False where nobody lists: then own writes stay out of the view too.
    viewed: bool,
}

impl<T> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T: Sought + Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Bucket<T> {
    /// A handle. The bucket's existence is the schema's matter.
    pub async fn open(bus: &Bus, name: &'static str) -> Result<Self> {
        Self::handle(bus, name, true).await
    }

    /// A handle to a bucket that is only read key by key: its view stays empty.
    pub async fn open_unviewed(bus: &Bus, name: &'static str) -> Result<Self> {
        Self::handle(bus, name, false).await
    }

    async fn handle(bus: &Bus, name: &'static str, viewed: bool) -> Result<Self> {
        let stream = bus.jetstream().get_stream_no_info(format!("KV_{name}")).await.map_err(unavailable)?;
        Ok(Self { inner: Arc::new(Inner { bus: bus.clone(), name, stream, view: View::new(), viewed }) })
    }

    /// The records in memory.
    pub fn view(&self) -> &View<T> {
        &self.inner.view
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.inner.bus
    }

    pub(super) fn stream_name(&self) -> String {
        format!("KV_{}", self.inner.name)
    }

    pub(super) fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.inner.name)
    }

    /// Waits until the view holds everything that the store held when this was called.
    pub async fn catch_up(&self) -> Result<()> {
        let generation = self.inner.bus.require_up()?;
        let (_, last) = self.inner.bus.stream_range(&self.stream_name()).await?;
        tokio::time::timeout(REQUEST_TIMEOUT, self.inner.view.reached(generation, last)).await.map_err(unavailable)
    }

    /// Reads one key from the store itself.
    pub async fn get(&self, key: &str) -> Result<Lookup<T>> {
        self.inner.bus.require_up()?;
        let message = match self.inner.stream.get_last_raw_message_by_subject(&self.subject(key)).await {
            Ok(message) => message,
            Err(err) if matches!(err.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok(Lookup::Absent),
            Err(err) => return Err(unavailable(err)),
        };
        if is_marker(&message.headers) {
            return Ok(Lookup::Deleted(message.sequence));
        }
        let value = self.decode(key, &message.payload)?;
        Ok(Lookup::Found(Versioned::new(value, message.sequence)))
    }

    /// What became of one key, as the store itself says.
    pub async fn fate(&self, key: &str) -> Result<Fate> {
        self.inner.bus.require_up()?;
        match self.inner.stream.get_last_raw_message_by_subject(&self.subject(key)).await {
            Ok(message) if is_removal(&message.headers) => {
                let at = Timestamp::from_nanosecond(message.time.unix_timestamp_nanos());
                Ok(at.map_or(Fate::Unknown, Fate::Removed))
            }
            Ok(message) if is_marker(&message.headers) => Ok(Fate::Unknown),
            Ok(_) => Ok(Fate::There),
            Err(err) if matches!(err.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(Fate::Unknown),
            Err(err) => Err(unavailable(err)),
        }
    }

    /// Writes a key that holds no record; `Conflict` where it holds one.
    pub async fn create(&self, key: &str, value: &T) -> Result<u64> {
        let expected = self.inner.view.revision_of_marker(key);
        match self.publish(key, value, expected, None).await {
            Err(err) if err.code == ErrorCode::Conflict => {}
            done => return done,
        }
        // The marker in the view was older or newer than the store's.
        let lookup = self.get(key).await?;
        if matches!(lookup, Lookup::Found(_)) {
            return Err(conflict(self.inner.name, key));
        }
        self.publish(key, value, lookup.revision(), None).await
    }

    /// Writes a key whose record has this revision; `Conflict` where it has another.
    pub async fn update(&self, key: &str, value: &T, revision: u64) -> Result<u64> {
        self.publish(key, value, revision, None).await
    }

    /// The same, for a life of whole seconds. `revision` may be that of a marker, or 0 for an absent key.
    pub async fn lease(&self, key: &str, value: &T, revision: u64, ttl: Duration) -> Result<u64> {
        self.publish(key, value, revision, Some(ttl)).await
    }

    /// Deletes a record of this revision, leaving a marker.
    pub async fn delete(&self, key: &str, revision: u64) -> Result<u64> {
        let message = PublishMessage::build().header(KV_OPERATION, "DEL").ttl(MARKER_TTL);
        let revision = self.send(key, message, revision).await?;
        if self.inner.viewed {
            self.inner.view.remove(key, revision);
        }
        Ok(revision)
    }

    /// Reads, changes and writes one record until no other writer comes between. `change` answers the new record, or
    /// `None` to leave it. Returns the record as it then is.
    pub async fn modify(
        &self,
        key: &str,
        mut change: impl FnMut(&T) -> Result<Option<T>>,
        missing: impl Fn() -> Error,
    ) -> Result<Versioned<T>> {
        for _ in 0..MAX_TRIES {
            let Some(entry) = self.get(key).await?.found() else { return Err(missing()) };
            let Some(value) = change(&entry.value)? else { return Ok(entry) };
            match self.update(key, &value, entry.revision).await {
                Ok(revision) => return Ok(Versioned::new(value, revision)),
                Err(err) if err.code == ErrorCode::Conflict => {}
                Err(err) => return Err(err),
            }
        }
        Err(conflict(self.inner.name, key))
    }

    async fn publish(&self, key: &str, value: &T, expected: u64, ttl: Option<Duration>) -> Result<u64> {
        let payload = serde_json::to_vec(value)
            .map_err(|err| Error::new(ErrorCode::Internal, "cannot encode a record").because(err))?;
        let mut message = PublishMessage::build().payload(payload.into());
        if let Some(ttl) = ttl {
            message = message.ttl(ttl);
        }
        let revision = self.send(key, message, expected).await?;
        if self.inner.viewed {
            self.inner.view.put(key, &Versioned::new(value.clone(), revision));
        }
        Ok(revision)
    }

    async fn send(&self, key: &str, message: PublishMessage, expected: u64) -> Result<u64> {
        self.inner.bus.require_up()?;
        let message = message.expected_last_subject_sequence(expected);
        let bus = &self.inner.bus;
        let sent = bus.jetstream().send_publish(self.subject(key), message).await.map_err(unavailable)?;
        match sent.await {
            Ok(ack) => {
                bus.room().found();
                Ok(ack.sequence)
            }
            Err(err) if err.kind() == PublishErrorKind::WrongLastSequence => Err(conflict(self.inner.name, key)),
            Err(err) if is_full(&err) => Err(bus.room().missing(err)),
            Err(err) => Err(unavailable(err)),
        }
    }

    /// A record from its bytes.
    pub(super) fn decode(&self, key: &str, payload: &Bytes) -> Result<T> {
        serde_json::from_slice(payload).map_err(|err| {
            let detail = format!(
                "the record {}/{key} cannot be read; it was written by an incompatible version or by hand",
                self.inner.name
            );
            Error::new(ErrorCode::Internal, detail).because(err)
        })
    }
}

/// True for the marker of a deleted or expired key.
pub fn is_marker(headers: &async_nats::HeaderMap) -> bool {
    headers.get(MARKER_REASON).is_some() || is_removal(headers)
}

/// True for the marker of a key that somebody deleted.
fn is_removal(headers: &async_nats::HeaderMap) -> bool {
    headers.get(KV_OPERATION).is_some_and(|operation| matches!(operation.as_str(), "DEL" | "PURGE"))
}

fn conflict(bucket: &str, key: &str) -> Error {
    Error::new(ErrorCode::Conflict, format!("{bucket}/{key} changed meanwhile; read it again and repeat"))
}
