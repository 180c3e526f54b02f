//! Removing: a file, a link itself, or a directory with everything in it, without following a link.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::{Files, Result, of_file};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Directories in each other: each is held open while what is in it is removed.
const MAX_DEPTH: usize = 200;

impl Files {
    /// Removes what is at `path`; an error for the workspace itself, which goes with its session.
    pub(super) fn delete(&self, path: &str, recursive: bool) -> Result<()> {
        let failed = |error: Errno| of_file(path, error);
        let relative = self.relative(path)?;
        let (dir, name) = self.beneath.parent(&relative).map_err(failed)?;
        match unlinkat(&dir, &name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            // What the kernel says of a directory.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(failed(error)),
        }
        if recursive {
            match openat(&dir, &name, DIRECTORY, Mode::empty()) {
                Ok(top) => empty(top).map_err(failed)?,
                Err(error) => return Err(failed(error)),
            }
        }
        unlinkat(&dir, &name, AtFlags::REMOVEDIR).map_err(failed)
    }
}

/// Removes everything in a directory.
fn empty(top: OwnedFd) -> rustix::io::Result<()> {
    let mut below = directories(&top)?;
    let mut held = vec![(top, CString::default(), Vec::new())];
    loop {
        let Some((dir, _, rest)) = held.last_mut() else { return Ok(()) };
        rest.append(&mut below);
        if let Some(name) = rest.pop() {
            if unlinkat(&*dir, &name, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            let inner = openat(&*dir, &name, DIRECTORY, Mode::empty())?;
            below = directories(&inner)?;
            if held.len() == MAX_DEPTH {
                return Err(Errno::NAMETOOLONG);
            }
            held.push((inner, name, Vec::new()));
            continue;
        }
        let name = held.pop().map(|(_, name, _)| name).unwrap_or_default();
        if let Some((dir, ..)) = held.last() {
            match unlinkat(dir, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Removes what is no directory, and answers the rest.
fn directories(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut dirs = Vec::new();
    for found in Dir::read_from(dir)? {
        let found = found?;
        let name = found.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => dirs.push(name.to_owned()),
            Err(error) => return Err(error),
        }
    }
    Ok(dirs)
}
