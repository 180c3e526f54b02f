//! A unit's log: a pipe that the guest reads into a file of bounded size with one rotation.

use std::fs::{self, File};
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rustix::fs::OFlags;

/// Size at which the log is rotated. With the rotated one a unit never keeps more than twice as much.
pub(super) const LIMIT_BYTES: u64 = 1024 * 1024;

/// Most bytes read at once, so that one loud unit does not starve the others.
const READ_BYTES: usize = 16 * 1024;

/// What a pipe can hold.
const PIPE_BYTES: usize = 64 * 1024;

/// What [`Log::copy`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// Something.
    Some,
    /// Nothing for now.
    Nothing,
    /// Every writer has closed.
    Closed,
}

pub(super) struct Log {
    pub(super) pipe: PipeReader,
    path: PathBuf,
    rotated: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    /// A log at `path` fed by `pipe`.
    pub(super) fn open(pipe: PipeReader, path: PathBuf, rotated: PathBuf) -> io::Result<Self> {
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        let file = open_append(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { pipe, path, rotated, file, size })
    }

    /// Moves a part of what the pipe holds into the file.
    pub(super) fn copy(&mut self) -> Copied {
        let mut bytes = [0_u8; READ_BYTES];
        match self.pipe.read(&mut bytes) {
            Ok(0) => Copied::Closed,
            Ok(count) => {
                // A full disk must not stop the unit, nor its supervision: the lines are lost.
                let _ = self.append(&bytes[..count]);
                Copied::Some
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Copied::Nothing,
                _ => Copied::Closed,
            },
        }
    }

    /// Moves what a unit wrote before it ended. Bounded: what it started may write on for ever.
    pub(super) fn copy_last_words(&mut self) {
        for _ in 0..PIPE_BYTES / READ_BYTES {
            if self.copy() != Copied::Some {
                return;
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > LIMIT_BYTES {
            fs::rename(&self.path, &self.rotated)?;
            self.file = open_append(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

fn open_append(path: &PathBuf) -> io::Result<File> {
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn a_log_never_grows_beyond_its_limit_and_keeps_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("app.log"), dir.path().join("app.log.1"));
        let (reader, mut writer) = io::pipe().unwrap();
        let mut log = Log::open(reader, path.clone(), rotated.clone()).unwrap();
        let line = [b'x'; 8191];
        for round in 0..400_u32 {
            writer.write_all(&line).unwrap();
            writer.write_all(format!("{round}\n").as_bytes()).unwrap();
            log.copy_last_words();
        }
        drop(writer);
        assert_eq!(log.copy(), Copied::Closed);
        assert!(fs::metadata(&path).unwrap().len() <= LIMIT_BYTES);
        assert!(fs::metadata(&rotated).unwrap().len() <= LIMIT_BYTES);
        assert!(fs::read_to_string(&path).unwrap().ends_with("399\n"));
    }
}
