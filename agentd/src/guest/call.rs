//! One request to a guest and its answer, for programs without a runtime.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::wire::{Answer, MAX_LINE_BYTES, Request, line};

/// Sends `request` to the guest at `socket` and waits at most `timeout` for its answer.
pub fn call(socket: &Path, request: &Request, timeout: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(&line(request)?)?;
    let mut answer = Vec::new();
    BufReader::new(stream).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the guest ended without an answer"));
    }
    serde_json::from_slice(&answer).map_err(io::Error::other)
}
