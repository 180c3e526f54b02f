//! An image leaves the store: as a tar, or as a directory.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use helix_protocol::image::Digest;

use super::contents::Tar;
use super::store::Store;
use crate::error::{CliError, Result};

/// Writes the tar; its length.
pub fn tar(store: &Store, image: &Digest, into: &mut dyn Write) -> io::Result<u64> {
    let manifest = store.manifest(image).map_err(io::Error::other)?;
    let bytes = io::copy(&mut Tar::open(store, &manifest).map_err(io::Error::other)?, into)?;
    into.flush()?;
    Ok(bytes)
}

/// Unpacks into a directory that is not there yet, with owners and attributes. There is a whole one afterwards, or none.
pub fn unpack(store: &Store, image: &Digest, to: &Path) -> Result<()> {
    let failed =
        |why: &dyn std::fmt::Display| CliError::failed("cannot unpack the image").at(to.display()).because(why);
    if to.symlink_metadata().is_ok() {
        return Err(failed(&"it is there already").next("name a directory that is not there yet"));
    }
    let parent = to.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let dir = tempfile::Builder::new().prefix(".helix-export-").tempdir_in(parent).map_err(|error| failed(&error))?;
    let root = dir.path().join("root");
    std::fs::create_dir(&root).map_err(|error| failed(&error))?;
    let mut command = Command::new("tar");
    command.args(["--extract", "--numeric-owner", "--same-owner", "--preserve-permissions"]);
    command.args(["--xattrs", "--xattrs-include=*", "--delay-directory-restore", "--directory"]).arg(&root);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(&format!("tar: {error}")))?;
    let written = match child.stdin.take() {
        Some(mut stdin) => tar(store, image, &mut stdin),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    };
    let status = child.wait().map_err(|error| failed(&error))?;
    written.map_err(|error| failed(&error))?;
    if !status.success() {
        return Err(failed(&format!("tar ended with {status}")));
    }
    std::fs::rename(&root, to).map_err(|error| failed(&error))
}
