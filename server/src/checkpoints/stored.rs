//! Packs and manifests in stream `HELIX_CHECKPOINTS`, each under the SHA-256 of its bytes and the family that has it: a
//! session and its forks share what they have in common, and nobody else can name it.

use std::collections::BTreeMap;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures::TryStreamExt as _;
use helix_protocol::image::Digest;
use helix_protocol::{ErrorCode, SessionId, subject};

use crate::bus::{Bus, is_full, unavailable};
use crate::error::{Error, Result};

/// Most bytes of all checkpoints together: what fills JetStream stops every session with it.
const MAX_BYTES: u64 = 32 << 30;
const FULL: &str = "the store of checkpoints is full: nothing was stored, and the session runs on; make room (delete sessions that \
    are not needed any more: helixctl session delete ID)";

/// The stream. Cheap to clone.
#[derive(Clone)]
pub(super) struct Blobs {
    bus: Bus,
}

impl Blobs {
    pub(super) fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Stores bytes under their digest. What is there already is the same.
    pub(super) async fn put(&self, family: &SessionId, digest: &Digest, bytes: Bytes) -> Result<()> {
        self.bus.require_up()?;
        let stream = self.stream().await?;
        let info = stream.get_info().await.map_err(unavailable)?;
        if info.state.bytes > MAX_BYTES {
            return Err(Error::new(ErrorCode::CheckpointsFull, FULL));
        }
        let message = PublishMessage::build().payload(bytes).expected_last_subject_sequence(0);
        let subject = subject::checkpoint_blob(family, digest);
        let sent = self.bus.jetstream().send_publish(subject, message).await.map_err(unavailable)?;
        match sent.await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            Err(error) if is_full(&error) => Err(Error::new(ErrorCode::CheckpointsFull, FULL).because(error)),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The bytes, as they are stored.
    pub(super) async fn get(&self, family: &SessionId, digest: &Digest) -> Result<Option<Bytes>> {
        self.bus.require_up()?;
        match self.stream().await?.get_last_raw_message_by_subject(&subject::checkpoint_blob(family, digest)).await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The same, proved: an error where it is not there, or is not what its digest says.
    pub(super) async fn proved(&self, family: &SessionId, digest: &Digest) -> Result<Bytes> {
        let damaged = |what| Error::new(ErrorCode::CheckpointDamaged, format!("{digest} of the checkpoint {what}"));
        let bytes = self.get(family, digest).await?.ok_or_else(|| damaged("is missing"))?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(damaged("is not what it was")) }
    }

    /// What is there of a family, or of all.
    pub(super) async fn list(&self, family: Option<&SessionId>) -> Result<BTreeMap<SessionId, Vec<Digest>>> {
        self.bus.require_up()?;
        let filter = family.map_or_else(|| subject::CHECKPOINTS_ALL.to_owned(), subject::checkpoints_of);
        let mut subjects = self.stream().await?.info_with_subjects(filter).await.map_err(unavailable)?;
        let mut all: BTreeMap<SessionId, Vec<Digest>> = BTreeMap::new();
        while let Some((subject, _)) = subjects.try_next().await.map_err(unavailable)? {
            if let Some((family, digest)) = subject::parse_checkpoint_blob(&subject) {
                all.entry(family).or_default().push(digest);
            }
        }
        Ok(all)
    }

    /// Removes one.
    pub(super) async fn remove(&self, family: &SessionId, digest: &Digest) -> Result<()> {
        let stream = self.stream().await?;
        stream.purge().filter(subject::checkpoint_blob(family, digest)).await.map(|_| ()).map_err(unavailable)
    }

    /// Removes everything of a family.
    pub(super) async fn purge(&self, family: &SessionId) -> Result<()> {
        self.bus.require_up()?;
        let stream = self.stream().await?;
        stream.purge().filter(subject::checkpoints_of(family)).await.map(|_| ()).map_err(unavailable)
    }

    async fn stream(&self) -> Result<async_nats::jetstream::stream::Stream<()>> {
        self.bus.jetstream().get_stream_no_info(subject::STREAM_CHECKPOINTS).await.map_err(unavailable)
    }
}
