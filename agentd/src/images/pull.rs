//! One image from the servers to this machine's disk: manifest (proved) → index → chunks that are not here (several at
//! once, each proved) → files (the whole proved once more) → in its place.

use std::collections::BTreeSet;
use std::io;

use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::image::signature::SignatureError;
use helix_protocol::image::{Chunk, Digest, ImageManifest, own_arch};
use helix_protocol::resources::Bytes;
use tokio::sync::watch;

use super::place::unpacked;
use super::unpack::{UnpackError, unpack};
use super::{Images, Progress};

/// Chunks on their way at once.
const AT_ONCE: usize = 8;

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// No server has it.
    #[error("{0}")]
    NotThere(String),
    /// The server will not.
    #[error("the server refuses it: {0}")]
    Refused(String),
    /// Nobody answers.
    #[error(
        "no server could be reached for {seconds} s (last: {last}); what has come stays here, and the next session goes on from \
         there"
    )]
    Unreachable {
        /// How long.
        seconds: u64,
        /// What the last try said.
        last: String,
    },
    /// This machine trusts nobody.
    #[error(
        "this machine trusts no key for images, so it takes none: give it the key that they are signed with, in {0} with \
         namespaces=\"helix-image\" (helixctl provision does; on one machine, helixctl key new makes it)"
    )]
    NoKey(String),
    /// Signed by nobody that this machine trusts.
    #[error("{error}; trust that key in {signers}, or push the image signed by a trusted one")]
    NotTrusted {
        /// What is wrong.
        error: SignatureError,
        /// The file that says whom this machine trusts.
        signers: String,
    },
    /// For other machines.
    #[error("it is for {image}, and this machine is {own}; build it for {own}")]
    Architecture {
        /// The image's.
        image: String,
        /// This machine's.
        own: &'static str,
    },
    /// No room.
    #[error(
        "the disk has {free} free at {place}, and up to {needed} are needed; make room there: nothing was removed that is in use"
    )]
    DiskFull {
        /// Bytes that are free.
        free: Bytes,
        /// Bytes that are needed at most.
        needed: Bytes,
        /// Where.
        place: String,
    },
    /// What came is not what was signed, twice.
    #[error("{0}; push the image again")]
    Damaged(String),
    /// It is no image that sessions can run in.
    #[error("{0}; build it with this version of helixctl")]
    Unusable(String),
    /// The disk.
    #[error("its files cannot be written: {0}")]
    Disk(io::Error),
}

impl PullError {
    /// Stable word for a session's cause.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotThere(_) => "image_not_found",
            Self::NoKey(_) | Self::NotTrusted { .. } => "image_not_trusted",
            Self::Architecture { .. } | Self::Unusable(_) => "image_unusable",
            Self::DiskFull { .. } => "disk_full",
            Self::Damaged(_) => "image_damaged",
            Self::Refused(_) | Self::Unreachable { .. } | Self::Disk(_) => "image_pull_failed",
        }
    }
}

impl From<io::Error> for PullError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Images {
    pub(super) async fn fetch(&self, digest: Digest, progress: &watch::Sender<Progress>) -> Result<(), PullError> {
        let place = &self.inner.place;
        if place.is_complete(digest) {
            return Ok(());
        }
        let signers_file = self.inner.signers.display().to_string();
        let signers = self.signers().filter(|signers| !signers.is_empty());
        let signers = signers.ok_or_else(|| PullError::NoKey(signers_file.clone()))?;
        let signed = self.inner.fetcher.manifest(digest).await?;
        let manifest =
            signers.verify(&signed).map_err(|error| PullError::NotTrusted { error, signers: signers_file })?;
        if manifest.arch != own_arch() {
            return Err(PullError::Architecture { image: manifest.arch, own: own_arch() });
        }
        place.make()?;
        let chunks = self.index(&manifest).await?;
        self.make_room(digest, &manifest, &chunks).await?;
        progress.send_modify(|progress| progress.total = manifest.tar_bytes);

        let mut again = BTreeSet::new();
        loop {
            self.fetch_missing(&chunks, progress).await?;
            progress.send_modify(|progress| progress.unpacking = true);
            let root = place.begin(digest)?;
            let (from, list, tar) = (place.clone(), chunks.clone(), manifest.tar);
            let unpacking = tokio::task::spawn_blocking(move || unpack(&from, &list, tar, &root));
            match unpacking.await.map_err(io::Error::other)? {
                Ok(()) => break,
                // Damaged on this disk: fetched once more.
                Err(UnpackError::Chunk(chunk)) if again.insert(chunk) => {
                    tracing::warn!(%chunk, "a chunk on this disk is damaged; it is fetched again");
                    place.remove_chunk(chunk)?;
                    progress.send_modify(|progress| progress.unpacking = false);
                }
                Err(UnpackError::Chunk(chunk)) => {
                    return Err(PullError::Damaged(format!("chunk {chunk} is damaged on this disk, twice")));
                }
                Err(UnpackError::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                    return Err(self.disk_full(manifest.tar_bytes));
                }
                Err(UnpackError::Io(error)) => return Err(PullError::Disk(error)),
                Err(UnpackError::Other(tar)) => {
                    return Err(PullError::Damaged(format!("its files are those of {tar}, not of {}", manifest.tar)));
                }
                Err(UnpackError::Unusable(why)) => return Err(PullError::Unusable(why)),
            }
        }
        let (place, signed) = (place.clone(), signed.clone());
        let finished = tokio::task::spawn_blocking(move || place.finish(digest, &signed));
        Ok(finished.await.map_err(io::Error::other)??)
    }

    async fn index(&self, manifest: &ImageManifest) -> Result<Vec<Chunk>, PullError> {
        let place = &self.inner.place;
        let known = place.index(manifest.index);
        let chunks = if let Ok(chunks) = known {
            chunks
        } else {
            self.fetch_chunk(manifest.index, None).await?;
            place.index(manifest.index).map_err(|error| PullError::Damaged(error.to_string()))?
        };
        let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        if bytes != manifest.tar_bytes {
            return Err(PullError::Damaged(format!("its index is of {bytes} bytes, not of {}", manifest.tar_bytes)));
        }
        Ok(chunks)
    }

    async fn fetch_missing(&self, chunks: &[Chunk], progress: &watch::Sender<Progress>) -> Result<(), PullError> {
        let place = &self.inner.place;
        let (here, mut missing): (Vec<&Chunk>, Vec<&Chunk>) =
            chunks.iter().partition(|chunk| place.has_chunk(chunk.digest));
        let bytes = here.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        progress.send_modify(|progress| progress.bytes = bytes);
        missing.sort_unstable_by_key(|chunk| chunk.digest);
        // What occurs several times is fetched once, and counts as often as it occurs.
        let groups: Vec<(Digest, u32, u64)> = missing
            .chunk_by(|a, b| a.digest == b.digest)
            .filter_map(|same| Some((same.first()?.digest, same.first()?.bytes, same.len() as u64)))
            .collect();
        let fetched = futures::stream::iter(groups).map(|(digest, bytes, times)| async move {
            self.fetch_chunk(digest, Some(bytes)).await?;
            progress.send_modify(|progress| progress.bytes += u64::from(bytes) * times);
            Ok::<(), PullError>(())
        });
        fetched.buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    /// Fetches a chunk and proves it; one that is damaged once more.
    async fn fetch_chunk(&self, digest: Digest, bytes: Option<u32>) -> Result<(), PullError> {
        for _ in 0..2 {
            let packed = self.inner.fetcher.chunk(digest).await?;
            let place = self.inner.place.clone();
            let kept = tokio::task::spawn_blocking(move || {
                let own = unpacked(digest, &packed);
                match own {
                    Some(own) if bytes.is_none_or(|bytes| own.len() == bytes as usize) => {
                        place.put_chunk(digest, &packed).map(|()| true)
                    }
                    _ => Ok(false),
                }
            });
            match kept.await.map_err(io::Error::other)? {
                Ok(true) => return Ok(()),
                Ok(false) => tracing::warn!(chunk = %digest, "a chunk came damaged"),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(self.disk_full(0)),
                Err(error) => return Err(PullError::Disk(error)),
            }
        }
        Err(PullError::Damaged(format!("chunk {digest} came damaged twice")))
    }
}
