//! The tar of a tree: paths sorted, numeric owners, times clamped, hard links, extended attributes; nothing that varies.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use super::Blocks;
use super::volatile::{self, Keep};

/// Attributes that belong to a file; those of security modules belong to the machine.
const KEPT_ATTRIBUTES: [&str; 3] = ["security.capability", "system.posix_acl_access", "system.posix_acl_default"];

/// Writes the tar; its length.
pub fn write(root: &Path, source_date: u64, into: Blocks) -> io::Result<u64> {
    let mut builder = Builder::new(into);
    // The program reads whole files; where they have holes is no part of an image.
    builder.sparse(false);
    let mut tree = Tree { root, source_date, builder, links: HashMap::new() };
    tree.directory(Path::new(""))?;
    let mut blocks = tree.builder.into_inner()?;
    blocks.flush()?;
    Ok(blocks.written)
}

struct Tree<'a> {
    root: &'a Path,
    source_date: u64,
    builder: Builder<Blocks>,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Tree<'_> {
    fn directory(&mut self, path: &Path) -> io::Result<()> {
        let full = self.root.join(path);
        let meta = full.symlink_metadata().map_err(|error| at(&full, &error))?;
        let mut header = self.header(&meta, EntryType::Directory);
        self.attributes(&full)?;
        let name = if path == Path::new("") { Path::new("./") } else { path };
        self.builder.append_data(&mut header, name, io::empty())?;
        let mut names = std::fs::read_dir(&full)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>())
            .map_err(|error| at(&full, &error))?;
        names.sort_unstable();
        for name in names {
            let path = path.join(&name);
            let full = self.root.join(&path);
            let meta = full.symlink_metadata().map_err(|error| at(&full, &error))?;
            let keep = volatile::keep(&path, meta.is_dir());
            if keep != Keep::No {
                self.entry(&path, &full, &meta, keep).map_err(|error| at(&full, &error))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, full: &Path, meta: &Metadata, keep: Keep) -> io::Result<()> {
        let kind = meta.file_type();
        if kind.is_dir() {
            return self.directory(path);
        }
        // A file of a device is the machine's; a socket or a pipe is whose process listens.
        if kind.is_char_device() || kind.is_block_device() || kind.is_socket() || kind.is_fifo() {
            return Ok(());
        }
        if meta.nlink() > 1 {
            let file = (meta.dev(), meta.ino());
            if let Some(first) = self.links.get(&file) {
                let mut header = self.header(meta, EntryType::Link);
                return self.builder.append_link(&mut header, path, first.clone());
            }
            self.links.insert(file, path.to_owned());
        }
        if kind.is_symlink() {
            let mut header = self.header(meta, EntryType::Symlink);
            return self.builder.append_link(&mut header, path, std::fs::read_link(full)?);
        }
        self.attributes(full)?;
        let mut header = self.header(meta, EntryType::Regular);
        if keep == Keep::Empty {
            header.set_size(0);
            return self.builder.append_data(&mut header, path, io::empty());
        }
        let file = File::open(full)?;
        if let Some(text) = volatile::rewritten(path, &file, self.source_date)? {
            header.set_size(text.len() as u64);
            return self.builder.append_data(&mut header, path, text.as_slice());
        }
        header.set_size(meta.len());
        let mut exact = Exact { file: file.take(meta.len()), missing: meta.len() };
        self.builder.append_data(&mut header, path, &mut exact)
    }

    fn header(&self, meta: &Metadata, kind: EntryType) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.permissions().mode() & 0o7777);
        header.set_uid(meta.uid().into());
        header.set_gid(meta.gid().into());
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0).min(self.source_date));
        header.set_size(0);
        header
    }

    fn attributes(&mut self, full: &Path) -> io::Result<()> {
        let mut names = Vec::with_capacity(256);
        match rustix::fs::llistxattr(full, rustix::buffer::spare_capacity(&mut names)) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut found = Vec::new();
        for name in names.split_inclusive(|byte| *byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
            let Some(name) = KEPT_ATTRIBUTES.into_iter().find(|kept| kept.as_bytes() == name.to_bytes()) else {
                continue;
            };
            let mut value = Vec::with_capacity(1024);
            rustix::fs::lgetxattr(full, name, rustix::buffer::spare_capacity(&mut value))?;
            found.push((format!("SCHILY.xattr.{name}"), value));
        }
        found.sort_unstable();
        if found.is_empty() {
            return Ok(());
        }
        self.builder.append_pax_extensions(found.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
    }
}

/// As many bytes as were promised, or an error: a file that changed meanwhile must not shift what follows.
struct Exact {
    file: io::Take<File>,
    missing: u64,
}

impl Read for Exact {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        if count == 0 && self.missing > 0 && !into.is_empty() {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.missing -= count as u64;
        Ok(count)
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    // The innermost path is the one that matters.
    if error.kind() == io::ErrorKind::BrokenPipe
        || error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<At>)
    {
        return io::Error::new(error.kind(), error.to_string());
    }
    io::Error::new(error.kind(), At(format!("{}: {error}", OsStr::from_bytes(path.as_os_str().as_bytes()).display())))
}

/// An error that says where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct At(String);
