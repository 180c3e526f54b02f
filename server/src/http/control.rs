//! Who may type in a session's desktop: see, take, hand back.

use axum::Json;
use axum::extract::State;
use helix_protocol::api::control::{ControlView, TakeControl};
use helix_protocol::{Seat, SessionId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Body, Id, Query};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::Result;

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Watch, routes!(show)).add(Need::Drive, routes!(take)).add(Need::Drive, routes!(hand_back))
}

/// Who holds the control of a session's desktop.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/control", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = ControlView)))]
async fn show(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<ControlView>> {
    app.sessions.control(&principal, &id).await.map(Json)
}

/// Takes the control over, or keeps it for longer: from now on only viewers and calls of this token and seat reach
/// keyboard, pointer, clipboard and size of the desktop; everybody else gets `control_taken`, or types into nothing.
/// Answers when the desktop's gate knows.
#[utoipa::path(put, path = "/api/v1/sessions/{id}/control", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), request_body = TakeControl,
    responses((status = 200, body = ControlView)))]
async fn take(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Body(request): Body<TakeControl>,
) -> Result<Json<ControlView>> {
    app.sessions.take_control(&principal, &id, &request).await.map(Json)
}

/// From where it is handed back.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HandBackQuery {
    /// The holder's seat: where somebody else has the control by now, nothing changes. Without it, for who may change the
    /// session: whoever holds it.
    seat: Option<Seat>,
}

/// Hands the control back: whoever may drive the desktop may type again.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}/control", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id"), HandBackQuery),
    responses((status = 200, body = ControlView)))]
async fn hand_back(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(query): Query<HandBackQuery>,
) -> Result<Json<ControlView>> {
    app.sessions.hand_back_control(&principal, &id, query.seat.as_ref()).await.map(Json)
}
