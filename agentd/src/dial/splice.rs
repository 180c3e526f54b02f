//! Copies between a WebSocket and a unit's socket, the display's or the tools': binary frames one way, bytes the other.
//!
//! Each direction reads only after it has written, so a slow viewer slows its display's sender and nothing is queued.
//! A buffer exists only while bytes are under way: an idle viewer holds none.

use std::time::Duration;

use bytes::BytesMut;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Most bytes of one frame to the server.
const FRAME_BYTES: usize = 64 * 1024;
/// What a viewer may send in one frame: input and clipboard.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// For a server to take what a unit said last, and to leave.
const LAST_WORDS: Duration = Duration::from_mins(2);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Small buffers, every frame sent at once.
pub(super) fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * FRAME_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

/// Copies until either side ends, then ends the other. What the unit said last reaches a server that still sends.
pub(super) async fn run(socket: Socket, unit: UnixStream) {
    let (sink, stream) = socket.split();
    let (from_unit, to_unit) = unit.into_split();
    let heard = from_server(stream, to_unit);
    tokio::pin!(heard);
    // The halves are dropped, and with them the sockets.
    tokio::select! {
        () = to_server(from_unit, sink) => {
            // A connection that is closed on unread bytes is reset, and takes with it what is on its way.
            let _ = tokio::time::timeout(LAST_WORDS, heard).await;
        }
        () = &mut heard => {}
    }
}

pub(super) async fn to_server(mut display: OwnedReadHalf, mut server: SplitSink<Socket, Message>) {
    loop {
        if display.readable().await.is_err() {
            return;
        }
        let mut buffer = BytesMut::with_capacity(FRAME_BYTES);
        match display.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => {
                // The display ended: say so properly, if the server still listens.
                let _ = server.close().await;
                return;
            }
            Ok(_) => {}
        }
        if server.send(Message::Binary(buffer.freeze())).await.is_err() {
            return;
        }
    }
}

/// Until the server ends: a unit that takes nothing more may have said something last.
async fn from_server(mut server: SplitStream<Socket>, mut unit: OwnedWriteHalf) {
    let mut is_deaf = false;
    while let Some(Ok(message)) = server.next().await {
        match message {
            Message::Binary(bytes) => is_deaf = is_deaf || unit.write_all(&bytes).await.is_err(),
            Message::Close(_) | Message::Text(_) => return,
            // Answered by the library at the next write.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::{accept_async, client_async};

    use super::*;

    #[tokio::test]
    async fn what_a_unit_said_last_reaches_a_server_that_still_sends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let said = vec![7; 60_000];
        // Which side is looked at first is chance.
        for _ in 0..20 {
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (dialled, accepted) = tokio::join!(client_async("ws://server/", MaybeTlsStream::Plain(tcp)), async {
                accept_async(listener.accept().await.unwrap().0).await
            });
            let ((socket, _), mut server) = (dialled.unwrap(), accepted.unwrap());
            let (mut unit, ours) = UnixStream::pair().unwrap();
            unit.write_all(&said).await.unwrap();
            drop(unit);
            for _ in 0..4 {
                server.send(Message::Binary(vec![1; 1000].into())).await.unwrap();
            }
            let copying = tokio::spawn(run(socket, ours));
            let mut heard = Vec::new();
            let hear = async {
                while let Some(Ok(Message::Binary(bytes))) = server.next().await {
                    heard.extend_from_slice(&bytes);
                }
            };
            tokio::time::timeout(Duration::from_secs(10), hear).await.unwrap();
            assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
            drop(server);
            tokio::time::timeout(Duration::from_secs(10), copying).await.unwrap().unwrap();
        }
    }
}
