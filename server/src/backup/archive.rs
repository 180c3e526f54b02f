//! The file of a backup: frames, one after the other, that are written and read in one pass with constant memory.
//!
//! `HELIX-BACKUP-1\n`, then frames of a letter, a length (u32, big endian) and as many bytes:
//!
//! | letter | content |
//! |---|---|
//! | `H` | JSON [`Header`]: when, by which version, under which server key |
//! | `S` | JSON [`Stream`]: begins a stream, with its configuration and state |
//! | `C` | a piece of its snapshot, as JetStream made it |
//! | `E` | JSON [`End`] of a stream: bytes and SHA-256 of its pieces |
//! | `T` | JSON [`Trailer`]: SHA-256 of everything before this frame, and its proof under the server key |
//!
//! The proof is an HMAC: tokens are in a backup, so nobody may add one to it. Reading and writing block: the commands that do
//! have nothing else to do.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context as Digest, SHA256};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Fault, Kind, StreamDone, shown};
use crate::keys::{Keys, same_secret};

const MAGIC: &[u8] = b"HELIX-BACKUP-1\n";
/// Larger than any frame that is written.
const MAX_FRAME: u32 = 16 << 20;
const BUFFER: usize = 1 << 20;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// When it was begun.
    pub created_at: String,
    /// Version of helix-server.
    pub helix: String,
    /// Version of nats-server.
    pub nats: String,
    /// Which server key seals what is in it.
    pub server_key: String,
}

/// One stream, as JetStream tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub config: serde_json::Value,
    /// How many messages, from which sequence to which.
    pub state: serde_json::Value,
}

impl Stream {
    /// A number of its state.
    pub fn number(&self, key: &str) -> u64 {
        self.state[key].as_u64().unwrap_or(0)
    }
}

/// The end of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    bytes: u64,
    sha256: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Trailer {
    sha256: String,
    proof: String,
}

/// One step of reading.
#[derive(Debug)]
pub enum Frame {
    /// A stream begins.
    Stream(Stream),
    /// A piece of it.
    Chunk(Vec<u8>),
    /// It ends; so many bytes.
    End(u64),
    /// The backup ends, whole; its digest.
    Whole(String),
}

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

/// A backup that is being read.
pub struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    /// What it is of.
    pub header: Header,
    all: Digest,
    read: u64,
    stream: Option<(String, Digest, u64)>,
    keys: Arc<Keys>,
}

impl Reader {
    /// Opens it, and refuses what is no backup, and one of another server key.
    pub fn open(path: &Path, keys: &Arc<Keys>) -> Result<Self, Fault> {
        let wrong = |why: String| Fault::new(Kind::Usage, "cannot read the backup").at(shown(path)).because(why);
        let file = File::open(path).map_err(|err| wrong(err.to_string()).next("name the file of a backup"))?;
        let mut file = BufReader::with_capacity(BUFFER, file);
        let mut magic = vec![0; MAGIC.len()];
        if file.read_exact(&mut magic).is_err() || magic != MAGIC {
            return Err(wrong("it is no backup of Helix".to_owned()).next("name a file that `helixctl backup` made"));
        }
        let header =
            Header { created_at: String::new(), helix: String::new(), nats: String::new(), server_key: String::new() };
        let mut all = Digest::new(&SHA256);
        all.update(MAGIC);
        let read = MAGIC.len() as u64;
        let mut reader = Self { file, path: path.to_owned(), header, all, read, stream: None, keys: Arc::clone(keys) };
        let (letter, bytes) = reader.frame()?;
        if letter != b'H' {
            return Err(reader.damaged("its header is missing"));
        }
        reader.header = reader.parsed(&bytes)?;
        if reader.header.server_key != keys.fingerprint() {
            let why = format!(
                "it was made under server key {}, and key_file here is {}: tokens of sessions, sealed secrets and runners' \
                 way in depend on that key",
                reader.header.server_key,
                keys.fingerprint()
            );
            let next =
                "let key_file of server.toml name the server key of that fleet, which is kept apart from backups";
            return Err(Fault::new(Kind::Refused, "the backup is of another fleet")
                .at(shown(path))
                .because(why)
                .next(next));
        }
        Ok(reader)
    }

    /// The next step.
    pub fn step(&mut self) -> Result<Frame, Fault> {
        let before = self.all.clone();
        let (letter, bytes) = self.frame()?;
        match letter {
            b'S' if self.stream.is_none() => {
                let stream: Stream = self.parsed(&bytes)?;
                self.stream = Some((stream.name.clone(), Digest::new(&SHA256), 0));
                Ok(Frame::Stream(stream))
            }
            b'C' => match &mut self.stream {
                Some((_, digest, length)) => {
                    digest.update(&bytes);
                    *length += bytes.len() as u64;
                    Ok(Frame::Chunk(bytes))
                }
                None => Err(self.damaged("a piece belongs to no stream")),
            },
            b'E' => {
                let end: End = self.parsed(&bytes)?;
                let Some((name, digest, length)) = self.stream.take() else {
                    return Err(self.damaged("a stream ends that did not begin"));
                };
                if (end.bytes, end.sha256) != (length, hex(digest)) {
                    return Err(self.damaged(&format!("stream {name} is not what was written")));
                }
                Ok(Frame::End(length))
            }
            b'T' if self.stream.is_none() => {
                let trailer: Trailer = self.parsed(&bytes)?;
                let digest = before.finish();
                let sha256 = helix_protocol::ids::hex(digest.as_ref());
                if sha256 != trailer.sha256 {
                    return Err(self.damaged("it is not what was written"));
                }
                if !same_secret(&trailer.proof, &self.keys.backup_proof(digest.as_ref())) {
                    return Err(self.damaged("who wrote it did not have the server key: it was tampered with"));
                }
                if self.file.read(&mut [0]).map_err(|err| self.damaged(&err.to_string()))? != 0 {
                    return Err(self.damaged("something follows its end"));
                }
                Ok(Frame::Whole(sha256))
            }
            _ => Err(self.damaged("a part of it is not known")),
        }
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), Fault> {
        let mut head = [0; 5];
        self.exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        if length > MAX_FRAME {
            return Err(self.damaged("a part of it is larger than any that is written"));
        }
        let mut bytes = vec![0; length as usize];
        self.exact(&mut bytes)?;
        Ok((head[0], bytes))
    }

    fn exact(&mut self, into: &mut [u8]) -> Result<(), Fault> {
        if let Err(err) = self.file.read_exact(into) {
            if err.kind() == io::ErrorKind::UnexpectedEof {
                return Err(self.damaged("it ends before its end: it was cut off"));
            }
            return Err(self.damaged(&err.to_string()));
        }
        self.all.update(into);
        self.read += into.len() as u64;
        Ok(())
    }

    fn parsed<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Fault> {
        serde_json::from_slice(bytes).map_err(|err| self.damaged(&format!("a part of it cannot be read: {err}")))
    }

    fn damaged(&self, why: &str) -> Fault {
        let at = format!("{}, about byte {}", shown(&self.path), self.read);
        Fault::new(Kind::Usage, "the backup is damaged")
            .at(at)
            .because(why)
            .next("nothing was changed; take another backup")
    }
}

/// Reads all of it: what it is of, its streams, its digest and its bytes.
pub fn verify(path: &Path, keys: &Arc<Keys>) -> Result<(Header, Vec<StreamDone>, String, u64), Fault> {
    let mut reader = Reader::open(path, keys)?;
    let (mut streams, mut begun) = (Vec::new(), None);
    loop {
        match reader.step()? {
            Frame::Stream(stream) => begun = Some((stream.name.clone(), stream.number("messages"))),
            Frame::Chunk(_) => {}
            Frame::End(bytes) => {
                streams.extend(begun.take().map(|(name, messages)| StreamDone { name, messages, bytes }));
            }
            Frame::Whole(digest) => return Ok((reader.header, streams, digest, reader.read)),
        }
    }
}

fn hex(digest: Digest) -> String {
    helix_protocol::ids::hex(digest.finish().as_ref())
}

#[cfg(test)]
mod tests;
