//! `agentd guest result <root>`: takes the outcome of the session's task where systemd is the parent of everything.
//!
//! It listens on the same socket as the guest of the process backend and understands one request of it,
//! [`Request::Result`], so `agentd acp-bridge` is the same in both. Each outcome goes as one JSON line to standard output,
//! a file in agentd's own directory that systemd opened: it stays there while agentd is away. It is on disk before the
//! task is answered. Runs as the session's user; systemd starts it again when it fails, and hears when it listens.
//!
//! One thread, one connection at a time: a session has one task, and a stranger is given up after a while.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use helix_protocol::session::{OUTPUT_TAIL_BYTES, SessionResult};

use super::wire::{Answer, MAX_LINE_BYTES, Request, line};
use crate::supervisor::process::layout::Layout;

/// A client says what it wants at once.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until it is ended.
pub(super) fn serve(root: &Path) -> anyhow::Result<()> {
    let socket = Layout::new(root).guest_socket();
    // Of one that was killed.
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).with_context(|| format!("cannot make {}", socket.display()))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    // Without systemd nobody waits for it.
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).context("cannot tell systemd that it listens")?;
    let mut taker = Taker { out: io::stdout(), known: None, broken: false };
    loop {
        // A client that goes away or talks nonsense is its own problem.
        if let Ok((stream, _)) = listener.accept() {
            let _ = taker.hear(&stream);
        }
    }
}

struct Taker<W> {
    out: W,
    /// The outcome that is on disk.
    known: Option<SessionResult>,
    /// A line may have been written in part: the next begins anew.
    broken: bool,
}

impl<W: io::Write + std::os::fd::AsFd> Taker<W> {
    fn hear(&mut self, stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
        stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut text = Vec::new();
            reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut text)?;
            if text.is_empty() {
                return Ok(());
            }
            let answer = match serde_json::from_slice(&text) {
                Ok(Request::Result { result }) => self.take(result),
                Ok(_) => Answer::Failed { reason: "systemd is asked for that".to_owned() },
                Err(error) => Answer::Failed { reason: format!("not a request: {error}") },
            };
            (&mut &*stream).write_all(&line(&answer)?)?;
        }
    }

    /// A task has one outcome: whoever says another is not the task, and fills no disk with it.
    fn take(&mut self, result: SessionResult) -> Answer {
        let failed = |reason: String| Answer::Failed { reason };
        match &self.known {
            // Repeated: the task did not hear that it is on disk.
            Some(known) if *known == result => return Answer::Done,
            Some(_) => return failed("the outcome is known".to_owned()),
            None => {}
        }
        if result.output_tail.len() > OUTPUT_TAIL_BYTES {
            return failed(format!("output_tail is longer than {OUTPUT_TAIL_BYTES} bytes"));
        }
        match self.keep(&result) {
            Ok(()) => {
                self.known = Some(result);
                Answer::Done
            }
            Err(error) => failed(format!("the result cannot be written: {error}")),
        }
    }

    /// Writes the outcome and waits for the disk. Leaves nothing behind when it fails.
    fn keep(&mut self, result: &SessionResult) -> io::Result<()> {
        let mut text = line(result)?;
        if self.broken {
            text.insert(0, b'\n');
        }
        let before = rustix::fs::fstat(&self.out)?.st_size;
        let kept = (|| {
            self.out.write_all(&text)?;
            self.out.flush()?;
            Ok(rustix::fs::fsync(&self.out)?)
        })();
        self.broken = kept.is_err() && rustix::fs::ftruncate(&self.out, before.unsigned_abs()).is_err();
        kept
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;
    use crate::supervisor::systemd::outcome;

    #[test]
    fn an_outcome_is_on_disk_when_it_is_answered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (task, guest) = UnixStream::pair().unwrap();
        let out = file.reopen().unwrap();
        let server = std::thread::spawn(move || Taker { out, known: None, broken: true }.hear(&guest));
        let result = SessionResult {
            exit_status: 3,
            output_tail: "said\n".to_owned(),
            output_truncated: false,
            finished_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let mut reader = BufReader::new(&task);
        let mut ask = |request: &[u8]| {
            (&task).write_all(request).unwrap();
            let mut answer = String::new();
            reader.read_line(&mut answer).unwrap();
            serde_json::from_str::<Answer>(&answer).unwrap()
        };
        assert_eq!(ask(&line(&Request::Result { result: result.clone() }).unwrap()), Answer::Done);
        let size = file.as_file().metadata().unwrap().len();
        assert_eq!(ask(&line(&Request::Result { result: result.clone() }).unwrap()), Answer::Done);
        let other = SessionResult { exit_status: 0, ..result.clone() };
        let Answer::Failed { reason } = ask(&line(&Request::Result { result: other }).unwrap()) else { panic!() };
        assert_eq!(reason, "the outcome is known");
        assert_eq!(file.as_file().metadata().unwrap().len(), size, "it grows");
        assert_eq!(outcome::read(file.path()), Some(result));
        assert!(matches!(ask(&line(&Request::List).unwrap()), Answer::Failed { .. }));
        assert!(matches!(ask(b"nonsense\n"), Answer::Failed { .. }));
        drop(reader);
        drop(task);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn an_outcome_that_is_too_long_or_cannot_be_written_leaves_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut result = SessionResult {
            exit_status: 0,
            output_tail: "x".repeat(OUTPUT_TAIL_BYTES + 1),
            output_truncated: true,
            finished_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let mut taker = Taker { out: file.reopen().unwrap(), known: None, broken: false };
        assert!(matches!(taker.take(result.clone()), Answer::Failed { .. }));
        assert_eq!(file.as_file().metadata().unwrap().len(), 0);
        result.output_tail.pop();
        let mut full =
            Taker { out: fs::OpenOptions::new().write(true).open("/dev/full").unwrap(), known: None, broken: false };
        assert!(matches!(full.take(result.clone()), Answer::Failed { .. }));
        assert_eq!(full.known, None);
        assert_eq!(taker.take(result), Answer::Done);
    }
}
