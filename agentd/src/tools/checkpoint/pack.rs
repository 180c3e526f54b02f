//! Packs: pieces behind each other, compressed together. A piece that is known is not packed again.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;

use helix_protocol::checkpoint::{PACK_BYTES, Piece};
use helix_protocol::image::Digest;

use super::{COMPRESSION, keep};

/// Where pieces go.
pub(super) struct Packer {
    places: HashMap<Digest, Piece>,
    open: Vec<u8>,
    /// Pieces of the open pack, whose name is not known yet: where each begins, and its length.
    inside: HashMap<Digest, (u32, u32)>,
}

impl Packer {
    /// With what is kept already.
    pub(super) fn new(known: impl Iterator<Item = Piece>) -> Self {
        Self { places: known.map(|piece| (piece.hash, piece)).collect(), open: Vec::new(), inside: HashMap::new() }
    }

    /// Adds a piece; a full pack is kept.
    pub(super) fn add(&mut self, bytes: &[u8], stream: &mut UnixStream) -> io::Result<Digest> {
        let hash = Digest::of(bytes);
        if self.places.contains_key(&hash) || self.inside.contains_key(&hash) {
            return Ok(hash);
        }
        if !self.open.is_empty() && self.open.len() + bytes.len() > PACK_BYTES {
            self.close(stream)?;
        }
        self.inside.insert(hash, (self.open.len() as u32, bytes.len() as u32));
        self.open.extend_from_slice(bytes);
        Ok(hash)
    }

    /// Keeps the open pack.
    pub(super) fn close(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        if self.inside.is_empty() {
            return Ok(());
        }
        let pack = keep(&zstd::bulk::compress(&self.open, COMPRESSION)?, stream)?;
        let placed = self.inside.drain();
        self.places.extend(placed.map(|(hash, (offset, bytes))| (hash, Piece { hash, pack, offset, bytes })));
        self.open.clear();
        Ok(())
    }

    /// Where a piece of a closed pack is.
    pub(super) fn place(&self, hash: &Digest) -> Option<Piece> {
        self.places.get(hash).cloned()
    }
}
