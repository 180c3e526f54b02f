//! Following logs: one task per follower, woken by inotify. Ends when the session's directories go (it was ended), or
//! when nobody listens any more. A log that is rotated is read on from its new file; a reader that is slower than two
//! rotations misses lines, and nothing else waits for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use futures::StreamExt as _;
use helix_protocol::link::LogLine;
use inotify::{Inotify, WatchMask};
use tokio::sync::mpsc;

use super::layout::Layout;
use crate::file_events;
use crate::supervisor::UnitName;

/// Lines that wait for a slow reader.
const BUFFER: usize = 256;
/// Most bytes of one line; what is longer is told in pieces.
const LINE_BYTES: usize = 48 * 1024;
/// Most bytes read of one log at a time.
const READ_BYTES: u64 = 256 * 1024;

/// What has been read of one unit's log.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    inode: u64,
    offset: u64,
    /// The beginning of a line whose end is not written yet: at most [`LINE_BYTES`], without a line break.
    partial: Vec<u8>,
}

/// A follower before its first line.
#[derive(Debug)]
pub(super) struct Follow {
    inotify: Inotify,
    places: BTreeMap<UnitName, Place>,
    ready: PathBuf,
}

impl Follow {
    /// Begins to watch; what is written from now on will be told.
    pub(super) fn new(layout: &Layout, unit: Option<UnitName>) -> io::Result<Self> {
        let inotify = file_events::inotify()?;
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::DELETE_SELF;
        inotify.watches().add(layout.logs(), mask)?;
        // Of an ended session only the logs are left: then there is nothing to follow.
        let _ = inotify.watches().add(layout.ready_dir(), WatchMask::DELETE_SELF);
        let units = UnitName::ALL.into_iter().filter(|name| unit.is_none_or(|unit| unit == *name));
        let places = units.map(|name| (name, Place::end_of(layout.log(name)))).collect();
        Ok(Self { inotify, places, ready: layout.ready_dir() })
    }

    /// Tells `last`, then what comes.
    pub(super) fn run(self, last: Vec<LogLine>) -> mpsc::Receiver<LogLine> {
        let (sender, receiver) = mpsc::channel(BUFFER);
        tokio::spawn(async move {
            for line in last {
                if sender.send(line).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = sender.closed() => {}
                result = self.tell(&sender) => if let Err(error) = result {
                    tracing::warn!("a log cannot be followed any more: {error}");
                }
            }
        });
        receiver
    }

    async fn tell(self, sender: &mpsc::Sender<LogLine>) -> io::Result<()> {
        let Self { inotify, mut places, ready } = self;
        let mut events = inotify.into_event_stream(vec![0; 4096])?;
        loop {
            let over = !ready.exists();
            for (unit, place) in &mut places {
                for text in place.read()? {
                    let line = LogLine { unit: unit.as_str().to_owned(), text };
                    if sender.send(line).await.is_err() {
                        return Ok(());
                    }
                }
            }
            if over {
                return Ok(());
            }
            match events.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
        }
    }
}

impl Place {
    fn end_of(path: PathBuf) -> Self {
        let (inode, offset) = path.metadata().map_or((0, 0), |file| (file.ino(), file.len()));
        Self { path, inode, offset, partial: Vec::new() }
    }

    /// Whole lines that were written since.
    fn read(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut file = match File::open(&self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lines),
                Err(error) => return Err(error),
            };
            let inode = file.metadata()?.ino();
            if inode != self.inode {
                (self.inode, self.offset) = (inode, 0);
                // Its end, if any, is in the former file.
                if !self.partial.is_empty() {
                    lines.push(text(&std::mem::take(&mut self.partial)));
                }
            }
            file.seek(SeekFrom::Start(self.offset))?;
            let mut new = Vec::new();
            let count = file.take(READ_BYTES).read_to_end(&mut new)? as u64;
            if count == 0 {
                return Ok(lines);
            }
            self.offset += count;
            for piece in new.split_inclusive(|&byte| byte == b'\n') {
                self.take(piece, &mut lines);
            }
        }
    }

    /// Takes up to one line.
    fn take(&mut self, piece: &[u8], lines: &mut Vec<String>) {
        let (mut rest, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |line| (line, true));
        while self.partial.len() + rest.len() > LINE_BYTES {
            let (fits, more) = rest.split_at(LINE_BYTES - self.partial.len());
            self.partial.extend_from_slice(fits);
            lines.push(text(&std::mem::take(&mut self.partial)));
            rest = more;
        }
        self.partial.extend_from_slice(rest);
        if ends {
            lines.push(text(&std::mem::take(&mut self.partial)));
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_once_they_are_whole_and_across_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("app.log");
        std::fs::write(&log, "old\n").unwrap();
        let mut place = Place::end_of(log.clone());
        assert!(place.read().unwrap().is_empty());
        std::fs::write(&log, "old\nne").unwrap();
        assert!(place.read().unwrap().is_empty());
        std::fs::write(&log, "old\nnew\n").unwrap();
        assert_eq!(place.read().unwrap(), ["new"]);
        std::fs::rename(&log, dir.path().join("app.log.1")).unwrap();
        std::fs::write(&log, "next\n").unwrap();
        assert_eq!(place.read().unwrap(), ["next"]);
    }

    #[test]
    fn what_has_no_end_is_told_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("app.log");
        std::fs::write(&log, "").unwrap();
        let mut place = Place::end_of(log.clone());
        let endless = "x".repeat(7 * LINE_BYTES + 5);
        std::fs::write(&log, &endless).unwrap();
        assert_eq!(place.read().unwrap(), vec!["x".repeat(LINE_BYTES); 7]);
        assert_eq!(place.partial.len(), 5);
        std::fs::write(&log, format!("{endless}y\n\nz")).unwrap();
        assert_eq!(place.read().unwrap(), ["xxxxxy", ""]);
        // A beginning is not glued to the next file.
        std::fs::rename(&log, dir.path().join("app.log.1")).unwrap();
        std::fs::write(&log, "next\n").unwrap();
        assert_eq!(place.read().unwrap(), ["z", "next"]);
    }

    #[test]
    fn a_line_of_just_the_most_bytes_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("app.log");
        let mut place = Place::end_of(log.clone());
        let most = "x".repeat(LINE_BYTES);
        std::fs::write(&log, format!("{most}\n{most}y\n")).unwrap();
        assert_eq!(place.read().unwrap(), [most.as_str(), most.as_str(), "y"]);
    }
}
