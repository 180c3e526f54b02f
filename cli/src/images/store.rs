//! The images of this machine: chunks, signed manifests and tags, below one directory.
//!
//! ```text
//! chunks/<2 hex>/<hex>     zstd of one chunk, named by the digest of what it is before compression
//! manifests/<hex>.json     a SignedManifest, named by the digest of the bytes that were signed
//! tags/<name>/<tag>        which image a tag names, and which ones it named before (JSON)
//! lock                     shared while anything is used here, exclusive while rubbish is removed
//! ```
//!
//! Every file is written beside its place and renamed, so there is never half of one; many builders write at once,
//! for equal names mean equal bytes. A manifest is written after all that it leads to is on disk.

mod tags;

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use helix_protocol::image::{self, Chunk, Digest, ImageManifest, ImageRef, SignedManifest};
use rustix::fs::{FlockOperation, flock};

pub use self::tags::{Tag, TaggedBefore};
use crate::error::{CliError, Kind, Result};
use crate::settings::{Env, xdg};

/// As much as makes a third of the bytes of a root file system, at the speed of a disk.
const COMPRESSION: i32 = 3;
/// No chunk is longer, before compression. Indices and lists of packages are chunks, too.
const LONGEST_CHUNK: usize = 64 << 20;

/// The directory, and a share of its lock.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    lock: File,
}

/// A chunk that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// What it is.
    pub chunk: Chunk,
    /// Bytes that the store grew by; None where it had the chunk.
    pub grown: Option<u64>,
}

impl Store {
    /// `~/.cache/helix/images`.
    pub fn default_dir(env: Env<'_>) -> Result<PathBuf> {
        Ok(xdg(env, "XDG_CACHE_HOME", ".cache")?.join("helix/images"))
    }

    /// Opens the store below `dir`, which is made if need be. Waits while rubbish is being removed.
    pub fn open(dir: &Path) -> Result<Self> {
        let bad = |error: io::Error| {
            CliError::failed("cannot use the store of images")
                .at(dir.display())
                .because(error)
                .next("name a directory that this user can write: --cache-dir DIR")
        };
        for part in ["chunks", "manifests", "tags"] {
            std::fs::create_dir_all(dir.join(part)).map_err(bad)?;
        }
        let dir = dir.canonicalize().map_err(bad)?;
        let lock = File::options().create(true).append(true).open(dir.join("lock")).map_err(bad)?;
        flock(&lock, FlockOperation::LockShared).map_err(|error| bad(error.into()))?;
        Ok(Self { dir, lock })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Nobody else uses the store until this one is dropped; None while somebody does.
    pub fn alone(&self) -> io::Result<Option<()>> {
        match flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(())),
            // The share was given up for the try.
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(flock(&self.lock, FlockOperation::LockShared).map(|()| None)?),
            Err(error) => Err(error.into()),
        }
    }

    // --- chunks

    /// The file of a chunk, there or not.
    pub fn chunk_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.join("chunks").join(&hex[..2]).join(hex)
    }

    /// True when the store has it. A file without content is what a power cut leaves.
    pub fn has_chunk(&self, digest: &Digest) -> bool {
        std::fs::metadata(self.chunk_path(digest)).is_ok_and(|meta| meta.len() > 0)
    }

    /// Bytes that a chunk takes, compressed; None where the store lacks it.
    pub fn chunk_bytes(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.chunk_path(digest)).ok().map(|meta| meta.len()).filter(|bytes| *bytes > 0)
    }

    /// A chunk as it is stored and travels: compressed.
    pub fn compressed_chunk(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.chunk_path(digest);
        std::fs::read(&path).map_err(|error| lost(digest, &path, &error))
    }

    /// A chunk's bytes, proved.
    pub fn chunk(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.chunk_path(digest);
        let bytes = std::fs::read(&path).and_then(|bytes| decompressed(&bytes));
        let bytes = bytes.map_err(|error| lost(digest, &path, &error))?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(lost(digest, &path, &"its content is another")) }
    }

    /// Keeps these bytes as a chunk.
    pub fn put_chunk(&self, bytes: &[u8]) -> Result<Put> {
        let chunk = Chunk { digest: Digest::of(bytes), bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
        if self.has_chunk(&chunk.digest) {
            return Ok(Put { chunk, grown: None });
        }
        let path = self.chunk_path(&chunk.digest);
        let packed = zstd::bulk::compress(bytes, COMPRESSION).map_err(|error| cannot_keep(&path, &error))?;
        self.write(&path, &packed)?;
        Ok(Put { chunk, grown: Some(packed.len() as u64) })
    }

    /// Keeps a chunk that came compressed; refused unless it is what `digest` says.
    pub fn put_compressed_chunk(&self, digest: &Digest, packed: &[u8]) -> Result<()> {
        let refused = |why: String| CliError::failed("a chunk is not what its digest says").at(digest).because(why);
        let bytes = decompressed(packed).map_err(|error| refused(error.to_string()))?;
        if Digest::of(&bytes) != *digest {
            return Err(refused("its content is another".to_owned()));
        }
        self.write(&self.chunk_path(digest), packed)
    }

    // --- manifests

    /// Keeps a manifest whose chunks are all kept; on disk with them when this returns.
    pub fn put_manifest(&self, signed: &SignedManifest) -> Result<Digest> {
        let digest = Digest::of(signed.manifest.as_bytes());
        let path = self.manifest_path(&digest);
        rustix::fs::syncfs(&self.lock).map_err(|error| cannot_keep(&path, &error.into()))?;
        let json = serde_json::to_vec(signed).map_err(|error| cannot_keep(&path, &error.into()))?;
        self.write(&path, &json)?;
        Ok(digest)
    }

    /// A manifest with its signature; its bytes are what `digest` says. Nobody has looked at the signature.
    pub fn signed_manifest(&self, digest: &Digest) -> Result<SignedManifest> {
        let path = self.manifest_path(digest);
        let unknown = |why: String| {
            CliError::failed("there is no such image here").at(path.display()).because(why).next("helixctl image list")
        };
        let bytes = std::fs::read(&path).map_err(|error| unknown(error.to_string()))?;
        let signed: SignedManifest = serde_json::from_slice(&bytes).map_err(|error| unknown(error.to_string()))?;
        if Digest::of(signed.manifest.as_bytes()) != *digest {
            return Err(unknown("the file does not hold what its name says".to_owned()));
        }
        Ok(signed)
    }

    /// What an image is.
    pub fn manifest(&self, digest: &Digest) -> Result<ImageManifest> {
        read_manifest(&self.signed_manifest(digest)?)
    }

    /// Digests of all manifests.
    pub fn manifests(&self) -> Result<Vec<Digest>> {
        let names = names_in(&self.dir.join("manifests"))?;
        let digest = |name: String| format!("sha256:{}", name.strip_suffix(".json")?).parse().ok();
        Ok(names.into_iter().filter_map(digest).collect())
    }

    /// The image that a reference means now.
    pub fn resolve(&self, image: &ImageRef) -> Result<Digest> {
        match image {
            ImageRef::Digest(digest) => self.signed_manifest(digest).map(|_| *digest),
            ImageRef::Tag { name, tag } => self.tag(name, tag)?.map(|tag| tag.digest).ok_or_else(|| {
                CliError::new(Kind::Failed, format!("there is no image {name}:{tag} here"))
                    .at(self.dir.display())
                    .because("no tag of that name was made by a build or a pull")
                    .next(format!("helixctl image list, or helixctl image build {name}"))
            }),
        }
    }

    /// The chunks of an image's tar, in order.
    pub fn index(&self, manifest: &ImageManifest) -> Result<Vec<Chunk>> {
        let bytes = self.chunk(&manifest.index)?;
        image::read_index(&bytes).map_err(|error| lost(&manifest.index, &self.chunk_path(&manifest.index), &error))
    }

    /// All chunks that an image needs: its tar's, its index, its list of packages.
    pub fn chunks_of(&self, manifest: &ImageManifest) -> Result<Vec<Digest>> {
        let tar = self.index(manifest)?.into_iter().map(|chunk| chunk.digest);
        Ok(tar.chain([manifest.index, manifest.sbom]).collect())
    }

    /// Removes a manifest; its chunks stay until rubbish is removed.
    pub fn remove_manifest(&self, digest: &Digest) -> Result<()> {
        remove(&self.manifest_path(digest))
    }

    /// Removes every chunk that `keep` does not want; how many went, and their bytes. Only while [`Store::alone`].
    pub fn remove_chunks(&self, keep: impl Fn(&Digest) -> bool) -> Result<(u64, u64)> {
        let chunks = self.dir.join("chunks");
        let (mut count, mut bytes) = (0, 0);
        for prefix in names_in(&chunks)? {
            for name in names_in(&chunks.join(&prefix))? {
                let path = chunks.join(&prefix).join(&name);
                if format!("sha256:{name}").parse().is_ok_and(|digest| keep(&digest)) {
                    continue;
                }
                bytes += std::fs::metadata(&path).map_or(0, |meta| meta.len());
                remove(&path)?;
                count += 1;
            }
        }
        Ok((count, bytes))
    }

    fn manifest_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("manifests").join(format!("{}.json", digest.hex()))
    }

    /// A whole file at `path`, or none.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let write = || -> io::Result<()> {
            let dir = path.parent().unwrap_or(&self.dir);
            std::fs::create_dir_all(dir)?;
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
            file.write_all(bytes)?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(|error| cannot_keep(path, &error))
    }
}

/// What a signed manifest says. A format of another version is refused.
pub fn read_manifest(signed: &SignedManifest) -> Result<ImageManifest> {
    let bad = |why: String| CliError::failed("cannot read the image's manifest").because(why);
    let manifest: ImageManifest = serde_json::from_str(&signed.manifest).map_err(|error| bad(error.to_string()))?;
    if manifest.format != image::FORMAT {
        let why = format!("its format is {}; this version knows {}", manifest.format, image::FORMAT);
        return Err(bad(why).next("take a helixctl as new as the one that built it"));
    }
    Ok(manifest)
}

fn decompressed(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reader = zstd::stream::read::Decoder::new(packed)?;
    io::Read::read_to_end(&mut io::Read::take(reader, LONGEST_CHUNK as u64 + 1), &mut bytes)?;
    if bytes.len() > LONGEST_CHUNK { Err(io::Error::other("it is longer than any chunk")) } else { Ok(bytes) }
}

fn names_in(dir: &Path) -> Result<Vec<String>> {
    let read = || -> io::Result<Vec<String>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = read().map_err(|error| CliError::failed("cannot list").at(dir.display()).because(error))?;
    names.sort();
    Ok(names)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(CliError::failed("cannot remove").at(path.display()).because(error))
        }
        _ => Ok(()),
    }
}

fn lost(digest: &Digest, path: &Path, why: &dyn std::fmt::Display) -> CliError {
    CliError::failed(format!("chunk {digest} cannot be read"))
        .at(path.display())
        .because(why)
        .next("remove that file and build the image again with --force, or pull it")
}

fn cannot_keep(path: &Path, error: &io::Error) -> CliError {
    let next = if error.kind() == ErrorKind::StorageFull {
        "helixctl image gc, or another directory: --cache-dir DIR"
    } else {
        "name a directory that this user can write: --cache-dir DIR"
    };
    CliError::failed("cannot keep a part of an image").at(path.display()).because(error).next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_kept_once_and_proved_when_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let bytes = vec![7; 100_000];
        let put = store.put_chunk(&bytes).expect("kept");
        assert!(put.grown.is_some_and(|grown| grown < 1000));
        assert_eq!(store.put_chunk(&bytes).expect("there").grown, None);
        assert_eq!(store.chunk(&put.chunk.digest).expect("read"), bytes);
        let packed = store.compressed_chunk(&put.chunk.digest).expect("read");
        let other = Digest::of(b"other");
        store.put_compressed_chunk(&other, &packed).expect_err("it is another");
        assert!(!store.has_chunk(&other));
        std::fs::write(store.chunk_path(&put.chunk.digest), &packed[..packed.len() - 3]).expect("damaged");
        store.chunk(&put.chunk.digest).expect_err("it is damaged");
        std::fs::write(store.chunk_path(&put.chunk.digest), "").expect("cut");
        assert!(store.put_chunk(&bytes).expect("kept again").grown.is_some());
    }

    #[test]
    fn who_removes_is_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let other = Store::open(dir.path()).expect("opened");
        assert_eq!(store.alone().expect("asked"), None);
        drop(other);
        assert_eq!(store.alone().expect("asked"), Some(()));
        let kept = store.put_chunk(b"kept").expect("kept").chunk.digest;
        store.put_chunk(b"rubbish").expect("kept");
        assert_eq!(store.remove_chunks(|digest| *digest == kept).expect("removed").0, 1);
        assert!(store.has_chunk(&kept));
    }
}
