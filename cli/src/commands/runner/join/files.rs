//! Files of a join: written together, and put back together when the join does not work.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::{CliError, Result};

/// A file for agentd's check.
pub struct Staged(PathBuf);

impl Staged {
    /// One that is there.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Nothing reads it, and the next check writes it anew.
        let _ = fs::remove_file(&self.0);
    }
}

/// Files of a join, as they shall be and as they were.
pub struct Files {
    pub files: [Wanted; 4],
    pub workspace_dir: Option<String>,
}

/// One of them.
pub struct Wanted {
    pub path: PathBuf,
    /// None: it shall not be there.
    pub content: Option<Vec<u8>>,
    pub mode: u32,
    pub before: Option<Vec<u8>>,
}

impl Files {
    /// Those that are not as they shall be.
    pub fn differences(&self) -> Vec<String> {
        let differs = self.files.iter().filter(|file| file.content != file.before);
        differs.map(|file| file.path.display().to_string()).collect()
    }

    /// Makes them so.
    pub fn write(&self) -> Result<()> {
        if let Some(dir) = &self.workspace_dir {
            let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(dir);
            made.map_err(|error| CliError::failed("cannot make the directory of workspaces").at(dir).because(error))?;
        }
        for file in self.files.iter().filter(|file| file.content != file.before) {
            file.set(file.content.as_deref())?;
        }
        Ok(())
    }

    /// As they were.
    pub fn put_back(&self) -> Result<()> {
        self.files
            .iter()
            .filter(|file| file.content != file.before)
            .try_for_each(|file| file.set(file.before.as_deref()))
    }
}

impl Wanted {
    fn set(&self, content: Option<&[u8]>) -> Result<()> {
        match content {
            Some(content) => put(&self.path, content, self.mode),
            None => remove(&self.path),
        }
    }
}

/// Writes a file, as a whole or not at all.
pub fn put(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let write = || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let temporary = path.with_added_extension("new");
        remove_file(&temporary)?;
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error: io::Error| CliError::failed("cannot write a file").at(path.display()).because(error))
}

/// Removes a file, and a drop-in directory that is empty then.
pub fn remove(path: &Path) -> Result<()> {
    remove_file(path).map_err(|error| CliError::failed("cannot remove a file").at(path.display()).because(error))?;
    if let Some(dir) = path.parent().filter(|dir| dir.extension().is_some_and(|extension| extension == "d")) {
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

/// Removes a file that may not be there.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
