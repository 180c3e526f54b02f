//! Where runners dial back.

use axum::extract::State;
use axum::response::Response;
use helix_protocol::ErrorCode;
use helix_protocol::link::DIAL_TICKET_HEADER;
use http::HeaderMap;
use utoipa_axum::routes;

use super::extract::Upgrade;
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Runner, routes!(dial))
}

/// WebSocket of a runner that was asked for a session's stream.
#[utoipa::path(get, path = "/api/v1/dial", tag = "runners",
    params(("x-helix-dial-ticket" = String, Header, description = "One-use ticket from the runner's `dials` request")),
    responses((status = 101, description = "The stream's frames follow")))]
async fn dial(
    State(app): State<App>,
    principal: Principal,
    headers: HeaderMap,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    let ticket = headers.get(DIAL_TICKET_HEADER).and_then(|ticket| ticket.to_str().ok());
    let answer = principal.runner().zip(ticket).and_then(|(runner, ticket)| app.relay.answer(runner, ticket));
    let answer = answer.ok_or_else(|| {
        Error::new(ErrorCode::TicketInvalid, "no viewer here waits for this dial of this runner; it may have left")
    })?;
    upgrade?.raw(async move |socket| {
        if !answer.hand_over(socket) {
            tracing::debug!("the viewer left while its runner dialled back");
        }
    })
}
