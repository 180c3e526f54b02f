//! The agent's files: reading and writing inside the project's directory and nowhere else ([`crate::beneath`]).

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::beneath::Beneath;

/// Largest file that is read for an agent.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A directory that nothing leads out of.
#[derive(Debug)]
pub struct Files {
    beneath: Beneath,
}

impl Files {
    /// All files below `root`.
    pub fn new(root: &Path) -> io::Result<Self> {
        Beneath::new(root).map(|beneath| Self { beneath })
    }

    /// A file's text: all of it, or `limit` lines from line `line` (the first is 1).
    pub fn read(&self, path: &Path, line: Option<u64>, limit: Option<u64>) -> Result<String, String> {
        let file = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|error| told(path, error))?;
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err(format!("{} is no file", path.display()));
        }
        if metadata.len() > MAX_BYTES {
            return Err(format!("{} is larger than {} MiB", path.display(), MAX_BYTES >> 20));
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
        let text = String::from_utf8(text).map_err(|_| format!("{} is no text", path.display()))?;
        if line.is_none() && limit.is_none() {
            return Ok(text);
        }
        let skipped = usize::try_from(line.unwrap_or(1).saturating_sub(1)).unwrap_or(usize::MAX);
        let taken = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        Ok(text.split_inclusive('\n').skip(skipped).take(taken).collect())
    }

    /// Writes a file, and the directories that it needs.
    pub fn write(&self, path: &Path, text: &str) -> Result<(), String> {
        let made = self
            .beneath
            .relative(path)
            .and_then(|relative| self.beneath.make_parents(&relative, Mode::from_raw_mode(0o777)));
        made.map_err(|error| told(path, error))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
        let mut file = self.open(path, flags).map_err(|error| told(path, error))?;
        file.write_all(text.as_bytes()).map_err(|error| error.to_string())
    }

    /// The directory, if it is inside: for programs that are to run there.
    pub fn directory(&self, path: &Path) -> Result<PathBuf, String> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY).map_err(|error| told(path, error))?;
        let relative = self.beneath.relative(path).map_err(|error| told(path, error))?;
        Ok(self.beneath.name().join(relative))
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<File, Errno> {
        let relative = self.beneath.relative(path)?;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        self.beneath.open(&relative, flags, mode)
    }
}

fn told(path: &Path, error: Errno) -> String {
    match error {
        Errno::XDEV => format!("{} is outside the workspace", path.display()),
        // As agents know it.
        Errno::NOENT => format!("Resource not found: {}", path.display()),
        Errno::LOOP => format!("{} is a link that leads nowhere", path.display()),
        error => format!("{}: {}", path.display(), io::Error::from(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("project");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.path().join("secret"), "no").unwrap();
        symlink(dir.path(), root.join("up")).unwrap();
        symlink("../secret", root.join("link")).unwrap();
        symlink("/proc/self", root.join("proc")).unwrap();
        let files = Files::new(&root).unwrap();
        for path in
            ["up/secret", "link", "../secret", "a/../../secret", "/etc/passwd", "proc/cwd", "up/new", "up/d/new"]
        {
            let path = if path.starts_with('/') { PathBuf::from(path) } else { root.join(path) };
            let read = files.read(&path, None, None).unwrap_err();
            let written = files.write(&path, "x").unwrap_err();
            for error in [read, written] {
                assert!(error.contains("outside the workspace"), "{}: {error}", path.display());
            }
            assert!(files.directory(&path).is_err());
        }
        assert_eq!(std::fs::read_to_string(dir.path().join("secret")).unwrap(), "no");
        assert!(!dir.path().join("new").exists() && !dir.path().join("d").exists());
    }

    #[test]
    fn files_inside_are_read_and_written() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("inner")).unwrap();
        let files = Files::new(dir.path()).unwrap();
        files.write(&dir.path().join("inner/deep/er/f.txt"), "1\n2\n3\n").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("real/deep/er/f.txt")).unwrap(), "1\n2\n3\n");
        assert_eq!(files.read(Path::new("real/deep/er/f.txt"), None, None).unwrap(), "1\n2\n3\n");
        assert_eq!(files.read(&dir.path().join("inner/deep/er/f.txt"), Some(2), Some(1)).unwrap(), "2\n");
        assert!(files.read(&dir.path().join("none"), None, None).unwrap_err().contains("Resource not found"));
        assert!(files.read(dir.path(), None, None).unwrap_err().contains("no file"));
        assert_eq!(
            files.directory(&dir.path().join("inner")).unwrap(),
            dir.path().canonicalize().unwrap().join("inner")
        );
    }
}
