//! Reading: every byte is proved before anybody hears that the backup is whole, and nothing is believed of a length.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context as Digest, SHA256};
use serde::de::DeserializeOwned;

use super::{BUFFER, End, Frame, Header, MAGIC, MAX_FRAME, Stream, Trailer, hex};
use crate::backup::{Fault, Kind, shown};
use crate::keys::{Keys, same_secret};

/// A backup that is being read.
pub struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    /// What it is of.
    pub header: Header,
    all: Digest,
    pub(super) read: u64,
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
