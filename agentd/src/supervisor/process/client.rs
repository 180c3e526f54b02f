//! agentd's side of `guest.sock`: one connection per request, and one per subscription.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::guest::wire::{Answer, MAX_LINE_BYTES, Request, line};

/// Sends `request` to the guest at `socket` and waits at most `timeout` for its answer.
pub async fn call(socket: &Path, request: &Request, timeout: Duration) -> io::Result<Answer> {
    let answered = async {
        let mut stream = connect(socket, request).await?;
        next(&mut stream).await?.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it ended the connection"))
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer for {} s", timeout.as_secs()));
    tokio::time::timeout(timeout, answered).await.map_err(late)?
}

/// A connection on which `request` has been sent.
pub async fn connect(socket: &Path, request: &Request) -> io::Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&line(request)?).await?;
    Ok(BufReader::with_capacity(1024, stream))
}

/// The next answer; None when the guest has ended the connection.
pub async fn next(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Answer>> {
    let mut text = Vec::new();
    stream.take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut text).await?;
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
}
