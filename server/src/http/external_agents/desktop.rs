//! Desktops of the documents' group: how a session is reached by RDP, and the bytes themselves over a WebSocket.
//!
//! An address is named only where a port of the session's runner is open there; everywhere else the way is `proxy_url`.
//! Each answer makes a new grant, up to eight of one token; then it tells the newest of them again.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use helix_protocol::api::SessionView;
use helix_protocol::control::{Role, Viewer};
use helix_protocol::external_agents::RdpConnection;
use helix_protocol::link::Stream;
use helix_protocol::session::SessionPhase;
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use utoipa_axum::routes;

use super::shapes;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::http::extract::{Id, Upgrade};
use crate::http::registry::Registry;
use crate::http::streams::{forbidden, open_desktop, require_desktop, require_rdp};
use crate::sessions::Filter;

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Change, routes!(rdp))
        .add(Need::Drive, routes!(rdp_proxy))
        .add(Need::Change, routes!(session_rdp))
        .add(Need::Drive, routes!(session_rdp_proxy))
        .add(Need::Operate, routes!(runner_rdp))
        .add(Need::Operate, routes!(runner_rdp_proxy))
}

/// RDP connection of a session, with a new grant as its password; once this token has eight by it, with the newest of them.
/// All are good until they expire or are revoked.
#[utoipa::path(get, path = "/api/v1/external-agents/{id}/rdp", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = RdpConnection)))]
async fn rdp(app: State<App>, principal: Principal, id: Id<SessionId>) -> Result<Json<RdpConnection>> {
    Box::pin(session_rdp(app, principal, id)).await
}

/// RDP connection of a session, with a new grant as its password; once this token has eight by it, with the newest of them.
/// All are good until they expire or are revoked.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/rdp-connection", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = RdpConnection)))]
async fn session_rdp(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
) -> Result<Json<RdpConnection>> {
    let view = app.sessions.get(&principal, &id).await?;
    connection(&app, &principal, &view).await.map(Json)
}

async fn connection(app: &App, by: &Principal, view: &SessionView) -> Result<RdpConnection> {
    if !by.may_change(&view.id, &view.owner) {
        return Err(forbidden(by, "come to this session's desktop with a password"));
    }
    let public_url = &app.config.public_url;
    let reachable = match require_desktop(view) {
        Ok(()) => require_rdp(app, view).await,
        unready => unready,
    };
    if let Err(error) = reachable {
        return Ok(shapes::no_rdp(view, public_url, error.detail));
    }
    let grant = app.sessions.repeated_grant(by, &view.id).await?;
    Ok(shapes::rdp(view, public_url, grant))
}

/// WebSocket of raw RDP bytes. The client must know a grant's password.
#[utoipa::path(get, path = "/api/v1/external-agents/{id}/rdp/proxy", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")),
    responses((status = 101, description = "Binary RDP follows")))]
async fn rdp_proxy(
    app: State<App>,
    principal: Principal,
    id: Id<SessionId>,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    Box::pin(session_rdp_proxy(app, principal, id, upgrade)).await
}

/// WebSocket of raw RDP bytes. The client must know a grant's password.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/rdp/proxy", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")),
    responses((status = 101, description = "Binary RDP follows")))]
async fn session_rdp_proxy(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    let view = app.sessions.get(&principal, &id).await?;
    proxy(app, &principal, &view, upgrade).await
}

async fn proxy(app: App, by: &Principal, view: &SessionView, upgrade: Result<Upgrade>) -> Result<Response> {
    if !by.may_drive(&view.id, &view.owner) {
        return Err(forbidden(by, "drive this session's desktop"));
    }
    require_desktop(view)?;
    require_rdp(&app, view).await?;
    let viewer = Viewer { by: by.name.clone(), token: by.digest(), seat: None, role: Role::Control, password: None };
    Box::pin(open_desktop(app, by, &view.id, Stream::Rdp, viewer, upgrade?)).await
}

/// RDP connection of a runner that runs one session now: that session's.
#[utoipa::path(get, path = "/api/v1/external-agents/runners/{id}/rdp", tag = "external-agents",
    params(("id" = RunnerId, Path, description = "Runner id")), responses((status = 200, body = RdpConnection)))]
async fn runner_rdp(State(app): State<App>, principal: Principal, Id(id): Id<RunnerId>) -> Result<Json<RdpConnection>> {
    match only_session(&app, &principal, &id).await? {
        Ok(view) => connection(&app, &principal, &view).await.map(Json),
        Err(why) => Ok(Json(shapes::no_desktop(why))),
    }
}

/// WebSocket of raw RDP bytes of a runner that runs one session now.
#[utoipa::path(get, path = "/api/v1/external-agents/runners/{id}/rdp/proxy", tag = "external-agents",
    params(("id" = RunnerId, Path, description = "Runner id")),
    responses((status = 101, description = "Binary RDP follows")))]
async fn runner_rdp_proxy(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<RunnerId>,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    match only_session(&app, &principal, &id).await? {
        Ok(view) => proxy(app, &principal, &view, upgrade).await,
        Err(why) => Err(Error::new(ErrorCode::ServiceUnavailable, why)),
    }
}

/// The documents' runner has one desktop, ours has one per session: the one session that has a desktop there now, or why
/// there is no such one.
async fn only_session(app: &App, by: &Principal, id: &RunnerId) -> Result<Result<SessionView, String>> {
    app.runners.get(id).await?;
    let filter = Filter { phases: vec![SessionPhase::Ready], runner: Some(id.clone()), limit: 2, ..Filter::default() };
    let mut ready = app.sessions.list(by, &filter).await?.sessions;
    Ok(match (ready.pop(), ready.pop()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(format!("runner {id} runs no session now; each has a desktop of its own")),
        (Some(_), Some(_)) => {
            Err(format!("runner {id} runs several sessions; ask for one: /api/v1/external-agents/{{id}}/rdp"))
        }
    })
}
