//! Files of the workspace, one request per stream, each in a thread of its own: a file is read from the disk into the
//! socket and back, [`MAX_DATA`] bytes at a time, however large it is.
//!
//! What the other side does not take holds the thread up, for [`PATIENCE`] at most. Uploads are in [`upload`].

mod delete;
mod upload;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use helix_protocol::ErrorCode;
use helix_protocol::tools::{
    ByteRange, Done, Failure, FileEntry, FileKind, FileList, FrameKind, HEAD_BYTES, MAX_DATA, MAX_JSON, ReadHead,
    Request, head,
};
use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, statat};
use rustix::io::Errno;

pub(super) use self::upload::PARTS;
use super::failure::{of_file, of_io};
use super::frames::write_json_blocking;
use crate::beneath::Beneath;

/// A peer that takes or sends nothing for this long is left.
const PATIENCE: Duration = Duration::from_mins(10);
/// Most entries of one list.
const MAX_ENTRIES: u32 = 10_000;
/// Most bytes of one list's entries as JSON, where a strange byte of a name is up to six: the frame holds one more name.
const MAX_LIST_BYTES: usize = MAX_JSON - 8 * 1024;

type Result<T, E = Failure> = std::result::Result<T, E>;

/// The workspace.
#[derive(Debug)]
pub(super) struct Files {
    beneath: Beneath,
}

impl Files {
    /// All files below `workspace`.
    pub(super) fn new(workspace: &Path) -> io::Result<Self> {
        let files = Self { beneath: Beneath::new(workspace)? };
        files.forget_old_parts();
        Ok(files)
    }

    /// Serves one request. `stream` is in blocking mode. An error: the stream broke off.
    pub(super) fn serve(&self, mut stream: UnixStream, request: Request) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let stream = &mut stream;
        match request {
            Request::Stat { path } => answer(stream, self.stat(&path)),
            Request::List { path, after, limit } => answer(stream, self.list(&path, after.as_deref(), limit)),
            Request::Read { path, range, if_range } => self.read(stream, &path, range, if_range.as_deref()),
            Request::Write(write) => self.write(stream, &write),
            Request::Upload { path, upload } => answer(stream, self.upload_state(&path, &upload)),
            Request::Delete { path, recursive } => answer(stream, self.delete(&path, recursive).map(|()| Done {})),
            Request::Exec(_)
            | Request::Terminal { .. }
            | Request::Terminals {}
            | Request::EndTerminal { .. }
            | Request::Checkpoint {}
            | Request::Restore { .. } => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// A directory to run a program in.
    pub(super) fn directory(&self, path: &str) -> Result<File> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Never waits for the other end of a pipe.
    fn open(&self, path: &str, flags: OFlags) -> Result<File> {
        let relative = self.relative(path)?;
        self.beneath.open(&relative, flags | OFlags::NONBLOCK, Mode::empty()).map_err(|error| of_file(path, error))
    }

    /// The documents write the workspace as `/workspace`.
    fn relative(&self, path: &str) -> Result<std::path::PathBuf> {
        let shown = Path::new(path);
        let inside = shown.strip_prefix("/workspace").unwrap_or(shown);
        self.beneath.relative(inside).map_err(|error| of_file(path, error))
    }

    fn stat(&self, path: &str) -> Result<FileEntry> {
        let file = self.open(path, OFlags::PATH)?;
        let metadata = file.metadata().map_err(|error| of_io(path, &error))?;
        Ok(entry(name_of(path), &metadata))
    }

    fn list(&self, path: &str, after: Option<&str>, limit: u32) -> Result<FileList> {
        let failed = |error: Errno| of_file(path, error);
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let limit = limit.clamp(1, MAX_ENTRIES) as usize;
        // The first ones by name, however many there are: one more tells that there are more.
        let mut first = BTreeMap::new();
        for found in Dir::read_from(&dir).map_err(failed)? {
            let found = found.map_err(failed)?;
            let name = found.file_name().to_string_lossy().into_owned();
            let is_shown = !matches!(name.as_str(), "." | "..") && name != PARTS;
            if is_shown && after.is_none_or(|after| name.as_str() > after) {
                first.insert(name, found.file_name().to_owned());
                if first.len() > limit + 1 {
                    first.pop_last();
                }
            }
        }
        let (mut is_cut, mut room) = (first.len() > limit, MAX_LIST_BYTES);
        let mut entries = Vec::with_capacity(limit.min(first.len()));
        for (name, found) in first.into_iter().take(limit) {
            match statat(&dir, &found, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let entry = entry_of_stat(name, &stat);
                    let bytes = serde_json::to_vec(&entry).map_or(0, |json| json.len() + 1);
                    if bytes > room {
                        is_cut = true;
                        break;
                    }
                    room -= bytes;
                    entries.push(entry);
                }
                // Removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let next_after = entries.last().filter(|_| is_cut).map(|last| last.name.clone());
        Ok(FileList { entries, next_after })
    }

    fn read(
        &self,
        stream: &mut UnixStream,
        path: &str,
        range: Option<ByteRange>,
        if_range: Option<&str>,
    ) -> io::Result<()> {
        let (mut file, head) = match self.begin_read(path, range, if_range) {
            Ok(begun) => begun,
            Err(failure) => return write_json_blocking(stream, FrameKind::Failed, &failure),
        };
        write_json_blocking(stream, FrameKind::Answer, &head)?;
        let mut buffer = vec![0; HEAD_BYTES + MAX_DATA];
        let mut left = head.length;
        while left > 0 {
            let most = MAX_DATA.min(usize::try_from(left).unwrap_or(MAX_DATA));
            let count = match file.read(&mut buffer[HEAD_BYTES..HEAD_BYTES + most]) {
                Ok(0) => {
                    let detail = format!("{path}: it became shorter while it was read; repeat the request");
                    let failure = Failure::new(ErrorCode::Conflict, detail);
                    return write_json_blocking(stream, FrameKind::Failed, &failure);
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return write_json_blocking(stream, FrameKind::Failed, &of_io(path, &error)),
            };
            buffer[..HEAD_BYTES].copy_from_slice(&self::head(FrameKind::Data, count));
            stream.write_all(&buffer[..HEAD_BYTES + count])?;
            left -= count as u64;
        }
        stream.write_all(&self::head(FrameKind::End, 0))
    }

    fn begin_read(&self, path: &str, range: Option<ByteRange>, if_range: Option<&str>) -> Result<(File, ReadHead)> {
        let mut file = self.open(path, OFlags::RDONLY)?;
        let metadata = file.metadata().map_err(|error| of_io(path, &error))?;
        require_file(path, &metadata)?;
        let entry = entry(name_of(path), &metadata);
        let range = range.filter(|_| if_range.is_none_or(|tag| tag == entry.etag));
        let size = entry.size;
        let (offset, end) = match range {
            None => (0, size),
            Some(ByteRange::From(first)) => (first, size),
            Some(ByteRange::Between(first, last)) => (first, last.saturating_add(1).min(size)),
            Some(ByteRange::Last(count)) => (size.saturating_sub(count), size),
        };
        if range.is_some() && offset >= end {
            let detail = format!("{path}: it has {size} bytes");
            return Err(Failure::new(ErrorCode::RangeNotSatisfiable, detail));
        }
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).map_err(|error| of_io(path, &error))?;
        }
        Ok((file, ReadHead { entry, offset, length: end - offset, partial: range.is_some() }))
    }
}

/// A whole answer.
fn answer<T: serde::Serialize>(stream: &mut UnixStream, result: Result<T>) -> io::Result<()> {
    match result {
        Ok(value) => write_json_blocking(stream, FrameKind::Answer, &value),
        Err(failure) => write_json_blocking(stream, FrameKind::Failed, &failure),
    }
}

fn require_file(path: &str, metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let detail = if metadata.is_dir() {
        format!("{path}: it is a directory; its names are at files/list")
    } else {
        format!("{path}: it is a pipe, a socket or a device, not a file")
    };
    Err(Failure::new(ErrorCode::WrongFileKind, detail))
}

/// Without its directory.
fn name_of(path: &str) -> String {
    Path::new(path).file_name().unwrap_or(OsStr::new(".")).to_string_lossy().into_owned()
}

fn entry(name: String, metadata: &Metadata) -> FileEntry {
    let what = What {
        mode: metadata.mode(),
        size: metadata.size(),
        inode: metadata.ino(),
        seconds: metadata.mtime(),
        nanos: metadata.mtime_nsec(),
    };
    what.entry(name)
}

fn entry_of_stat(name: String, stat: &rustix::fs::Stat) -> FileEntry {
    let what = What {
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        inode: stat.st_ino,
        seconds: stat.st_mtime,
        nanos: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    };
    what.entry(name)
}

/// What a file system says of a file, whichever way it was asked.
struct What {
    mode: u32,
    size: u64,
    inode: u64,
    seconds: i64,
    nanos: i64,
}

impl What {
    fn entry(&self, name: String) -> FileEntry {
        let kind = match FileType::from_raw_mode(self.mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Link,
            _ => FileKind::Other,
        };
        let nanos = i32::try_from(self.nanos).unwrap_or(0);
        FileEntry {
            name,
            kind,
            size: self.size,
            // A file can have any time; what no calendar has is shown as its beginning.
            modified: Timestamp::new(self.seconds, nanos).unwrap_or_default(),
            executable: kind == FileKind::File && self.mode & 0o100 != 0,
            etag: format!("\"{:x}-{:x}-{:x}.{:x}\"", self.inode, self.size, self.seconds, self.nanos),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests;
