//! Reads an image again: its tar, chunk by chunk, and the list of its files.

use std::collections::BTreeMap;
use std::io::{self, Read};

use helix_protocol::image::{BIND_TARGETS, Chunk, ImageManifest};
use serde::Serialize;

use super::artifacts;
use super::store::Store;
use super::worker;
use crate::error::{CliError, Result};

/// The tar of an image as one stream; each chunk is proved before any of it is given out.
pub struct Tar<'a> {
    store: &'a Store,
    chunks: std::vec::IntoIter<Chunk>,
    chunk: Vec<u8>,
    at: usize,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `file`, `directory`, `link`, `hard link`.
    pub kind: &'static str,
    /// Octal.
    pub mode: String,
    /// Owner and group.
    pub owner: (u64, u64),
    /// Bytes.
    pub bytes: u64,
    /// Digest of a file's content, or where a link leads.
    pub content: String,
}

impl<'a> Tar<'a> {
    /// The tar of this image.
    pub fn open(store: &'a Store, manifest: &ImageManifest) -> Result<Self> {
        Ok(Self { store, chunks: store.index(manifest)?.into_iter(), chunk: Vec::new(), at: 0 })
    }
}

impl Read for Tar<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            let Some(next) = self.chunks.next() else { return Ok(0) };
            (self.chunk, self.at) = (self.store.chunk(&next.digest).map_err(io::Error::other)?, 0);
        }
        let count = into.len().min(self.chunk.len() - self.at);
        into[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// All files of an image by their path.
pub fn entries(store: &Store, manifest: &ImageManifest) -> Result<BTreeMap<String, Entry>> {
    let bad = |error: io::Error| CliError::failed("cannot read the image").at(&manifest.name).because(error);
    let mut archive = tar::Archive::new(Tar::open(store, manifest)?);
    let mut all = BTreeMap::new();
    for entry in archive.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        let path = entry.path_bytes();
        let path = String::from_utf8_lossy(&path).trim_start_matches("./").trim_end_matches('/').to_owned();
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => "directory",
            tar::EntryType::Symlink => "link",
            tar::EntryType::Link => "hard link",
            _ => "file",
        };
        let mode = format!("{:04o}", header.mode().map_err(bad)?);
        let owner = (header.uid().map_err(bad)?, header.gid().map_err(bad)?);
        let bytes = entry.size();
        let content = match kind {
            "file" => artifacts::digest_of(&mut entry).map_err(bad)?.to_string(),
            "directory" => String::new(),
            _ => String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned(),
        };
        all.insert(format!("/{path}"), Entry { kind, mode, owner, bytes, content });
    }
    Ok(all)
}

/// Places that sessions need and an image lacks.
pub fn missing_targets(entries: &BTreeMap<String, Entry>) -> Vec<&'static str> {
    let is_right = |target: &&&str| {
        let wanted = if worker::is_file_target(target) { "file" } else { "directory" };
        entries.get(**target).is_some_and(|entry| entry.kind == wanted)
    };
    BIND_TARGETS.iter().filter(|target| !is_right(target)).copied().collect()
}
