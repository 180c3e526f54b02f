//! Log lines to a server: text frames, each a JSON array of lines. A slow server slows the reading, not the session.

use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::link::LogLine;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{DialError, Socket, close};

/// Lines of one frame.
const LINES_AT_ONCE: usize = 256;

/// What is sent.
pub(super) enum Logs {
    /// These, then the end.
    Last(Vec<LogLine>),
    /// Whatever comes, until the viewer leaves or the session ends.
    Following(mpsc::Receiver<LogLine>),
}

/// Sends until there is no more, or nobody listens.
pub(super) async fn run(mut socket: Socket, logs: Logs) -> Result<(), DialError> {
    match logs {
        Logs::Last(lines) => send(&mut socket, &lines).await?,
        Logs::Following(mut lines) => {
            let mut batch = Vec::new();
            loop {
                tokio::select! {
                    count = lines.recv_many(&mut batch, LINES_AT_ONCE) => {
                        if count == 0 {
                            break;
                        }
                        send(&mut socket, &batch).await?;
                        batch.clear();
                    }
                    // The server says nothing here but that it leaves.
                    heard = socket.next() => match heard {
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                        Some(Ok(_)) => {}
                    },
                }
            }
        }
    }
    close(socket, CloseCode::Normal, "").await;
    Ok(())
}

async fn send(socket: &mut Socket, lines: &[LogLine]) -> Result<(), DialError> {
    let text = serde_json::to_string(lines).map_err(|error| DialError::Logs(error.to_string()))?;
    socket.send(Message::Text(text.into())).await.map_err(|error| DialError::Dial(error.to_string()))
}
