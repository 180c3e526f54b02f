//! Viewers of a desktop: tickets, the sockets that they open, and who may type.

use std::time::Duration;

use helix_protocol::api::control::{ControlView, TakeControl};
use helix_protocol::api::grants::{CreateGrant, GrantList, NewGrant, RevokedGrant};
use helix_protocol::api::{CreateTicket, Ticket};
use helix_protocol::{GrantId, Seat, SessionId};
use reqwest::{Method, Url};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::Client;
use crate::error::{CliError, Kind, Result, chain};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A socket that a ticket opened.
pub type DesktopSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Client {
    /// `POST /sessions/{id}/tickets`.
    pub async fn ticket(&self, id: &SessionId, request: &CreateTicket) -> Result<Ticket> {
        self.call("get a ticket", Method::POST, &["sessions", id.as_str(), "tickets"], &[], Some(request)).await
    }

    /// `GET /sessions/{id}/control`.
    pub async fn control(&self, id: &SessionId) -> Result<ControlView> {
        self.get("read who has the control", &["sessions", id.as_str(), "control"]).await
    }

    /// `PUT /sessions/{id}/control`.
    pub async fn take_control(&self, id: &SessionId, request: &TakeControl) -> Result<ControlView> {
        self.call("take the control", Method::PUT, &["sessions", id.as_str(), "control"], &[], Some(request)).await
    }

    /// `DELETE /sessions/{id}/control`.
    pub async fn hand_back_control(&self, id: &SessionId, seat: Option<&Seat>) -> Result<ControlView> {
        let seat: Vec<_> = seat.map(|seat| ("seat", seat.to_string())).into_iter().collect();
        let path = ["sessions", id.as_str(), "control"];
        self.call("hand the control back", Method::DELETE, &path, &seat, None::<&()>).await
    }

    /// `POST /sessions/{id}/grants`.
    pub async fn make_grant(&self, id: &SessionId, request: &CreateGrant) -> Result<NewGrant> {
        self.call("make a password", Method::POST, &["sessions", id.as_str(), "grants"], &[], Some(request)).await
    }

    /// `GET /sessions/{id}/grants`.
    pub async fn grants(&self, id: &SessionId) -> Result<GrantList> {
        self.get("list the grants", &["sessions", id.as_str(), "grants"]).await
    }

    /// `DELETE /sessions/{id}/grants/{grant}`.
    pub async fn revoke_grant(&self, id: &SessionId, grant: &GrantId) -> Result<RevokedGrant> {
        let path = ["sessions", id.as_str(), "grants", grant.as_str()];
        self.call("revoke the grant", Method::DELETE, &path, &[], None::<&()>).await
    }

    /// Opens a ticket's socket at the server that this client talks to, whatever name that has for others.
    pub async fn open_ticket(&self, ticket: &Ticket) -> Result<DesktopSocket> {
        // The address has the ticket in it: it is not shown.
        let failed = |why: String| CliError::new(Kind::Unreachable, "cannot open the desktop").because(why);
        let url = Url::parse(&ticket.url).map_err(|error| failed(error.to_string()))?;
        let mut own = self.connection.url.clone();
        own.set_path(url.path());
        own.set_query(url.query());
        // Cannot fail: ws and wss are of the same class as http and https.
        let _ = own.set_scheme(if own.scheme() == "https" { "wss" } else { "ws" });
        let connecting = tokio_tungstenite::connect_async(own.as_str());
        match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(Ok((socket, _response))) => Ok(socket),
            Ok(Err(error)) => Err(failed(chain(&error))),
            Err(_elapsed) => Err(failed(format!("no answer within {} s", CONNECT_WITHIN.as_secs()))),
        }
    }
}
