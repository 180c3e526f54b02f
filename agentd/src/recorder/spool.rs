//! A recording on the runner's disk: chunks that are closed, the one that is being written, and where the chain stands.
//!
//! ```text
//! head.json     which recording, when it began, number and link of the chunk that is open or comes next
//! <n>.open      the chunk that is being written
//! <n>.chunk     closed: it never changes, and goes when the server has it
//! ```
//!
//! Each record is written by one call, so that whoever kills the recorder cuts off one record at most. A chunk is closed in
//! this order: its hash goes into `head.json`, then it is renamed; [`recover`] finds what was begun. Synchronous, small
//! writes. Whoever opens a spool follows no link in it: where sessions have users, agentd is root and the spool is the
//! recorder's.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helix_protocol::recording::chunk::{
    CLOSE_BYTES, HEADER_BYTES, Hash, Header, MAX_CHUNK_BYTES, MAX_PAYLOAD, RECORD_HEAD_BYTES, RecordKind, first_link,
    link, record_head, records,
};
use helix_protocol::recording::{RecordedEvent, Start};
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A chunk is closed so long after its first record.
pub const CLOSE_AFTER: Duration = Duration::from_secs(30);
/// Most bytes that wait for the server; then the recording pauses.
pub const MAX_WAITING: u64 = 256 << 20;
/// Most bytes of `head.json`.
const MAX_HEAD: u64 = 16 * 1024;

/// Where a recording stands; `head.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    start: Start,
    /// When time was 0, on the clock that goes on while the machine sleeps: a session does not outlive a boot.
    zero_us: u64,
    /// Of the chunk that is open or comes next.
    number: u32,
    /// What it names as the one before.
    previous: Hash,
    /// Time of the last record of the chunks that are closed.
    last_us: u64,
    /// Nothing comes any more.
    #[serde(default)]
    ended: bool,
}

/// The chunk that is being written.
#[derive(Debug)]
struct Open {
    file: File,
    bytes: usize,
    /// When its first record came.
    since_us: u64,
    /// The recording's end is its last record.
    has_end: bool,
}

/// A spool that is written.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    head: Head,
    open: Option<Open>,
    /// The last chunk is closed, and could not be given its name.
    is_unnamed: bool,
}

impl Spool {
    /// Opens a spool: a new one begins with a chunk of its own that says so, one that is there goes on.
    pub fn open(dir: &Path, start: impl FnOnce() -> Start) -> io::Result<Self> {
        if let Some((head, open)) = recover(dir)? {
            if head.ended {
                return Err(io::Error::other("the recording has ended"));
            }
            return Ok(Self { dir: dir.to_owned(), head, open, is_unnamed: false });
        }
        let start = start();
        let previous = first_link(&start.recording);
        let head = Head { start, zero_us: clock_us(), number: 0, previous, last_us: 0, ended: false };
        write_head(dir, &head)?;
        let mut spool = Self { dir: dir.to_owned(), head, open: None, is_unnamed: false };
        spool.begin()?;
        // So that the server knows of it at once.
        spool.close()?;
        Ok(spool)
    }

    /// Microseconds since the recording began. Never goes back.
    pub fn now_us(&self) -> u64 {
        clock_us().saturating_sub(self.head.zero_us).max(self.head.last_us)
    }

    /// Time of the last record.
    pub fn last_us(&self) -> u64 {
        self.head.last_us
    }

    /// Writes one record with the time that it is now. After an error no half of it is there.
    pub fn append(&mut self, kind: RecordKind, payload: &[u8]) -> io::Result<()> {
        if payload.len() > MAX_PAYLOAD {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // One that could not be closed before.
        self.close_if_full()?;
        if self.open.is_none() {
            self.begin()?;
        }
        let at_us = self.now_us();
        self.write(kind, at_us, payload)?;
        self.close_if_full()
    }

    fn close_if_full(&mut self) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.bytes >= CLOSE_BYTES) { self.close() } else { Ok(()) }
    }

    /// The same of a record of JSON.
    pub fn append_json(&mut self, kind: RecordKind, payload: &impl Serialize) -> io::Result<()> {
        self.append(kind, &serde_json::to_vec(payload).map_err(io::Error::other)?)
    }

    /// In how long [`Spool::close`] has something to do; none where it has nothing.
    pub fn due(&self) -> Option<Duration> {
        if self.is_unnamed {
            return Some(Duration::ZERO);
        }
        let since_us = self.open.as_ref()?.since_us;
        Some(CLOSE_AFTER.saturating_sub(Duration::from_micros(self.now_us() - since_us)))
    }

    /// Closes the open chunk, if there is one. To be repeated after an error.
    pub fn close(&mut self) -> io::Result<()> {
        self.name_closed()?;
        let Some(open) = &self.open else { return Ok(()) };
        open.file.sync_data()?;
        let hash = link(&read(&self.dir, &open_name(self.head.number))?);
        let head = Head { number: self.head.number + 1, previous: hash, ..self.head.clone() };
        write_head(&self.dir, &head)?;
        self.head = head;
        self.open = None;
        self.is_unnamed = true;
        self.name_closed()
    }

    /// Before the next one is closed: whoever recovers looks at one alone.
    fn name_closed(&mut self) -> io::Result<()> {
        if let Some(last) = self.head.number.checked_sub(1).filter(|_| self.is_unnamed) {
            fs::rename(self.dir.join(open_name(last)), self.dir.join(chunk_name(last)))?;
            self.is_unnamed = false;
        }
        Ok(())
    }

    /// Bytes that wait for the server.
    pub fn waiting(&self) -> io::Result<u64> {
        let mut bytes = self.open.as_ref().map_or(0, |open| open.bytes as u64);
        for number in closed(&self.dir)? {
            // One that the server has got meanwhile waits no more.
            bytes += fs::symlink_metadata(self.dir.join(chunk_name(number))).map_or(0, |metadata| metadata.len());
        }
        Ok(bytes)
    }

    fn begin(&mut self) -> io::Result<()> {
        let path = self.dir.join(open_name(self.head.number));
        let mut file = create(&path)?;
        let header = Header { number: self.head.number, previous: self.head.previous }.encode();
        if let Err(error) = file.write_all(&header) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.open = Some(Open { file, bytes: HEADER_BYTES, since_us: self.now_us(), has_end: false });
        if self.head.number == 0 {
            let start = serde_json::to_vec(&self.head.start).map_err(io::Error::other)?;
            self.write(RecordKind::Start, 0, &start)?;
        }
        Ok(())
    }

    fn write(&mut self, kind: RecordKind, at_us: u64, payload: &[u8]) -> io::Result<()> {
        let open = self.open.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let mut record = Vec::with_capacity(RECORD_HEAD_BYTES + payload.len());
        record.extend(record_head(kind, at_us, payload.len()));
        record.extend_from_slice(payload);
        if let Err(error) = open.file.write_all(&record) {
            // Half a record would end the chunk for every reader.
            open.file.set_len(open.bytes as u64)?;
            return Err(error);
        }
        open.bytes += record.len();
        self.head.last_us = at_us;
        Ok(())
    }
}

/// Ends a recording whose recorder is gone for good: what it left open is closed, and the end is written. May be repeated.
/// False where nothing was ever recorded.
pub fn finish(dir: &Path) -> io::Result<bool> {
    let Some((head, open)) = recover(dir)? else { return Ok(false) };
    if head.ended {
        return Ok(true);
    }
    let mut spool = Spool { dir: dir.to_owned(), head, open, is_unnamed: false };
    if spool.open.is_none() {
        spool.begin()?;
    }
    // Where it was written before, and the disk was full then, once is enough.
    if !spool.open.as_ref().is_some_and(|open| open.has_end) {
        // No later than the last that is known: it may be ended long after its time.
        let at_us = spool.last_us();
        spool.write(RecordKind::End, at_us, &[])?;
    }
    spool.head.ended = true;
    spool.close().map(|()| true)
}

/// Numbers of the chunks that are closed, in order.
pub fn closed(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".chunk")?.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A closed chunk.
pub fn read_chunk(dir: &Path, number: u32) -> io::Result<Vec<u8>> {
    read(dir, &chunk_name(number))
}

/// Removes a closed chunk that the server has.
pub fn remove_chunk(dir: &Path, number: u32) -> io::Result<()> {
    fs::remove_file(dir.join(chunk_name(number)))
}

/// True once the recording has ended and every chunk is gone.
pub fn is_done(dir: &Path) -> io::Result<bool> {
    let Some(head) = read_head(dir)?.filter(|head| head.ended) else { return Ok(false) };
    // Ended by somebody who was killed before the last one had its name.
    let last = head.number.checked_sub(1).map(|last| dir.join(open_name(last)));
    let is_open = last.is_some_and(|last| fs::symlink_metadata(last).is_ok());
    Ok(!is_open && closed(dir)?.is_empty())
}

/// Where the recording stands, with what was begun brought to its end, and the chunk that is open; none where there is
/// none yet.
fn recover(dir: &Path) -> io::Result<Option<(Head, Option<Open>)>> {
    let Some(mut head) = read_head(dir)? else { return Ok(None) };
    if let Some(before) = head.number.checked_sub(1) {
        // Killed between the two steps of closing it.
        match fs::rename(dir.join(open_name(before)), dir.join(chunk_name(before))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let name = open_name(head.number);
    let bytes = match read(dir, &name) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some((head, None))),
        Err(error) => return Err(error),
    };
    let (mut whole, mut since_us, mut has_end) = (HEADER_BYTES, None, false);
    for record in records(&bytes).map_while(Result::ok) {
        whole = record.offset + RECORD_HEAD_BYTES + record.payload.len();
        since_us.get_or_insert(record.at_us);
        has_end = record.kind == RecordKind::End;
        head.last_us = head.last_us.max(record.at_us);
    }
    let Some(since_us) = since_us else {
        // Not one record: as if it had never been begun.
        fs::remove_file(dir.join(&name))?;
        return Ok(Some((head, None)));
    };
    let file = existing(&dir.join(&name), OFlags::RDWR | OFlags::APPEND)?;
    file.set_len(whole as u64)?;
    Ok(Some((head, Some(Open { file, bytes: whole, since_us, has_end }))))
}

fn read_head(dir: &Path) -> io::Result<Option<Head>> {
    match existing(&dir.join("head.json"), OFlags::RDONLY) {
        Ok(file) => {
            let mut text = Vec::new();
            file.take(MAX_HEAD).read_to_end(&mut text)?;
            serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_head(dir: &Path, head: &Head) -> io::Result<()> {
    let draft = dir.join("head.new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = create(&draft)?;
    file.write_all(&serde_json::to_vec(head).map_err(io::Error::other)?)?;
    file.sync_data()?;
    fs::rename(draft, dir.join("head.json"))
}

/// All of a file of the spool; an error where it is longer than any chunk.
fn read(dir: &Path, name: &str) -> io::Result<Vec<u8>> {
    let file = existing(&dir.join(name), OFlags::RDONLY)?;
    let mut bytes = Vec::new();
    file.take(MAX_CHUNK_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_CHUNK_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is longer than a chunk can be")));
    }
    Ok(bytes)
}

fn existing(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file"));
    }
    Ok(file)
}

fn create(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

fn open_name(number: u32) -> String {
    format!("{number}.open")
}

fn chunk_name(number: u32) -> String {
    format!("{number}.chunk")
}

fn clock_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

/// A gap, from that time until now.
pub fn gap(from_us: u64, reason: impl Into<String>) -> RecordedEvent {
    RecordedEvent::Gap { from_us, reason: reason.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests;
