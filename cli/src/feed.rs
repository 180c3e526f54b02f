//! The server's event feed, `/api/v1/events`, as a WebSocket that reconnects by itself and resumes where it was.
//!
//! It says *that* something changed; what it is now is read by a request. So a lost connection costs nothing but a
//! reading too many: after every reconnect [`Feed::changed`] answers at once.

use std::time::Duration;

use futures::StreamExt as _;
use helix_protocol::SessionId;
use helix_protocol::event::{Event, FeedItem};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::client::api_url;
use crate::error::{CliError, Kind, Result, chain};
use crate::settings::Connection;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const RETRY_AT_MOST: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Changes of one session.
pub struct Feed {
    connection: Connection,
    socket: Option<Socket>,
    /// Sequence of the last event seen: where a new connection resumes.
    seen: Option<u64>,
    failures: u32,
}

impl Feed {
    /// Connects; what happens from now on is not missed.
    pub async fn open(connection: &Connection) -> Result<Self> {
        let socket = connect(connection, None).await?;
        Ok(Self { connection: connection.clone(), socket: Some(socket), seen: None, failures: 0 })
    }

    /// Returns when the session may have changed. Cancel safe: nothing is lost but what the next reading shows.
    pub async fn changed(&mut self, session: &SessionId) -> Result<()> {
        loop {
            let Some(socket) = &mut self.socket else {
                self.reconnect().await?;
                return Ok(());
            };
            let text = match socket.next().await {
                Some(Ok(Message::Text(text))) => text,
                // Pings are answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    self.socket = None;
                    continue;
                }
            };
            match concerns(&text, session) {
                Notice::Item { sequence, ours } => {
                    self.seen = Some(sequence);
                    self.failures = 0;
                    if ours {
                        return Ok(());
                    }
                }
                Notice::Unknown => return Ok(()),
            }
        }
    }

    async fn reconnect(&mut self) -> Result<()> {
        loop {
            if self.failures > 0 {
                let pause = Duration::from_secs(1 << (self.failures - 1).min(4)).min(RETRY_AT_MOST);
                tokio::time::sleep(pause).await;
            }
            self.failures += 1;
            match connect(&self.connection, self.seen).await {
                Ok(socket) => {
                    self.socket = Some(socket);
                    return Ok(());
                }
                // A refusal does not go away; an outage does, and the caller's deadline ends the waiting.
                Err(error) if error.kind == Kind::Refused => return Err(error),
                Err(_) => {}
            }
        }
    }
}

enum Notice {
    Item {
        sequence: u64,
        ours: bool,
    },
    /// A gap, or an event that this helixctl does not know: better read once too often.
    Unknown,
}

fn concerns(text: &str, wanted: &SessionId) -> Notice {
    let Ok(item) = serde_json::from_str::<FeedItem>(text) else { return Notice::Unknown };
    let ours = match &item.event {
        Event::Session { session, .. } | Event::SessionDeleted { session, .. } => session == wanted,
        // A session that is queued may wait for exactly this runner.
        Event::Runner { .. } => true,
    };
    Notice::Item { sequence: item.sequence, ours }
}

async fn connect(connection: &Connection, after: Option<u64>) -> Result<Socket> {
    let query: Vec<_> = after.iter().map(|sequence| ("after", sequence.to_string())).collect();
    let mut url = api_url(&connection.url, &["events"], &query);
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    // Cannot fail: ws and wss are of the same class as http and https.
    let _ = url.set_scheme(scheme);
    let failed = |kind: Kind, why: String| {
        CliError::new(kind, "cannot watch events").at(&url).because(why).next("helixctl status")
    };
    let mut request = url.as_str().into_client_request().map_err(|error| failed(Kind::Failed, chain(&error)))?;
    if let Some(token) = &connection.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| failed(Kind::Usage, "the token cannot stand in a header".to_owned()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    match tokio::time::timeout(CONNECT_WITHIN, tokio_tungstenite::connect_async(request)).await {
        Ok(Ok((socket, _response))) => Ok(socket),
        Ok(Err(WsError::Http(response))) => {
            let status = response.status();
            let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            Err(failed(if refused { Kind::Refused } else { Kind::Unreachable }, format!("HTTP {status}")))
        }
        Ok(Err(error)) => Err(failed(Kind::Unreachable, chain(&error))),
        Err(_elapsed) => Err(failed(Kind::Unreachable, format!("no answer within {} s", CONNECT_WITHIN.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_told_apart() {
        let id = SessionId::parse("a").expect("valid id");
        let event = |session: &str| {
            format!(
                r#"{{"sequence":7,"type":"session","session":"{session}","phase":"Ready","at":"2026-01-01T00:00:00Z"}}"#
            )
        };
        assert!(matches!(concerns(&event("a"), &id), Notice::Item { sequence: 7, ours: true }));
        assert!(matches!(concerns(&event("b"), &id), Notice::Item { sequence: 7, ours: false }));
        assert!(matches!(concerns(r#"{"type":"gap","from":1,"to":5}"#, &id), Notice::Unknown));
    }
}
