//! Checkpoints, the session's end: reads the workspace into packs, and fills one from them. A thread per request, in unit
//! `tools`, hence as the session's user: nobody else ever opens a file there.
//!
//! Nothing is written into the workspace, and no program of the project's runs: repositories are files like others, with
//! their index, stash and all. `git` is asked for one thing, what it ignores, with its hooks and watchers switched off ([`walk`]). What was read is
//! remembered in a file below HOME ([`state`]): the next checkpoint reads what has changed since, and brings what is new. The
//! stream to agentd carries a [`Step`] at a time, each answered before the next one, so that no more than one pack is in
//! memory. Where it breaks off, nothing happened.

mod pack;
mod restore;
mod state;
mod walk;

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use helix_protocol::ErrorCode;
use helix_protocol::checkpoint::{FORMAT, MAX_NAMED, MAX_STORED_BYTES, Manifest, Piece};
use helix_protocol::image::Digest;
use helix_protocol::tools::{Failure, FrameKind, MAX_DATA, head};
use serde::{Deserialize, Serialize};

use self::pack::Packer;
use self::state::State;
use super::frames::{parse, read_blocking, write_json_blocking};

/// agentd asks servers for as long as it takes to find one.
const PATIENCE: Duration = Duration::from_mins(10);
/// Entries of one page at most.
const MAX_PAGE_ENTRIES: usize = 4096;
/// The quickest: a workspace is packed again and again.
const COMPRESSION: i32 = 1;

/// What the session says next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Step {
    /// Bytes to keep follow, as data, then an end. Answered by [`Answer::Done`].
    Keep {
        /// SHA-256 of them.
        digest: Digest,
    },
    /// These bytes are needed. Answered by data, then an end.
    Want {
        /// SHA-256 of them.
        digest: Digest,
    },
    /// Everything of the checkpoint is kept. Answered by [`Answer::Done`] or [`Answer::Refused`].
    Commit {
        /// Its manifest.
        manifest: Digest,
    },
    /// Nothing has changed since the last checkpoint.
    Unchanged {},
    /// The workspace is filled.
    Filled {},
}

/// agentd's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// Go on.
    Done {},
    /// The server does not have what it should: everything is to be brought again with the next one.
    Refused {},
}

/// Makes a checkpoint. An error: the stream broke off.
pub(super) fn make(workspace: &Path, mut stream: UnixStream) -> io::Result<()> {
    prepare(&stream)?;
    match Maker::new(workspace).run(&mut stream) {
        Ok(()) => Ok(()),
        Err(error) => fail(&mut stream, &format!("the workspace cannot be read: {error}")),
    }
}

/// Fills an empty workspace from a manifest.
pub(super) fn fill(workspace: &Path, manifest: Digest, mut stream: UnixStream) -> io::Result<()> {
    prepare(&stream)?;
    match restore::fill(workspace, manifest, &mut stream) {
        Ok(()) => write_json_blocking(&mut stream, FrameKind::Answer, &Step::Filled {}),
        Err(error) => fail(&mut stream, &format!("the workspace cannot be filled: {error}")),
    }
}

fn prepare(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn fail(stream: &mut UnixStream, detail: &str) -> io::Result<()> {
    write_json_blocking(stream, FrameKind::Failed, &Failure::new(ErrorCode::CheckpointFailed, detail))
}

struct Maker<'a> {
    workspace: &'a Path,
    before: State,
    packer: Packer,
}

impl<'a> Maker<'a> {
    fn new(workspace: &'a Path) -> Self {
        let before = State::load();
        let packer = Packer::new(before.pieces());
        Self { workspace, before, packer }
    }

    fn run(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        let mut found = walk::walk(self.workspace)?;
        let mut now = State::default();
        let before: HashMap<_, _> =
            self.before.entries.iter().map(|known| (known.entry.path.as_str(), known)).collect();
        let mut hashes: Vec<Vec<Digest>> = Vec::with_capacity(found.entries.len());
        for mut item in std::mem::take(&mut found.entries) {
            let known = before.get(item.entry.path.as_str()).filter(|known| known.stat == item.stat);
            let own = match known {
                Some(known) if known.entry.is_like(&item.entry) => {
                    known.entry.pieces.iter().map(|piece| piece.hash).collect()
                }
                _ if item.entry.is_file() => {
                    match walk::read(self.workspace, &mut item, |bytes| self.packer.add(bytes, stream)) {
                        Ok(own) => own,
                        Err(walk::ReadError::Gone) => continue,
                        Err(walk::ReadError::LeftOut(reason)) => {
                            found.leave_out(&item.entry.path, reason);
                            continue;
                        }
                        Err(walk::ReadError::Stream(error)) => return Err(error),
                    }
                }
                _ => Vec::new(),
            };
            hashes.push(own);
            now.entries.push(item);
        }
        drop(before);
        self.packer.close(stream)?;
        for (item, own) in now.entries.iter_mut().zip(hashes) {
            item.entry.pieces = own.iter().filter_map(|hash| self.packer.place(hash)).collect();
        }
        let mut order: Vec<usize> = (0..now.entries.len()).collect();
        order.sort_unstable_by(|a, b| now.entries[*a].entry.path.cmp(&now.entries[*b].entry.path));
        let pages = self.pages(&now, &order, stream)?;
        let same = |a: &[Piece], b: &[Piece]| a.iter().map(|piece| piece.hash).eq(b.iter().map(|piece| piece.hash));
        if self.before.manifest.is_some() && same(&pages, &self.before.pages) {
            return write_json_blocking(stream, FrameKind::Answer, &Step::Unchanged {});
        }
        let mut packs: Vec<Digest> = pages.iter().map(|page| page.pack).collect();
        packs.extend(now.entries.iter().flat_map(|item| item.entry.pieces.iter().map(|piece| piece.pack)));
        packs.sort_unstable_by_key(|digest| *digest.as_bytes());
        packs.dedup();
        found.left_out.truncate(MAX_NAMED);
        let manifest = Manifest {
            format: FORMAT,
            pages: pages.clone(),
            packs,
            entries: now.entries.len() as u64,
            bytes: now.entries.iter().map(|item| item.entry.size).sum(),
            left_out: found.left_out,
            left_out_count: found.left_out_count,
        };
        let stored = zstd::bulk::compress(&serde_json::to_vec(&manifest)?, COMPRESSION)?;
        let digest = keep(&stored, stream)?;
        write_json_blocking(stream, FrameKind::Answer, &Step::Commit { manifest: digest })?;
        match answer(stream)? {
            Answer::Done {} => {
                (now.manifest, now.pages) = (Some(digest), pages);
                now.save()
            }
            Answer::Refused {} => State::forget(),
        }
    }

    /// The list of files. Where a page ends depends on the paths alone, so that most stay as they are.
    fn pages(&mut self, now: &State, order: &[usize], stream: &mut UnixStream) -> io::Result<Vec<Piece>> {
        let (mut hashes, mut page, mut entries) = (Vec::new(), Vec::new(), 0);
        for (place, index) in order.iter().enumerate() {
            let entry = &now.entries[*index].entry;
            serde_json::to_writer(&mut page, entry)?;
            page.push(b'\n');
            entries += 1;
            let cut = Digest::of(entry.path.as_bytes()).as_bytes()[0] == 0;
            if cut || entries >= MAX_PAGE_ENTRIES || place + 1 == order.len() {
                hashes.push(self.packer.add(&page, stream)?);
                page.clear();
                entries = 0;
            }
        }
        self.packer.close(stream)?;
        Ok(hashes.iter().filter_map(|hash| self.packer.place(hash)).collect())
    }
}

/// Has agentd keep these bytes.
fn keep(bytes: &[u8], stream: &mut UnixStream) -> io::Result<Digest> {
    if bytes.len() > MAX_STORED_BYTES {
        return Err(io::Error::other("there are too many files for one checkpoint"));
    }
    let digest = Digest::of(bytes);
    write_json_blocking(stream, FrameKind::Answer, &Step::Keep { digest })?;
    for part in bytes.chunks(MAX_DATA) {
        stream.write_all(&[&head(FrameKind::Data, part.len())[..], part].concat())?;
    }
    stream.write_all(&head(FrameKind::End, 0))?;
    match answer(stream)? {
        Answer::Done {} => Ok(digest),
        Answer::Refused {} => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Bytes that agentd brings, proved.
fn want(digest: Digest, stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    write_json_blocking(stream, FrameKind::Answer, &Step::Want { digest })?;
    let (mut bytes, mut payload) = (Vec::new(), Vec::new());
    loop {
        match read_blocking(stream, &mut payload)? {
            FrameKind::Data => bytes.extend_from_slice(&payload),
            FrameKind::End => break,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        if bytes.len() > MAX_STORED_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(io::Error::other(format!("{digest} is damaged"))) }
}

fn answer(stream: &mut UnixStream) -> io::Result<Answer> {
    let mut payload = Vec::new();
    match read_blocking(stream, &mut payload)? {
        FrameKind::Control => parse(&payload),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests;
