//! Calls from a server, and their answers, over the WebSocket that this runner dialled.
//!
//! Tasks: one per call under way, and one that writes what they have to say. The reader hands each call on in the order
//! in which it came, so that input of one call is done before that of the next. The end of the socket ends every call
//! of it; the end of the display is told to each call, and then ends the socket. A server that shows no life is left.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::ErrorCode;
use helix_protocol::desktop::frame::{self, MAX_FRAME_BYTES, PIECE_BYTES};
use helix_protocol::desktop::{Answer, CALL_SECONDS, Call, MAX_CALLS, Outcome, Request};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::Desktop;

/// A server pings three times as often.
const SILENCE: Duration = Duration::from_mins(1);
/// For one frame to be taken.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// For calls to say that their display has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Frames that wait to be written.
const QUEUE: usize = 4;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One frame is written at once, however large.
pub fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .write_buffer_size(0)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES))
}

/// Serves calls until the server leaves or the display ends.
pub async fn run(socket: Socket, desktop: Arc<Desktop>) {
    let (mut to_server, mut from_server) = socket.split();
    let (answers, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
    let ended = desktop.x.ended().clone();
    let writer = async {
        while let Some(frame) = queue.recv().await {
            let sent = tokio::time::timeout(SEND_TIMEOUT, to_server.send(Message::Binary(frame.into()))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
        // For calls that are on their way to us. The other side may be gone already.
        let goodbye = async {
            if ended.is_cancelled() {
                let reason = "the session's display has ended".into();
                to_server.send(Message::Close(Some(CloseFrame { code: CloseCode::Error, reason }))).await?;
            }
            to_server.close().await
        };
        let _ = tokio::time::timeout(LAST_WORDS, goodbye).await;
    };
    let reader = async move {
        let mut calls = Calls { desktop: desktop.clone(), answers, tasks: JoinSet::new(), under_way: HashMap::new() };
        loop {
            tokio::select! {
                message = tokio::time::timeout(SILENCE, from_server.next()) => match message {
                    Ok(Some(Ok(Message::Binary(bytes)))) => {
                        if !calls.take(&bytes).await {
                            return;
                        }
                    }
                    // Answered by the library.
                    Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
                    Ok(Some(Ok(Message::Close(_) | Message::Text(_)) | Err(_)) | None) | Err(_) => return,
                },
                Some(ended) = calls.tasks.join_next_with_id() => calls.forget(ended.map_or_else(|error| error.id(), |(id, ())| id)),
                () = desktop.x.ended().cancelled() => break,
            }
        }
        let last_words = async { while calls.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
    };
    // The reader drops the queue's other end, and so ends the writer once it has sent what is there.
    tokio::pin!(writer);
    tokio::select! {
        () = reader => writer.await,
        () = &mut writer => {}
    }
}

struct Calls {
    desktop: Arc<Desktop>,
    answers: mpsc::Sender<Vec<u8>>,
    /// Dropped, every call ends where it is.
    tasks: JoinSet<()>,
    under_way: HashMap<u64, AbortHandle>,
}

impl Calls {
    /// Begins a call. False for a frame that is none.
    async fn take(&mut self, bytes: &Bytes) -> bool {
        let call: Call = match frame::decode(bytes) {
            Ok((call, _)) => call,
            Err(error) => {
                tracing::warn!("a server sent something else than a call on a desktop: {error}");
                return false;
            }
        };
        let Call { id, by, request } = call;
        if let Request::Cancel { call } = request {
            if let Some(task) = self.under_way.remove(&call) {
                task.abort();
            }
            return true;
        }
        if self.tasks.len() >= MAX_CALLS {
            let detail = format!("the session has {MAX_CALLS} calls under way");
            let refused = Outcome::Refused { code: ErrorCode::TooManyRequests, detail };
            return send(&self.answers, id, refused, &[]).await;
        }
        let (desktop, answers) = (self.desktop.clone(), self.answers.clone());
        let mut call = Box::pin(async move { answer(&desktop, &answers, id, desktop.call(&by, request)).await });
        // So far that it has its place in the queue for keyboard and pointer.
        if futures::poll!(call.as_mut()).is_pending() {
            self.under_way.insert(id, self.tasks.spawn(call));
        }
        true
    }

    fn forget(&mut self, task: tokio::task::Id) {
        self.under_way.retain(|_, known| known.id() != task);
    }
}

async fn answer(
    desktop: &Desktop,
    answers: &mpsc::Sender<Vec<u8>>,
    id: u64,
    call: impl Future<Output = super::Result<(helix_protocol::desktop::Reply, Vec<u8>)>>,
) {
    let (outcome, payload) = match tokio::time::timeout(Duration::from_secs(CALL_SECONDS), call).await {
        Ok(Ok((reply, payload))) => (Outcome::Done { reply, bytes: payload.len() as u64 }, payload),
        Ok(Err(error)) => {
            tracing::debug!(desktop.pid = desktop.pid, "a call on a desktop was not done: {error}");
            (Outcome::Refused { code: error.code(), detail: error.to_string() }, Vec::new())
        }
        Err(_) => {
            let detail = format!("the call took more than {CALL_SECONDS} s");
            (Outcome::Refused { code: ErrorCode::WaitTimeout, detail }, Vec::new())
        }
    };
    let mut pieces = payload.chunks(PIECE_BYTES);
    if !send(answers, id, outcome, pieces.next().unwrap_or_default()).await {
        return;
    }
    for piece in pieces {
        if !send(answers, id, Outcome::More {}, piece).await {
            return;
        }
    }
}

/// False when nobody takes it any more.
async fn send(answers: &mpsc::Sender<Vec<u8>>, id: u64, outcome: Outcome, payload: &[u8]) -> bool {
    let frame = match frame::encode(&Answer { id, outcome }, payload) {
        // The server would close the stream, and with it break off every other call.
        Ok(frame) if frame.len() > MAX_FRAME_BYTES => {
            let detail = format!("the answer is too large to be sent: {} bytes", frame.len());
            tracing::error!(detail, "a call on a desktop was not answered");
            frame::encode(&Answer { id, outcome: Outcome::Refused { code: ErrorCode::Internal, detail } }, &[])
        }
        frame => frame,
    };
    match frame {
        Ok(frame) => answers.send(frame).await.is_ok(),
        Err(error) => {
            tracing::error!("an answer cannot be written: {error}");
            false
        }
    }
}
