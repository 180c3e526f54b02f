//! Byte streams of sessions, dialled back to the server that holds the viewer.
//!
//! [`run`] takes nudges from the link, asks that server for its dials, and starts one task per dial: a WebSocket to
//! `{url}/api/v1/dial` with the one-use ticket in a header, accepted only if `url` is one of the configured servers;
//! then bytes are copied until either side ends. The server waits a few seconds for a dial: whatever cannot be served
//! is dialled all the same and closed with the reason, so that its viewer is not kept waiting. Tickets are not logged.

mod logs;
mod splice;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use helix_protocol::link::{DIAL_TICKET_HEADER, Dial, Reply, Stream};
use helix_protocol::viewer::{Refusal, ViewerWay};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use crate::config::{Config, normalise_origin};
use crate::desktop::{DesktopError, Desktops, stream};
use crate::gate::Gates;
use crate::gate::viewer::Proof;
use crate::link::connection::Connection;
use crate::link::token::OwnToken;
use crate::recorder::notes::Notes;
use crate::supervisor::{Supervisor, SupervisorError, UnitName};
use crate::tools::host::{Board, ToolsError};
use crate::viewers::{Coming, ServeError, Viewers};

use self::logs::Logs;

/// From the nudge to an open WebSocket. The server gives up after 5 s.
const DIAL_TIMEOUT: Duration = Duration::from_secs(4);
/// Closing politely.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Streams at once; more than any machine has viewers.
const MAX_STREAMS: usize = 1024;
/// Of these, logs: each reads files or a journal, and no desktop waits for one.
const MAX_LOGS: usize = 32;
/// Lines per unit where the server names no number, and the most that are sent.
const LOG_LINES: (u32, u32) = (200, 10_000);
/// A close reason must fit into a control frame of 125 bytes with its code.
const MAX_REASON_BYTES: usize = 120;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A server says that a viewer waits.
#[derive(Debug)]
pub struct DialNudge {
    /// Where to ask for the dials.
    pub connection: Connection,
    /// Which server.
    pub server: String,
}

/// Why a stream is not served. The texts go to the server as close reason.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("the server's address is not one that this runner is configured with")]
    ForeignServer,
    #[error("the dial-back to the server failed: {0}")]
    Dial(String),
    #[error("{0}")]
    Desktop(DesktopError),
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error("the logs cannot be read: {0}")]
    Logs(String),
    #[error("too many logs are read at once")]
    TooManyLogs,
    #[error("the dial names no viewer")]
    NoViewer,
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("nobody took the log lines for {} s", .0.as_secs())]
    Stalled(Duration),
}

/// Serves nudges until the link drops its sender. Streams that are open go on until the runtime ends.
pub async fn run<S: Supervisor>(
    supervisor: S,
    viewers: Viewers<S>,
    tools: Board,
    config: Arc<Config>,
    token: OwnToken,
    (gates, notes): (Gates, Notes),
    mut nudges: mpsc::Receiver<DialNudge>,
) {
    let (streams, log_reads) = (Arc::new(Semaphore::new(MAX_STREAMS)), Semaphore::new(MAX_LOGS));
    let desktops = Desktops::new(supervisor.clone(), gates, notes);
    let dialer = Arc::new(Dialer { supervisor, viewers, tools, config, token, streams, log_reads, desktops });
    while let Some(nudge) = nudges.recv().await {
        let dialer = dialer.clone();
        tokio::spawn(async move { dialer.serve(nudge).await });
    }
}

struct Dialer<S> {
    supervisor: S,
    viewers: Viewers<S>,
    tools: Board,
    config: Arc<Config>,
    token: OwnToken,
    streams: Arc<Semaphore>,
    log_reads: Semaphore,
    desktops: Desktops<S>,
}

impl<S: Supervisor> Dialer<S> {
    /// Asks for the dials and starts each.
    async fn serve(self: Arc<Self>, nudge: DialNudge) {
        let dials = match nudge.connection.request_dials(&nudge.server).await {
            Ok(Reply::Dials { dials }) => dials,
            Ok(_) => {
                return tracing::warn!(server = nudge.server, "the answer to a request for dials is of another type");
            }
            Err(error) => return tracing::warn!(server = nudge.server, "no dials: {error}"),
        };
        for dial in dials {
            let Ok(permit) = self.streams.clone().try_acquire_owned() else {
                tracing::warn!(HELIX_SESSION = %dial.session, "dial refused: too many streams are open");
                continue;
            };
            let dialer = self.clone();
            tokio::spawn(async move {
                let (session, stream) = (dial.session.clone(), dial.stream);
                if let Err(error) = dialer.stream(dial).await {
                    tracing::warn!(HELIX_SESSION = %session, ?stream, "stream not served: {error}");
                }
                drop(permit);
            });
        }
    }

    async fn stream(&self, dial: Dial) -> Result<(), DialError> {
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, self.open(&dial));
        match dial.stream {
            Stream::Vnc | Stream::Rdp => {
                let socket = dialled.await.map_err(|_| DialError::Dial("no answer in time".to_owned()))??;
                let Some(viewer) = &dial.viewer else { return refuse(socket, DialError::NoViewer).await };
                let is_vnc = dial.stream == Stream::Vnc;
                let (session, way) = (&dial.session, if is_vnc { ViewerWay::Vnc } else { ViewerWay::Rdp });
                let place = match self.viewers.lobby().enter(session, None) {
                    Ok(place) => place,
                    Err(crowded) => {
                        self.viewers.told().refused(session, way, None, Some(&viewer.by), Refusal::Crowded);
                        return refuse(socket, ServeError::from(crowded).into()).await;
                    }
                };
                let coming = Coming { session, way, address: None, by: Some(&viewer.by), place: &place };
                let (mut say, mut hear) = socket.split();
                let served = if is_vnc {
                    self.viewers.vnc(coming, &mut hear, &mut say, Proof::Ticket(viewer)).await
                } else {
                    self.viewers.rdp(coming, &mut hear, &mut say, viewer.role).await
                };
                if let Some(refused) = served.as_ref().err().and_then(ServeError::refusal) {
                    self.viewers.refused(coming, refused);
                }
                Ok(served?)
            }
            Stream::Tools => {
                let tools = tokio::time::timeout(DIAL_TIMEOUT, self.tools.open(&dial.session));
                let (socket, tools) = tokio::join!(dialled, tools);
                let socket = socket.map_err(|_| DialError::Dial("no answer in time".to_owned()))??;
                match tools.unwrap_or(Err(ToolsError::Late)) {
                    Ok(tools) => {
                        splice::run(socket, tools).await;
                        Ok(())
                    }
                    Err(error) => refuse(socket, error.into()).await,
                }
            }
            Stream::Logs => {
                // Held until the end of the stream.
                let turn = self.log_reads.try_acquire();
                let logs = async { if turn.is_ok() { self.logs(&dial).await } else { Err(DialError::TooManyLogs) } };
                let (socket, logs) = tokio::join!(dialled, logs);
                let socket = socket.map_err(|_| DialError::Dial("no answer in time".to_owned()))??;
                match logs {
                    Ok(logs) => logs::run(socket, logs).await,
                    Err(error) => refuse(socket, error).await,
                }
            }
            Stream::Desktop => {
                let (socket, desktop) = tokio::join!(dialled, self.desktops.open(&dial.session));
                let socket = socket.map_err(|_| DialError::Dial("no answer in time".to_owned()))??;
                match desktop {
                    Ok(desktop) => {
                        stream::run(socket, desktop).await;
                        Ok(())
                    }
                    Err(error) => refuse(socket, DialError::Desktop(error)).await,
                }
            }
        }
    }

    async fn logs(&self, dial: &Dial) -> Result<Logs, DialError> {
        let unit = match &dial.unit {
            Some(word) => {
                Some(UnitName::parse(word).ok_or_else(|| DialError::Logs(format!("there is no unit {word}")))?)
            }
            None => None,
        };
        let lines = dial.lines.unwrap_or(LOG_LINES.0).min(LOG_LINES.1);
        let failed = |error: SupervisorError| DialError::Logs(error.to_string());
        if dial.follow {
            return self.supervisor.follow_logs(&dial.session, unit, lines).await.map(Logs::Following).map_err(failed);
        }
        self.supervisor.logs(&dial.session, unit, lines).await.map(Logs::Last).map_err(failed)
    }

    async fn open(&self, dial: &Dial) -> Result<Socket, DialError> {
        let origin = normalise_origin(&dial.url).filter(|origin| self.config.api_hosts.contains(origin));
        let Some(origin) = origin else {
            tracing::warn!(
                url = dial.url,
                "dial to a server that is not configured; add it to api_host if it is yours"
            );
            return Err(DialError::ForeignServer);
        };
        let failed = |error: String| DialError::Dial(error);
        let request = self.request(&origin, &dial.ticket).map_err(failed)?;
        let host = request.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = request.uri().port_u16().unwrap_or(if origin.starts_with("https") { 443 } else { 80 });
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|error| failed(error.to_string()))?;
        tcp.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let socket_config = match dial.stream {
            Stream::Vnc | Stream::Rdp | Stream::Tools => splice::socket_config(),
            Stream::Logs => logs::socket_config(),
            Stream::Desktop => stream::socket_config(),
        };
        let (socket, _) = client_async_tls_with_config(request, tcp, Some(socket_config), None)
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(socket)
    }

    fn request(&self, origin: &str, ticket: &str) -> Result<Request, String> {
        // http → ws, https → wss
        let url = format!("ws{}/api/v1/dial", origin.trim_start_matches("http"));
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        let secret = |text: &str| {
            let mut value =
                HeaderValue::from_str(text).map_err(|_| "a token has characters of no header".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let bearer = secret(&format!("Bearer {}", self.token.current().expose()))?;
        request.headers_mut().insert(AUTHORIZATION, bearer);
        request.headers_mut().insert(DIAL_TICKET_HEADER, secret(ticket)?);
        Ok(request)
    }
}

async fn refuse(socket: Socket, error: DialError) -> Result<(), DialError> {
    close(socket, CloseCode::Error, &error.to_string()).await;
    Err(error)
}

async fn close(mut socket: Socket, code: CloseCode, reason: &str) {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let frame = CloseFrame { code, reason: Utf8Bytes::from(&reason[..end]) };
    // The other side may be gone already: the socket ends either way.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, socket.close(Some(frame))).await;
}
