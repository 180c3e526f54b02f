//! Removes what nobody needs: images that no tag keeps and no session uses, then chunks that no image has.
//!
//! One at a time, by a record that keeps manifests from being brought meanwhile. An image is marked (not `complete`)
//! before the tags are looked at for the last time, and whoever sets a tag looks at its image afterwards.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use helix_protocol::api::images::{CollectImages, Collected};
use helix_protocol::image::{Digest, read_index};
use helix_protocol::record::{ImageRecord, StoredManifest};
use helix_protocol::{ErrorCode, subject};
use jiff::{SignedDuration, Timestamp};

use super::{Images, stored};
use crate::error::{Error, Result};
use crate::sessions::view::has_ended;
use crate::store::Lookup;

/// Former images that a tag keeps where nobody says.
const KEEP: u32 = 2;
/// What is younger stays where nobody says.
const MIN_AGE: Duration = Duration::from_hours(1);
/// A collection that takes longer was one of a server that died.
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// What pushes have left that did not come to their end.
#[derive(Debug, Default)]
pub struct Rubbish {
    /// Manifests.
    pub images: Vec<Digest>,
    /// Chunks that no image names.
    pub chunks: u32,
    /// Their bytes, as they are stored.
    pub bytes: u64,
    /// False where nothing proves that no image names them: then they were left.
    pub is_proved: bool,
}

/// One image with its record.
struct Candidate {
    digest: Digest,
    record: StoredManifest,
    revision: u64,
}

impl Images {
    /// Collects once.
    pub async fn collect(&self, wanted: CollectImages) -> Result<Collected> {
        let revision = self.begin_collection().await?;
        let collected = self.collect_alone(wanted).await;
        // One that cannot be removed now is passed over once it is old.
        let ended = self.store.images.delete(subject::IMAGE_COLLECTION_KEY, revision).await;
        let collected = collected?;
        ended?;
        Ok(collected)
    }

    /// Refuses what may not be done while images are collected.
    pub(super) async fn refuse_while_collected(&self) -> Result<()> {
        match self.store.images.get(subject::IMAGE_COLLECTION_KEY).await? {
            Lookup::Found(entry) if !is_old(&entry.value) => Err(busy()),
            _ => Ok(()),
        }
    }

    async fn begin_collection(&self) -> Result<u64> {
        let begin = ImageRecord::Collection { since: Timestamp::now() };
        let key = subject::IMAGE_COLLECTION_KEY;
        match self.store.images.get(key).await? {
            Lookup::Found(entry) if is_old(&entry.value) => self.store.images.update(key, &begin, entry.revision).await,
            Lookup::Found(_) => Err(busy()),
            Lookup::Deleted(_) | Lookup::Absent => self.store.images.create(key, &begin).await,
        }
    }

    async fn collect_alone(&self, wanted: CollectImages) -> Result<Collected> {
        let keep = wanted.keep.unwrap_or(KEEP) as usize;
        let age = wanted.min_age_seconds.map_or(MIN_AGE, Duration::from_secs);
        let before = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
        let needed = self.needed(keep).await?;
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for candidate in self.candidates() {
            if needed.contains(&candidate.digest) || candidate.record.pushed_at > before {
                kept.push(candidate);
            } else if wanted.dry_run || self.remove(keep, &candidate).await? {
                gone.push(candidate.digest);
            } else {
                kept.push(candidate);
            }
        }
        let (chunks, _) = self.remove_chunks(&kept, before, wanted.dry_run).await?;
        Ok(Collected { images: gone, chunks, kept: kept.len() as u32 })
    }

    /// Removes what pushes have left that did not come to their end: manifests that were never complete, and chunks that no
    /// manifest names, all untouched for `age`. Untagged images are an operator's to collect. For the reaper.
    pub async fn reap(&self, age: Duration, dry_run: bool) -> Result<Rubbish> {
        // Mostly there is nothing, and no push need wait for that.
        let found = self.reap_alone(age, true).await?;
        if dry_run || !found.is_proved || (found.images.is_empty() && found.chunks == 0) {
            return Ok(found);
        }
        let revision = self.begin_collection().await?;
        let reaped = self.reap_alone(age, false).await;
        // One that cannot be removed now is passed over once it is old.
        let ended = self.store.images.delete(subject::IMAGE_COLLECTION_KEY, revision).await;
        let reaped = reaped?;
        ended?;
        Ok(reaped)
    }

    async fn reap_alone(&self, age: Duration, dry_run: bool) -> Result<Rubbish> {
        let before = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
        // Every image that any tag ever named.
        let needed = self.needed(usize::MAX).await?;
        let (mut kept, mut rubbish) = (Vec::new(), Rubbish::default());
        let candidates = self.candidates();
        // Where nothing is known of any image, the bucket may have been lost: nothing is proved then.
        let is_proved = !candidates.is_empty() || self.knew_images();
        for candidate in candidates {
            let is_young = candidate.record.complete || candidate.record.pushed_at > before;
            let stays = is_young || needed.contains(&candidate.digest);
            if !stays && (dry_run || self.remove(usize::MAX, &candidate).await?) {
                rubbish.images.push(candidate.digest);
            } else {
                kept.push(candidate);
            }
        }
        let (chunks, bytes) = self.remove_chunks(&kept, before, dry_run || !is_proved).await?;
        (rubbish.chunks, rubbish.bytes, rubbish.is_proved) = (chunks, bytes, is_proved);
        Ok(rubbish)
    }

    /// True where an image was removed on purpose not long ago.
    fn knew_images(&self) -> bool {
        self.store.images.view().read().deleted_with_prefix("image.")
    }

    /// Images that tags keep and sessions use.
    async fn needed(&self, keep: usize) -> Result<BTreeSet<Digest>> {
        self.store.images.catch_up().await?;
        self.store.sessions.catch_up().await?;
        let mut needed = BTreeSet::new();
        {
            let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
            let live = sessions.iter().filter(|(_, entry)| !has_ended(&entry.value, &observed));
            needed.extend(live.filter_map(|(_, entry)| entry.value.spec.image_digest()));
            // Also those that run without a record.
            let seen = observed.iter().filter_map(|(_, entry)| entry.value.unclaimed.as_ref());
            needed.extend(seen.filter_map(|unclaimed| unclaimed.spec.image_digest()));
        }
        let content = self.store.images.view().read();
        for (_, entry) in content.iter() {
            if let ImageRecord::Name { tags } = &*entry.value {
                let kept = |tag: &helix_protocol::api::images::TagRecord| {
                    std::iter::once(tag.digest).chain(tag.history.iter().take(keep).copied()).collect::<Vec<_>>()
                };
                needed.extend(tags.values().flat_map(kept));
            }
        }
        Ok(needed)
    }

    fn candidates(&self) -> Vec<Candidate> {
        let content = self.store.images.view().read();
        let image = |record: &ImageRecord, revision| match record {
            ImageRecord::Image(record) => {
                Some(Candidate { digest: record.signed.digest(), record: (**record).clone(), revision })
            }
            _ => None,
        };
        content.iter().filter_map(|(_, entry)| image(&entry.value, entry.revision)).collect()
    }

    /// Removes an image's record. False where somebody has come to need it.
    async fn remove(&self, keep: usize, candidate: &Candidate) -> Result<bool> {
        let Candidate { digest, record, revision } = candidate;
        let marked = match self.mark(candidate, false, *revision).await {
            // Brought again at this moment.
            Err(error) if error.code == ErrorCode::Conflict => return Ok(false),
            marked => marked?,
        };
        if self.needed(keep).await?.contains(digest) {
            self.mark(candidate, record.complete, marked).await?;
            return Ok(false);
        }
        self.store.images.delete(&subject::image_key(digest), marked).await?;
        Ok(true)
    }

    /// Writes whether an image can be used.
    async fn mark(&self, candidate: &Candidate, complete: bool, revision: u64) -> Result<u64> {
        let record = StoredManifest { complete, ..candidate.record.clone() };
        let key = subject::image_key(&candidate.digest);
        self.store.images.update(&key, &ImageRecord::Image(Box::new(record)), revision).await
    }

    /// Removes the chunks that none of these images has; answers how many, and their bytes.
    async fn remove_chunks(&self, kept: &[Candidate], before: Timestamp, dry_run: bool) -> Result<(u32, u64)> {
        let mut needed = HashSet::new();
        for Candidate { digest, record, .. } in kept {
            let manifest = record.signed.read().map_err(|error| super::unreadable(*digest, &error))?;
            needed.extend([manifest.index, manifest.sbom]);
            let Some(index) = self.chunks.get(manifest.index).await? else { continue };
            let index = stored::unpacked(manifest.index, index).await?;
            let chunks = read_index(&index).map_err(|error| super::unreadable(*digest, &error))?;
            needed.extend(chunks.into_iter().map(|chunk| chunk.digest));
        }
        let before = time::OffsetDateTime::from_unix_timestamp_nanos(before.as_nanosecond())
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let (mut removed, mut bytes) = (0, 0);
        for chunk in self.chunks.all().await?.difference(&needed) {
            if let Some(size) = self.chunks.remove_older(*chunk, before, dry_run).await? {
                removed += 1;
                bytes += size;
            }
        }
        Ok((removed, bytes))
    }
}

fn is_old(record: &ImageRecord) -> bool {
    match record {
        ImageRecord::Collection { since } => Timestamp::now().duration_since(*since) > LONGEST,
        _ => true,
    }
}

fn busy() -> Error {
    Error::new(ErrorCode::Conflict, "images are being collected at this moment; repeat the request in a few seconds")
}
