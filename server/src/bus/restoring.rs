//! The mark of a restore: a stream that exists from before the first change of the store until after its last.
//!
//! While it stands no server makes, reads or writes anything: one that runs finds it with its next probe, one that starts
//! refuses to. What a restore leaves when it is killed is thus never taken for the state of a fleet.

use anyhow::Context as _;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, StorageType};
use helix_protocol::subject;

use super::schema::is_missing;

/// What a restore says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Digest of the backup.
    pub backup: String,
    /// When it was begun.
    pub begun_at: String,
    /// The store had nothing before: what fails can be taken back.
    pub was_empty: bool,
}

/// Why nothing is done with the store.
#[derive(Debug, thiserror::Error)]
#[error(
    "a restore that was begun at {} has not ended, and the store is not whole; fix: wait for it, or repeat the same \
     `helixctl restore FILE` (its backup has the digest {}); docs/nats.md", .0.begun_at, short(&.0.backup)
)]
pub struct Restoring(pub Mark);

fn short(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}

/// The mark, if one stands.
pub async fn standing(jetstream: &Context) -> anyhow::Result<Option<Mark>> {
    let stream = match jetstream.get_stream(subject::STREAM_RESTORE).await {
        Ok(stream) => stream,
        Err(err) if is_missing(&err.kind()) => return Ok(None),
        Err(err) => return Err(err).context("look for the mark of a restore"),
    };
    let told = &stream.cached_info().config.metadata;
    let text = |key: &str| told.get(key).cloned().unwrap_or_default();
    Ok(Some(Mark { backup: text("backup"), begun_at: text("begun_at"), was_empty: text("was_empty") == "true" }))
}

/// Sets it, over one that stands.
pub async fn set(jetstream: &Context, replicas: usize, mark: &Mark) -> anyhow::Result<()> {
    let told = [
        ("backup", mark.backup.clone()),
        ("begun_at", mark.begun_at.clone()),
        ("was_empty", mark.was_empty.to_string()),
    ];
    let config = Config {
        name: subject::STREAM_RESTORE.to_owned(),
        subjects: vec![subject::RESTORE_MARK.to_owned()],
        storage: StorageType::File,
        num_replicas: replicas,
        metadata: told.map(|(key, value)| (key.to_owned(), value)).into(),
        ..Config::default()
    };
    jetstream.create_or_update_stream(config).await.context("set the mark of the restore")?;
    Ok(())
}

/// Takes it away: servers go on.
pub async fn clear(jetstream: &Context) -> anyhow::Result<()> {
    super::schema::remove(jetstream, subject::STREAM_RESTORE).await.context("take the mark of the restore away")
}
