//! Log lines to a server: text frames, each a JSON array of lines. A slow server slows the reading, not the session;
//! one that takes nothing at all for a minute is left.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::link::LogLine;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{DialError, Socket, close, splice};

/// Lines of one frame.
const LINES_AT_ONCE: usize = 256;
/// Bytes of text in one frame, where it is more than one line: small, so that each one taken is progress.
const BYTES_AT_ONCE: usize = 64 * 1024;
/// For one frame.
const SEND_TIMEOUT: Duration = Duration::from_mins(1);

/// What is sent.
pub(super) enum Logs {
    /// These, then the end.
    Last(Vec<LogLine>),
    /// Whatever comes, until the viewer leaves or the session ends.
    Following(mpsc::Receiver<LogLine>),
}

/// A line makes one frame at most, however long it is: the library would refuse one that is larger than its buffer.
pub(super) fn socket_config() -> WebSocketConfig {
    splice::socket_config().max_write_buffer_size(usize::MAX)
}

/// Sends until there is no more, or nobody listens.
pub(super) async fn run(mut socket: Socket, logs: Logs) -> Result<(), DialError> {
    match logs {
        Logs::Last(lines) => send(&mut socket, &lines, SEND_TIMEOUT).await?,
        Logs::Following(mut lines) => {
            let mut batch = Vec::new();
            loop {
                tokio::select! {
                    count = lines.recv_many(&mut batch, LINES_AT_ONCE) => {
                        if count == 0 {
                            break;
                        }
                        send(&mut socket, &batch, SEND_TIMEOUT).await?;
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

/// One frame or more: no lines are an answer, too.
async fn send(socket: &mut Socket, mut lines: &[LogLine], patience: Duration) -> Result<(), DialError> {
    loop {
        let (frame, rest) = lines.split_at(fitting(lines));
        let text = serde_json::to_string(frame).map_err(|error| DialError::Logs(error.to_string()))?;
        let sent = tokio::time::timeout(patience, socket.send(Message::Text(text.into()))).await;
        sent.map_err(|_| DialError::Stalled(patience))?.map_err(|error| DialError::Dial(error.to_string()))?;
        if rest.is_empty() {
            return Ok(());
        }
        lines = rest;
    }
}

/// How many of the lines go into one frame.
fn fitting(lines: &[LogLine]) -> usize {
    let mut bytes = 0;
    let fits = lines.iter().take(LINES_AT_ONCE).take_while(|line| {
        bytes += line.text.len();
        bytes <= BYTES_AT_ONCE
    });
    fits.count().max(1).min(lines.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::tungstenite::protocol::Role;
    use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

    use super::*;

    /// Ours, and the server's.
    async fn pair() -> (Socket, WebSocketStream<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let ours = MaybeTlsStream::Plain(ours);
        (
            WebSocketStream::from_raw_socket(ours, Role::Client, Some(socket_config())).await,
            WebSocketStream::from_raw_socket(theirs, Role::Server, None).await,
        )
    }

    fn line(text: String) -> LogLine {
        LogLine { unit: "app".to_owned(), text }
    }

    #[tokio::test]
    async fn many_and_long_lines_arrive_in_small_frames_and_none_is_an_answer() {
        let mut all: Vec<LogLine> = (0..3000).map(|number| line(format!("{number:0>100}"))).collect();
        all.push(line("\u{1}".repeat(100_000)));
        for lines in [all, Vec::new()] {
            let (ours, mut theirs) = pair().await;
            let sending = tokio::spawn(run(ours, Logs::Last(lines.clone())));
            let (mut heard, mut frames) = (Vec::new(), 0);
            while let Some(Ok(Message::Text(text))) = theirs.next().await {
                let part: Vec<LogLine> = serde_json::from_str(text.as_str()).unwrap();
                assert!(part.len() <= LINES_AT_ONCE);
                heard.extend(part);
                frames += 1;
            }
            // The close frame is answered as this is dropped.
            drop(theirs);
            sending.await.unwrap().unwrap();
            assert_eq!(heard, lines);
            assert!(frames >= 1);
        }
    }

    #[tokio::test]
    async fn who_takes_nothing_is_left() {
        let (mut ours, _theirs) = pair().await;
        let lines = vec![line("x".repeat(1000)); 100_000];
        let error = send(&mut ours, &lines, Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, DialError::Stalled(_)), "{error}");
    }
}
