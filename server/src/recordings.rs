//! Rules for recordings: taken from runners chunk by chunk, shown, deleted, proved. No HTTP types.
//!
//! What makes a recording is its record (`helix_recordings`, how far it is), its chunks and the pages of its manifest
//! ([`stored`], stream `HELIX_RECORDINGS`), and the hash of each chunk in the audit trail. A chunk is acknowledged when all
//! four know it; each step can be repeated, so a runner that lost the answer sends the same chunk again. A runner can only
//! add to recordings of sessions that it has: what it sends is read from the first byte to the last, and bounded.

mod events;
mod retention;
mod stored;

use std::sync::Arc;

use bytes::Bytes;
use helix_protocol::event::{Event, RecordingChange};
use helix_protocol::ids::hex;
use helix_protocol::record::{RecordingRecord, SessionRecord};
use helix_protocol::recording::chunk::{self, Checked, MAX_CHUNK_BYTES};
use helix_protocol::recording::{
    ChunkEntry, Deletion, Head, HeadList, Keep, RecordingDetail, RecordingList, RecordingState, RecordingView,
};
use helix_protocol::{Epoch, ErrorCode, RecordingId, RunnerId, SessionId};
use jiff::{SignedDuration, Timestamp};

use self::stored::Chunks;
use crate::auth::Principal;
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::store::{Lookup, Store, Versioned};

/// Most bytes of one recording.
const MAX_BYTES: u64 = 8 << 30;
/// Most chunks of one recording: more than its longest session closes.
const MAX_CHUNKS: u32 = 500_000;
/// Recordings in one list.
const MAX_LIST: usize = 1000;

/// Rules over the store. Cheap to clone.
#[derive(Clone)]
pub struct Recordings {
    store: Store,
    events: Events,
    chunks: Chunks,
}

/// A chunk as its runner brings it.
pub struct Brought<'a> {
    /// The runner.
    pub runner: &'a RunnerId,
    /// Of which recording.
    pub recording: &'a RecordingId,
    /// Its number.
    pub number: u32,
    /// Whose recording it is.
    pub session: &'a SessionId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Recordings {
    /// Rules over a store.
    pub fn new(bus: Bus, store: Store, events: Events) -> Self {
        Self { store, events, chunks: Chunks::new(bus) }
    }

    /// Takes the next chunk of a recording. What is there already is taken as often as it comes.
    pub async fn put(&self, brought: &Brought<'_>) -> Result<()> {
        let Brought { runner, recording, number, session, epoch, bytes } = brought;
        if RecordingId::of(session, *epoch) != **recording {
            return Err(invalid("this is not the id of a recording of that session and epoch"));
        }
        let known = self.store.recordings.get(recording.as_str()).await?;
        let (record, revision) = match known {
            Lookup::Deleted(_) => return Err(gone(recording, None)),
            Lookup::Found(entry) => ((*entry.value).clone(), entry.revision),
            Lookup::Absent => {
                let record = self.begin(brought).await?;
                // Before there is room for its chunk: when there is, its session may be gone.
                let revision = self.store.recordings.create(recording.as_str(), &record).await?;
                (record, revision)
            }
        };
        if let Some(deletion) = &record.deleted {
            return Err(gone(recording, Some(deletion)));
        }
        if record.runner != **runner {
            return Err(Error::new(ErrorCode::Forbidden, format!("recording {recording} is another runner's")));
        }
        let own = hex(&chunk::link(bytes));
        if *number < record.chunks {
            let entry = self.chunks.entry(recording, *number).await?;
            let same = entry.is_some_and(|entry| entry.hash == own);
            return if same { Ok(()) } else { Err(misfit(recording, "it is there already, and another one")) };
        }
        let entry = check(&record, brought)?;
        self.chunks.put(recording, *number, bytes.clone()).await?;
        self.chunks.list(recording, &entry).await?;
        let at = Timestamp::now();
        let change = RecordingChange::Chunk { number: *number, hash: own, is_last: entry.is_last };
        let event = Event::Recording { session: (*session).clone(), recording: (*recording).clone(), change, at };
        // Not told but stored: it is the proof.
        self.events.publish(&event, &format!("recording.{recording}.{number}")).await?;
        let (width, height) = entry.segments.first().map_or((0, 0), |first| (first.width, first.height));
        let is_first_picture = record.width == 0;
        let new = RecordingRecord {
            chunks: number + 1,
            bytes: record.bytes + u64::from(entry.bytes),
            gaps: record.gaps + entry.gaps,
            duration_us: entry.to_us,
            last_hash: entry.hash,
            last_at: at,
            complete: entry.is_last,
            width: if is_first_picture { width } else { record.width },
            height: if is_first_picture { height } else { record.height },
            ..record
        };
        if let Err(error) = self.store.recordings.update(recording.as_str(), &new, revision).await {
            // Deleted meanwhile: what was stored after that is nobody's.
            let now = self.store.recordings.get(recording.as_str()).await?.found();
            if now.is_some_and(|entry| entry.value.deleted.is_some()) {
                self.chunks.purge(recording).await?;
            }
            return Err(error);
        }
        Ok(())
    }

    /// A new recording, if its runner has the session and the session is to be recorded.
    async fn begin(&self, brought: &Brought<'_>) -> Result<RecordingRecord> {
        let Brought { runner, recording, session, epoch, .. } = brought;
        let refused =
            |why: &str| Error::new(ErrorCode::Forbidden, format!("recording {recording} cannot begin: {why}"));
        let found = self.store.sessions.get(session.as_str()).await?.found();
        let found = found.ok_or_else(|| refused("there is no such session"))?;
        let SessionRecord { owner, spec, assignment, .. } = &*found.value;
        let own = assignment.as_ref().is_some_and(|of| of.runner == **runner && of.epoch == *epoch);
        if !own {
            return Err(refused("the session is not this runner's under this epoch"));
        }
        let options = spec.recording.ok_or_else(|| refused("the session is not to be recorded"))?;
        let record = RecordingRecord {
            id: (*recording).clone(),
            session: (*session).clone(),
            owner: owner.clone(),
            runner: (*runner).clone(),
            epoch: *epoch,
            started_at: Timestamp::now(),
            width: 0,
            height: 0,
            chunks: 0,
            bytes: 0,
            gaps: 0,
            duration_us: 0,
            last_hash: hex(&chunk::first_link(recording)),
            last_at: Timestamp::now(),
            keep: options.keep.unwrap_or(Keep::LONGEST),
            complete: false,
            deleted: None,
            purged: false,
        };
        started(record, brought)
    }

    /// Those that `by` may see, newest first.
    pub async fn list(&self, by: &Principal, session: Option<&SessionId>) -> Result<RecordingList> {
        self.store.recordings.catch_up().await?;
        let content = self.store.recordings.view().read();
        let records = content.iter().map(|(_, entry)| &entry.value).filter(|record| {
            record.deleted.is_none()
                && session.is_none_or(|session| *session == record.session)
                && by.may_see(&record.session, &record.owner)
        });
        let mut recordings: Vec<_> = records.map(|record| view(record)).collect();
        recordings.sort_unstable_by_key(|recording| std::cmp::Reverse((recording.started_at, recording.id.clone())));
        recordings.truncate(MAX_LIST);
        Ok(RecordingList { recordings })
    }

    /// One, with its chunks from this one on.
    pub async fn show(&self, by: &Principal, id: &RecordingId, from_chunk: u32) -> Result<RecordingDetail> {
        let record = self.find(by, id).await?;
        let mut chunk_list = self.chunks.entries(id, from_chunk).await?;
        // What was brought and not acknowledged is no part of it yet.
        chunk_list.retain(|entry| entry.number < record.chunks);
        Ok(RecordingDetail { recording: view(&record), chunk_list })
    }

    /// What the manifest says of one chunk.
    pub async fn entry(&self, by: &Principal, id: &RecordingId, number: u32) -> Result<ChunkEntry> {
        let record = self.find(by, id).await?;
        let entry = if number < record.chunks { self.chunks.entry(id, number).await? } else { None };
        entry.ok_or_else(|| no_chunk(id, number))
    }

    /// A chunk's bytes, as they are stored: whether they are what they were, the hashes tell. Ask
    /// [`Recordings::entry`] first.
    pub async fn bytes(&self, id: &RecordingId, number: u32) -> Result<Bytes> {
        self.chunks.get(id, number).await?.ok_or_else(|| no_chunk(id, number))
    }

    /// What the audit trail says, also of one that is gone.
    pub async fn heads(&self, by: &Principal, id: &RecordingId) -> Result<HeadList> {
        let (mut heads, mut deleted, mut owner) = (Vec::new(), None, None);
        for item in self.events.of_recording(id).await? {
            let Event::Recording { session, change, at, .. } = item.event else { continue };
            match change {
                RecordingChange::Chunk { number, hash, is_last } => {
                    heads.push(Head { sequence: item.sequence, number, hash, is_last, at });
                }
                RecordingChange::Deleted { deletion, owner: was } => {
                    deleted = Some(deletion);
                    owner = Some((session, was));
                }
            }
        }
        match self.find(by, id).await {
            Err(error) if error.code == ErrorCode::RecordingDeleted => {}
            Err(error) if error.code == ErrorCode::RecordingNotFound => {
                // The record went with its time; the trail still says whose it was.
                let may = owner.is_some_and(|(session, owner)| by.may_see(&session, &owner));
                if !may {
                    return Err(error);
                }
            }
            found => drop(found?),
        }
        Ok(HeadList { heads, deleted })
    }

    async fn find(&self, by: &Principal, id: &RecordingId) -> Result<Arc<RecordingRecord>> {
        let entry = self.entry_of(by, id).await?;
        match &entry.value.deleted {
            Some(deletion) => Err(gone(id, Some(deletion))),
            None => Ok(entry.value),
        }
    }

    async fn entry_of(&self, by: &Principal, id: &RecordingId) -> Result<Versioned<RecordingRecord>> {
        let found = self.store.recordings.get(id.as_str()).await?.found();
        let found = found.filter(|entry| by.may_see(&entry.value.session, &entry.value.owner));
        found.ok_or_else(|| {
            Error::new(ErrorCode::RecordingNotFound, format!("there is no recording {id}, or it is not yours"))
        })
    }
}

/// With what its first chunk says.
fn started(record: RecordingRecord, brought: &Brought<'_>) -> Result<RecordingRecord> {
    let checked = chunk::check(&brought.bytes, 0).map_err(|error| bad(brought, &error.to_string()))?;
    let start = checked.start.ok_or_else(|| misfit(brought.recording, "chunk 0 comes first"))?;
    let own = start.recording == record.id
        && start.session == record.session
        && start.epoch == record.epoch
        && start.runner == record.runner;
    if !own {
        return Err(bad(brought, "it says that it is of another recording"));
    }
    Ok(RecordingRecord { started_at: start.started_at, ..record })
}

/// Whether a chunk is the next of a recording.
fn check(record: &RecordingRecord, brought: &Brought<'_>) -> Result<ChunkEntry> {
    let Brought { recording, number, bytes, .. } = brought;
    if record.complete {
        return Err(misfit(recording, "the recording is complete"));
    }
    if *number != record.chunks {
        return Err(misfit(recording, &format!("chunk {} comes next", record.chunks)));
    }
    if record.bytes + bytes.len() as u64 > MAX_BYTES || record.chunks >= MAX_CHUNKS {
        let detail = format!("recording {recording} is as large as a recording may be ({} GiB)", MAX_BYTES >> 30);
        return Err(Error::new(ErrorCode::BodyTooLarge, detail));
    }
    let Checked { header, entry, .. } =
        chunk::check(bytes, record.duration_us).map_err(|error| bad(brought, &error.to_string()))?;
    let now = Timestamp::now();
    if !chunk::can_be(entry.to_us, record.started_at, now) {
        let why = format!(
            "its last record is of {} s after the beginning, {}, and here it is {now}; look at the clocks of runner and server",
            entry.to_us / 1_000_000,
            record.started_at
        );
        return Err(bad(brought, &why));
    }
    if header.number != *number || hex(&header.previous) != record.last_hash {
        return Err(misfit(recording, "it does not name the chunk before"));
    }
    Ok(entry)
}

/// A recording as it is shown.
fn view(record: &RecordingRecord) -> RecordingView {
    RecordingView {
        id: record.id.clone(),
        session: record.session.clone(),
        owner: record.owner.clone(),
        runner: record.runner.clone(),
        epoch: record.epoch,
        state: if record.complete { RecordingState::Complete } else { RecordingState::Recording },
        started_at: record.started_at,
        duration_us: record.duration_us,
        width: record.width,
        height: record.height,
        chunks: record.chunks,
        bytes: record.bytes,
        gaps: record.gaps,
        keep: record.keep,
        expires_at: expires_at(record),
    }
}

/// When its time is up.
fn expires_at(record: &RecordingRecord) -> Timestamp {
    let keep = SignedDuration::from_secs(record.keep.seconds().cast_signed());
    record.last_at.checked_add(keep).unwrap_or(Timestamp::MAX)
}

fn invalid(detail: &str) -> Error {
    Error::new(ErrorCode::InvalidRequest, detail)
}

fn bad(brought: &Brought<'_>, why: &str) -> Error {
    let Brought { recording, number, .. } = brought;
    Error::new(ErrorCode::InvalidRequest, format!("chunk {number} of recording {recording} is not one: {why}"))
}

fn misfit(recording: &RecordingId, why: &str) -> Error {
    Error::new(ErrorCode::ChunkMismatch, format!("the chunk does not fit into recording {recording}: {why}"))
}

fn no_chunk(recording: &RecordingId, number: u32) -> Error {
    Error::new(ErrorCode::ChunkNotFound, format!("recording {recording} has no chunk {number}"))
}

fn gone(recording: &RecordingId, deletion: Option<&Deletion>) -> Error {
    let how = match deletion {
        Some(Deletion { retention: true, at, .. }) => format!("at {at}, because its time was up"),
        Some(Deletion { by, at, .. }) => format!("at {at} by {by}"),
        None => "long ago; the audit trail may still say when".to_owned(),
    };
    Error::new(ErrorCode::RecordingDeleted, format!("recording {recording} was deleted {how}"))
}

/// Largest body of a chunk.
pub const MAX_BODY: usize = MAX_CHUNK_BYTES;
