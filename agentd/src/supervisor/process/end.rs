//! Ends a slice, with its guest or without. Synchronous: run it on a blocking thread.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use helix_protocol::ids::hex;
use helix_protocol::reap::Reaped;
use sha2::{Digest as _, Sha256};

use super::display_files;
use super::layout::{Layout, sessions_dir};
use super::procfs;
use super::sweep::{self, Mark};
use crate::guest::call::call;
use crate::guest::wire::{Answer, Record, Request};

/// A guest that lives says at once how it is; one that does not is stopped or hung.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than every grace and the guest's own sweep together.
const GUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// From the guest's answer to its own end.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Beginning of the markers of everything that the runner with this state directory starts. Derived, so that it is
/// known without any file.
pub fn runner_mark(state_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    format!("h{}.", hex(&Sha256::digest(state_dir.as_os_str().as_bytes())[..8]))
}

/// Beginning of the markers of one session.
pub fn session_mark(state_dir: &Path, unit_key: &str) -> String {
    format!("{}{unit_key}.", runner_mark(state_dir))
}

/// Ends every process of the slice and removes its sockets and directories but for logs, record and workspace.
/// The error says what is left.
pub fn end_slice(state_dir: &Path, unit_key: &str) -> Result<(), String> {
    let layout = Layout::new(sessions_dir(state_dir).join(unit_key));
    let mark = Mark::load(&layout, session_mark(state_dir, unit_key));
    if !guest_ends_itself(&layout) {
        sweep::end_marked(&mark)?;
        display_files::remove(&layout).map_err(|error| format!("files of its display: {error}"))?;
    }
    remove_files(&layout)
}

/// What is there of a slice, in numbers: what [`end_slice`] is about to end.
pub fn there(state_dir: &Path, unit_key: &str) -> Reaped {
    let layout = Layout::new(sessions_dir(state_dir).join(unit_key));
    let mark = Mark::load(&layout, session_mark(state_dir, unit_key));
    Reaped {
        sessions: 1,
        processes: sweep::count(&mark),
        directories: u64::from(layout.root.exists()),
        ..Reaped::default()
    }
}

/// [`end_slice`] for a session whose guest has ended everything before, if that is known without looking at every
/// process: no marker of it lives and its record says so. None where it is not known.
pub fn end_ended_slice(state_dir: &Path, unit_key: &str, markers: &HashSet<String>) -> Option<Result<(), String>> {
    let mark = session_mark(state_dir, unit_key);
    let layout = Layout::new(sessions_dir(state_dir).join(unit_key));
    let ended = matches!(Record::load(&layout.record()), Ok(Some(record)) if record.ended);
    (ended && !markers.iter().any(|marker| marker.starts_with(&mark))).then(|| remove_files(&layout))
}

fn remove_files(layout: &Layout) -> Result<(), String> {
    sweep::remove_session_files(layout).map_err(|error| format!("files in {}: {error}", layout.root.display()))
}

/// True when the guest ended everything: it is the subreaper of all processes and said that no child is left, which
/// is a proof that needs no scan.
fn guest_ends_itself(layout: &Layout) -> bool {
    let Ok(Some(record)) = Record::load(&layout.record()) else { return false };
    if !matches!(call(&layout.guest_socket(), &Request::List, ANSWER_TIMEOUT), Ok(Answer::State { .. }))
        || !matches!(call(&layout.guest_socket(), &Request::Kill, GUEST_TIMEOUT), Ok(Answer::Done))
    {
        return false;
    }
    procfs::wait_for_end(&record.guest, EXIT_TIMEOUT)
}

/// Unit keys of everything that the runner has or had here: by directory, and by processes whose directory is gone.
pub fn found(state_dir: &Path) -> io::Result<Vec<String>> {
    found_with(state_dir, &sweep::markers(&runner_mark(state_dir))?)
}

/// The same with the markers of the runner's living processes.
pub fn found_with(state_dir: &Path, markers: &HashSet<String>) -> io::Result<Vec<String>> {
    let mut keys: Vec<String> = match fs::read_dir(sessions_dir(state_dir)) {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    keys.retain(|key| is_unit_key(key));
    let mark = runner_mark(state_dir);
    keys.extend(markers.iter().filter_map(|marker| Some(marker.strip_prefix(&mark)?.split_once('.')?.0.to_owned())));
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

/// True for 16 lower-case hex digits: nothing else is ever joined to a path here.
pub fn is_unit_key(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
