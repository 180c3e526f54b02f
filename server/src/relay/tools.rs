//! A stream to a session's unit `tools`, dialled back by its runner: frames of `protocol::tools` both ways.
//!
//! No task: whoever holds the two halves reads and writes the runner's socket. Data is handed on as it came from the
//! socket, and what nobody takes stays there. Dropping both halves closes it, which the session sees.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::link::{Dial, Stream};
use helix_protocol::tools::{Failure, FrameKind, HEAD_BYTES, Request, head, parse_head};
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Relay, Socket, unavailable};
use crate::error::{Error, Result};

/// Largest message of a runner's: it sends what it reads at once.
const MAX_MESSAGE: usize = 1 << 20;
/// Pings without any frame from the runner after which it is gone.
const MAX_UNANSWERED: u32 = 3;

/// Where a stream's frames are sent.
pub struct ToolsSink {
    socket: SplitSink<WebSocketStream<Socket>, Message>,
    /// Pings since the runner's last frame.
    unanswered: Arc<AtomicU32>,
}

/// Where its frames come from.
pub struct ToolsSource {
    socket: SplitStream<WebSocketStream<Socket>>,
    decoder: Decoder,
    unanswered: Arc<AtomicU32>,
    runner: RunnerId,
}

impl Relay {
    /// A stream to the session's tools, with its request already said.
    pub async fn dial_tools(
        &self,
        runner: &RunnerId,
        session: &SessionId,
        request: &Request,
    ) -> Result<(ToolsSink, ToolsSource)> {
        let session = session.clone();
        let dial = |url, ticket| Dial {
            url,
            ticket,
            session,
            stream: Stream::Tools,
            viewer: None,
            lines: None,
            unit: None,
            follow: false,
        };
        let socket = self.dial_back(runner, dial).await?;
        let limits = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(limits)).await;
        let (sink, source) = socket.split();
        let unanswered = Arc::<AtomicU32>::default();
        let mut sink = ToolsSink { socket: sink, unanswered: unanswered.clone() };
        let said = sink.json(FrameKind::Request, request).await;
        said.map_err(|error| unavailable(runner, &format!("the stream broke off: {error}")))?;
        Ok((sink, ToolsSource { socket: source, decoder: Decoder::default(), unanswered, runner: runner.clone() }))
    }
}

impl ToolsSink {
    /// One frame, at most `protocol::tools::MAX_DATA` bytes of data. Waits for the session to take what came before.
    pub async fn send(&mut self, kind: FrameKind, payload: Bytes) -> io::Result<()> {
        let head = Bytes::copy_from_slice(&head(kind, payload.len()));
        self.socket.feed(Message::Binary(head)).await.map_err(|error| broken(&error))?;
        if !payload.is_empty() {
            self.socket.feed(Message::Binary(payload)).await.map_err(|error| broken(&error))?;
        }
        self.socket.flush().await.map_err(|error| broken(&error))
    }

    /// One frame of JSON.
    pub async fn json(&mut self, kind: FrameKind, value: &impl Serialize) -> io::Result<()> {
        self.send(kind, serde_json::to_vec(value)?.into()).await
    }

    /// Asks whether the runner is still there; an error where it has shown no life for long.
    pub async fn ping(&mut self) -> io::Result<()> {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) >= MAX_UNANSWERED {
            return Err(io::Error::other("the runner shows no life any more"));
        }
        self.socket.send(Message::Ping(Bytes::new())).await.map_err(|error| broken(&error))
    }
}

impl ToolsSource {
    /// The next frame; data comes in whatever pieces it arrives in, never empty. None at the end. Cancel safe.
    pub async fn next(&mut self) -> io::Result<Option<(FrameKind, Bytes)>> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            let message = self.socket.next().await;
            self.unanswered.store(0, Ordering::Relaxed);
            match message {
                Some(Ok(Message::Binary(bytes))) => self.decoder.chunk = bytes,
                Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
                    return Err(io::Error::other(frame.reason.as_str().to_owned()));
                }
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(&error)),
            }
        }
    }

    /// The first answer, or why there is none.
    pub async fn answer<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T> {
        let next = timeout(within, self.next()).await;
        let next = next.unwrap_or_else(|_| Err(io::Error::other(format!("no answer within {} s", within.as_secs()))));
        match next {
            Ok(Some((FrameKind::Answer, payload))) => serde_json::from_slice(&payload).map_err(|error| {
                unavailable(&self.runner, &format!("it answers in words of another version: {error}"))
            }),
            Ok(Some((FrameKind::Failed, payload))) => Err(failure(&payload).into()),
            Ok(Some(_)) => Err(unavailable(&self.runner, "it answers in words of another version")),
            Ok(None) => Err(unavailable(&self.runner, "the session's tools broke off; try again")),
            Err(error) => Err(unavailable(&self.runner, &error.to_string())),
        }
    }
}

/// What a frame of kind `Failed` says.
pub fn failure(payload: &[u8]) -> Failure {
    serde_json::from_slice(payload).unwrap_or_else(|_| {
        Failure::new(ErrorCode::RunnerUnavailable, "the session failed in words of another version")
    })
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code, failure.detail)
    }
}

fn broken(error: &tokio_tungstenite::tungstenite::Error) -> io::Error {
    io::Error::other(format!("the stream broke off: {error}"))
}

/// Bytes on their way to frames.
#[derive(Default)]
struct Decoder {
    /// What was read and not looked at.
    chunk: Bytes,
    head: Vec<u8>,
    /// The frame that is being read, and how much of it is to come.
    frame: Option<(FrameKind, usize)>,
    /// Of a frame that is handed on whole.
    json: Vec<u8>,
}

impl Decoder {
    fn next(&mut self) -> io::Result<Option<(FrameKind, Bytes)>> {
        loop {
            let Some((kind, left)) = self.frame else {
                let count = (HEAD_BYTES - self.head.len()).min(self.chunk.len());
                self.head.extend_from_slice(&self.chunk[..count]);
                self.chunk.advance(count);
                let Ok(head) = <[u8; HEAD_BYTES]>::try_from(self.head.as_slice()) else { return Ok(None) };
                self.head.clear();
                let frame = parse_head(head).ok_or_else(|| io::Error::other("the session sent what is no frame"))?;
                self.frame = Some(frame);
                continue;
            };
            let count = left.min(self.chunk.len());
            let bytes = self.chunk.split_to(count);
            let left = left - count;
            self.frame = (left > 0).then_some((kind, left));
            if kind.is_data() {
                if !bytes.is_empty() {
                    return Ok(Some((kind, bytes)));
                }
            } else if left == 0 && self.json.is_empty() {
                return Ok(Some((kind, bytes)));
            } else {
                self.json.extend_from_slice(&bytes);
                if left == 0 {
                    return Ok(Some((kind, std::mem::take(&mut self.json).into())));
                }
            }
            if self.chunk.is_empty() {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8], piece: usize) -> Vec<(FrameKind, Vec<u8>)> {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::<(FrameKind, Vec<u8>)>::new());
        for piece in input.chunks(piece) {
            decoder.chunk = Bytes::copy_from_slice(piece);
            while let Some((kind, bytes)) = decoder.next().expect("frames") {
                match frames.last_mut() {
                    // Data may come in pieces.
                    Some((last, all)) if *last == kind && kind.is_data() => all.extend_from_slice(&bytes),
                    _ => frames.push((kind, bytes.to_vec())),
                }
            }
        }
        frames
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let frames = [
            (FrameKind::Answer, b"{}".to_vec()),
            (FrameKind::Data, vec![7; 300]),
            (FrameKind::Taken, vec![0, 0, 1, 2]),
            (FrameKind::ErrorData, b"oh".to_vec()),
            (FrameKind::End, Vec::new()),
        ];
        let input: Vec<u8> =
            frames.iter().flat_map(|(kind, bytes)| [&head(*kind, bytes.len())[..], bytes].concat()).collect();
        for piece in 1..input.len() {
            assert_eq!(decoded(&input, piece), frames, "{piece}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut decoder = Decoder { chunk: Bytes::from_static(b"HTTP/1.1 200"), ..Decoder::default() };
        assert!(decoder.next().is_err());
    }
}
