//! Uploads: bytes come into a part of their own, which takes the file's place in one step when all of them are there
//! and on the disk. Whatever happens before, the old file is as it was.
//!
//! Parts are in [`PARTS`] at the top of the workspace, so that they are on its disk and easy to find. One that has a
//! name is kept when its stream breaks off, for [`KEPT`], and gone on with under that name; one without goes at once. A lock
//! keeps two from writing the same.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use helix_protocol::ErrorCode;
use helix_protocol::ids::hex;
use helix_protocol::tools::{Failure, FileEntry, FrameKind, UploadState, WriteRequest, is_name};
use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::{Files, PATIENCE, Result, entry, name_of, of_file, of_io};
use crate::tools::frames::{read_blocking, write_json_blocking};

/// Directory of the parts.
pub(crate) const PARTS: &str = ".helix-parts";
/// How long a part is kept that nobody goes on with.
const KEPT: Duration = Duration::from_hours(24);
/// How long a refused writer may take to notice.
const NOTICE: Duration = Duration::from_secs(10);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A part that is being written.
struct Part {
    parts: OwnedFd,
    name: String,
    file: File,
    /// It has a name by which its writer comes again.
    is_kept: bool,
}

/// Why an upload did not end well.
enum Broken {
    /// To be told to the writer.
    Refused(Failure),
    /// The writer is gone.
    Gone(io::Error),
}

impl Files {
    /// Takes a file.
    pub(super) fn write(&self, stream: &mut UnixStream, request: &WriteRequest) -> io::Result<()> {
        let written = self.begin(request).map_err(Broken::Refused).and_then(|mut part| {
            let received = self.receive(stream, request, &mut part);
            if received.is_err() && !part.is_kept {
                let _ = unlinkat(&part.parts, &part.name, AtFlags::empty());
            }
            received
        });
        match written {
            Ok(entry) => write_json_blocking(stream, FrameKind::Answer, &entry),
            Err(Broken::Gone(error)) => Err(error),
            Err(Broken::Refused(failure)) => {
                write_json_blocking(stream, FrameKind::Failed, &failure)?;
                // It may still be sending: one that is cut off meanwhile might not hear why.
                stream.set_read_timeout(Some(NOTICE))?;
                let mut ignored = Vec::new();
                while read_blocking(stream, &mut ignored).is_ok() {}
                Ok(())
            }
        }
    }

    /// How far an upload has come.
    pub(super) fn upload_state(&self, path: &str, upload: &str) -> Result<UploadState> {
        let name = part_name(&self.relative(path)?, path, Some(upload))?;
        let received = self.parts(false).and_then(|parts| statat(&parts, &name, AtFlags::SYMLINK_NOFOLLOW));
        match received {
            Ok(stat) => Ok(UploadState { received: u64::try_from(stat.st_size).unwrap_or(0) }),
            Err(Errno::NOENT) => Ok(UploadState { received: 0 }),
            Err(error) => Err(of_file(PARTS, error)),
        }
    }

    fn begin(&self, request: &WriteRequest) -> Result<Part> {
        let WriteRequest { path, upload, offset, .. } = request;
        let relative = self.relative(path)?;
        // Before anything is sent: what could never take its place, and who has no room.
        self.beneath
            .parent(&relative)
            .or_else(|error| match error {
                Errno::NOENT => {
                    self.beneath.make_parents(&relative, Mode::from_raw_mode(0o755))?;
                    self.beneath.parent(&relative)
                }
                error => Err(error),
            })
            .and_then(|(dir, name)| match statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => Err(Errno::ISDIR),
                Ok(_) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(error),
            })
            .map_err(|error| of_file(path, error))?;

        let name = part_name(&relative, path, upload.as_deref())?;
        let failed = |error: Errno| of_file(PARTS, error);
        let parts = self.parts(true).map_err(failed)?;
        self.forget_old_parts();
        let mismatch = |why: String| Failure::new(ErrorCode::UploadMismatch, format!("{path}: {why}"));
        let part = open_part(&parts, &name).map_err(failed)?;
        let mut file = part.ok_or_else(|| mismatch("somebody goes on with this upload right now".to_owned()))?;
        let received = file.metadata().map_err(|error| of_io(path, &error))?.size();
        if *offset == 0 {
            file.set_len(0).map_err(|error| of_io(path, &error))?;
        } else if *offset != received {
            return Err(mismatch(format!("{received} bytes have come, not {offset}; go on with offset={received}")));
        }
        file.seek(SeekFrom::Start(*offset)).map_err(|error| of_io(path, &error))?;
        Ok(Part { parts, name, file, is_kept: upload.is_some() })
    }

    fn receive(
        &self,
        stream: &mut UnixStream,
        request: &WriteRequest,
        part: &mut Part,
    ) -> std::result::Result<FileEntry, Broken> {
        let path = &request.path;
        let refused = |error: &io::Error| Broken::Refused(of_io(path, error));
        let mut payload = Vec::new();
        stream.set_read_timeout(Some(PATIENCE)).map_err(Broken::Gone)?;
        loop {
            match read_blocking(stream, &mut payload).map_err(Broken::Gone)? {
                FrameKind::Data => part.file.write_all(&payload).map_err(|error| refused(&error))?,
                FrameKind::End => break,
                _ => return Err(Broken::Gone(io::ErrorKind::InvalidData.into())),
            }
        }
        // A file in its place is whole, whatever happens to the machine.
        part.file.sync_data().map_err(|error| refused(&error))?;
        self.put_in_place(request, part).map_err(|error| Broken::Refused(of_file(path, error)))?;
        let metadata = part.file.metadata().map_err(|error| refused(&error))?;
        Ok(entry(name_of(path), &metadata))
    }

    fn put_in_place(&self, request: &WriteRequest, part: &Part) -> rustix::io::Result<()> {
        let relative = self.beneath.relative(&self.relative(&request.path).map_err(|_| Errno::XDEV)?)?;
        self.beneath.make_parents(&relative, Mode::from_raw_mode(0o755))?;
        let (dir, name) = self.beneath.parent(&relative)?;
        let former = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let former = former.filter(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file());
        let mode = match (request.executable, former) {
            (Some(true), _) => 0o755,
            (None, Some(former)) => former.st_mode & 0o777,
            _ => 0o644,
        };
        fchmod(&part.file, Mode::from_raw_mode(mode))?;
        renameat(&part.parts, &part.name, &dir, &name)
    }

    /// The directory of the parts; made, with a file by which git leaves it alone.
    fn parts(&self, make: bool) -> rustix::io::Result<OwnedFd> {
        let root = self.beneath.open(".".as_ref(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        match openat(&root, PARTS, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) if make => {}
            done => return done,
        }
        match mkdirat(&root, PARTS, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let parts = openat(&root, PARTS, DIRECTORY, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        if let Ok(ignore) = openat(&parts, ".gitignore", flags, Mode::from_raw_mode(0o600)) {
            let _ = File::from(ignore).write_all(b"*\n");
        }
        Ok(parts)
    }

    /// Removes parts that nobody has gone on with for long.
    pub(super) fn forget_old_parts(&self) {
        let Ok(parts) = self.parts(false) else { return };
        let Ok(entries) = Dir::read_from(&parts) else { return };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        for found in entries.flatten() {
            let name = found.file_name();
            if matches!(name.to_bytes(), b"." | b".." | b".gitignore") {
                continue;
            }
            let Ok(stat) = statat(&parts, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let age = now.saturating_sub(u64::try_from(stat.st_mtime).unwrap_or(0));
            if age > KEPT.as_secs() {
                let _ = unlinkat(&parts, name, AtFlags::empty());
            }
        }
    }
}

/// Opens a part, made where it is not there; None where somebody else has it.
pub(super) fn open_part(parts: &OwnedFd, name: &str) -> rustix::io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        let file = File::from(openat(parts, name, flags, Mode::from_raw_mode(0o600))?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error),
        }
        let (ours, named) = (fstat(&file)?, statat(parts, name, AtFlags::SYMLINK_NOFOLLOW));
        match named {
            Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => return Ok(Some(file)),
            // Who had it before has put it in its place: that is a file now which nobody may write.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
}

/// One per file and upload.
fn part_name(relative: &std::path::Path, path: &str, upload: Option<&str>) -> Result<String> {
    let own = match upload {
        Some(upload) if is_name(upload) => upload.to_owned(),
        Some(_) => {
            let detail = "upload: use 1 to 64 letters, digits, _ and -";
            return Err(Failure::new(ErrorCode::InvalidRequest, detail));
        }
        None => {
            let mut random = [0; 8];
            getrandom::fill(&mut random)
                .map_err(|error| Failure::new(ErrorCode::FileDenied, format!("{path}: no random bytes: {error}")))?;
            format!("once-{}", hex(&random))
        }
    };
    let place = Sha256::digest(std::os::unix::ffi::OsStrExt::as_bytes(relative.as_os_str()));
    Ok(format!("{own}.{}", hex(&place[..8])))
}
