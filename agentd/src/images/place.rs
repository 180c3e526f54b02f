//! Where images and their chunks are. Root's directories alone: no session ever writes there. Synchronous.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use helix_protocol::image::{Chunk, Digest, MAX_STORED_BYTES, SignedManifest, read_index};

/// What was signed, beside the file system.
const MANIFEST: &str = "manifest.json";
/// The file system.
const ROOT: &str = "root";
/// End of the name of one that is not complete.
const NEW: &str = "new";
/// End of the name of one that is being removed.
const OLD: &str = "old";

/// The directory of images.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// Below agentd's state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("images") }
    }

    /// An empty directory, for whoever needs one to mount something on in a view of its own.
    pub fn mount_point(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// The file system of an image.
    pub fn root(&self, digest: Digest) -> PathBuf {
        self.image(digest).join(ROOT)
    }

    /// True for an image that can be used.
    pub fn is_complete(&self, digest: Digest) -> bool {
        self.image(digest).join(MANIFEST).is_file()
    }

    /// Every complete image, and when it was needed last.
    pub fn complete(&self) -> Vec<(Digest, SystemTime)> {
        let entries = fs::read_dir(self.roots()).into_iter().flatten().flatten();
        let image = |entry: fs::DirEntry| {
            let digest = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
            let needed = fs::metadata(entry.path().join(MANIFEST)).and_then(|meta| meta.modified()).ok()?;
            Some((digest, needed))
        };
        let mut images: Vec<_> = entries.filter_map(image).collect();
        images.sort_unstable();
        images
    }

    /// Notes that an image is needed now.
    pub fn touch(&self, digest: Digest) {
        let file = fs::File::options().append(true).open(self.image(digest).join(MANIFEST));
        // One that is not here yet will be new.
        if let Ok(file) = file {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Where an image is unpacked; empty.
    pub fn begin(&self, digest: Digest) -> io::Result<PathBuf> {
        let new = self.image(digest).with_added_extension(NEW);
        remove_tree(&new)?;
        make_dirs(&new.join(ROOT))?;
        Ok(new.join(ROOT))
    }

    /// Makes what was unpacked the image: whole on the disk first, then in its place.
    pub fn finish(&self, digest: Digest, signed: &SignedManifest) -> io::Result<()> {
        let new = self.image(digest).with_added_extension(NEW);
        fs::write(new.join(MANIFEST), serde_json::to_vec(signed)?)?;
        // One call for a hundred thousand files.
        rustix::fs::syncfs(fs::File::open(&new)?)?;
        remove_tree(&self.image(digest))?;
        fs::rename(&new, self.image(digest))?;
        fs::File::open(self.roots())?.sync_all()
    }

    /// Removes what was unpacked of an image.
    pub fn abandon(&self, digest: Digest) -> io::Result<()> {
        remove_tree(&self.image(digest).with_added_extension(NEW))
    }

    /// Takes an image out of use at once; what is to be removed.
    pub fn retire(&self, digest: Digest) -> io::Result<PathBuf> {
        let old = self.image(digest).with_added_extension(OLD);
        remove_tree(&old)?;
        fs::rename(self.image(digest), &old)?;
        Ok(old)
    }

    /// Removes what an agentd left that was killed.
    pub fn remove_unfinished(&self) -> io::Result<()> {
        let entries = match fs::read_dir(self.roots()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == NEW || end == OLD) {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// Removes chunks that no image has and that are not among `also`, and drafts of chunks. Nothing where `may` is false in
    /// between: a pull has begun.
    pub fn remove_chunks(&self, also: &HashSet<Digest>, may: impl Fn() -> bool) -> io::Result<()> {
        let mut needed = also.clone();
        for (digest, _) in self.complete() {
            let signed: SignedManifest = serde_json::from_slice(&fs::read(self.image(digest).join(MANIFEST))?)?;
            let manifest = signed.read().map_err(io::Error::other)?;
            needed.insert(manifest.index);
            // One whose index is gone is whole without its chunks.
            if let Ok(chunks) = self.index(manifest.index) {
                needed.extend(chunks.into_iter().map(|chunk| chunk.digest));
            }
        }
        for dir in fs::read_dir(self.chunks()).into_iter().flatten().flatten() {
            for file in fs::read_dir(dir.path())? {
                let file = file?;
                let digest = file.file_name().to_str().and_then(|name| format!("sha256:{name}").parse().ok());
                if digest.is_some_and(|digest| needed.contains(&digest)) {
                    continue;
                }
                if !may() {
                    return Ok(());
                }
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    /// True where a chunk is here, whole or not.
    pub fn has_chunk(&self, digest: Digest) -> bool {
        self.chunk(digest).is_file()
    }

    /// Keeps a chunk, as it came.
    pub fn put_chunk(&self, digest: Digest, packed: &[u8]) -> io::Result<()> {
        let path = self.chunk(digest);
        if let Some(dir) = path.parent() {
            make_dirs(dir)?;
        }
        let new = path.with_added_extension(NEW);
        fs::File::create(&new)?.write_all(packed)?;
        fs::rename(new, path)
    }

    /// A chunk's own bytes; None where they are not those of the digest.
    pub fn read_chunk(&self, digest: Digest) -> io::Result<Option<Vec<u8>>> {
        Ok(unpacked(digest, &fs::read(self.chunk(digest))?))
    }

    /// Removes a chunk.
    pub fn remove_chunk(&self, digest: Digest) -> io::Result<()> {
        fs::remove_file(self.chunk(digest))
    }

    /// The chunks that an index lists.
    pub fn index(&self, digest: Digest) -> io::Result<Vec<Chunk>> {
        let bytes = self.read_chunk(digest)?.ok_or_else(|| io::Error::other(format!("index {digest} is damaged")))?;
        read_index(&bytes).map_err(io::Error::other)
    }

    /// Makes the directories, for whoever asks about their disk.
    pub fn make(&self) -> io::Result<&Path> {
        make_dirs(&self.chunks())?;
        make_dirs(&self.roots())?;
        make_dirs(&self.mount_point())?;
        Ok(&self.dir)
    }

    fn image(&self, digest: Digest) -> PathBuf {
        self.roots().join(digest.hex())
    }

    fn roots(&self) -> PathBuf {
        self.dir.join("roots")
    }

    fn chunks(&self) -> PathBuf {
        self.dir.join("chunks")
    }

    fn chunk(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.chunks().join(&hex[..2]).join(hex)
    }
}

/// A chunk's own bytes; None where they are not those of the digest.
pub fn unpacked(digest: Digest, packed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).ok()?;
    decoder.take(MAX_STORED_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
    (Digest::of(&bytes) == digest).then_some(bytes)
}

fn make_dirs(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
