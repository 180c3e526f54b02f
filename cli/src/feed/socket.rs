//! A feed's WebSocket: opened with the token, opened again after it broke, with growing pauses.

use std::time::Duration;

use futures::StreamExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::client::socket::{self, Socket};
use crate::error::{Kind, Result, chain};
use crate::settings::Connection;

const RETRY_AT_MOST: Duration = Duration::from_secs(10);
/// The server pings every 20 s: a line without a sign of life for so long is dead.
const SILENCE: Duration = Duration::from_mins(1);

/// A line to one feed of the server.
pub(super) struct Line {
    connection: Connection,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    socket: Option<Socket>,
    failures: u32,
}

impl Line {
    /// Connects. With `after` the feed begins behind that sequence, without it with what happens from now on.
    pub(super) async fn open(
        connection: &Connection,
        path: Vec<String>,
        query: Vec<(&'static str, String)>,
        after: Option<u64>,
    ) -> Result<Self> {
        let mut line = Self { connection: connection.clone(), path, query, socket: None, failures: 0 };
        line.socket = Some(line.connect(after).await?);
        Ok(line)
    }

    /// True after [`Line::text`] has said that it broke.
    pub(super) fn is_broken(&self) -> bool {
        self.socket.is_none()
    }

    /// The next message; `Err` with the reason when the line broke. Cancel safe.
    pub(super) async fn text(&mut self) -> std::result::Result<String, String> {
        loop {
            let Some(socket) = &mut self.socket else { return Err("it is broken".to_owned()) };
            let why = match tokio::time::timeout(SILENCE, socket.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => return Ok(text.as_str().to_owned()),
                // Pings are answered by the library.
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_)))) => continue,
                Ok(Some(Ok(Message::Close(Some(close))))) if !close.reason.is_empty() => {
                    format!("the server closed it: {}", close.reason)
                }
                Ok(Some(Ok(Message::Close(_))) | None) => "the server closed it".to_owned(),
                Ok(Some(Err(error))) => chain(&error),
                Err(_elapsed) => format!("no sign of life for {} s", SILENCE.as_secs()),
            };
            self.socket = None;
            return Err(why);
        }
    }

    /// Something useful came: the next break is the first one again.
    pub(super) fn is_well(&mut self) {
        self.failures = 0;
    }

    /// Connects again, as often as it takes: a refusal does not go away and is an error, an outage does, and the
    /// caller's deadline ends the waiting. Cancel safe.
    pub(super) async fn reconnect(&mut self, after: Option<u64>) -> Result<()> {
        loop {
            if self.failures > 0 {
                let pause = Duration::from_secs(1 << (self.failures - 1).min(4)).min(RETRY_AT_MOST);
                tokio::time::sleep(pause).await;
            }
            self.failures += 1;
            match self.connect(after).await {
                Ok(socket) => {
                    self.socket = Some(socket);
                    return Ok(());
                }
                Err(error) if error.kind == Kind::Unreachable => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect(&self, after: Option<u64>) -> Result<Socket> {
        let mut query = self.query.clone();
        query.extend(after.map(|sequence| ("after", sequence.to_string())));
        let path: Vec<_> = self.path.iter().map(String::as_str).collect();
        socket::open(&self.connection, "cannot watch events", &path, &query).await
    }
}
