//! From chunks to files: read in order, each proved, the whole proved at the end; written as the tar says, below one
//! directory and nowhere else.
//!
//! What a session could not use anyway is left out: set-user-id bits, capabilities of files and devices (its units have no
//! privileges to gain, and agentd's own sandbox forbids it to make them). Owners are set where agentd is root. Synchronous.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use helix_protocol::image::{BIND_TARGETS, Chunk, Digest};
use sha2::{Digest as _, Sha256};
use tar::{Archive, EntryType, Header};

use super::place::Place;

/// Bits of a mode that are kept.
const MODE: u32 = 0o1777;
/// Names of extended attributes that everybody may set.
const USER_XATTR: &str = "SCHILY.xattr.user.";

/// Why files could not be made.
#[derive(Debug)]
pub enum UnpackError {
    /// This chunk is not what its name says.
    Chunk(Digest),
    /// The whole is another tar.
    Other(Digest),
    /// Sessions could not run in it.
    Unusable(String),
    /// The disk.
    Io(io::Error),
}

impl From<io::Error> for UnpackError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Makes the files of an image in `root`, which is empty.
pub fn unpack(place: &Place, chunks: &[Chunk], tar: Digest, root: &Path) -> Result<(), UnpackError> {
    let mut stream = Chunks { place, rest: chunks, bytes: Vec::new(), read: 0, hash: Sha256::new(), damaged: None };
    let written = Tree::new(root).and_then(|tree| tree.fill(&mut stream));
    if let Some(chunk) = stream.damaged {
        return Err(UnpackError::Chunk(chunk));
    }
    written?;
    // The end of a tar is padding, which was signed, too.
    let rest = io::copy(&mut stream, &mut io::sink());
    if let Some(chunk) = stream.damaged {
        return Err(UnpackError::Chunk(chunk));
    }
    rest?;
    let own = Digest::from_bytes(stream.hash.finalize().into());
    if own != tar {
        return Err(UnpackError::Other(own));
    }
    require_bind_targets(root)
}

/// What a session's own things are bound to: made now, they would be made in a tree that sessions share.
fn require_bind_targets(root: &Path) -> Result<(), UnpackError> {
    // These are replaced as a whole, and made anew for each session.
    let replaced = |target: &&&str| target.starts_with("/run/") || target.starts_with("/home/");
    for target in BIND_TARGETS.iter().filter(|target| !replaced(target)) {
        let is_there =
            fs::symlink_metadata(root.join(target.trim_start_matches('/'))).is_ok_and(|meta| !meta.is_symlink());
        if !is_there {
            return Err(UnpackError::Unusable(format!(
                "it has no {target} of its own, to which something of each session is bound"
            )));
        }
    }
    Ok(())
}

/// The bytes of all chunks, one after the other.
struct Chunks<'a> {
    place: &'a Place,
    rest: &'a [Chunk],
    bytes: Vec<u8>,
    read: usize,
    hash: Sha256,
    damaged: Option<Digest>,
}

impl Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.bytes.len() {
            let Some((chunk, rest)) = self.rest.split_first() else { return Ok(0) };
            let bytes = self.place.read_chunk(chunk.digest)?.filter(|bytes| bytes.len() == chunk.bytes as usize);
            let Some(bytes) = bytes else {
                self.damaged = Some(chunk.digest);
                return Err(io::Error::other("a chunk is damaged"));
            };
            (self.bytes, self.read, self.rest) = (bytes, 0, rest);
            self.hash.update(&self.bytes);
        }
        let number = buffer.len().min(self.bytes.len() - self.read);
        buffer[..number].copy_from_slice(&self.bytes[self.read..self.read + number]);
        self.read += number;
        Ok(number)
    }
}

/// A directory of an image, with what it becomes once everything is in it.
struct Dir {
    path: PathBuf,
    mode: u32,
    mtime: u64,
}

struct Tree<'a> {
    root: &'a Path,
    owners: bool,
    /// Directories that were made here: nothing is written below anything else.
    made: HashSet<PathBuf>,
    dirs: Vec<Dir>,
}

impl<'a> Tree<'a> {
    fn new(root: &'a Path) -> io::Result<Self> {
        let owners = rustix::process::geteuid().is_root();
        // Whoever is in an image passes through its root.
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
        Ok(Self { root, owners, made: HashSet::from([root.to_owned()]), dirs: Vec::new() })
    }

    fn fill(mut self, tar: &mut impl Read) -> io::Result<()> {
        let mut archive = Archive::new(tar);
        for entry in archive.entries()? {
            self.put(&mut entry?)?;
        }
        // Children first: a directory's time is that of its last change.
        for Dir { path, mode, mtime } in self.dirs.iter().rev() {
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
            set_time(&File::open(path)?, *mtime)?;
        }
        Ok(())
    }

    fn put(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
        let name = entry.path()?.into_owned();
        let path = self.place(&name)?;
        let header = entry.header().clone();
        let (mode, mtime) = (header.mode()? & MODE, header.mtime()?);
        match header.entry_type() {
            EntryType::Directory if path == self.root => {
                self.own(&path, &header)?;
                self.dirs.push(Dir { path, mode, mtime });
            }
            EntryType::Directory => {
                fs::DirBuilder::new().mode(0o700).create(&path)?;
                self.own(&path, &header)?;
                self.made.insert(path.clone());
                self.dirs.push(Dir { path, mode, mtime });
            }
            EntryType::Regular | EntryType::Continuous => {
                let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
                io::copy(entry, &mut file)?;
                self.own(&path, &header)?;
                for extension in entry.pax_extensions()?.into_iter().flatten() {
                    let extension = extension?;
                    if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(USER_XATTR)) {
                        let flags = rustix::fs::XattrFlags::empty();
                        rustix::fs::fsetxattr(&file, format!("user.{name}"), extension.value_bytes(), flags)?;
                    }
                }
                file.set_permissions(fs::Permissions::from_mode(mode))?;
                set_time(&file, mtime)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| strange(&name, "a link to nothing"))?;
                symlink(target, &path)?;
                self.own(&path, &header)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| strange(&name, "a link to nothing"))?;
                let target = self.place(&target)?;
                fs::hard_link(target, &path)?;
            }
            // Sessions see devices of their own.
            EntryType::Char | EntryType::Block | EntryType::Fifo => {}
            other => return Err(strange(&name, &format!("of type {other:?}"))),
        }
        Ok(())
    }

    /// Where a name of the tar is: in a directory that was made here, never through a link.
    fn place(&self, name: &Path) -> io::Result<PathBuf> {
        let mut path = self.root.to_owned();
        for part in name.components() {
            match part {
                Component::Normal(part) => path.push(part),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(strange(name, "outside of the image")),
            }
        }
        if path != self.root && !path.parent().is_some_and(|parent| self.made.contains(parent)) {
            return Err(strange(name, "in no directory of the image"));
        }
        Ok(path)
    }

    fn own(&self, path: &Path, header: &Header) -> io::Result<()> {
        if !self.owners {
            return Ok(());
        }
        let id = |id: u64| u32::try_from(id).map_err(io::Error::other);
        lchown(path, Some(id(header.uid()?)?), Some(id(header.gid()?)?))
    }
}

fn set_time(file: &File, seconds: u64) -> io::Result<()> {
    let time = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or_else(|| io::Error::other("a time too far"))?;
    file.set_times(fs::FileTimes::new().set_modified(time).set_accessed(time))
}

fn strange(name: &Path, what: &str) -> io::Error {
    io::Error::other(format!("{} of the image is {what}", name.display()))
}
