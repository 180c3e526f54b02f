//! The bridge's memory on disk: append-only JSON lines, written before what they say is done.
//!
//! A line that was cut off by a crash is dropped when the file is read again; everything before it counts. The file is
//! written anew, without what nobody needs any more, when it is opened and when it has grown a lot. A lock keeps a
//! second bridge away. Whoever gets an error here must not go on as if it had been written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::conversation::Conversation;
use super::record::Record;

/// Written anew when it has grown by this much.
const GROWTH_BYTES: u64 = 32 * 1024 * 1024;

/// A former bridge that was ended is gone within this time.
const LOCK: Duration = Duration::from_secs(10);

/// An open journal and what it says.
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Held as long as we live.
    _lock: File,
    length: u64,
    /// Length after it was written anew last.
    base: u64,
    /// The fold of all records.
    pub state: Conversation,
    /// What went wrong without stopping anything, for people.
    pub complaints: Vec<String>,
}

impl Journal {
    /// Opens the journal in `dir`, which is made where it is missing. A bridge that is just ending gets time for it.
    pub async fn wait_and_open(dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join("lock");
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = options().open(&file).with_context(|| format!("cannot open {}", file.display()))?;
        let wait = tokio::task::spawn_blocking(move || {
            let locked = rustix::fs::flock(&lock, FlockOperation::LockExclusive);
            // Taken anew below, by an open file of its own.
            locked.and_then(|()| rustix::fs::flock(&lock, FlockOperation::Unlock))
        });
        // Whoever still has it then is told by name.
        let _ = tokio::time::timeout(LOCK, wait).await;
        Self::open(dir)
    }

    /// The same at once.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = options().open(dir.join("lock")).with_context(|| format!("cannot open {}/lock", dir.display()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!("another bridge works in {}; end it first", dir.display()),
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", dir.display())),
        }
        let path = dir.join("journal");
        let mut file = options().open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let (state, unreadable) = read(&mut file).with_context(|| format!("cannot read {}", path.display()))?;
        let complaints = match unreadable {
            0 => Vec::new(),
            count => vec![format!("{count} lines of {} cannot be read and are passed over", path.display())],
        };
        let mut journal = Self { path, file, _lock: lock, length: 0, base: 0, state, complaints };
        journal.rewrite().with_context(|| format!("cannot write {}", journal.path.display()))?;
        Ok(journal)
    }

    /// Writes a record and waits for the disk, then takes it in.
    pub fn commit(&mut self, record: Record) -> io::Result<()> {
        self.write(&record)?;
        self.file.sync_data()?;
        self.state.apply(record);
        self.rewrite_if_long();
        Ok(())
    }

    /// Writes a record without waiting for the disk: it survives our end, not the machine's.
    pub fn note(&mut self, record: Record) -> io::Result<()> {
        self.write(&record)?;
        self.state.apply(record);
        Ok(())
    }

    /// As [`Self::note`], for what the state has taken in already.
    pub fn keep(&mut self, record: &Record) -> io::Result<()> {
        self.write(record)
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record).map_err(io::Error::other)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // A part of it may be there: the next line must not be glued to it.
            self.file.set_len(self.length)?;
            self.file.seek(io::SeekFrom::Start(self.length))?;
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }

    fn rewrite_if_long(&mut self) {
        if self.length > self.base + GROWTH_BYTES
            && let Err(error) = self.rewrite()
        {
            // The old one is whole and goes on to be used.
            self.complaints.push(format!("the journal cannot be written anew: {error}"));
            self.base = self.length;
        }
    }

    fn rewrite(&mut self) -> io::Result<()> {
        self.state.forget_old();
        let draft = self.path.with_extension("new");
        let mut file = options().truncate(true).open(&draft)?;
        let mut text = Vec::new();
        for record in self.state.records() {
            serde_json::to_writer(&mut text, &record).map_err(io::Error::other)?;
            text.push(b'\n');
        }
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.file = file;
        self.length = text.len() as u64;
        self.base = self.length;
        Ok(())
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

/// The fold of the file, and how many of its lines cannot be read.
fn read(file: &mut File) -> io::Result<(Conversation, usize)> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let (mut state, mut unreadable) = (Conversation::default(), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        // The last line has no end: we died while it was written, and nothing that it says was done.
        let Some(line) = line.strip_suffix(b"\n") else { break };
        match serde_json::from_slice(line) {
            Ok(record) => state.apply(record),
            Err(_) => unreadable += 1,
        }
    }
    state.all_saved();
    Ok((state, unreadable))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;
    use crate::bridge::conversation::State;
    use crate::bridge::record::{End, Origin};

    fn accepted(request: &str) -> Record {
        Record::Accepted {
            request: request.into(),
            thread: None,
            message: "hi".into(),
            agent: String::new(),
            origin: Origin::Server,
        }
    }

    #[test]
    fn what_was_committed_is_there_again_without_the_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.commit(accepted("a")).unwrap();
        journal.commit(Record::Bound { request: "a".into(), thread: "t".into() }).unwrap();
        journal.commit(Record::Started { request: "a".into(), index: 0 }).unwrap();
        let piece = |index, keep, text: &str| Record::Entry {
            request: "a".into(),
            index,
            user: false,
            tool: None,
            keep,
            text: text.into(),
        };
        journal.note(piece(1, 0, "one")).unwrap();
        journal.note(piece(1, 3, " two")).unwrap();
        drop(journal);
        let path = dir.path().join("journal");
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(br#"{"what":"over","request":"a","#);
        fs::write(&path, text).unwrap();

        let mut journal = Journal::open(dir.path()).unwrap();
        let turn = journal.state.turn("a").unwrap();
        assert_eq!((turn.state, turn.entries[0].text.as_str()), (State::Running, "one two"));
        assert_eq!(journal.state.next_index("t"), 2);
        let over =
            Record::Over { request: "a".into(), end: End::Completed, usage: None, exit_status: Some(3), result: None };
        journal.commit(over).unwrap();
        drop(journal);
        let journal = Journal::open(dir.path()).unwrap();
        let turn = journal.state.turn("a").unwrap();
        assert_eq!((turn.state, turn.exit_status), (State::Over, Some(3)));
    }

    #[test]
    fn there_is_one_bridge_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let _journal = Journal::open(dir.path()).unwrap();
        assert!(Journal::open(dir.path()).is_err());
    }
}
