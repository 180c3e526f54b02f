//! Fills an empty workspace: everything is made and proved in a directory beside its place, then put there. What is damaged
//! leaves nothing behind.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use helix_protocol::checkpoint::{FORMAT, MAX_ENTRIES, MAX_MANIFEST_BYTES, Manifest, Piece};
use helix_protocol::image::Digest;

use super::state::State;
use super::walk::{Entry, Item, decode};
use super::want;

/// Where it is made, in the workspace.
pub(super) const DRAFT: &str = ".helix-restore";
/// Most bytes of a pack, decompressed: a page may be longer than a piece.
const MAX_PACK_BYTES: usize = 64 << 20;
/// Packs that are held at once.
const HELD: usize = 4;

/// Fills `workspace`. Repeated after it was filled, it does nothing.
pub(super) fn fill(workspace: &Path, digest: Digest, stream: &mut UnixStream) -> io::Result<()> {
    if State::load().manifest == Some(digest) {
        return Ok(());
    }
    // Of a try that broke off.
    for entry in fs::read_dir(workspace)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    let draft = workspace.join(DRAFT);
    fs::create_dir(&draft)?;
    let filled = make(&draft, digest, stream).and_then(|state| {
        for entry in fs::read_dir(&draft)? {
            let entry = entry?;
            fs::rename(entry.path(), workspace.join(entry.file_name()))?;
        }
        Ok(state)
    });
    match filled {
        Ok((manifest, entries)) => {
            fs::remove_dir(&draft)?;
            remember(workspace, digest, &manifest, entries)
        }
        Err(error) => {
            // What was put there is as good as its error says: nothing.
            let _ = fs::remove_dir_all(&draft);
            Err(error)
        }
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::other(format!("the checkpoint is damaged: {what}"))
}

fn make(draft: &Path, digest: Digest, stream: &mut UnixStream) -> io::Result<(Manifest, Vec<Entry>)> {
    let stored = want(digest, stream)?;
    let text = unpack(&stored, MAX_MANIFEST_BYTES)?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(damaged(&format!("it is of format {}, and this version reads {FORMAT}", manifest.format)));
    }
    let mut packs = Packs { stream, held: HashMap::new(), order: Vec::new() };
    let mut entries = Vec::new();
    for page in &manifest.pages {
        let bytes = packs.piece(page)?.to_vec();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            entries.push(serde_json::from_slice::<Entry>(line).map_err(|error| damaged(&error.to_string()))?);
        }
        if entries.len() as u64 > MAX_ENTRIES {
            return Err(damaged("it has too many entries"));
        }
    }
    let mut dirs: HashSet<PathBuf> = HashSet::from([PathBuf::new()]);
    let mut order: Vec<&Entry> = entries.iter().collect();
    // Parents before children; then by pack, so that each is fetched once.
    order.sort_by_key(|entry| {
        (entry.kind != 'd', entry.pieces.first().map(|piece| (*piece.pack.as_bytes(), piece.offset)))
    });
    for entry in &order {
        let path =
            decode(&entry.path).filter(|path| path.components().all(|part| matches!(part, Component::Normal(_))));
        let path = path.ok_or_else(|| damaged("a path leads elsewhere"))?;
        // Every step is a directory that was made here: no link is on the way.
        if !path.parent().is_some_and(|parent| dirs.contains(parent)) {
            return Err(damaged("a file is in no directory"));
        }
        let place = draft.join(&path);
        match (entry.kind, &entry.target) {
            ('d', _) => {
                fs::create_dir(&place)?;
                dirs.insert(path);
            }
            ('l', Some(target)) => symlink(decode(target).ok_or_else(|| damaged("a link"))?, &place)?,
            ('f', _) => write(&place, entry, &mut packs)?,
            _ => return Err(damaged("an entry is of no kind")),
        }
    }
    // Children before parents: a directory may forbid changes.
    for entry in order.iter().rev().filter(|entry| entry.kind == 'd') {
        if let Some(path) = decode(&entry.path) {
            fs::set_permissions(draft.join(path), Permissions::from_mode(entry.mode & 0o777))?;
        }
    }
    drop(order);
    Ok((manifest, entries))
}

fn write(place: &Path, entry: &Entry, packs: &mut Packs<'_>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place)?;
    let mut size = 0;
    for piece in &entry.pieces {
        let bytes = packs.piece(piece)?;
        size += bytes.len() as u64;
        file.write_all(bytes)?;
    }
    if size != entry.size {
        return Err(damaged("a file is shorter than it was"));
    }
    file.set_permissions(Permissions::from_mode(entry.mode & 0o777))?;
    let modified = UNIX_EPOCH + Duration::from_nanos(u64::try_from(entry.modified).unwrap_or(0));
    file.set_times(FileTimes::new().set_modified(modified))
}

struct Packs<'a> {
    stream: &'a mut UnixStream,
    held: HashMap<Digest, Vec<u8>>,
    order: Vec<Digest>,
}

impl Packs<'_> {
    /// A piece's bytes, proved.
    fn piece(&mut self, piece: &Piece) -> io::Result<&[u8]> {
        if !self.held.contains_key(&piece.pack) {
            if self.order.len() >= HELD {
                self.held.remove(&self.order.remove(0));
            }
            let bytes = unpack(&want(piece.pack, self.stream)?, MAX_PACK_BYTES)?;
            self.held.insert(piece.pack, bytes);
            self.order.push(piece.pack);
        }
        let from = piece.offset as usize;
        let bytes = self.held.get(&piece.pack).and_then(|pack| pack.get(from..from + piece.bytes as usize));
        bytes.filter(|bytes| Digest::of(bytes) == piece.hash).ok_or_else(|| damaged("a piece is not what it was"))
    }
}

fn unpack(stored: &[u8], most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(stored)?;
    io::Read::read_to_end(&mut io::Read::take(decoder, most as u64 + 1), &mut bytes)?;
    if bytes.len() > most { Err(damaged("it is too large")) } else { Ok(bytes) }
}

/// So that the next checkpoint reads nothing that is as it was.
fn remember(workspace: &Path, digest: Digest, manifest: &Manifest, entries: Vec<Entry>) -> io::Result<()> {
    let item = |mut entry: Entry| {
        let metadata = fs::symlink_metadata(workspace.join(decode(&entry.path)?)).ok()?;
        let mut item = Item::new(std::mem::take(&mut entry.path), &metadata, entry.target.take());
        item.entry.pieces = entry.pieces;
        Some(item)
    };
    let entries = entries.into_iter().filter_map(item).collect();
    State { manifest: Some(digest), pages: manifest.pages.clone(), entries }.save()?;
    // On disk before anybody relies on it.
    File::open(workspace)?.sync_all()
}
