//! One socket to a runner: calls out, answers in, each to its caller.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::ErrorCode;
use helix_protocol::control::{self, Viewer};
use helix_protocol::desktop::frame::{self, MAX_FRAME_BYTES};
use helix_protocol::desktop::{Answer, Call, Outcome, Reply, Request};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Budget;
use crate::relay::{End, GOODBYE, PING_EVERY, Socket};

/// Without a call for so long a line is closed.
const IDLE: Duration = Duration::from_mins(1);
/// For the runner to take one frame.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pings without any frame from the runner after which it is gone.
const MAX_UNANSWERED: u32 = 3;
/// Most bytes that one answer carries.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// What callers want of the line.
pub(super) enum Command {
    /// A call.
    Ask(Box<Asked>),
    /// Nobody waits for this one any more.
    Forget(u64),
}

/// A call.
pub(super) struct Asked {
    pub id: u64,
    pub by: Viewer,
    pub request: Request,
    pub answer: oneshot::Sender<Result<Begun, Fault>>,
}

/// An answer whose bytes come.
pub(super) struct Begun {
    pub reply: Reply,
    /// How many.
    pub bytes: u64,
    pub pieces: mpsc::UnboundedReceiver<Bytes>,
    /// For them, in memory.
    pub room: OwnedSemaphorePermit,
}

/// Why there is no answer.
pub(super) enum Fault {
    /// The runner says why.
    Refused(ErrorCode, String),
    /// The line ended before the call was sent.
    NotSent,
    /// It ended afterwards.
    Broken(String),
}

/// A call that was sent.
enum Waiting {
    Answer(oneshot::Sender<Result<Begun, Fault>>),
    /// Bytes that are still to come, and where they go.
    Pieces(u64, mpsc::UnboundedSender<Bytes>),
}

/// A socket with the calls that are under way on it.
pub(super) struct Line {
    socket: WebSocketStream<Socket>,
    waiting: HashMap<u64, Waiting>,
    ping: Interval,
    /// Pings since the runner's last frame.
    unanswered: u32,
    /// The runner is well, and has said why it does not serve this desktop.
    refused: bool,
    budget: Budget,
    _live: TaskTrackerToken,
}

/// Why a line ended: a word for those who still wait.
type Ending = String;

impl Line {
    pub async fn new(socket: Socket, live: TaskTrackerToken, budget: Budget) -> Self {
        let limits = WebSocketConfig::default()
            .write_buffer_size(0)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES));
        let socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(limits)).await;
        let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { socket, waiting: HashMap::new(), ping, unanswered: 0, refused: false, budget, _live: live }
    }

    /// The line's task.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, shutdown: CancellationToken) {
        tracing::debug!("opened");
        let why = self.serve(&mut commands, &shutdown).await;
        tracing::debug!(why, "closed");
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            if let Waiting::Answer(answer) = waiting {
                let why = why.clone();
                let fault =
                    if self.refused { Fault::Refused(ErrorCode::DisplayUnavailable, why) } else { Fault::Broken(why) };
                let _ = answer.send(Err(fault));
            }
        }
        // Whoever came too late for this line is served by the next.
        commands.close();
        while let Some(command) = commands.recv().await {
            if let Command::Ask(asked) = command {
                let _ = asked.answer.send(Err(Fault::NotSent));
            }
        }
        let (code, reason) = if shutdown.is_cancelled() { End::Shutdown } else { End::Closed }.code_and_reason();
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        // The other side may be gone already.
        let _ = timeout(GOODBYE, self.socket.close(Some(frame))).await;
    }

    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>, shutdown: &CancellationToken) -> Ending {
        let mut used = Instant::now();
        loop {
            if !self.waiting.is_empty() {
                used = Instant::now();
            } else if shutdown.is_cancelled() {
                return "the server restarts".to_owned();
            }
            // Cancel safe: a queue, a socket's next frame, timers.
            let done = tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Ask(asked)) => {
                        used = Instant::now();
                        self.ask(*asked).await
                    }
                    Some(Command::Forget(id)) => self.forget(id).await,
                    // The door is gone, and with it every caller.
                    None => return "nobody calls any more".to_owned(),
                },
                message = self.socket.next() => self.hear(message),
                _ = self.ping.tick() => self.ping().await,
                () = tokio::time::sleep_until(used + IDLE), if self.waiting.is_empty() => {
                    return "nobody has called for a while".to_owned();
                }
                () = shutdown.cancelled(), if self.waiting.is_empty() => continue,
            };
            if let Err(why) = done {
                return why;
            }
        }
    }

    async fn ask(&mut self, asked: Asked) -> Result<(), Ending> {
        let Asked { id, by, request, answer } = asked;
        let frame = match frame::encode(&Call { id, by, request }, &[]) {
            Ok(frame) => frame,
            Err(error) => {
                let _ = answer.send(Err(Fault::Broken(error.to_string())));
                return Ok(());
            }
        };
        self.waiting.insert(id, Waiting::Answer(answer));
        self.send(Message::Binary(frame.into())).await
    }

    async fn forget(&mut self, id: u64) -> Result<(), Ending> {
        if self.waiting.remove(&id).is_none() {
            return Ok(());
        }
        // Of a call that changes something, whoever asked for it is no longer there to be named.
        let by =
            Viewer { by: String::new(), token: String::new(), seat: None, role: control::Role::View, password: None };
        let call = Call { id: 0, by, request: Request::Cancel { call: id } };
        match frame::encode(&call, &[]) {
            Ok(frame) => self.send(Message::Binary(frame.into())).await,
            Err(error) => Err(error.to_string()),
        }
    }

    async fn ping(&mut self) -> Result<(), Ending> {
        if self.unanswered >= MAX_UNANSWERED {
            return Err("it shows no life any more".to_owned());
        }
        self.unanswered += 1;
        self.send(Message::Ping(Bytes::new())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Ending> {
        match timeout(SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("its connection broke off: {error}")),
            Err(_) => Err("it takes no calls any more".to_owned()),
        }
    }

    fn hear(&mut self, message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> Result<(), Ending> {
        self.unanswered = 0;
        match message {
            Some(Ok(Message::Binary(bytes))) => self.take(&bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_))) => Ok(()),
            // A display that died before the call came there.
            Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
                self.refused = true;
                Err(frame.reason.as_str().to_owned())
            }
            Some(Ok(Message::Close(_))) | None => Err("it closed its connection".to_owned()),
            Some(Err(error)) => Err(format!("its connection broke off: {error}")),
        }
    }

    fn take(&mut self, frame: &Bytes) -> Result<(), Ending> {
        let (Answer { id, outcome }, at) = frame::decode::<Answer>(frame).map_err(|error| error.to_string())?;
        let piece = frame.slice(at..);
        // One that was forgotten meanwhile.
        let Some(waiting) = self.waiting.remove(&id) else { return Ok(()) };
        match (waiting, outcome) {
            (Waiting::Answer(answer), Outcome::Refused { code, detail }) => {
                let _ = answer.send(Err(Fault::Refused(code, detail)));
            }
            (Waiting::Answer(answer), Outcome::Done { reply, bytes }) => {
                if bytes > MAX_ANSWER_BYTES {
                    return Err(format!("it sends an answer of {bytes} bytes"));
                }
                let Some(room) = self.budget.take(bytes) else {
                    // Its pieces come all the same, and are given to nobody.
                    let detail = "the answers under way fill the memory that this server has for them; try again";
                    let _ = answer.send(Err(Fault::Refused(ErrorCode::TooManyRequests, detail.to_owned())));
                    return Ok(());
                };
                let (sender, pieces) = mpsc::unbounded_channel();
                if answer.send(Ok(Begun { reply, bytes, pieces, room })).is_ok() {
                    self.pass(id, bytes, sender, piece)?;
                }
            }
            (Waiting::Pieces(left, sender), Outcome::More {}) => self.pass(id, left, sender, piece)?,
            _ => return Err("its answers are out of order".to_owned()),
        }
        Ok(())
    }

    /// Hands a piece on, and waits for the rest.
    fn pass(&mut self, id: u64, left: u64, to: mpsc::UnboundedSender<Bytes>, piece: Bytes) -> Result<(), Ending> {
        let left = left.checked_sub(piece.len() as u64).ok_or("it sends more than it said")?;
        // Bounded by what the answer said; a caller that has left takes none.
        let taken = piece.is_empty() || to.send(piece).is_ok();
        if left > 0 && taken {
            self.waiting.insert(id, Waiting::Pieces(left, to));
        }
        Ok(())
    }
}
