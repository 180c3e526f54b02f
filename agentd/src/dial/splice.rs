//! Copies between a WebSocket and a display's socket: binary frames one way, bytes the other.
//!
//! Each direction reads only after it has written, so a slow viewer slows its display's sender and nothing is queued.
//! A buffer exists only while bytes are under way: an idle viewer holds none.

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

/// Copies until either side ends, then ends the other.
pub(super) async fn run(socket: Socket, display: UnixStream) {
    let (to_server, from_server) = socket.split();
    let (from_display, to_display) = display.into_split();
    // Whichever ends first ends both: the halves are dropped, and with them the sockets.
    tokio::select! {
        () = display_to_server(from_display, to_server) => {}
        () = server_to_display(from_server, to_display) => {}
    }
}

async fn display_to_server(mut display: OwnedReadHalf, mut server: SplitSink<Socket, Message>) {
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

async fn server_to_display(mut server: SplitStream<Socket>, mut display: OwnedWriteHalf) {
    while let Some(Ok(message)) = server.next().await {
        match message {
            Message::Binary(bytes) => {
                if display.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Message::Close(_) | Message::Text(_) => return,
            // Answered by the library at the next write.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}
