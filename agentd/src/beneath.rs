//! Paths inside one directory: nothing leads out of it, neither `..` nor a link, whatever changes meanwhile.
//!
//! Each step of a path is opened by itself, beneath the one before and never through a link; links are read and
//! followed here, as long as they stay inside. The kernel could walk so in one call (`openat2` with
//! `RESOLVE_BENEATH`), but under systemd there is no such call (`RestrictSUIDSGID=` takes it away, since a filter cannot
//! see its mode), and one way for both backends is one way to be wrong.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, mkdirat, openat, readlinkat};
use rustix::io::Errno;

/// Links on one way.
const MAX_LINKS: usize = 40;
/// Directories on one way: each is held open while it is walked.
const MAX_DEPTH: usize = 200;
/// A directory, to go on from.
const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that nothing leads out of.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
    /// As it was named, and as it is.
    names: [PathBuf; 2],
}

/// Whether a link at the end of a path is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Followed,
    Itself,
}

impl Beneath {
    /// Everything below `root`.
    pub fn new(root: &Path) -> io::Result<Self> {
        let names = [root.to_owned(), root.canonicalize()?];
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(root, flags, Mode::empty())?, names })
    }

    /// The directory's real name.
    pub fn name(&self) -> &Path {
        &self.names[1]
    }

    /// The path below the directory, `.` for itself. One that is elsewhere is refused before anything is opened.
    pub fn relative(&self, path: &Path) -> Result<PathBuf, Errno> {
        let below = if path.is_absolute() {
            let inside = self.names.iter().find_map(|name| path.strip_prefix(name).ok());
            inside.ok_or(Errno::XDEV)?
        } else {
            path
        };
        let mut relative = PathBuf::new();
        for part in below.components() {
            match part {
                Component::Normal(name) => relative.push(name),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(Errno::XDEV),
            }
        }
        Ok(if relative == Path::new("") { PathBuf::from(".") } else { relative })
    }

    /// Opens a path of [`Beneath::relative`]. With [`OFlags::CREATE`] the file has `mode`.
    pub fn open(&self, relative: &Path, flags: OFlags, mode: Mode) -> Result<File, Errno> {
        let (dir, name) = self.walk(relative, Last::Followed)?;
        openat(dir.as_fd(), &name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode).map(File::from)
    }

    /// The directory that a path is in, and its name there. [`Errno::INVAL`] for the directory itself.
    pub fn parent(&self, relative: &Path) -> Result<(OwnedFd, OsString), Errno> {
        let (dir, name) = self.walk(relative, Last::Itself)?;
        if name == OsStr::new(".") {
            return Err(Errno::INVAL);
        }
        let dir = match dir {
            Dir::Root(root) => openat(root, ".", STEP, Mode::empty())?,
            Dir::Below(dir) => dir,
        };
        Ok((dir, name))
    }

    /// Makes the directories on the way to a path.
    pub fn make_parents(&self, relative: &Path, mode: Mode) -> Result<(), Errno> {
        let mut so_far = PathBuf::new();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            so_far.push(part);
            let (dir, name) = self.walk(&so_far, Last::Followed)?;
            if name == OsStr::new(".") {
                continue;
            }
            match mkdirat(dir.as_fd(), &name, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Goes as far as the last name, which is not opened. [`Last::Followed`]: it is no link, or was none a moment ago.
    fn walk(&self, relative: &Path, last: Last) -> Result<(Dir<'_>, OsString), Errno> {
        let mut ahead: VecDeque<OsString> = relative.components().map(|part| part.as_os_str().to_owned()).collect();
        let mut held: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == OsStr::new(".") {
                continue;
            }
            if name == OsStr::new("..") {
                // Only links bring these. Above the directory there is nothing.
                held.pop().ok_or(Errno::XDEV)?;
                continue;
            }
            let here = held.last().map_or(self.root.as_fd(), OwnedFd::as_fd);
            let is_last = ahead.is_empty();
            if !is_last || last == Last::Followed {
                match readlinkat(here, &name, Vec::new()) {
                    Ok(target) => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::LOOP);
                        }
                        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                        if target.is_absolute() {
                            return Err(Errno::XDEV);
                        }
                        for part in target.components().rev() {
                            ahead.push_front(part.as_os_str().to_owned());
                        }
                        continue;
                    }
                    // No link; or nothing, which the opening will tell.
                    Err(Errno::INVAL | Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            if is_last {
                let dir = held.pop().map_or(Dir::Root(self.root.as_fd()), Dir::Below);
                return Ok((dir, name));
            }
            if held.len() == MAX_DEPTH {
                return Err(Errno::NAMETOOLONG);
            }
            held.push(openat(here, &name, STEP, Mode::empty())?);
        }
        // The path ended with a directory that is held already.
        Ok((held.pop().map_or(Dir::Root(self.root.as_fd()), Dir::Below), OsString::from(".")))
    }
}

/// Where a walk has come.
enum Dir<'a> {
    Root(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(root) => *root,
            Self::Below(dir) => dir.as_fd(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests;
