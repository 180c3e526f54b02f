//! The directory of all that builds keep, beside the [`Store`] in it:
//!
//! ```text
//! layers/<key>/fs          what one step changed, as an upper directory of overlayfs
//! archives/<digest>/       apt's lists of a distribution at one moment
//! debs/                    packages that were had once
//! downloads/<sha256>       agents from URLs
//! artifacts/<name>/        what `helixctl build NAME` made
//! built/<key>              which image came of a plan
//! logs/<key>.log           what each step said
//! trash/                   layers that were made anew while somebody used them
//! work/<builder>/          of a build that runs; its lock says so
//! ```
//!
//! A layer is made in `work` and renamed, so that it is whole or not there, and has a lock of its own: of two builds
//! that want it, one makes it. What a killed build has left in `work`, the next one removes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use helix_protocol::image::Digest;
use rustix::fs::{FlockOperation, flock};

use super::build::BuiltRecord;
use super::store::Store;
use crate::error::{CliError, Result};

/// As many hex digits of a key as its directory is named by: many names must fit into one mount's options.
const KEY_DIGITS: usize = 16;

/// The directory.
#[derive(Debug)]
pub struct Cache {
    /// What is finished.
    pub store: Store,
    dir: PathBuf,
}

/// A directory of one build, which says that the build runs. Its content is removed by whoever made it, or by the next
/// build.
#[derive(Debug)]
pub struct Work {
    /// Where it is.
    pub dir: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens it, and makes what is missing.
    pub fn open(dir: &Path) -> Result<Self> {
        let store = Store::open(dir)?;
        let dir = store.dir().to_owned();
        if dir.to_string_lossy().contains(|c: char| c.is_whitespace() || c == ':' || c == ',' || c == '"') {
            return Err(CliError::failed("cannot build here")
                .at(dir.display())
                .because("mounts and apt take no blank, colon, comma or quote in a path")
                .next("name another directory: --cache-dir DIR"));
        }
        for part in [
            "layers",
            "archives/by-source",
            "debs",
            "downloads",
            "artifacts",
            "built",
            "logs",
            "work",
            "locks",
            "trash",
        ] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).map_err(|error| cannot(&path, &error))?;
        }
        Ok(Self { store, dir })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A part of it.
    pub fn part(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Name of a layer's directory below `layers`.
    pub fn layer_name(key: &Digest) -> String {
        key.hex()[..KEY_DIGITS].to_owned()
    }

    /// A layer's directory, there or not.
    pub fn layer(&self, key: &Digest) -> PathBuf {
        self.dir.join("layers").join(Self::layer_name(key))
    }

    /// The log of a layer's step.
    pub fn log(&self, key: &Digest) -> PathBuf {
        self.dir.join("logs").join(format!("{}.log", Self::layer_name(key)))
    }

    /// The image that came of a plan, if it is still whole.
    pub fn built(&self, key: &Digest) -> Option<Digest> {
        let record = std::fs::read(self.part("built").join(key.hex())).ok()?;
        let digest = serde_json::from_slice::<BuiltRecord>(&record).ok()?.image;
        let manifest = self.store.manifest(&digest).ok()?;
        let chunks = self.store.chunks_of(&manifest).ok()?;
        chunks.iter().all(|chunk| self.store.has_chunk(chunk)).then_some(digest)
    }

    /// Remembers which image came of a plan.
    pub fn set_built(&self, key: &Digest, record: &BuiltRecord) -> Result<()> {
        let path = self.part("built").join(key.hex());
        replace(&path, &serde_json::to_vec(record).unwrap_or_default()).map_err(|error| cannot(&path, &error))
    }

    /// Waits until nobody else makes this; blocks the thread.
    pub fn lock(&self, what: &str) -> Result<File> {
        let path = self.dir.join("locks").join(what);
        let lock = || -> io::Result<File> {
            let file = File::options().create(true).append(true).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        };
        lock().map_err(|error| cannot(&path, &error))
    }

    /// A directory for a build.
    pub fn work(&self) -> Result<Work> {
        let parent = self.part("work");
        let make = || -> io::Result<Work> {
            let dir = tempfile::Builder::new().prefix("build-").rand_bytes(8).tempdir_in(&parent)?.keep();
            let lock = File::options().create(true).append(true).open(dir.join("lock"))?;
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok(Work { dir, _lock: lock })
        };
        make().map_err(|error| cannot(&parent, &error))
    }

    /// Directories of builds that were killed.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>> {
        let parent = self.part("work");
        let read = || -> io::Result<Vec<PathBuf>> {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&parent)? {
                let dir = entry?.path();
                // One without a lock is being made right now, or was killed in that moment: only an old one is rubbish.
                let is_free = match File::open(dir.join("lock")) {
                    Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
                    Err(_) => dir
                        .metadata()
                        .and_then(|meta| meta.modified())
                        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > std::time::Duration::from_mins(1))),
                };
                if is_free {
                    found.push(dir);
                }
            }
            Ok(found)
        };
        read().map_err(|error| cannot(&parent, &error))
    }

    /// An error unless so many bytes are free.
    pub fn need(&self, bytes: u64) -> Result<()> {
        let free = rustix::fs::statvfs(&self.dir).map_err(|error| cannot(&self.dir, &error.into()))?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        Err(CliError::failed("there is not enough room for this build")
            .at(self.dir.display())
            .because(format!("{} MiB are free; what must be built takes up to {} MiB", free >> 20, bytes >> 20))
            .next("helixctl image gc, or another directory: --cache-dir DIR"))
    }
}

/// A whole file at `path`, or the one that was there.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    io::Write::write_all(&mut file, bytes)?;
    file.persist(path)?;
    Ok(())
}

/// An error of the cache's files.
pub fn cannot(path: &Path, error: &io::Error) -> CliError {
    let next = if error.kind() == io::ErrorKind::StorageFull {
        "helixctl image gc, or another directory: --cache-dir DIR"
    } else {
        "name a directory that this user can write: --cache-dir DIR"
    };
    CliError::failed("cannot use the cache of builds").at(path.display()).because(error).next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_build_left_is_found_and_what_runs_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(dir.path()).expect("opened");
        let (running, killed) = (cache.work().expect("made"), cache.work().expect("made"));
        let left = killed.dir.clone();
        drop(killed);
        assert_eq!(cache.leftovers().expect("looked"), [left]);
        assert!(running.dir.is_dir());
    }

    #[test]
    fn room_is_asked_for_beforehand() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(dir.path()).expect("opened");
        cache.need(1).expect("there is a byte");
        let error = cache.need(u64::MAX).expect_err("there is not so much");
        assert!(error.to_string().contains("image gc"), "{error}");
    }
}
