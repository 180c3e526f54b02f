//! Room on the disk of images: made for a pull, and made when the disk fills by whatever else.
//!
//! One task ([`Images::keep_room`]) looks at the disk every [`LOOK_EVERY`]; the kernel tells nobody when one fills. Below a
//! twentieth of it, 2 GiB at most ([`low`]), images go that no session has, one after another, those that pools want here at
//! last, until there is room or none is left. Their chunks go with them, unless another image has the same.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use helix_protocol::image::{Chunk, Digest, ImageManifest};
use helix_protocol::resources::Bytes;

use super::pull::PullError;
use super::{Images, Spare};

/// Left free on the disk beside what a pull needs.
const MARGIN: u64 = 64 << 20;
/// Between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Most that is asked to be free of a large disk.
const MOST_LOW: u64 = 2 << 30;

impl Images {
    /// Looks at the disk for as long as agentd runs.
    pub async fn keep_room(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let images = self.clone();
            match tokio::task::spawn_blocking(move || images.relieve()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("room on the disk of images cannot be made: {error}"),
                Err(error) => tracing::error!("looking at the disk of images failed: {error}"),
            }
        }
    }

    /// Makes room where there is too little.
    pub(super) fn relieve(&self) -> io::Result<()> {
        let place = &self.inner.place;
        while !place.complete().is_empty() {
            let disk = Disk::of(place.make()?)?;
            if disk.free >= low(disk.total) {
                return Ok(());
            }
            if !self.evict_one(Spare::Nothing)? {
                return Ok(());
            }
            tracing::warn!(free = %Bytes(disk.free), of = %Bytes(disk.total), "the disk is nearly full: an unused image was removed");
            place.remove_chunks(&HashSet::new(), || self.state().needs_no_more())?;
        }
        Ok(())
    }

    /// Sees to it that all of an image fits, if need be at the cost of images that nobody uses. Only for a session those that
    /// pools want here go, too.
    pub(super) async fn make_room(
        &self,
        digest: Digest,
        manifest: &ImageManifest,
        chunks: &[Chunk],
    ) -> Result<(), PullError> {
        let place = self.inner.place.clone();
        let own: HashSet<Digest> =
            chunks.iter().map(|chunk| chunk.digest).chain([manifest.index, manifest.sbom]).collect();
        let lacking: u64 =
            chunks.iter().filter(|chunk| !place.has_chunk(chunk.digest)).map(|chunk| u64::from(chunk.bytes)).sum();
        let needed = manifest.tar_bytes.saturating_add(lacking).saturating_add(MARGIN);
        loop {
            if Disk::of(place.make()?)?.free >= needed {
                return Ok(());
            }
            let (images, place, own) = (self.clone(), place.clone(), own.clone());
            let evicted = tokio::task::spawn_blocking(move || {
                let for_session = images.state().held.contains_key(&digest);
                let evicted = images.evict_one(if for_session { Spare::Nothing } else { Spare::Wanted })?;
                // Chunks of the one that has gone, and of pulls that broke off; not under another one that is on its way.
                place.remove_chunks(&own, || images.state().pulls.keys().all(|pull| *pull == digest))?;
                Ok::<_, io::Error>(evicted)
            });
            let evicted = evicted.await.map_err(io::Error::other)??;
            if !evicted && Disk::of(self.inner.place.make()?)?.free < needed {
                return Err(self.disk_full(needed));
            }
        }
    }

    /// What is told of a disk without room.
    pub(super) fn disk_full(&self, needed: u64) -> PullError {
        let place = self.inner.place.make();
        let free = place.as_ref().map_or(0, |place| Disk::of(place).map_or(0, |disk| disk.free));
        let place = place.map_or_else(|_| "its state directory".to_owned(), |place| place.display().to_string());
        PullError::DiskFull { free: Bytes(free), needed: Bytes(needed.max(free + 1)), place }
    }

    /// Removes the unused image that can best be spared; false where there is none.
    fn evict_one(&self, spare: Spare) -> io::Result<bool> {
        let before = self.inner.place.complete().len();
        self.evict(spare, |unused| unused.min(1))?;
        Ok(self.inner.place.complete().len() < before)
    }
}

/// What is to be free of a disk of so many bytes.
fn low(total: u64) -> u64 {
    (total / 20).min(MOST_LOW)
}

/// A disk, in bytes.
struct Disk {
    free: u64,
    total: u64,
}

impl Disk {
    /// The one where this is.
    fn of(dir: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }
}
