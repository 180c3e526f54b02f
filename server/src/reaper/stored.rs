//! What is stored, whatever wrote it: names of a stream, the last state of a place, its removal up to that state.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio::time::timeout;

use crate::bus::{Bus, unavailable};
use crate::error::Result;
use crate::store::jetstream::is_marker;

/// Longest silence between two messages that are stored.
const SILENCE: Duration = Duration::from_millis(500);
/// Bytes of a message whose payload was left out.
const SIZE: &str = "Nats-Msg-Size";

/// A place as it was seen.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Messages.
    pub count: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The last one's sequence.
    pub last: u64,
    /// When that was written.
    pub written: Timestamp,
}

/// Every stream of the account, with its messages and bytes.
pub async fn streams(bus: &Bus) -> Result<Vec<(String, u64, u64)>> {
    bus.require_up()?;
    let all: Vec<_> = bus.jetstream().streams().try_collect().await.map_err(unavailable)?;
    Ok(all.into_iter().map(|info| (info.config.name, info.state.messages, info.state.bytes)).collect())
}

/// Every subject of a stream.
pub async fn subjects(bus: &Bus, stream: &str) -> Result<Vec<String>> {
    bus.require_up()?;
    let subjects = handle(bus, stream).await?.info_with_subjects(">").await.map_err(unavailable)?;
    subjects.map_ok(|(subject, _)| subject).try_collect().await.map_err(unavailable)
}

/// The one message of a key; None for a marker, and where there is none.
pub async fn key(bus: &Bus, stream: &str, subject: &str) -> Result<Option<Seen>> {
    bus.require_up()?;
    match handle(bus, stream).await?.get_last_raw_message_by_subject(subject).await {
        Ok(message) if is_marker(&message.headers) => Ok(None),
        Ok(message) => Ok(Some(Seen {
            count: 1,
            bytes: message.payload.len() as u64,
            last: message.sequence,
            written: timestamp(message.time),
        })),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

/// All messages of subjects, without their payloads; None where there is none, or where some go at this moment.
pub async fn all(bus: &Bus, stream: &str, filter: &str) -> Result<Option<Seen>> {
    bus.require_up()?;
    let config = OrderedConfig {
        deliver_subject: bus.client().new_inbox(),
        filter_subject: filter.to_owned(),
        deliver_policy: DeliverPolicy::All,
        headers_only: true,
        ..OrderedConfig::default()
    };
    let consumer = handle(bus, stream).await?.create_consumer(config).await.map_err(unavailable)?;
    let mut pending = consumer.cached_info().num_pending;
    let mut messages = consumer.messages().await.map_err(unavailable)?;
    let mut seen: Option<Seen> = None;
    while pending > 0 {
        let Ok(message) = timeout(SILENCE, messages.next()).await else {
            // What somebody else removes meanwhile never arrives: the next look sees what is left.
            return Ok(None);
        };
        let message = message.ok_or_else(|| unavailable("the stream ended"))?.map_err(unavailable)?;
        let info = message.info().map_err(unavailable)?;
        pending = info.pending;
        let (count, bytes) = seen.map_or((0, 0), |seen| (seen.count, seen.bytes));
        seen = Some(Seen {
            count: count + 1,
            bytes: bytes + message.headers.as_ref().map_or(0, size),
            last: info.stream_sequence,
            written: timestamp(info.published),
        });
    }
    Ok(seen)
}

/// Removes what these subjects had when they were seen like this, and nothing that came later. Answers how many messages
/// went.
pub async fn purge(bus: &Bus, stream: &str, filter: &str, seen: &Seen) -> Result<u64> {
    bus.require_up()?;
    let purge = handle(bus, stream).await?;
    let purged = purge.purge().sequence(seen.last + 1).filter(filter).await.map_err(unavailable)?;
    Ok(purged.purged)
}

async fn handle(bus: &Bus, stream: &str) -> Result<Stream<()>> {
    bus.jetstream().get_stream_no_info(stream).await.map_err(unavailable)
}

fn size(headers: &HeaderMap) -> u64 {
    headers.get(SIZE).and_then(|size| size.as_str().parse().ok()).unwrap_or(0)
}

/// What NATS says of time is within what a timestamp can be.
pub fn timestamp(time: time::OffsetDateTime) -> Timestamp {
    Timestamp::from_nanosecond(time.unix_timestamp_nanos()).unwrap_or(Timestamp::MAX)
}
