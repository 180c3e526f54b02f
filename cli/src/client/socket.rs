//! A WebSocket of the server's, opened with the token.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{api_url, refusal};
use crate::error::{CliError, Kind, Result, chain};
use crate::settings::Connection;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A WebSocket.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens one. A refusal is an error of its own kind; an outage, also of the server's own, is [`Kind::Unreachable`].
pub async fn open(connection: &Connection, what: &str, path: &[&str], query: &[(&str, String)]) -> Result<Socket> {
    let mut url = api_url(&connection.url, path, query);
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    // Cannot fail: ws and wss are of the same class as http and https.
    let _ = url.set_scheme(scheme);
    let failed = |kind: Kind, why: String| CliError::new(kind, what).at(&url).because(why).next("helixctl status");
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
            let body = response.body().as_deref().unwrap_or_default();
            let mut error = refusal(what.to_owned(), format!("GET {url}"), status, body);
            if status.is_server_error() {
                error.kind = Kind::Unreachable;
            }
            Err(error)
        }
        Ok(Err(error)) => Err(failed(Kind::Unreachable, chain(&error))),
        Err(_elapsed) => Err(failed(Kind::Unreachable, format!("no answer within {} s", CONNECT_WITHIN.as_secs()))),
    }
}
