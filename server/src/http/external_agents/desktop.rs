//! Desktops of the documents' group: RDP is not served yet, and says so.

use axum::Json;
use axum::extract::State;
use helix_protocol::external_agents::RdpConnection;
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use utoipa_axum::routes;

use super::shapes;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::http::extract::Id;
use crate::http::registry::Registry;

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Drive, routes!(rdp))
        .add(Need::Drive, routes!(rdp_proxy))
        .add(Need::Drive, routes!(session_rdp))
        .add(Need::Drive, routes!(session_rdp_proxy))
        .add(Need::Operate, routes!(runner_rdp))
        .add(Need::Operate, routes!(runner_rdp_proxy))
}

/// RDP connection of a session.
#[utoipa::path(get, path = "/api/v1/external-agents/{id}/rdp", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = RdpConnection)))]
async fn rdp(app: State<App>, principal: Principal, id: Id<SessionId>) -> Result<Json<RdpConnection>> {
    session_rdp(app, principal, id).await
}

/// RDP connection of a session.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/rdp-connection", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = RdpConnection)))]
async fn session_rdp(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
) -> Result<Json<RdpConnection>> {
    let view = app.sessions.get(&principal, &id).await?;
    Ok(Json(shapes::rdp(&view, &app.config.public_url)))
}

/// WebSocket of raw RDP bytes.
#[utoipa::path(get, path = "/api/v1/external-agents/{id}/rdp/proxy", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")),
    responses((status = 503, description = "`service_unavailable`")))]
async fn rdp_proxy(app: State<App>, principal: Principal, id: Id<SessionId>) -> Result<Error> {
    session_rdp_proxy(app, principal, id).await
}

/// WebSocket of raw RDP bytes.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/rdp/proxy", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")),
    responses((status = 503, description = "`service_unavailable`")))]
async fn session_rdp_proxy(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Error> {
    app.sessions.get(&principal, &id).await?;
    Ok(Error::new(ErrorCode::ServiceUnavailable, shapes::NO_RDP))
}

/// RDP connection of a runner.
#[utoipa::path(get, path = "/api/v1/external-agents/runners/{id}/rdp", tag = "external-agents",
    params(("id" = RunnerId, Path, description = "Runner id")), responses((status = 200, body = RdpConnection)))]
async fn runner_rdp(State(app): State<App>, Id(id): Id<RunnerId>) -> Result<Json<RdpConnection>> {
    app.runners.get(&id).await?;
    Ok(Json(shapes::no_rdp("")))
}

/// WebSocket of a runner's raw RDP bytes.
#[utoipa::path(get, path = "/api/v1/external-agents/runners/{id}/rdp/proxy", tag = "external-agents",
    params(("id" = RunnerId, Path, description = "Runner id")),
    responses((status = 503, description = "`service_unavailable`")))]
async fn runner_rdp_proxy(State(app): State<App>, Id(id): Id<RunnerId>) -> Result<Error> {
    app.runners.get(&id).await?;
    Ok(Error::new(ErrorCode::ServiceUnavailable, shapes::NO_RDP))
}
