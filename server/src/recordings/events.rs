//! What happened beside the picture: from the chunks, which have it in order, and from the log of the session's
//! conversations, which is merged in by time. Nothing of it is stored twice.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use helix_protocol::record::RecordingRecord;
use helix_protocol::recording::{ChunkEntry, EventPage, RecordedEvent, TimedEvent, chunk};
use helix_protocol::thread::{ThreadEvent, ThreadFeedItem};
use helix_protocol::{ErrorCode, RecordingId, subject};
use jiff::{SignedDuration, Timestamp};
use time::OffsetDateTime;

use super::Recordings;
use crate::auth::Principal;
use crate::bus::unavailable;
use crate::error::{Error, Result};
use crate::threads::log::item_of;

/// Events of one page from the chunks.
const PAGE: usize = 1000;
/// Chunks that are read for one page.
const CHUNKS: usize = 64;
/// Words of conversations that are looked at for one page.
const WORDS: usize = 20_000;
/// Characters of a prompt that are told.
const TEXT_CHARS: usize = 200;
/// For the next of the stored words.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Where a page begins: behind so many events of this chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cursor {
    chunk: u32,
    events: usize,
    /// Time up to which everything was told.
    told_us: Option<u64>,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (chunk, events) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let told_us = Some(parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Self { chunk, events, told_us })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.chunk, self.events, self.told_us.unwrap_or_default())
    }
}

impl Recordings {
    /// A page of events after that cursor.
    pub async fn events(&self, by: &Principal, id: &RecordingId, after: Option<&str>) -> Result<EventPage> {
        let record = self.find(by, id).await?;
        let from = match after {
            None => Cursor::default(),
            Some(text) => Cursor::parse(text)
                .ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "after: give what a former page had as `next`"))?,
        };
        let mut entries = self.chunks.entries(id, from.chunk).await?;
        entries.retain(|entry| entry.number < record.chunks);
        let (mut events, mut next) = self.of_chunks(id, &entries, from).await?;
        // The manifest is read in pieces, too.
        if let (None, Some(last)) = (next, entries.last())
            && last.number + 1 < record.chunks
        {
            next = Some(Cursor { chunk: last.number + 1, events: 0, told_us: Some(last.to_us) });
        }
        let until_us = next.and_then(|next| next.told_us);
        events.extend(self.of_conversations(&record, from.told_us, until_us).await?);
        events.sort_by_key(|event| event.at_us);
        Ok(EventPage { events, next: next.map(|next| next.to_string()) })
    }

    /// Events of the chunks, and where the next page begins where there is one.
    async fn of_chunks(
        &self,
        id: &RecordingId,
        entries: &[ChunkEntry],
        from: Cursor,
    ) -> Result<(Vec<TimedEvent>, Option<Cursor>)> {
        let (mut events, mut read): (Vec<TimedEvent>, usize) = (Vec::new(), 0);
        for entry in entries.iter().filter(|entry| entry.events > 0) {
            let skip = if entry.number == from.chunk { from.events } else { 0 };
            if skip >= entry.events as usize {
                continue;
            }
            if read == CHUNKS {
                let told_us = events.last().map(|event| event.at_us).or(from.told_us).or(Some(0));
                return Ok((events, Some(Cursor { chunk: entry.number, events: 0, told_us })));
            }
            read += 1;
            // One that somebody took away: the proof says so, and the rest is told.
            let Some(bytes) = self.chunks.get(id, entry.number).await? else { continue };
            for (count, (at_us, event)) in chunk::events(&bytes).enumerate().skip(skip) {
                events.push(TimedEvent { at_us, event });
                if events.len() == PAGE {
                    let next = Cursor { chunk: entry.number, events: count + 1, told_us: Some(at_us) };
                    return Ok((events, Some(next)));
                }
            }
        }
        Ok((events, None))
    }

    /// What was said in the session, after one time and up to another.
    async fn of_conversations(
        &self,
        record: &RecordingRecord,
        after_us: Option<u64>,
        until_us: Option<u64>,
    ) -> Result<Vec<TimedEvent>> {
        let at = |us: u64| record.started_at.checked_add(SignedDuration::from_micros(us.cast_signed())).ok();
        let begin = at(after_us.unwrap_or_default()).unwrap_or(record.started_at);
        let end = until_us.or_else(|| record.complete.then_some(record.duration_us));
        let start_time = OffsetDateTime::from_unix_timestamp_nanos(begin.as_nanosecond()).map_err(|error| {
            Error::new(ErrorCode::Internal, format!("recording {} began at no time", record.id)).because(error)
        })?;
        let filter = subject::threads_of(&record.session);
        let policy = DeliverPolicy::ByStartTime { start_time };
        let mut follow = self.chunks.bus().follow(subject::STREAM_THREADS, &filter, policy).await?;
        let (mut events, mut left) = (Vec::new(), follow.pending);
        for _ in 0..WORDS {
            if left == 0 {
                break;
            }
            let stored = tokio::time::timeout(READ_WITHIN, follow.next()).await.map_err(unavailable)??;
            left = stored.pending.min(left - 1);
            let Some(item) = item_of(&stored) else { continue };
            let Some(at_us) = since(record.started_at, item.record.at) else { continue };
            if end.is_some_and(|end| at_us > end) {
                break;
            }
            // The page before told what was up to its end.
            if after_us.is_some_and(|after| at_us <= after) {
                continue;
            }
            events.extend(told(&item).map(|event| TimedEvent { at_us, event }));
        }
        Ok(events)
    }
}

fn since(started_at: Timestamp, at: Timestamp) -> Option<u64> {
    u64::try_from(at.duration_since(started_at).as_micros()).ok()
}

/// What is worth a mark on the time line.
fn told(item: &ThreadFeedItem) -> Option<RecordedEvent> {
    let (turn, what, text) = match &item.record.event {
        ThreadEvent::TurnQueued { turn, prompt, .. } => {
            (turn, "prompt".to_owned(), prompt.chars().take(TEXT_CHARS).collect())
        }
        ThreadEvent::TurnMoved { turn, state, .. } => (turn, state.to_string(), String::new()),
        ThreadEvent::CancelRequested { turn, .. } => (turn, "cancel".to_owned(), String::new()),
        _ => return None,
    };
    Some(RecordedEvent::Thread { thread: item.thread.clone(), turn: Some(turn.clone()), what, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let cursor = Cursor { chunk: 7, events: 12, told_us: Some(99) };
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        for bad in ["", "1", "1.2", "1.2.3.4", "a.b.c", "-1.0.0"] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }
}
