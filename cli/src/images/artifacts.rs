//! What `helixctl build NAME` made: one program each, with a note of where it came from.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use helix_protocol::image::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::cache::{Cache, cannot, replace};
use crate::error::{CliError, Result};

/// A note beside the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Name of the program.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// Bytes that it has.
    pub bytes: u64,
    /// Where it came from: a file, a directory, a URL with a revision.
    pub from: String,
    /// When.
    pub at: Timestamp,
    /// What was looked at: glibc that it needs, its libraries.
    pub notes: Vec<String>,
}

/// The program's file; an error that says how to make it where there is none.
pub fn program(cache: &Cache, name: &str) -> Result<PathBuf> {
    let path = dir(cache, name).join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(CliError::failed(format!("there is no {name} to put into the image"))
        .at(path.display())
        .because("it was neither built nor given")
        .next(match name {
            "zed" => "helixctl build zed --binary PATH, or with its source: --source DIR|URL --rev R".to_owned(),
            _ => format!("helixctl build {name}"),
        }))
}

/// What is known of it.
pub fn note(cache: &Cache, name: &str) -> Option<Artifact> {
    serde_json::from_slice(&std::fs::read(dir(cache, name).join("artifact.json")).ok()?).ok()
}

/// Keeps a copy of a program.
pub fn keep(cache: &Cache, name: &str, program: &Path, from: String, notes: Vec<String>) -> Result<Artifact> {
    let dir = dir(cache, name);
    let path = dir.join(name);
    let copy = || -> std::io::Result<Artifact> {
        std::fs::create_dir_all(&dir)?;
        let new = tempfile::Builder::new().prefix(".new-").tempfile_in(&dir)?;
        let bytes = std::io::copy(&mut std::fs::File::open(program)?, &mut new.as_file())?;
        new.as_file().set_permissions(std::fs::Permissions::from_mode(0o755))?;
        new.persist(&path)?;
        let digest = file_digest(&path)?;
        Ok(Artifact { name: name.to_owned(), digest, bytes, from, at: Timestamp::now(), notes })
    };
    let artifact = copy().map_err(|error| cannot(&path, &error))?;
    let json = serde_json::to_vec(&artifact).unwrap_or_default();
    replace(&dir.join("artifact.json"), &json).map_err(|error| cannot(&dir, &error))?;
    Ok(artifact)
}

/// SHA-256 of a file.
pub fn file_digest(path: &Path) -> std::io::Result<Digest> {
    digest_of(&mut std::fs::File::open(path)?)
}

/// SHA-256 of all that can be read.
pub fn digest_of(from: &mut impl std::io::Read) -> std::io::Result<Digest> {
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        hash.update(&buffer[..count]);
    }
}

fn dir(cache: &Cache, name: &str) -> PathBuf {
    cache.part("artifacts").join(name)
}
