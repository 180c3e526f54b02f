//! A session's log lines, dialled back by its runner: the last ones, or those and every new one.
//!
//! No task: whoever reads [`Relay::follow_logs`] reads the runner's socket, one frame at a time. Who reads slowly slows
//! that socket by TCP and holds one frame; who stops reading closes it. A runner that shows no life is given up; so
//! is a stream whose token or process ends.

use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{SinkExt as _, Stream, StreamExt as _};
use helix_protocol::link::{Dial, LogLine, Stream as Bytes};
use helix_protocol::{RunnerId, SessionId};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::{End, PING_EVERY, Relay, Socket, unavailable};
use crate::error::Result;

/// How long a dialled runner may take to read and send the lines that are there already.
const DEADLINE: Duration = Duration::from_secs(10);
/// Largest frame of lines, and most bytes of an answer that is not followed.
const MAX_BYTES: usize = 16 << 20;

/// Pings without any frame from the runner after which it is gone. Counted, not timed: while nobody reads here, its
/// frames wait in the socket, and that is not its silence.
const MAX_UNANSWERED: u32 = 3;

/// Which lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Last lines of each unit.
    pub lines: u32,
    /// Only of this unit.
    pub unit: Option<String>,
}

impl LogQuery {
    fn wants(&self, line: &LogLine) -> bool {
        self.unit.as_ref().is_none_or(|unit| *unit == line.unit)
    }
}

impl Relay {
    /// The last lines that the units of a session wrote, read by its runner.
    pub async fn fetch_logs(&self, runner: &RunnerId, session: &SessionId, query: LogQuery) -> Result<Vec<LogLine>> {
        let mut logs = self.dial_logs(runner, session, query, false).await?;
        let read = async {
            let (mut all, mut bytes) = (None, 0);
            while let Some((lines, size)) = logs.next().await? {
                bytes += size;
                if bytes > MAX_BYTES {
                    return Err(io::Error::other("it sent too much; ask for fewer lines"));
                }
                all.get_or_insert_with(Vec::new).extend(lines);
            }
            all.ok_or_else(|| io::Error::other("it closed the stream without log lines; its own log says why"))
        };
        match timeout(DEADLINE, read).await {
            Ok(Ok(lines)) => Ok(lines),
            Ok(Err(error)) => Err(unavailable(runner, &error.to_string())),
            Err(_) => {
                let seconds = DEADLINE.as_secs();
                Err(unavailable(runner, &format!("it sent no log lines within {seconds} s; try again")))
            }
        }
    }

    /// The last lines, then every new one, in batches as they come; ends with the session's log. An error is the last
    /// item: the stream broke off, or `stop` completed. Dropping it closes the runner's socket.
    pub async fn follow_logs(
        &self,
        runner: &RunnerId,
        session: &SessionId,
        query: LogQuery,
        stop: BoxFuture<'static, End>,
    ) -> Result<impl Stream<Item = io::Result<Vec<LogLine>>> + Send + use<>> {
        let logs = self.dial_logs(runner, session, query, true).await?;
        let state = Some((logs, stop));
        Ok(futures::stream::unfold(state, async |state| {
            let (mut logs, mut stop) = state?;
            let next = tokio::select! {
                biased;
                end = &mut stop => Err(io::Error::other(end.code_and_reason().1)),
                next = logs.next() => next,
            };
            match next {
                Ok(Some((lines, _))) => Some((Ok(lines), Some((logs, stop)))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn dial_logs(
        &self,
        runner: &RunnerId,
        session: &SessionId,
        query: LogQuery,
        follow: bool,
    ) -> Result<Incoming> {
        let (session, lines, unit) = (session.clone(), Some(query.lines), query.unit.clone());
        let dial = |url, ticket| Dial { url, ticket, session, stream: Bytes::Logs, viewer: None, lines, unit, follow };
        let socket = self.dial_back(runner, dial).await?;
        let limits = WebSocketConfig::default().max_message_size(Some(MAX_BYTES)).max_frame_size(Some(MAX_BYTES));
        let socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(limits)).await;
        Ok(Incoming::new(socket, query))
    }
}

/// The runner's end of a stream of lines.
struct Incoming {
    socket: WebSocketStream<Socket>,
    query: LogQuery,
    ping: Interval,
    /// Pings since its last frame.
    unanswered: u32,
}

impl Incoming {
    fn new(socket: WebSocketStream<Socket>, query: LogQuery) -> Self {
        let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { socket, query, ping, unanswered: 0 }
    }

    /// The next lines with the size of their frame; `None` after the last.
    async fn next(&mut self) -> io::Result<Option<(Vec<LogLine>, usize)>> {
        loop {
            // Cancel safe: a socket's next frame and a timer.
            let message = tokio::select! {
                biased;
                message = self.socket.next() => message,
                _ = self.ping.tick() => {
                    if self.unanswered >= MAX_UNANSWERED {
                        return Err(io::Error::other("it shows no life any more"));
                    }
                    let ping = Message::Ping(bytes::Bytes::new());
                    self.socket.send(ping).await.map_err(|error| broken(&error))?;
                    self.unanswered += 1;
                    continue;
                }
            };
            self.unanswered = 0;
            match message {
                Some(Ok(Message::Text(text))) => {
                    let mut lines: Vec<LogLine> = serde_json::from_str(text.as_str())
                        .map_err(|error| io::Error::other(format!("it sent something else than log lines: {error}")))?;
                    lines.retain(|line| self.query.wants(line));
                    return Ok(Some((lines, text.len())));
                }
                Some(Ok(Message::Close(frame))) => return end(frame.as_ref()).map(|()| None),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(broken(&error)),
                None => return Ok(None),
            }
        }
    }
}

/// A runner that cannot read the lines says why in its close frame.
fn end(frame: Option<&CloseFrame>) -> io::Result<()> {
    match frame {
        Some(frame) if frame.code != CloseCode::Normal => {
            Err(io::Error::other(format!("it ended the stream: {}", frame.reason.as_str())))
        }
        _ => Ok(()),
    }
}

fn broken(error: &tokio_tungstenite::tungstenite::Error) -> io::Error {
    io::Error::other(format!("the stream of its log lines broke off: {error}"))
}
