//! Chunks and manifests in stream `HELIX_RECORDINGS`: one message per chunk, and pages of the manifest beside them, so
//! that no record grows with a recording. A chunk is written once; a page by its last sequence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use helix_protocol::recording::ChunkEntry;
use helix_protocol::{ErrorCode, RecordingId, subject};

use crate::bus::{Bus, is_full, unavailable};
use crate::error::{Error, Result};

/// Chunks of one page.
const PAGE: u32 = 256;
/// Pages that are read for one answer: a day of a busy desktop.
const MAX_PAGES: u32 = 32;

/// What is told where nothing more fits.
const FULL: &str = "the store of recordings is full: nothing was stored, and the runner keeps the chunk and brings it again; \
    make room (helixctl recording list, then helixctl recording delete ID, or a shorter [recording] keep), or give the \
    stream more (nats stream edit HELIX_RECORDINGS --max-bytes)";

/// The stream.
#[derive(Clone)]
pub(super) struct Chunks {
    bus: Bus,
    /// It was full last: that is logged once, not with every chunk that every runner tries again.
    full: Arc<AtomicBool>,
}

impl Chunks {
    pub(super) fn new(bus: Bus) -> Self {
        Self { bus, full: Arc::default() }
    }

    /// The bus beneath.
    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Stores a chunk. One that is there already must be the same.
    pub(super) async fn put(&self, recording: &RecordingId, number: u32, bytes: Bytes) -> Result<()> {
        let subject = subject::recording_chunk(recording, number);
        match self.publish(subject, bytes.clone(), 0).await {
            // Brought before, by a request that did not come to its end.
            Err(error) if error.code == ErrorCode::Conflict => match self.get(recording, number).await? {
                Some(known) if known == bytes => Ok(()),
                _ => Err(super::misfit(recording, "another one was brought before")),
            },
            stored => stored,
        }
    }

    /// A chunk's bytes.
    pub(super) async fn get(&self, recording: &RecordingId, number: u32) -> Result<Option<Bytes>> {
        Ok(self.last(&subject::recording_chunk(recording, number)).await?.map(|(bytes, _)| bytes))
    }

    /// Puts a chunk into the manifest, unless it is there.
    pub(super) async fn list(&self, recording: &RecordingId, entry: &ChunkEntry) -> Result<()> {
        let subject = subject::recording_page(recording, entry.number / PAGE);
        let (mut entries, sequence) = self.page(recording, entry.number / PAGE).await?;
        if entries.contains(entry) {
            return Ok(());
        }
        entries.retain(|known| known.number < entry.number);
        entries.push(entry.clone());
        let payload = serde_json::to_vec(&entries)
            .map_err(|error| Error::new(ErrorCode::Internal, "cannot encode a manifest").because(error))?;
        self.publish(subject, payload.into(), sequence).await
    }

    /// What the manifest says of one chunk.
    pub(super) async fn entry(&self, recording: &RecordingId, number: u32) -> Result<Option<ChunkEntry>> {
        let (entries, _) = self.page(recording, number / PAGE).await?;
        Ok(entries.into_iter().find(|entry| entry.number == number))
    }

    /// The chunks from this one on, at most as many as an answer may have.
    pub(super) async fn entries(&self, recording: &RecordingId, from: u32) -> Result<Vec<ChunkEntry>> {
        let mut found = Vec::new();
        for page in from / PAGE..from / PAGE + MAX_PAGES {
            let (entries, _) = self.page(recording, page).await?;
            let full = entries.len() as u32 == PAGE;
            found.extend(entries.into_iter().filter(|entry| entry.number >= from));
            if !full {
                break;
            }
        }
        Ok(found)
    }

    /// Removes everything of a recording.
    pub(super) async fn purge(&self, recording: &RecordingId) -> Result<()> {
        self.bus.require_up()?;
        let stream = self.bus.jetstream().get_stream_no_info(subject::STREAM_RECORDINGS).await.map_err(unavailable)?;
        stream.purge().filter(subject::recording_all(recording)).await.map(|_| ()).map_err(unavailable)
    }

    async fn page(&self, recording: &RecordingId, page: u32) -> Result<(Vec<ChunkEntry>, u64)> {
        let Some((bytes, sequence)) = self.last(&subject::recording_page(recording, page)).await? else {
            return Ok((Vec::new(), 0));
        };
        let entries = serde_json::from_slice(&bytes).map_err(|error| {
            let detail = format!("page {page} of the manifest of {recording} cannot be read; it was written by hand");
            Error::new(ErrorCode::Internal, detail).because(error)
        })?;
        Ok((entries, sequence))
    }

    async fn last(&self, subject: &str) -> Result<Option<(Bytes, u64)>> {
        self.bus.require_up()?;
        let stream = self.bus.jetstream().get_stream_no_info(subject::STREAM_RECORDINGS).await.map_err(unavailable)?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some((message.payload, message.sequence))),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn publish(&self, subject: String, payload: Bytes, expected: u64) -> Result<()> {
        self.bus.require_up()?;
        let message = PublishMessage::build().payload(payload).expected_last_subject_sequence(expected);
        let sent = self.bus.jetstream().send_publish(subject, message).await.map_err(unavailable)?;
        match sent.await {
            Ok(_) => {
                self.full.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(Error::new(ErrorCode::Conflict, "another request brought the same chunk; repeat it"))
            }
            Err(error) if is_full(&error) => {
                if !self.full.swap(true, Ordering::Relaxed) {
                    tracing::error!("{FULL}: {error}");
                }
                Err(Error::new(ErrorCode::RecordingsFull, FULL).because(error))
            }
            Err(error) => Err(unavailable(error)),
        }
    }
}
