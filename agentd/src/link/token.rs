//! This runner's own token: on disk before anybody hears of its hash, and replaced while agentd runs.
//!
//! `token` is what servers know this runner by. During a rotation ([`super::rotate`]) the next one is made in `token.next`,
//! and takes the place of the other in one step once a server takes both: whatever becomes of agentd in between, the token
//! on the disk is one that lets it in.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io::ErrorKind};

use helix_protocol::ids::hex;
use tokio::sync::watch;

use crate::config::Secret;

const TOKEN_BYTES: usize = 32;
const FILE: &str = "token";
const NEXT_FILE: &str = "token.next";

/// The token, as it is now. Clones are the same.
#[derive(Debug, Clone)]
pub struct OwnToken {
    state_dir: PathBuf,
    current: Arc<watch::Sender<Secret>>,
}

impl OwnToken {
    /// What is on the disk; made and written where there is none.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let token = read_or_make(&state_dir.join(FILE))?;
        Ok(Self { state_dir: state_dir.to_owned(), current: Arc::new(watch::Sender::new(token)) })
    }

    /// The token.
    pub fn current(&self) -> Secret {
        self.current.borrow().clone()
    }

    /// Tells when it is another one.
    pub fn changes(&self) -> watch::Receiver<Secret> {
        self.current.subscribe()
    }

    /// The one that shall take its place: made at the first call, then the same until it has.
    pub fn next(&self) -> io::Result<Secret> {
        read_or_make(&self.state_dir.join(NEXT_FILE))
    }

    /// Lets the next one take its place on the disk, and answers it. Those who use the token hear of it by [`Self::tell`].
    pub fn take_next(&self) -> io::Result<Secret> {
        let next = self.next()?;
        fs::rename(self.state_dir.join(NEXT_FILE), self.state_dir.join(FILE))?;
        fs::File::open(&self.state_dir)?.sync_all()?;
        Ok(next)
    }

    /// Tells everybody the token that is on the disk now.
    pub fn tell(&self, token: &Secret) {
        self.current.send_if_modified(|current| std::mem::replace(current, token.clone()) != *token);
    }

    /// The rotation was called off.
    pub fn forget_next(&self) -> io::Result<()> {
        match fs::remove_file(self.state_dir.join(NEXT_FILE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn read_or_make(path: &Path) -> io::Result<Secret> {
    match fs::read_to_string(path) {
        Ok(token) if token.trim().len() == TOKEN_BYTES * 2 => return Ok(Secret::new(token.trim())),
        // Half a token is none: nobody knows of it, because it is on disk before it is used.
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let token = hex(&bytes);
    write_private(path, token.as_bytes())?;
    Ok(Secret::new(token))
}

/// A file of mode 0600 that is there as a whole, or not.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_added_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_token_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let token = OwnToken::open(dir.path()).expect("made").current();
        assert_eq!(token.expose().len(), 64);
        assert_eq!(OwnToken::open(dir.path()).expect("read").current(), token);
        let mode = fs::metadata(dir.path().join("token")).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join("token"), "half").expect("written");
        assert_ne!(OwnToken::open(dir.path()).expect("made anew").current(), token);
    }

    #[test]
    fn the_next_token_takes_its_place_in_one_step() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let token = OwnToken::open(dir.path()).expect("made");
        let old = token.current();
        let next = token.next().expect("made");
        // As after a crash: the same again.
        assert_eq!(OwnToken::open(dir.path()).expect("read").next().expect("read"), next);
        assert_eq!(token.take_next().expect("taken"), next);
        assert_eq!(token.current(), old, "nobody was told");
        token.tell(&next);
        assert_eq!((token.current(), OwnToken::open(dir.path()).expect("read").current()), (next.clone(), next));
        assert!(!dir.path().join("token.next").exists());
        token.next().expect("made");
        token.forget_next().expect("forgotten");
        token.forget_next().expect("there is none");
        assert!(!dir.path().join("token.next").exists());
    }
}
