//! A recording's chunks, byte by byte. All numbers are big endian.
//!
//! ```text
//! chunk  = header records
//! header = "helixrec" (8 bytes), version 1 (1), zeroes (3), number (4), SHA-256 of the chunk before (32)
//! record = kind (1), length of the payload (4), time in microseconds (8), payload
//! ```
//!
//! The first chunk names the SHA-256 of the recording's id instead of a chunk's, so no chain fits two recordings. Its first
//! record is the [`Start`]. The last record of the last chunk is the end. Times never go back within a recording.
//! A chunk is closed once it has [`CLOSE_BYTES`], or some seconds after its first record, so none is larger than [`MAX_CHUNK_BYTES`].

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::{ChunkEntry, RecordedEvent, RecordingId, Segment, SegmentStart, Start};
use crate::ids::hex;

/// First bytes of every chunk.
pub const MAGIC: [u8; 8] = *b"helixrec";
/// Of this format.
pub const VERSION: u8 = 1;
/// Bytes of a chunk's header.
pub const HEADER_BYTES: usize = 48;
/// Bytes of a record before its payload.
pub const RECORD_HEAD_BYTES: usize = 13;
/// Most bytes of a record's payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// A chunk that has so many bytes is closed.
pub const CLOSE_BYTES: usize = 512 * 1024;
/// Most segments that begin in a chunk: a recorder makes one in some seconds, and each is listed in the manifest.
const MAX_SEGMENTS: usize = 256;
/// Most bytes of a chunk: one that was not yet to be closed, one more record, the end.
pub const MAX_CHUNK_BYTES: usize = CLOSE_BYTES + 2 * (RECORD_HEAD_BYTES + MAX_PAYLOAD);

/// So much the clocks of a runner and a server may differ.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);

/// SHA-256 of a chunk.
pub type Hash = [u8; 32];

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// The recording begins: a [`Start`].
    Start = 1,
    /// A new connection to the display: a [`SegmentStart`].
    Segment = 2,
    /// What the display said, in pieces of any length: together the segment's bytes.
    Display = 3,
    /// A [`RecordedEvent`].
    Event = 4,
    /// The recording is complete; no payload.
    End = 5,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Start, Self::Segment, Self::Display, Self::Event, Self::End];
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// Microseconds since the recording began.
    pub at_us: u64,
    /// Byte of the chunk where its head begins.
    pub offset: usize,
    /// What it holds.
    pub payload: &'a [u8],
}

/// Why bytes are not a chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// It does not begin as a chunk of this version does.
    #[error("it does not begin like a chunk of a recording of version {VERSION}")]
    Header,
    /// It is longer than any chunk.
    #[error("it has {0} bytes, a chunk has at most {MAX_CHUNK_BYTES}")]
    TooLong(usize),
    /// A record is not whole, or has an impossible head.
    #[error("the record at byte {0} is broken")]
    Record(usize),
    /// A record's JSON is not what its kind says.
    #[error("the payload at byte {0} is not what the record's kind says")]
    Payload(usize),
    /// Time goes back.
    #[error("the record at byte {0} is older than the one before")]
    Time(usize),
    /// It has no record.
    #[error("it is empty")]
    Empty,
    /// A record is where its kind cannot be: a start that is not first, something behind the end.
    #[error("the record at byte {0} cannot be there")]
    Place(usize),
}

/// The header of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its number, from 0.
    pub number: u32,
    /// SHA-256 of the chunk before; for the first [`first_link`].
    pub previous: Hash,
}

impl Header {
    /// As bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = VERSION;
        bytes[12..16].copy_from_slice(&self.number.to_be_bytes());
        bytes[16..].copy_from_slice(&self.previous);
        bytes
    }

    /// From a chunk's bytes.
    pub fn parse(chunk: &[u8]) -> Result<Self, ChunkError> {
        let header: &[u8; HEADER_BYTES] = chunk.first_chunk().ok_or(ChunkError::Header)?;
        let (head, previous) = header.split_last_chunk::<32>().ok_or(ChunkError::Header)?;
        let (magic, number) = head.split_last_chunk::<4>().ok_or(ChunkError::Header)?;
        if magic[..8] != MAGIC || magic[8..] != [VERSION, 0, 0, 0] {
            return Err(ChunkError::Header);
        }
        Ok(Self { number: u32::from_be_bytes(*number), previous: *previous })
    }
}

/// What the first chunk of a recording names in place of a chunk before it.
pub fn first_link(recording: &RecordingId) -> Hash {
    Sha256::digest(recording.as_str().as_bytes()).into()
}

/// What the next chunk has to name.
pub fn link(chunk: &[u8]) -> Hash {
    Sha256::digest(chunk).into()
}

/// The head of a record with so many bytes of payload; there are never more than [`MAX_PAYLOAD`].
pub fn record_head(kind: RecordKind, at_us: u64, length: usize) -> [u8; RECORD_HEAD_BYTES] {
    let mut head = [0; RECORD_HEAD_BYTES];
    head[0] = kind as u8;
    head[1..5].copy_from_slice(&(length as u32).to_be_bytes());
    head[5..].copy_from_slice(&at_us.to_be_bytes());
    head
}

/// Whether a recording that began at `started_at` can have come to this time at `now`.
pub fn can_be(at_us: u64, started_at: Timestamp, now: Timestamp) -> bool {
    let longest = now.duration_since(started_at).saturating_add(CLOCKS_DIFFER);
    i128::from(at_us) <= longest.as_micros()
}

/// The records of a chunk, in order; an error is the last. Where a chunk was cut off, the error's byte is where its whole
/// records end.
pub fn records(chunk: &[u8]) -> impl Iterator<Item = Result<Record<'_>, ChunkError>> {
    let mut offset = HEADER_BYTES;
    std::iter::from_fn(move || {
        let rest = chunk.get(offset..).filter(|rest| !rest.is_empty())?;
        let Some(record) = first_record(rest, offset) else {
            let broken = offset;
            offset = usize::MAX;
            return Some(Err(ChunkError::Record(broken)));
        };
        offset += RECORD_HEAD_BYTES + record.payload.len();
        Some(Ok(record))
    })
}

fn first_record(bytes: &[u8], offset: usize) -> Option<Record<'_>> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_HEAD_BYTES>()?;
    let kind = RecordKind::ALL.into_iter().find(|kind| *kind as u8 == head[0])?;
    let length = u32::from_be_bytes(*head[1..].first_chunk()?) as usize;
    let at_us = u64::from_be_bytes(*head[5..].first_chunk()?);
    let payload = (length <= MAX_PAYLOAD).then(|| rest.get(..length))??;
    Some(Record { kind, at_us, offset, payload })
}

/// What a payload of JSON says.
pub fn json<T: DeserializeOwned>(record: &Record<'_>) -> Result<T, ChunkError> {
    serde_json::from_slice(record.payload).map_err(|_| ChunkError::Payload(record.offset))
}

/// A chunk that was looked at from the first byte to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its header.
    pub header: Header,
    /// Its entry in the manifest.
    pub entry: ChunkEntry,
    /// How the recording begins, where this is its first chunk.
    pub start: Option<Start>,
}

/// Checks a whole chunk. `after_us` is the time of the last record of the chunk before.
pub fn check(chunk: &[u8], after_us: u64) -> Result<Checked, ChunkError> {
    if chunk.len() > MAX_CHUNK_BYTES {
        return Err(ChunkError::TooLong(chunk.len()));
    }
    let header = Header::parse(chunk)?;
    let (mut from_us, mut to_us, mut start) = (None, after_us, None);
    let (mut events, mut gaps, mut segments, mut is_last) = (0, 0, Vec::new(), false);
    for record in records(chunk) {
        let record = record?;
        if record.at_us < to_us {
            return Err(ChunkError::Time(record.offset));
        }
        let is_first = header.number == 0 && from_us.is_none();
        if is_last || is_first != (record.kind == RecordKind::Start) {
            return Err(ChunkError::Place(record.offset));
        }
        from_us.get_or_insert(record.at_us);
        to_us = record.at_us;
        match record.kind {
            RecordKind::Start => start = Some(json::<Start>(&record)?),
            RecordKind::Segment => {
                let SegmentStart { width, height } = json(&record)?;
                if segments.len() == MAX_SEGMENTS {
                    return Err(ChunkError::Place(record.offset));
                }
                segments.push(Segment { at_us: record.at_us, offset: record.offset as u32, width, height });
            }
            RecordKind::Display => {}
            RecordKind::Event => {
                events += 1;
                let event = json::<serde_json::Value>(&record)?;
                gaps += u32::from(event.get("type").is_some_and(|kind| kind == "gap"));
            }
            RecordKind::End => is_last = true,
        }
    }
    let entry = ChunkEntry {
        number: header.number,
        hash: hex(&link(chunk)),
        bytes: chunk.len() as u32,
        from_us: from_us.ok_or(ChunkError::Empty)?,
        to_us,
        events,
        gaps,
        segments,
        is_last,
    };
    Ok(Checked { header, entry, start })
}

/// Events of a chunk with their times; those of a type that is not known here are left out.
pub fn events(chunk: &[u8]) -> impl Iterator<Item = (u64, RecordedEvent)> {
    let events = records(chunk).map_while(Result::ok).filter(|record| record.kind == RecordKind::Event);
    events.filter_map(|record| Some((record.at_us, json(&record).ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Epoch, RunnerId, SessionId};

    fn start() -> Start {
        let session = SessionId::parse("s").expect("valid");
        Start {
            recording: RecordingId::of(&session, Epoch(1)),
            session,
            epoch: Epoch(1),
            runner: RunnerId::parse("r").expect("valid"),
            started_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn chunk(records: &[(RecordKind, u64, &[u8])]) -> Vec<u8> {
        let mut bytes = Header { number: 0, previous: first_link(&start().recording) }.encode().to_vec();
        for (kind, at_us, payload) in records {
            bytes.extend(record_head(*kind, *at_us, payload.len()));
            bytes.extend(*payload);
        }
        bytes
    }

    fn json_of(value: &impl serde::Serialize) -> Vec<u8> {
        serde_json::to_vec(value).expect("JSON")
    }

    #[test]
    fn a_chunk_is_read_as_it_is_written() {
        let (begin, segment) = (json_of(&start()), json_of(&SegmentStart { width: 640, height: 480 }));
        let gap = json_of(&RecordedEvent::Gap { from_us: 3, reason: "why".to_owned() });
        let bytes = chunk(&[
            (RecordKind::Start, 0, &begin),
            (RecordKind::Segment, 5, &segment),
            (RecordKind::Display, 5, b"RFB"),
            (RecordKind::Event, 9, &gap),
            (RecordKind::Event, 9, br#"{"type": "of another version"}"#),
            (RecordKind::End, 10, b""),
        ]);
        let Checked { header, entry, start: said } = check(&bytes, 0).expect("a chunk");
        assert_eq!((header.number, header.previous), (0, first_link(&start().recording)));
        assert_eq!(said, Some(start()));
        assert_eq!((entry.from_us, entry.to_us, entry.events, entry.gaps, entry.is_last), (0, 10, 2, 1, true));
        let offset = HEADER_BYTES + RECORD_HEAD_BYTES + begin.len();
        assert_eq!(entry.segments, [Segment { at_us: 5, offset: offset as u32, width: 640, height: 480 }]);
        assert_eq!(entry.hash, hex(&link(&bytes)));
        assert_eq!(events(&bytes).count(), 1, "what another version says is passed over");
    }

    #[test]
    fn no_record_is_from_the_future() {
        let began = Timestamp::UNIX_EPOCH;
        let at = |seconds| began + SignedDuration::from_secs(seconds);
        for (at_us, now, fits) in [
            (0, at(0), true),
            (60_000_000, at(60), true),
            (300_000_000, at(0), true),
            (300_000_001, at(0), false),
            (0, at(-300), true),
            (0, at(-301), false),
            (u64::MAX, at(1 << 30), false),
        ] {
            assert_eq!(can_be(at_us, began, now), fits, "{at_us} at {now}");
        }
        assert!(!can_be(0, Timestamp::MAX, Timestamp::MIN) && can_be(1, Timestamp::MIN, Timestamp::MAX));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let begin = json_of(&start());
        let first = (RecordKind::Start, 0, &begin[..]);
        let refused = |records: &[(RecordKind, u64, &[u8])]| check(&chunk(records), 0).expect_err("refused");
        assert_eq!(refused(&[]), ChunkError::Empty);
        assert_eq!(refused(&[(RecordKind::Display, 0, b"")]), ChunkError::Place(HEADER_BYTES));
        let behind = HEADER_BYTES + RECORD_HEAD_BYTES + begin.len();
        assert_eq!(refused(&[first, first]), ChunkError::Place(behind));
        assert_eq!(refused(&[first, (RecordKind::Segment, 0, b"{}")]), ChunkError::Payload(behind));
        assert_eq!(
            refused(&[first, (RecordKind::End, 0, b""), (RecordKind::End, 0, b"")]),
            ChunkError::Place(behind + RECORD_HEAD_BYTES)
        );
        assert_eq!(check(&chunk(&[first]), 1), Err(ChunkError::Time(HEADER_BYTES)));
        assert_eq!(check(b"helixrec", 0), Err(ChunkError::Header));
        assert!(matches!(check(&vec![0; MAX_CHUNK_BYTES + 1], 0), Err(ChunkError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn a_chunk_that_was_cut_off_keeps_its_whole_records(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let all: Vec<_> = payloads.iter().map(|payload| (RecordKind::Display, 7, &payload[..])).collect();
            let bytes = chunk(&all);
            let cut = cut.index(bytes.len() - HEADER_BYTES) + HEADER_BYTES;
            let (mut whole, mut end) = (0, HEADER_BYTES);
            for record in records(&bytes[..cut]) {
                match record {
                    Ok(record) => {
                        prop_assert_eq!(record.payload, &payloads[whole]);
                        whole += 1;
                        end = record.offset + RECORD_HEAD_BYTES + record.payload.len();
                    }
                    Err(error) => prop_assert_eq!(error, ChunkError::Record(end)),
                }
            }
            prop_assert!(end <= cut && (whole == payloads.len() || end + RECORD_HEAD_BYTES + payloads[whole].len() > cut));
        }

        #[test]
        fn no_bytes_at_all_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut chunk = Header { number: 1, previous: [0; 32] }.encode().to_vec();
            chunk.extend(bytes);
            let _ = check(&chunk, 0);
        }
    }
}
