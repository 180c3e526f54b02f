//! Makes and removes a session's directories, and hands workspaces over. All of it as root, so the rule is: root
//! never follows a link of a session and never writes where a session has been.
//!
//! A session's directory is built under another name, where only root can enter, and renamed when it is complete: it
//! exists whole or not at all. Call the rest only when no process of the session's user lives; even then nothing
//! here follows a link, whatever a session has left.
//!
//! Synchronous: run it on a blocking thread.

mod environment;
mod hand_over;
mod remove;
mod socket;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown};
use std::path::{Component, Path, PathBuf};

use helix_protocol::RecordingId;

pub use self::environment::{environment_text, write_env};
pub use self::remove::{remove, remove_workspace};
pub use self::socket::listen;
use super::layout::{ETC, Layout, NOTES, OWNED, RDP, ROOTS, SYNC, TOOLS, inside};
use super::slots::{SlotUser, Slots};
use crate::images::root::{self, Inside};
use crate::recorder::shelf;
use crate::supervisor::{SessionFile, UnitName};

/// Why a tree could not be made, removed or handed over.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The directory is there already.
    #[error("{} exists already; end the session that it belongs to first", .0.display())]
    Exists(PathBuf),
    /// A file for the session would be outside of its directories.
    #[error("{} is not a path below the session's run or home directory", .0.display())]
    Outside(PathBuf),
    /// The workspace belongs to somebody else.
    #[error(
        "workspace {} belongs to uid {uid}, which is neither a slot user's nor {}; remove it, or run chown -R {}: on it",
        path.display(), super::slots::KEEPER, super::slots::KEEPER
    )]
    Foreign {
        /// The workspace.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// A variable cannot be given to a unit.
    #[error("variable {name} cannot be set in a session: {reason}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong with it; never its value.
        reason: &'static str,
    },
}

/// Result of an operation on a tree.
pub type Result<T, E = TreeError> = std::result::Result<T, E>;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    let path = path.to_owned();
    move |source| TreeError::Io { action, path, source }
}

/// Makes the session's directory and workspace for a slot's user, with the session's files and its X cookie file.
/// The leftover of an attempt that was cut short is built anew; a complete directory is an error.
pub fn build(layout: &Layout, slots: &Slots, slot: &SlotUser, files: &[SessionFile], authority: &[u8]) -> Result<()> {
    if fs::symlink_metadata(layout.dir()).is_ok() {
        return Err(TreeError::Exists(layout.dir().to_owned()));
    }
    let new = layout.new_dir();
    if let Some(parent) = new.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(failed("make directory", parent))?;
    }
    remove::remove_tree(&new)?;
    let built = fill(&new, slot, files, authority)
        .and_then(|()| layout.workspace().map_or(Ok(()), |workspace| take_workspace(workspace, slots, slot)))
        .and_then(|()| fs::rename(&new, layout.dir()).map_err(failed("rename", &new)));
    if built.is_err() {
        // The error of the build says more than one of the cleaning up, which the next attempt repeats.
        let _ = remove::remove_tree(&new);
    }
    built
}

/// Makes `/etc/passwd` and `/etc/group` of a session in an image: its user is called `agent` there. In a directory of root's, of a
/// session that is not open yet.
pub fn write_users(layout: &Layout, image_root: &Path, slot: &SlotUser) -> Result<()> {
    let dir = layout.at(ETC);
    make_dir(&dir)?;
    let shell = Inside::new(image_root.to_owned()).shell;
    for (name, text) in root::users(image_root, shell, (slot.uid, slot.gid)) {
        let path = dir.join(name);
        write_file(&path, 0o600, text.as_bytes())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(failed("set mode of", &path))?;
    }
    Ok(())
}

/// Makes the spool of a recording for its recorder, or finds it.
pub fn make_spool(state_dir: &Path, recording: &RecordingId, recorder: &SlotUser) -> Result<()> {
    let place = shelf::place(state_dir, recording);
    let spool = shelf::make_spool(state_dir, recording).map_err(failed("make the spool in", &place))?;
    lchown(&spool, Some(recorder.uid), Some(recorder.gid)).map_err(failed("give away", &spool))
}

/// Removes a workspace that was put aside.
pub fn discard(workspace: &Path) -> Result<()> {
    remove::remove_tree(workspace)
}

/// Gives every workspace of a slot whose session has ended to `helix-keep`, so that the slot becomes free.
pub fn retain_workspaces(workspace_dir: &Path, slots: &Slots, slot: &SlotUser) -> Result<()> {
    let entries = match fs::read_dir(workspace_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", workspace_dir)(error)),
    };
    for entry in entries {
        let workspace = entry.map_err(failed("read", workspace_dir))?.path();
        if owner(&workspace)? == Some(slot.uid) {
            hand_over::hand_over(&workspace, slot.uid, slots.keeper())?;
        }
    }
    Ok(())
}

fn fill(new: &Path, slot: &SlotUser, files: &[SessionFile], authority: &[u8]) -> Result<()> {
    // What is given away in the end, parents before children.
    let mut given: Vec<PathBuf> = Vec::new();
    make_dir(new)?;
    for name in ROOTS {
        make_dir(&new.join(name))?;
    }
    let sockets =
        [(SYNC, UnitName::Forward), (TOOLS, UnitName::Tools), (NOTES, UnitName::Recorder), (RDP, UnitName::Rdp)];
    for (name, unit) in sockets {
        socket::let_through(&new.join(name), unit)?;
    }
    for name in OWNED {
        make_dir(&new.join(name))?;
        given.push(new.join(name));
    }
    let display = new.join("display");
    fs::set_permissions(&display, fs::Permissions::from_mode(0o711)).map_err(failed("set mode of", &display))?;
    // Root's, as X servers want it; they cannot make it themselves.
    let sockets = new.join("tmp/.X11-unix");
    make_dir(&sockets)?;
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o1777)).map_err(failed("set mode of", &sockets))?;
    write_file(&new.join("Xauthority.agentd"), 0o600, authority)?;
    let cookie = new.join("run/Xauthority");
    write_file(&cookie, 0o600, authority)?;
    given.push(cookie);
    for file in files {
        let (name, below) = place(&file.path)?;
        let mut path = new.join(name);
        let mut parts = below.components().peekable();
        while let Some(part) = parts.next() {
            path.push(part);
            if parts.peek().is_none() {
                // Later files replace earlier ones: nobody but root has been here.
                let _ = fs::remove_file(&path);
                write_file(&path, file.mode & 0o700, &file.content)?;
            } else if !path.is_dir() {
                make_dir(&path)?;
            } else {
                continue;
            }
            given.push(path.clone());
        }
    }
    // Children first: once a directory is given away, root does nothing in it any more.
    for path in given.iter().rev() {
        lchown(path, Some(slot.uid), Some(slot.gid)).map_err(failed("give away", path))?;
    }
    Ok(())
}

/// In which of the session's directories a file goes, and where in it.
fn place(path: &Path) -> Result<(&'static str, &Path)> {
    let outside = || TreeError::Outside(path.to_owned());
    let (name, below) = if path.is_absolute() {
        let run = path.strip_prefix(inside::RUN).map(|below| ("run", below));
        run.or_else(|_| path.strip_prefix(inside::HOME).map(|below| ("home", below))).map_err(|_| outside())?
    } else {
        path.strip_prefix("home").map_or(("run", path), |below| ("home", below))
    };
    let fits =
        below.components().all(|part| matches!(part, Component::Normal(_))) && below.components().next().is_some();
    if fits { Ok((name, below)) } else { Err(outside()) }
}

/// Makes the workspace, or takes over the one that a former life of the session left.
fn take_workspace(workspace: &Path, slots: &Slots, slot: &SlotUser) -> Result<()> {
    match owner(workspace)? {
        Some(uid) if uid == slot.uid => Ok(()),
        Some(uid) if uid == slots.keeper().uid || slots.by_uid(uid).is_some() => {
            hand_over::hand_over(workspace, uid, slot.into())
        }
        // Ours, made a moment before a crash; rmdir tells whether anybody has put something into it.
        Some(uid) => {
            fs::remove_dir(workspace).map_err(|_| TreeError::Foreign { path: workspace.to_owned(), uid })?;
            make_workspace(workspace, slot)
        }
        None => make_workspace(workspace, slot),
    }
}

fn make_workspace(workspace: &Path, slot: &SlotUser) -> Result<()> {
    make_dir(workspace)?;
    lchown(workspace, Some(slot.uid), Some(slot.gid)).map_err(failed("give away", workspace))
}

/// Who owns it, without following a link; None where there is nothing.
fn owner(path: &Path) -> Result<Option<u32>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.uid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path).map_err(failed("make directory", path))
}

fn write_file(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(failed("write", path))
}

#[cfg(test)]
mod tests;
