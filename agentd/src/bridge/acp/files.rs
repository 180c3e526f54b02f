//! The agent's files: reading and writing inside the project's directory and nowhere else.
//!
//! The kernel walks each path beneath the directory (`openat2`, `RESOLVE_BENEATH`), so that neither `..` nor a link leads
//! out of it, whatever changes meanwhile. Under systemd there is no such call (`RestrictSUIDSGID=` takes it away, since a
//! filter cannot see its mode): there each step is opened by itself, and no link is followed at all.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

/// Largest file that is read for an agent.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A directory that nothing leads out of.
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
    /// As it was named, and as it is.
    names: [PathBuf; 2],
}

impl Files {
    /// All files below `root`.
    pub fn new(root: &Path) -> io::Result<Self> {
        let names = [root.to_owned(), root.canonicalize()?];
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(root, flags, Mode::empty())?, names })
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
        let relative = self.relative(path).map_err(|error| told(path, error))?;
        let mut made = PathBuf::new();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            made.push(part);
            self.make_dir(&made).map_err(|error| told(path, error))?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
        let mut file = self.open(path, flags).map_err(|error| told(path, error))?;
        file.write_all(text.as_bytes()).map_err(|error| error.to_string())
    }

    /// The directory, if it is inside: for programs that are to run there.
    pub fn directory(&self, path: &Path) -> Result<PathBuf, String> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY).map_err(|error| told(path, error))?;
        let relative = self.relative(path).map_err(|error| told(path, error))?;
        Ok(self.names[1].join(relative))
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<File, Errno> {
        let relative = self.relative(path)?;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        self.beneath(&relative, flags, mode).map(File::from)
    }

    fn beneath(&self, relative: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(self.root.as_fd(), relative, flags | OFlags::CLOEXEC, mode, resolve) {
                // Something was renamed meanwhile.
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS) => return self.step_by_step(relative, flags, mode),
                done => return done,
            }
        }
    }

    /// The same where the kernel does not walk: from directory to directory, never through a link.
    fn step_by_step(&self, relative: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir = openat(&self.root, ".", step, Mode::empty())?;
        for part in relative.parent().into_iter().flat_map(Path::components) {
            dir = openat(&dir, part.as_os_str(), step, Mode::empty())?;
        }
        let name = relative.file_name().unwrap_or(OsStr::new("."));
        openat(&dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)
    }

    fn make_dir(&self, relative: &Path) -> Result<(), Errno> {
        let (parent, name) = (relative.parent().unwrap_or(Path::new("")), relative.file_name().ok_or(Errno::INVAL)?);
        let parent = if parent == Path::new("") { Path::new(".") } else { parent };
        let parent = self.beneath(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        match mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The path below the directory. One that is elsewhere is refused before anything is opened.
    fn relative(&self, path: &Path) -> Result<PathBuf, Errno> {
        let relative = if path.is_absolute() {
            let inside = self.names.iter().find_map(|name| path.strip_prefix(name).ok());
            inside.ok_or(Errno::XDEV)?
        } else {
            path
        };
        if relative.components().any(|part| part == Component::ParentDir) {
            return Err(Errno::XDEV);
        }
        Ok(if relative == Path::new("") { PathBuf::from(".") } else { relative.to_owned() })
    }
}

fn told(path: &Path, error: Errno) -> String {
    match error {
        Errno::XDEV => format!("{} is outside the workspace", path.display()),
        // As agents know it.
        Errno::NOENT => format!("Resource not found: {}", path.display()),
        Errno::LOOP => format!("{} is a link, which is not followed here", path.display()),
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

    #[test]
    fn without_openat2_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("project");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/f"), "x").unwrap();
        std::fs::write(dir.path().join("secret"), "no").unwrap();
        symlink(dir.path(), root.join("up")).unwrap();
        symlink("../secret", root.join("link")).unwrap();
        let files = Files::new(&root).unwrap();
        let open = |path: &str| files.step_by_step(Path::new(path), OFlags::RDONLY, Mode::empty());
        assert!(open("a/b/f").is_ok() && open(".").is_ok());
        assert_eq!(open("link").unwrap_err(), Errno::LOOP);
        assert_eq!(open("up/secret").unwrap_err(), Errno::NOTDIR);
        let made = files.step_by_step(Path::new("a/new"), OFlags::WRONLY | OFlags::CREATE, Mode::RUSR);
        assert!(made.is_ok() && root.join("a/new").exists());
    }
}
