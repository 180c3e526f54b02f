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

mod reader;
mod writer;

use std::path::Path;
use std::sync::Arc;

use ring::digest::Context as Digest;
use serde::{Deserialize, Serialize};

pub use self::reader::Reader;
pub use self::writer::Writer;
use super::{Fault, StreamDone};
use crate::keys::Keys;

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
