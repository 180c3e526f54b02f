//! How long workspaces stay that were put aside because their session goes on elsewhere ([`crate::session`]): what is in
//! one and in no checkpoint is nowhere else.
//!
//! Each stays for `kept_at_least`, whatever happens. After that the oldest ones go while the disk has less free than
//! `kept_min_free_percent`, and each once it was there for `kept_for`. Every minute, by the reaper's task. What cannot be
//! read or removed is logged and tried again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::reap::{KeptWorkspace, Reaped};
use jiff::Timestamp;

use crate::leftovers::LeftoverBoard;
use crate::supervisor::Supervisor;

/// Between the session's id and a number, in the name of a workspace that was put aside.
const MARK: &str = ".kept-";

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepRules {
    /// After that each goes; zero: only where room is needed.
    pub longest: Duration,
    /// Before that none goes.
    pub at_least: Duration,
    /// Of the disk; with less, the oldest go.
    pub min_free_percent: u8,
}

/// A workspace that was put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    path: PathBuf,
    since: Timestamp,
}

/// Looks once, and removes what has to go.
pub(super) async fn look<S: Supervisor>(supervisor: &S, dir: &Path, rules: &KeepRules, board: &LeftoverBoard) {
    let mut kept = match find(dir) {
        Ok(kept) => kept,
        Err(error) => return tracing::error!("{} cannot be read: {error}", dir.display()),
    };
    while let Some(next) = next(&kept, Timestamp::now(), needs_room(dir, rules.min_free_percent), rules) {
        let Kept { path, since } = kept.remove(next);
        match supervisor.discard(&path).await {
            Ok(()) => {
                tracing::warn!(path = %path.display(), %since, "removed: a workspace of a session that lives elsewhere");
                board.reaped(&Reaped { workspaces: 1, ..Reaped::default() });
            }
            Err(error) => {
                tracing::error!(path = %path.display(), "a kept workspace cannot be removed; tried again: {error}");
            }
        }
    }
    board.kept(kept.iter().map(|kept| told(kept, rules)).collect());
}

/// Which of them goes now. Pure; they are the oldest first.
fn next(kept: &[Kept], now: Timestamp, needs_room: bool, rules: &KeepRules) -> Option<usize> {
    let is_older = |kept: &Kept, than: Duration| after(kept.since, than) <= now;
    kept.iter().position(|kept| {
        let is_over = !rules.longest.is_zero() && is_older(kept, rules.longest);
        is_older(kept, rules.at_least) && (needs_room || is_over)
    })
}

fn told(kept: &Kept, rules: &KeepRules) -> KeptWorkspace {
    let until =
        if rules.longest.is_zero() { Timestamp::MAX } else { after(kept.since, rules.longest.max(rules.at_least)) };
    KeptWorkspace { path: kept.path.to_string_lossy().into_owned(), since: kept.since, until }
}

/// A time that cannot be is one that never comes.
fn after(at: Timestamp, time: Duration) -> Timestamp {
    at.checked_add(time).unwrap_or(Timestamp::MAX)
}

/// Those in the directory of workspaces, the oldest first. Directories of our own naming alone: a link leads elsewhere.
fn find(dir: &Path) -> io::Result<Vec<Kept>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut kept = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_kept) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        // Putting it aside was the last change of the directory's own inode, unless somebody has looked after it since.
        let since = Timestamp::new(metadata.ctime(), i32::try_from(metadata.ctime_nsec()).unwrap_or_default());
        if let Some(since) = since.ok().filter(|_| metadata.is_dir()) {
            kept.push(Kept { path: entry.path(), since });
        }
    }
    kept.sort_by(|a, b| (a.since, &a.path).cmp(&(b.since, &b.path)));
    Ok(kept)
}

fn is_kept(name: &str) -> bool {
    name.split_once(MARK).is_some_and(|(session, number)| {
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        SessionId::parse(session).is_ok() && is_number
    })
}

/// True where the disk has less free than this; false where it does not say.
fn needs_room(dir: &Path, percent: u8) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|disk| {
        let free = u128::from(disk.f_bavail) * 100;
        free < u128::from(disk.f_blocks) * u128::from(percent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: KeepRules =
        KeepRules { longest: Duration::from_secs(1000), at_least: Duration::from_secs(100), min_free_percent: 10 };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn kept(since: &[i64]) -> Vec<Kept> {
        since
            .iter()
            .map(|since| Kept { path: PathBuf::from(format!("/w/s.kept-{since}")), since: at(*since) })
            .collect()
    }

    #[test]
    fn each_stays_for_its_time_and_no_longer() {
        let all = kept(&[0, 500]);
        assert_eq!(next(&all, at(999), false, &RULES), None);
        assert_eq!(next(&all, at(1000), false, &RULES), Some(0));
        assert_eq!(next(&all[1..], at(1499), false, &RULES), None);
        let for_good = KeepRules { longest: Duration::ZERO, ..RULES };
        assert_eq!(next(&all, at(1_000_000), false, &for_good), None);
        assert_eq!(told(&all[0], &RULES).until, at(1000));
    }

    #[test]
    fn where_room_is_needed_the_oldest_goes_but_none_before_the_least_time() {
        let all = kept(&[0, 500]);
        assert_eq!(next(&all, at(99), true, &RULES), None);
        assert_eq!(next(&all, at(100), true, &RULES), Some(0));
        assert_eq!(next(&all[1..], at(100), true, &RULES), None);
        // A clock that went back makes nothing old.
        assert_eq!(next(&kept(&[500]), at(0), true, &RULES), None);
    }

    #[test]
    fn only_directories_that_were_named_so_by_us_are_found() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["a.kept-1", "b.kept-22", "c", "d.kept-", "e.kept-x", ".kept-1", "f.g.kept-1"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        fs::write(dir.path().join("g.kept-1"), "a file").expect("written");
        std::os::unix::fs::symlink("/", dir.path().join("h.kept-1")).expect("linked");
        let found = find(dir.path()).expect("readable");
        let mut names: Vec<_> = found.iter().filter_map(|kept| kept.path.file_name()?.to_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a.kept-1", "b.kept-22"]);
        assert!(find(&dir.path().join("nowhere")).expect("nothing").is_empty());
    }
}
