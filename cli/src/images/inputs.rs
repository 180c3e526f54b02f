//! Files that go into a build: their digest, and their copy for the step that reads them.
//!
//! Whether a file may be executed is part of it; its other permissions, its owner and its times are the machine's.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use helix_protocol::image::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::{CliError, Kind, Result};

/// Where an input is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// In the recipe.
    Text(String),
    /// A file or directory.
    Path(PathBuf),
}

impl Input {
    /// What it is now.
    pub fn digest(&self) -> Result<Digest> {
        self.visit(None).map_err(|error| self.cannot("read", &error))
    }

    /// Bytes that it has, for the question whether there is room.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Path(path) => bytes_below(path),
        }
    }

    /// Copies it to `to`, which must come out as what `digest` said.
    pub fn stage(&self, to: &Path, digest: &Digest) -> Result<()> {
        let now = self.visit(Some(to)).map_err(|error| self.cannot("copy", &error))?;
        if now == *digest {
            return Ok(());
        }
        let why = io::Error::other("it was changed while the build ran");
        Err(self.cannot("copy", &why).next("build again once nobody writes it"))
    }

    fn visit(&self, copy: Option<&Path>) -> io::Result<Digest> {
        let mut hash = Sha256::new();
        match self {
            Self::Text(text) => {
                hash.update(b"file\0");
                hash.update(text.as_bytes());
                if let Some(to) = copy {
                    write_new(to, 0o644)?.write_all(text.as_bytes())?;
                }
            }
            Self::Path(path) => visit(&path.canonicalize()?, copy, &mut hash)?,
        }
        Ok(Digest::from_bytes(hash.finalize().into()))
    }

    fn cannot(&self, verb: &str, error: &io::Error) -> CliError {
        let place = match self {
            Self::Text(_) => "a file's content in the recipe".to_owned(),
            Self::Path(path) => path.display().to_string(),
        };
        CliError::new(Kind::Usage, format!("cannot {verb} an input of the build"))
            .at(place)
            .because(error)
            .next("paths of inputs are beside the recipe")
    }
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(meta) = path.metadata() else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()))
        .map(|entry| bytes_below(&entry.path()))
        .sum()
}

/// Everything has its length before it, so that no two trees look alike.
fn visit(path: &Path, copy: Option<&Path>, hash: &mut Sha256) -> io::Result<()> {
    let meta = path.symlink_metadata()?;
    if meta.is_symlink() {
        let target = std::fs::read_link(path)?;
        let bytes = target.as_os_str().as_bytes();
        hash.update(b"link\0");
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
        return copy.map_or(Ok(()), |to| symlink(&target, to));
    }
    if meta.is_dir() {
        let mut names = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        hash.update(b"directory\0");
        hash.update((names.len() as u64).to_be_bytes());
        if let Some(to) = copy {
            std::fs::create_dir(to)?;
        }
        for name in names {
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name.as_bytes());
            visit(&path.join(&name), copy.map(|to| to.join(&name)).as_deref(), hash)?;
        }
        return Ok(());
    }
    if !meta.is_file() {
        return Err(io::Error::other(format!("{} is neither a file nor a directory", path.display())));
    }
    let executable = meta.permissions().mode() & 0o100 != 0;
    hash.update(if executable { b"program\0".as_slice() } else { b"file\0" });
    let mut file = File::open(path)?;
    let mut into = copy.map(|to| write_new(to, if executable { 0o755 } else { 0o644 })).transpose()?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        hash.update(&buffer[..count]);
        if let Some(into) = &mut into {
            into.write_all(&buffer[..count])?;
        }
    }
}

fn write_new(path: &Path, mode: u32) -> io::Result<File> {
    let file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    // Whatever the umask is.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_its_names_contents_and_what_may_be_executed() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("in");
        std::fs::create_dir_all(root.join("sub")).expect("made");
        std::fs::write(root.join("sub/a"), "text").expect("written");
        symlink("a", root.join("sub/b")).expect("linked");
        let input = Input::Path(root.clone());
        let first = input.digest().expect("read");
        let copy = dir.path().join("copy");
        input.stage(&copy, &first).expect("copied");
        assert_eq!(Input::Path(copy).digest().expect("read"), first);
        let permit = |mode| std::fs::set_permissions(root.join("sub/a"), std::fs::Permissions::from_mode(mode));
        permit(0o600).expect("changed");
        assert_eq!(input.digest().expect("read"), first);
        permit(0o700).expect("changed");
        let second = input.digest().expect("read");
        assert_ne!(second, first);
        std::fs::rename(root.join("sub/a"), root.join("sub/c")).expect("renamed");
        assert_ne!(input.digest().expect("read"), second);
        input.stage(&dir.path().join("late"), &second).expect_err("it is another now");
    }
}
