//! Gives a tree to another owner: every entry that the former one owns, nothing else, and never what a link points to.
//!
//! Needs no more descriptors and no longer paths than one directory does, however deep the tree is: it goes up by
//! `..` and checks that it came out where it went in.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, openat, statat};
use rustix::io::Errno;

use super::super::slots::Owner;
use super::{Result, failed};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Gives the tree at `top` from uid `from` to `to`. `top` itself is last: as long as anything is left to do, its owner
/// says so.
pub(super) fn hand_over(top: &Path, from: u32, to: Owner) -> Result<()> {
    let walked = match openat(CWD, top, DIRECTORY, Mode::empty()) {
        Ok(dir) => Walk { from, to, dir, above: Vec::new() }.run(),
        Err(Errno::NOENT) => return Ok(()),
        // Not a directory: a file or a link in its place, given away as it is.
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Err(error) => Err(error.into()),
    };
    walked.and_then(|()| give(CWD, top, from, to)).map_err(failed("give away everything in", top))
}

struct Walk {
    from: u32,
    to: Owner,
    /// Where it is.
    dir: OwnedFd,
    /// The directories above it, with what is still to do in them.
    above: Vec<Level>,
}

struct Level {
    device: u64,
    inode: u64,
    name: CString,
    rest: Vec<CString>,
}

impl Walk {
    fn run(mut self) -> io::Result<()> {
        let mut here = fstat(&self.dir)?;
        let mut rest = self.entries(&here)?;
        loop {
            if let Some(name) = rest.pop() {
                let below = match openat(&self.dir, &name, DIRECTORY, Mode::empty()) {
                    Ok(below) => below,
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                };
                self.above.push(Level { device: here.st_dev, inode: here.st_ino, name, rest });
                self.dir = below;
                here = fstat(&self.dir)?;
                rest = self.entries(&here)?;
            } else {
                let Some(level) = self.above.pop() else { return Ok(()) };
                self.dir = openat(&self.dir, "..", DIRECTORY, Mode::empty())?;
                here = fstat(&self.dir)?;
                if (here.st_dev, here.st_ino) != (level.device, level.inode) {
                    return Err(io::Error::other("somebody moves directories about in it"));
                }
                give(&self.dir, &level.name, self.from, self.to)?;
                rest = level.rest;
            }
        }
    }

    /// Gives away the files of the directory and answers its directories, but for mount points.
    fn entries(&self, here: &Stat) -> io::Result<Vec<CString>> {
        let mut dirs = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(found) = statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() {
                if found.st_dev == here.st_dev {
                    dirs.push(name.to_owned());
                }
            } else {
                give(&self.dir, name, self.from, self.to)?;
            }
        }
        Ok(dirs)
    }
}

fn give<P: rustix::path::Arg + Copy>(dir: impl std::os::fd::AsFd, name: P, from: u32, to: Owner) -> io::Result<()> {
    match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if found.st_uid == from => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
    Ok(chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}
