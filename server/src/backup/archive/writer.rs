//! Writing: beside the file's name until it is whole, so that half a backup never has one.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context as Digest, SHA256};
use serde::Serialize;

use super::{BUFFER, End, Header, MAGIC, MAX_FRAME, Stream, Trailer, hex};
use crate::backup::{Fault, shown};
use crate::keys::Keys;

/// A backup that is being written: beside its name, until it is whole.
pub struct Writer {
    file: BufWriter<File>,
    /// Where it is until then; removed unless it is finished.
    part: PathBuf,
    path: PathBuf,
    all: Digest,
    stream: Option<(Digest, u64)>,
    written: u64,
    finished: bool,
}

impl Writer {
    /// Begins. What an earlier run left under the same name is thrown away.
    pub fn create(path: &Path, header: &Header) -> Result<Self, Fault> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let open = || -> io::Result<File> {
            let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&part)?;
            // Two at once would write into each other's.
            rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
            file.set_len(0)?;
            Ok(file)
        };
        let file = open().map_err(|err| {
            let busy = err.kind() == io::ErrorKind::WouldBlock;
            let why = if busy { "another backup is being written there".to_owned() } else { err.to_string() };
            Fault::failed("cannot write the backup").at(shown(&part)).because(why).next("name another file")
        })?;
        let file = BufWriter::with_capacity(BUFFER, file);
        let all = Digest::new(&SHA256);
        let path = path.to_owned();
        let mut writer = Self { file, part, path, all, stream: None, written: 0, finished: false };
        writer.raw(MAGIC)?;
        writer.json(b'H', header)?;
        Ok(writer)
    }

    /// Begins a stream.
    pub fn begin(&mut self, stream: &Stream) -> Result<(), Fault> {
        self.stream = Some((Digest::new(&SHA256), 0));
        self.json(b'S', stream)
    }

    /// A piece of it.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if let Some((digest, length)) = &mut self.stream {
            digest.update(bytes);
            *length += bytes.len() as u64;
        }
        self.frame(b'C', bytes)
    }

    /// Its end; how many bytes it has.
    pub fn end(&mut self) -> Result<u64, Fault> {
        let (digest, bytes) = self.stream.take().unwrap_or_else(|| (Digest::new(&SHA256), 0));
        self.json(b'E', &End { bytes, sha256: hex(digest) })?;
        Ok(bytes)
    }

    /// Proves it, puts it on the disk and gives it its name. Its digest and its bytes.
    pub fn finish(mut self, keys: &Keys) -> Result<(String, u64), Fault> {
        let digest = self.all.clone().finish();
        let sha256 = helix_protocol::ids::hex(digest.as_ref());
        self.json(b'T', &Trailer { sha256: sha256.clone(), proof: keys.backup_proof(digest.as_ref()) })?;
        let mut place = || -> io::Result<()> {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                &self.part,
                rustix::fs::CWD,
                &self.path,
                rustix::fs::RenameFlags::NOREPLACE,
            )?;
            let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(dir)?.sync_all()
        };
        place().map_err(|err| self.fault(&err))?;
        self.finished = true;
        Ok((sha256, self.written))
    }

    fn json<T: Serialize>(&mut self, letter: u8, value: &T) -> Result<(), Fault> {
        let text = serde_json::to_vec(value).map_err(|err| Fault::failed("cannot encode the backup").because(err))?;
        self.frame(letter, &text)
    }

    fn frame(&mut self, letter: u8, bytes: &[u8]) -> Result<(), Fault> {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_FRAME);
        let length = length.ok_or_else(|| Fault::failed("cannot write the backup").because("a piece is too large"))?;
        self.raw(&[letter])?;
        self.raw(&length.to_be_bytes())?;
        self.raw(bytes)
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.all.update(bytes);
        self.written += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|err| self.fault(&err))
    }

    fn fault(&self, err: &io::Error) -> Fault {
        let next = match err.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free some space, or name a file on another disk"
            }
            io::ErrorKind::AlreadyExists => "somebody made the file meanwhile; name another one",
            _ => "name another file",
        };
        Fault::failed("cannot write the backup").at(shown(&self.path)).because(err).next(next)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // Half a backup is none.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}
