//! The end of checkpoints: the last [`KEEP_LAST`] of a session are kept, and those before the newest for
//! [`KEEP_SECONDS`]; with a session's record all of them go. What no manifest of a family names any more is removed.

use std::collections::BTreeSet;

use helix_protocol::checkpoint::{CheckpointsRecord, KEEP_LAST, KEEP_SECONDS};
use helix_protocol::image::Digest;
use helix_protocol::{ErrorCode, SessionId};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant};

use super::Checkpoints;
use crate::error::{Error, Result};

/// Between two searches for what nothing names.
const SWEEP: Duration = Duration::from_mins(1);
/// What came so shortly before may be part of a checkpoint that is on its way.
const UNDER_WAY: SignedDuration = SignedDuration::from_hours(1);

impl Checkpoints {
    /// Removes what is too old, what sessions that are gone have left, and what was brought and never committed. For the
    /// leader; failures are the next pass's.
    pub async fn expire(&self) -> Result<()> {
        {
            let mut swept = self.swept.lock().await;
            if swept.is_some_and(|at: Instant| at.elapsed() < SWEEP) {
                return Ok(());
            }
            *swept = Some(Instant::now());
        }
        self.store.checkpoints.catch_up().await?;
        self.store.sessions.catch_up().await?;
        let records: Vec<_> = {
            let content = self.store.checkpoints.view().read();
            content.iter().map(|(_, entry)| entry.clone()).collect()
        };
        let mut freed = BTreeSet::new();
        for entry in &records {
            let record = &entry.value;
            // The store itself: a view that is behind would take everything of a new session.
            let gone = self.store.sessions.get(record.session.as_str()).await?.found().is_none();
            let is_young = Timestamp::now().duration_since(record.at) < UNDER_WAY;
            let is_deleted = self.store.sessions.view().read().was_deleted(record.session.as_str());
            let done = if gone && (is_deleted || !is_young) {
                tracing::info!(session.id = %record.session, "checkpoints of a session that is gone are removed");
                let deleted = self.store.checkpoints.delete(record.session.as_str(), entry.revision).await;
                deleted.map(|_| _ = freed.insert(record.family.clone()))
            } else {
                let mut kept = (*record).as_ref().clone();
                if !trim(&mut kept) {
                    continue;
                }
                self.store.checkpoints.update(record.session.as_str(), &kept, entry.revision).await.map(|_| ())
            };
            match done {
                Err(error) if error.code == ErrorCode::Conflict => {}
                done => done?,
            }
        }
        for family in self.blobs.list(None).await?.into_keys() {
            // What no record names and nobody has just removed may be of records that were lost: the reaper's to judge.
            if freed.contains(&family) || records.iter().any(|entry| entry.value.family == family) {
                self.sweep(&family).await?;
            }
        }
        Ok(())
    }

    /// Removes what no checkpoint of a family names, unless one may be on its way.
    pub(super) async fn sweep(&self, family: &SessionId) -> Result<()> {
        self.store.checkpoints.catch_up().await?;
        let records: Vec<_> = {
            let content = self.store.checkpoints.view().read();
            let of = |record: &CheckpointsRecord| record.family == *family;
            content.iter().filter(|(_, entry)| of(&entry.value)).map(|(_, entry)| entry.value.clone()).collect()
        };
        if records.is_empty() {
            return self.blobs.purge(family).await;
        }
        let now = Timestamp::now();
        if records.iter().any(|record| now.duration_since(record.at) < UNDER_WAY) {
            return Ok(());
        }
        let mut named: BTreeSet<[u8; 32]> = BTreeSet::new();
        for checkpoint in records.iter().flat_map(|record| &record.list) {
            named.insert(*checkpoint.manifest.as_bytes());
            match self.manifest(family, &checkpoint.manifest).await {
                Ok(manifest) => named.extend(manifest.packs.iter().map(|digest| *digest.as_bytes())),
                // What it names is not known: nothing is removed.
                Err(Error { code: ErrorCode::CheckpointDamaged, .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let there = self.blobs.list(Some(family)).await?.remove(family).unwrap_or_default();
        let unnamed: Vec<Digest> = there.into_iter().filter(|digest| !named.contains(digest.as_bytes())).collect();
        for digest in &unnamed {
            self.blobs.remove(family, digest).await?;
        }
        if !unnamed.is_empty() {
            tracing::info!(session.id = %family, count = unnamed.len(), "packs that no checkpoint names are removed");
        }
        Ok(())
    }
}

/// Removes what is not kept from the list. False where all of it is.
pub(super) fn trim(record: &mut CheckpointsRecord) -> bool {
    let (before, now) = (record.list.len(), Timestamp::now());
    let newest = record.list.last().map(|last| last.number);
    let old = |at: Timestamp| now.duration_since(at) > SignedDuration::from_secs(KEEP_SECONDS);
    record.list.retain(|checkpoint| Some(checkpoint.number) == newest || !old(checkpoint.at));
    let excess = record.list.len().saturating_sub(KEEP_LAST);
    record.list.drain(..excess);
    record.list.len() != before
}
