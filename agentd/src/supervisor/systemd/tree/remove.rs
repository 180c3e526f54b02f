//! Removes trees that a session has filled, without following its links and without limits that it could exceed.
//!
//! A session can nest directories deeper than paths are long and than descriptors may be open. So nothing here is
//! recursive: whatever lies two levels down is first moved up.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::super::layout::{Layout, OWNED};
use super::{Result, failed};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes the session's directory, complete or not. What its user owns goes first: what is left then keeps nobody's
/// slot busy, and still says whose it was.
pub fn remove(layout: &Layout) -> Result<()> {
    remove_tree(&layout.new_dir())?;
    for name in OWNED {
        remove_tree(&layout.at(name))?;
    }
    remove_tree(layout.dir())
}

/// Removes the workspace.
pub fn remove_workspace(layout: &Layout) -> Result<()> {
    layout.workspace().map_or(Ok(()), remove_tree)
}

/// Removes whatever is at `path`: a link itself, never what it points to. `path` is in a directory of root.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match openat(CWD, path, DIRECTORY, Mode::empty()) {
        Ok(top) => {
            empty(&top).map_err(failed("remove everything in", path))?;
            fs::remove_dir(path).map_err(failed("remove", path))
        }
        Err(Errno::NOENT) => Ok(()),
        // A file or a link in its place.
        Err(Errno::NOTDIR | Errno::LOOP) => fs::remove_file(path).map_err(failed("remove", path)),
        Err(error) => Err(failed("open", path)(error.into())),
    }
}

/// Removes everything in a directory. Two descriptors, whatever the depth; every round ends with fewer directories.
fn empty(top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let dirs = remove_files(top)?;
        if dirs.is_empty() {
            return Ok(());
        }
        for name in dirs {
            if unlinkat(top, &name, AtFlags::REMOVEDIR).is_ok() {
                continue;
            }
            let dir = openat(top, &name, DIRECTORY, Mode::empty())?;
            for child in remove_files(&dir)? {
                if unlinkat(&dir, &child, AtFlags::REMOVEDIR).is_err() {
                    renameat(&dir, &child, top, free_name(top, &mut moved)?)?;
                }
            }
            unlinkat(top, &name, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Removes what is not a directory and answers the rest.
fn remove_files(dir: impl AsFd) -> io::Result<Vec<CString>> {
    let mut dirs = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => dirs.push(name.to_owned()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(dirs)
}

/// A name that nothing in the directory has: a session may have guessed ours.
fn free_name(top: &OwnedFd, moved: &mut u64) -> io::Result<String> {
    loop {
        let name = format!(".helix-{moved}");
        *moved += 1;
        match rustix::fs::statat(top, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(name),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
