//! What the last checkpoint had: below HOME, the session's own. Whoever spoils it spoils his own next checkpoint: what it says is proved
//! when it is used, and without it everything is read again.

use std::fs;
use std::io;
use std::path::PathBuf;

use helix_protocol::checkpoint::Piece;
use helix_protocol::image::Digest;
use serde::{Deserialize, Serialize};

use super::COMPRESSION;
use super::walk::Item;

/// Below HOME.
const FILE: &str = ".local/state/helix/checkpoint";
/// A file of this many bytes, decompressed, is not ours.
const MAX_BYTES: usize = 1 << 30;

/// A checkpoint as its maker remembers it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// Its manifest, once the server has it.
    pub(super) manifest: Option<Digest>,
    /// Its pages.
    pub(super) pages: Vec<Piece>,
    /// Everything in it, and how it was when it was read.
    pub(super) entries: Vec<Item>,
}

impl State {
    /// The last one; an empty one where there is none that can be read.
    pub(super) fn load() -> Self {
        let Some(file) = file() else { return Self::default() };
        let read = || -> Option<Self> {
            let mut text = Vec::new();
            let decoder = zstd::stream::read::Decoder::new(fs::File::open(file).ok()?).ok()?;
            io::Read::read_to_end(&mut io::Read::take(decoder, MAX_BYTES as u64), &mut text).ok()?;
            serde_json::from_slice(&text).ok()
        };
        read().unwrap_or_default()
    }

    /// Every piece that is kept.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.pages.iter().chain(self.entries.iter().flat_map(|item| &item.entry.pieces)).cloned()
    }

    /// Writes it, whole or not at all.
    pub(super) fn save(&self) -> io::Result<()> {
        let Some(file) = file() else { return Ok(()) };
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        let draft = file.with_extension("new");
        fs::write(&draft, zstd::bulk::compress(&serde_json::to_vec(self)?, COMPRESSION)?)?;
        fs::rename(draft, file)
    }

    /// The next checkpoint is a whole one.
    pub(super) fn forget() -> io::Result<()> {
        match file().map(fs::remove_file) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(not(test))]
fn file() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(FILE))
}

/// Tests of one process have one environment: each thread has a HOME of its own.
#[cfg(test)]
fn file() -> Option<PathBuf> {
    super::tests::HOME.with_borrow(|home| home.as_ref().map(|home| home.join(FILE)))
}
