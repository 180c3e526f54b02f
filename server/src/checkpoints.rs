//! Rules for checkpoints of workspaces, and for sessions that go on from one: here, elsewhere, or as another session.
//!
//! A runner brings packs, then the manifest that names them, then commits: from that moment on there is a checkpoint, or
//! there is none. It can only do so for a session that it has, under that session's epoch. What is asked of a session is a field of its record
//! ([`WorkRecord`](helix_protocol::checkpoint::WorkRecord)), which its runner gets with the desired set and the leader's
//! [`reconciler`](crate::reconciler) carries out; nothing is kept in memory but when was swept last.

mod moves;
mod retention;
mod stored;

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use helix_protocol::api::checkpoints::{CheckpointList, CommitCheckpoint, Committed};
use helix_protocol::checkpoint::{
    Checkpoint, CheckpointsRecord, FORMAT, MAX_MANIFEST_BYTES, Manifest, Reason, Restore,
};
use helix_protocol::image::Digest;
use helix_protocol::record::SessionRecord;
use helix_protocol::{Epoch, ErrorCode, RunnerId, SessionId};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::stored::Blobs;
use crate::auth::Principal;
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::sessions::Sessions;
use crate::store::{Lookup, Store};
use crate::threads::Threads;

/// How often a record is written again that others wrote meanwhile.
const MAX_TRIES: usize = 5;

/// Rules over the store. Cheap to clone.
#[derive(Clone)]
pub struct Checkpoints {
    store: Store,
    sessions: Sessions,
    threads: Threads,
    blobs: Blobs,
    /// When the leader looked last for what nothing names.
    swept: Arc<Mutex<Option<Instant>>>,
}

impl Checkpoints {
    /// Rules over a store.
    pub fn new(bus: Bus, store: Store, sessions: Sessions, threads: Threads) -> Self {
        Self { store, sessions, threads, blobs: Blobs::new(bus), swept: Arc::default() }
    }

    /// Stores bytes of a checkpoint that is under way.
    pub async fn put(
        &self,
        runner: &RunnerId,
        session: &SessionId,
        epoch: Epoch,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<()> {
        if Digest::of(&bytes) != *digest {
            return Err(Error::new(ErrorCode::InvalidRequest, format!("the bytes are not those of {digest}")));
        }
        self.require_own(runner, session, epoch).await?;
        let family = self.under_way(session).await?;
        self.blobs.put(&family, digest, bytes).await
    }

    /// Bytes that a runner needs for a session which begins from a checkpoint.
    pub async fn read(&self, runner: &RunnerId, session: &SessionId, epoch: Epoch, digest: &Digest) -> Result<Bytes> {
        self.require_own(runner, session, epoch).await?;
        let record = self.record(session).await?.ok_or_else(|| none(session))?;
        self.blobs.proved(&record.family, digest).await
    }

    /// Makes a checkpoint of what was brought.
    pub async fn commit(&self, runner: &RunnerId, session: &SessionId, commit: &CommitCheckpoint) -> Result<Committed> {
        self.require_own(runner, session, commit.epoch).await?;
        let family = self.under_way(session).await?;
        let manifest = self.manifest(&family, &commit.manifest).await?;
        let there: std::collections::BTreeSet<[u8; 32]> = {
            let there = self.blobs.list(Some(&family)).await?.remove(&family).unwrap_or_default();
            there.iter().map(|digest| *digest.as_bytes()).collect()
        };
        if let Some(missing) = manifest.packs.iter().find(|digest| !there.contains(digest.as_bytes())) {
            let detail = format!("{missing} of the checkpoint is missing; bring everything of it");
            return Err(Error::new(ErrorCode::CheckpointDamaged, detail));
        }
        let conversation = self.threads.hub.log().read(session, None).await?;
        let threads: Vec<_> = conversation.threads().iter().map(|thread| thread.id.clone()).collect();
        let sequence = self.threads.hub.log().last_sequence(session).await?;
        for _ in 0..MAX_TRIES {
            let Lookup::Found(entry) = self.store.checkpoints.get(session.as_str()).await? else {
                return Err(none(session));
            };
            let mut record = (*entry.value).clone();
            // The answer to the first try was lost.
            if let Some(last) = record.list.last().filter(|last| last.manifest == commit.manifest) {
                return Ok(Committed { number: last.number });
            }
            record.last += 1;
            record.at = Timestamp::now();
            record.list.push(Checkpoint {
                number: record.last,
                at: record.at,
                reason: commit.reason,
                runner: Some(runner.clone()),
                epoch: commit.epoch,
                manifest: commit.manifest,
                entries: manifest.entries,
                bytes: manifest.bytes,
                sent_bytes: commit.sent_bytes,
                took_ms: commit.took_ms,
                left_out: manifest.left_out.iter().take(10).cloned().collect(),
                left_out_count: manifest.left_out_count,
                threads: threads.clone(),
                sequence,
            });
            retention::trim(&mut record);
            match self.store.checkpoints.update(session.as_str(), &record, entry.revision).await {
                Ok(_) => return Ok(Committed { number: record.last }),
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorCode::Conflict, "the checkpoints changed meanwhile; repeat the request"))
    }

    /// Those of a session, newest first.
    pub async fn list(&self, by: &Principal, session: &SessionId) -> Result<CheckpointList> {
        let found = self.sessions.find(by, session).await?;
        let record = self.record(&found.desktop).await?;
        let mut checkpoints = record.map(|record| record.list.clone()).unwrap_or_default();
        checkpoints.reverse();
        Ok(CheckpointList { checkpoints })
    }

    /// What a start of the session would begin from.
    pub async fn latest(&self, session: &SessionId) -> Result<Option<Restore>> {
        let record = self.record(session).await?;
        let last = record.as_ref().and_then(|record| record.list.last());
        Ok(last.map(|last| Restore { number: last.number, manifest: last.manifest }))
    }

    /// Makes a former checkpoint the newest one: the session goes on from it, wherever it begins next.
    pub async fn again(&self, session: &SessionId, restore: Restore) -> Result<Restore> {
        let mut number = restore.number;
        let again = |record: &CheckpointsRecord| {
            if let Some(last) = record.list.last().filter(|last| last.manifest == restore.manifest) {
                number = last.number;
                return Ok(None);
            }
            let Some(former) = record.list.iter().find(|known| known.number == restore.number) else { return Ok(None) };
            let (mut record, mut former) = (record.clone(), former.clone());
            record.last += 1;
            (former.number, former.at, former.reason) = (record.last, Timestamp::now(), Reason::Restore);
            (former.sent_bytes, former.took_ms) = (0, 0);
            number = former.number;
            record.list.push(former);
            retention::trim(&mut record);
            Ok(Some(record))
        };
        self.store.checkpoints.modify(session.as_str(), again, || none(session)).await?;
        Ok(Restore { number, ..restore })
    }

    async fn record(&self, session: &SessionId) -> Result<Option<Arc<CheckpointsRecord>>> {
        Ok(self.store.checkpoints.get(session.as_str()).await?.found().map(|entry| entry.value))
    }

    /// Checkpoint `number` of a session, the newest where absent.
    async fn find(&self, session: &SessionId, number: Option<u32>) -> Result<(SessionId, Checkpoint)> {
        let record = self.record(session).await?.ok_or_else(|| none(session))?;
        let found = match number {
            None => record.list.last(),
            Some(number) => record.list.iter().find(|checkpoint| checkpoint.number == number),
        };
        match (found, number) {
            (Some(found), _) => Ok((record.family.clone(), found.clone())),
            (None, None) => Err(none(session)),
            (None, Some(number)) => {
                let known: Vec<_> = record.list.iter().map(|checkpoint| checkpoint.number.to_string()).collect();
                let detail = format!("session {session} has no checkpoint {number}; it has {}", known.join(", "));
                Err(Error::new(ErrorCode::CheckpointNotFound, detail))
            }
        }
    }

    /// Reads all of a checkpoint: an error where something is missing, or is not what its digest says.
    async fn prove(&self, family: &SessionId, checkpoint: &Checkpoint) -> Result<()> {
        for digest in &self.manifest(family, &checkpoint.manifest).await?.packs {
            self.blobs.proved(family, digest).await?;
        }
        Ok(())
    }

    async fn manifest(&self, family: &SessionId, digest: &Digest) -> Result<Manifest> {
        let bytes = self.blobs.proved(family, digest).await?;
        let damaged = |why: String| Error::new(ErrorCode::CheckpointDamaged, format!("{digest} is no manifest: {why}"));
        let mut text = Vec::new();
        let decoder =
            zstd::stream::read::Decoder::with_buffer(&bytes[..]).map_err(|error| damaged(error.to_string()))?;
        decoder.take(MAX_MANIFEST_BYTES as u64).read_to_end(&mut text).map_err(|error| damaged(error.to_string()))?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!("it is of format {}, and this server reads {FORMAT}", manifest.format)));
        }
        Ok(manifest)
    }

    /// The family of a session's packs; noted before the first of them comes.
    async fn under_way(&self, session: &SessionId) -> Result<SessionId> {
        for _ in 0..MAX_TRIES {
            let now = Timestamp::now();
            let written = if let Lookup::Found(entry) = self.store.checkpoints.get(session.as_str()).await? {
                let record = (*entry.value).clone();
                // Often enough for whoever looks what is on its way.
                if now.duration_since(record.at) < jiff::SignedDuration::from_mins(10) {
                    return Ok(record.family);
                }
                let family = record.family.clone();
                let noted = CheckpointsRecord { at: now, ..record };
                self.store.checkpoints.update(session.as_str(), &noted, entry.revision).await.map(|_| family)
            } else {
                let record = CheckpointsRecord {
                    session: session.clone(),
                    family: session.clone(),
                    last: 0,
                    list: Vec::new(),
                    at: now,
                };
                self.store.checkpoints.create(session.as_str(), &record).await.map(|_| record.family)
            };
            match written {
                Err(error) if error.code == ErrorCode::Conflict => {}
                done => return done,
            }
        }
        Err(Error::new(ErrorCode::Conflict, "the checkpoints changed meanwhile; repeat the request"))
    }

    /// A runner has to do with sessions that it has, and no others.
    async fn require_own(&self, runner: &RunnerId, session: &SessionId, epoch: Epoch) -> Result<()> {
        let found = self.store.sessions.get(session.as_str()).await?.found();
        let own = |record: &SessionRecord| {
            record.assignment.as_ref().is_some_and(|of| of.runner == *runner && of.epoch == epoch)
        };
        if found.is_some_and(|entry| own(&entry.value)) {
            return Ok(());
        }
        let detail = format!("session {session} is not this runner's under epoch {epoch}");
        Err(Error::new(ErrorCode::Forbidden, detail))
    }
}

fn none(session: &SessionId) -> Error {
    let detail = format!("session {session} has no checkpoint; make one: helixctl session checkpoint {session}");
    Error::new(ErrorCode::CheckpointNotFound, detail)
}
