//! How a viewer is heard and told something, whatever carries its bytes: a WebSocket (dialled to a server, or accepted from
//! a browser), or a plain connection.
//!
//! An idle viewer's hearing holds at most [`PIECE_BYTES`]; nothing is queued.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::OwnedReadHalf;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Bytes of a plain connection that are read at once.
const PIECE_BYTES: usize = 4 * 1024;
/// Most bytes that a viewer is told at once.
const FRAME_BYTES: usize = 64 * 1024;
/// Closing politely.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// A close reason must fit into a control frame of 125 bytes with its code.
const MAX_REASON_BYTES: usize = 120;

/// What a viewer says.
pub trait Hear: Send {
    /// The next bytes; `None` where it has left. Cancel safe.
    fn hear(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// What a viewer is told.
pub trait Say: Send {
    /// Tells it; false where it has left.
    fn say(&mut self, bytes: Bytes) -> impl Future<Output = bool> + Send;

    /// Sends it away, with the reason where it can be told one.
    fn close(&mut self, why: Option<&str>) -> impl Future<Output = ()> + Send;
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Hear for SplitStream<WebSocketStream<T>> {
    async fn hear(&mut self) -> Option<Bytes> {
        loop {
            match self.next().await {
                Some(Ok(Message::Binary(bytes))) => return Some(bytes),
                // Answered by the library at the next write.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_) | Message::Text(_)) | Err(_)) | None => return None,
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Say for SplitSink<WebSocketStream<T>, Message> {
    async fn say(&mut self, bytes: Bytes) -> bool {
        self.send(Message::Binary(bytes)).await.is_ok()
    }

    async fn close(&mut self, why: Option<&str>) {
        let frame = why.map(|why| {
            let mut end = why.len().min(MAX_REASON_BYTES);
            while !why.is_char_boundary(end) {
                end -= 1;
            }
            CloseFrame { code: CloseCode::Error, reason: Utf8Bytes::from(&why[..end]) }
        });
        let closing = async {
            // The other side may be gone already: the socket ends either way.
            let _ = self.send(Message::Close(frame)).await;
            let _ = futures::SinkExt::close(self).await;
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}

/// One direction of a plain connection.
#[derive(Debug)]
pub struct Plain<T>(pub T);

impl<R: AsyncRead + Unpin + Send> Hear for Plain<R> {
    async fn hear(&mut self) -> Option<Bytes> {
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        match self.0.read_buf(&mut buffer).await {
            Ok(1..) => Some(buffer.freeze()),
            Ok(0) | Err(_) => None,
        }
    }
}

impl<W: AsyncWrite + Unpin + Send> Say for Plain<W> {
    async fn say(&mut self, bytes: Bytes) -> bool {
        self.0.write_all(&bytes).await.is_ok()
    }

    async fn close(&mut self, _why: Option<&str>) {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.0.shutdown()).await;
    }
}

/// Tells the viewer all that is said here, until either ends. Reads only after it has told, so a slow viewer slows who
/// speaks; a buffer exists only while bytes are under way.
pub async fn tell(mut from: OwnedReadHalf, to: &mut impl Say) {
    loop {
        if from.readable().await.is_err() {
            return;
        }
        let mut buffer = BytesMut::with_capacity(FRAME_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if !to.say(buffer.freeze()).await {
            return;
        }
    }
}
