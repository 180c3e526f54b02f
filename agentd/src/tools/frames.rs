//! Frames of `protocol::tools` on a unix socket: for the tasks of programs, and for the threads that copy files.

use std::io::{self, Read, Write};

use helix_protocol::tools::{Failure, FrameKind, HEAD_BYTES, head, parse_head};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

fn no_frame() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the server sent what is no frame")
}

/// JSON of ours always can be made.
fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::from)
}

/// JSON of the server's.
pub(crate) fn parse<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    serde_json::from_slice(payload).map_err(io::Error::from)
}

/// Reads one frame into `payload`. None at the end of the stream. Not cancel safe.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    payload: &mut Vec<u8>,
) -> io::Result<Option<FrameKind>> {
    let mut bytes = [0; HEAD_BYTES];
    if stream.read(&mut bytes[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut bytes[1..]).await?;
    let (kind, length) = parse_head(bytes).ok_or_else(no_frame)?;
    payload.resize(length, 0);
    stream.read_exact(payload).await?;
    Ok(Some(kind))
}

/// Writes one frame. Not cancel safe.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), kind: FrameKind, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.extend_from_slice(&head(kind, payload.len()));
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await
}

/// Writes one frame of JSON.
pub(crate) async fn write_json(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: FrameKind,
    value: &impl Serialize,
) -> io::Result<()> {
    write(stream, kind, &json(value)?).await
}

/// The whole answer to a request that was refused.
pub(crate) async fn refuse(stream: &mut (impl AsyncWrite + Unpin), failure: &Failure) -> io::Result<()> {
    write_json(stream, FrameKind::Failed, failure).await
}

/// The same as [`read`], for a thread. At the end of the stream: an error of kind `UnexpectedEof`.
pub(crate) fn read_blocking(stream: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<FrameKind> {
    let mut bytes = [0; HEAD_BYTES];
    stream.read_exact(&mut bytes)?;
    let (kind, length) = parse_head(bytes).ok_or_else(no_frame)?;
    payload.resize(length, 0);
    stream.read_exact(payload)?;
    Ok(kind)
}

/// The same as [`write_json`], for a thread.
pub(crate) fn write_json_blocking(stream: &mut impl Write, kind: FrameKind, value: &impl Serialize) -> io::Result<()> {
    let payload = json(value)?;
    stream.write_all(&[&head(kind, payload.len())[..], &payload].concat())
}
