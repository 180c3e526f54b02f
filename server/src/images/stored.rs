//! Chunks in stream `HELIX_IMAGES`: one message per digest, written once.

use std::collections::HashSet;
use std::io::Read as _;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures::TryStreamExt as _;
use helix_protocol::image::{Digest, MAX_STORED_BYTES};
use helix_protocol::{ErrorCode, subject};
use time::OffsetDateTime;

use super::invalid;
use crate::bus::{Bus, is_full, unavailable};
use crate::error::{Error, Result};

/// The stream.
#[derive(Clone)]
pub(super) struct Chunks {
    bus: Bus,
}

impl Chunks {
    pub(super) fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Digests of all that is here.
    pub(super) async fn all(&self) -> Result<HashSet<Digest>> {
        self.bus.require_up()?;
        let stream = self.bus.jetstream().get_stream_no_info(subject::STREAM_IMAGES).await.map_err(unavailable)?;
        let subjects = stream.info_with_subjects(subject::IMAGE_CHUNKS_ALL).await.map_err(unavailable)?;
        let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(unavailable)?;
        Ok(subjects.iter().filter_map(|(subject, _)| subject::parse_image_chunk(subject)).collect())
    }

    /// Stores a chunk. One that is here is the same.
    pub(super) async fn put(&self, digest: Digest, bytes: Bytes) -> Result<()> {
        self.bus.require_up()?;
        let message = PublishMessage::build().payload(bytes).expected_last_subject_sequence(0);
        let sent = self.bus.jetstream().send_publish(subject::image_chunk(&digest), message).await;
        match sent.map_err(unavailable)?.await {
            Ok(_) => {
                self.bus.room().found();
                Ok(())
            }
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            Err(error) if is_full(&error) => Err(self.bus.room().missing(error)),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// A chunk.
    pub(super) async fn get(&self, digest: Digest) -> Result<Option<Bytes>> {
        Ok(self.last(digest).await?.map(|(bytes, _)| bytes))
    }

    /// Removes a chunk, unless it was stored after this; only looks with `dry_run`. Its bytes, where it goes.
    pub(super) async fn remove_older(
        &self,
        digest: Digest,
        than: OffsetDateTime,
        dry_run: bool,
    ) -> Result<Option<u64>> {
        let size = match self.last(digest).await? {
            Some((bytes, at)) if at <= than => bytes.len() as u64,
            _ => return Ok(None),
        };
        if !dry_run {
            let stream = self.bus.jetstream().get_stream_no_info(subject::STREAM_IMAGES).await.map_err(unavailable)?;
            stream.purge().filter(subject::image_chunk(&digest)).await.map_err(unavailable)?;
        }
        Ok(Some(size))
    }

    async fn last(&self, digest: Digest) -> Result<Option<(Bytes, OffsetDateTime)>> {
        self.bus.require_up()?;
        let stream = self.bus.jetstream().get_stream_no_info(subject::STREAM_IMAGES).await.map_err(unavailable)?;
        match stream.get_last_raw_message_by_subject(&subject::image_chunk(&digest)).await {
            Ok(message) => Ok(Some((message.payload, message.time))),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }
}

/// Reads a chunk from the first byte to the last.
pub(super) async fn check(digest: Digest, packed: Bytes) -> Result<()> {
    unpacked(digest, packed).await.map(|_| ())
}

/// A chunk's own bytes, if the digest is theirs.
pub(super) async fn unpacked(digest: Digest, packed: Bytes) -> Result<Vec<u8>> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let limit = MAX_STORED_BYTES as u64 + 1;
        let read = zstd::stream::read::Decoder::with_buffer(&packed[..])
            .and_then(|decoder| decoder.take(limit).read_to_end(&mut bytes));
        read.map_err(|error| {
            invalid(format!("chunk {digest} is no zstd: {error}; it was damaged on its way, or at its sender"))
        })?;
        if bytes.len() > MAX_STORED_BYTES {
            return Err(Error::new(ErrorCode::BodyTooLarge, format!("a chunk has at most {MAX_STORED_BYTES} bytes")));
        }
        let own = Digest::of(&bytes);
        if own != digest {
            return Err(invalid(format!(
                "this is chunk {own}, not {digest}; it was damaged on its way, or at its sender"
            )));
        }
        Ok(bytes)
    });
    read.await.map_err(|error| Error::new(ErrorCode::Internal, "a chunk could not be read").because(error))?
}
