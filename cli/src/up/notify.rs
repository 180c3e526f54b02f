//! The receiving end of sd-notify: a datagram socket on which a daemon says `READY=1`, as it would to systemd. agentd is
//! ready without any server; that it is registered it says in a word of its own.

use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

use crate::error::{CliError, Result};

/// What a daemon says when it is ready.
pub const READY: &str = "READY=1";

/// A bound socket; its file goes when it is dropped. It lies in a 0700 directory, so only this user can write to it.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
    word: &'static str,
}

impl NotifySocket {
    /// Binds, over a socket that a former supervisor left; waits for the line `word`.
    pub fn bind(path: &Path, word: &'static str) -> Result<Self> {
        let _ = std::fs::remove_file(path);
        let socket = UnixDatagram::bind(path)
            .map_err(|error| CliError::failed("cannot make a notify socket").at(path.display()).because(error))?;
        Ok(Self { socket, path: path.to_owned(), word })
    }

    /// The next such line. Everything else is read and dropped, because a full socket would block the daemon.
    /// Cancel safe.
    pub async fn ready(&self) {
        let mut buffer = [0_u8; 4096];
        loop {
            // An error would mean that the runtime shuts down.
            let Ok(length) = self.socket.recv(&mut buffer).await else { return std::future::pending().await };
            if says(&buffer[..length], self.word) {
                return;
            }
        }
    }

    /// Reads and drops for ever.
    pub async fn drain(&self) -> std::convert::Infallible {
        loop {
            self.ready().await;
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn says(message: &[u8], word: &str) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_is_heard_among_other_words() {
        let temp = tempfile::tempdir().expect("a directory");
        let path = temp.path().join("n.notify");
        let socket = NotifySocket::bind(&path, READY).expect("bound");
        let daemon = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
        daemon.send_to(b"STATUS=starting READY=1 soon", &path).expect("sent");
        daemon.send_to(b"STATUS=up\nREADY=1\n", &path).expect("sent");
        let heard = tokio::time::timeout(std::time::Duration::from_secs(10), socket.ready()).await;
        assert_eq!(heard, Ok(()));
        drop(socket);
        assert!(!path.exists());
    }
}
