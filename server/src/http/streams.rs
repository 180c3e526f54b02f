//! A session's desktop bytes: tickets and links that open them, and the viewer's WebSocket.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use helix_protocol::api::{CreateLink, CreateTicket, Link, SessionView, Ticket};
use helix_protocol::link::Stream;
use helix_protocol::record::Scope;
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Body, Id, OptionalBody, Query, Upgrade};
use super::registry::Registry;
use super::urls;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::relay::{End, splice};

/// Life of a link where none is given, in seconds.
const DEFAULT_LINK_TTL: u64 = 12 * 60 * 60;
/// Longest life of a link in seconds.
const MAX_LINK_TTL: u64 = 7 * 24 * 60 * 60;

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Drive, routes!(create_ticket))
        .add(Need::Change, routes!(create_link))
        .add(Need::Ticket, routes!(vnc))
}

/// A one-use ticket, 60 s, for a session's desktop: open `url` as a WebSocket.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/tickets", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), request_body = CreateTicket,
    responses((status = 200, body = Ticket)))]
async fn create_ticket(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    headers: HeaderMap,
    Body(request): Body<CreateTicket>,
) -> Result<Json<Ticket>> {
    if request.stream != Stream::Vnc {
        let detail = "stream: only `vnc` has tickets; read logs at /api/v1/sessions/{id}/logs";
        return Err(Error::new(ErrorCode::InvalidRequest, detail));
    }
    let view = app.sessions.get(&principal, &id).await?;
    if !principal.may_drive(&id, &view.owner) {
        return Err(forbidden(&principal, "drive this session's desktop"));
    }
    require_desktop(&view)?;
    let issued = app.tokens.issue_ticket(&principal, &id, request.stream).await?;
    let base = urls::websocket_base(&app.config.public_url, &headers);
    let url = urls::vnc_stream(&base, &id, &issued.secret);
    Ok(Json(Ticket { ticket: issued.secret, url, expires_at: issued.expires_at }))
}

/// A link to a session's desktop for a browser. Who has it can drive this one desktop until it ends.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/links", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), request_body = CreateLink,
    responses((status = 200, body = Link)))]
async fn create_link(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    OptionalBody(request): OptionalBody<CreateLink>,
) -> Result<Json<Link>> {
    let ttl = request.ttl_seconds.unwrap_or(DEFAULT_LINK_TTL);
    if !(1..=MAX_LINK_TTL).contains(&ttl) {
        let detail = format!("ttl_seconds: a link lives 1 to {MAX_LINK_TTL} seconds");
        return Err(Error::new(ErrorCode::InvalidRequest, detail));
    }
    let view = app.sessions.get(&principal, &id).await?;
    if !principal.may_change(&id, &view.owner) {
        return Err(forbidden(&principal, "share this session's desktop"));
    }
    let name = format!("desktop link of {}", principal.name);
    let issued = app.tokens.issue(&name, Scope::Desktop(id.clone()), Duration::from_secs(ttl)).await?;
    let url = urls::view_page(&app.config.public_url, &id, &issued.secret);
    Ok(Json(Link { url, expires_at: issued.expires_at }))
}

/// How a viewer comes in.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct VncQuery {
    /// One-use ticket.
    ticket: Option<String>,
}

/// WebSocket of a session's desktop: binary frames of RFB, security type None. The ticket is spent before anything
/// else is looked at; close code 1012 means: come back with a fresh one.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/streams/vnc", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id"), VncQuery),
    responses((status = 101, description = "Binary RFB follows")))]
async fn vnc(
    State(app): State<App>,
    Id(id): Id<SessionId>,
    Query(query): Query<VncQuery>,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    let invalid =
        |why: &str| Error::new(ErrorCode::TicketInvalid, format!("{why}; POST /api/v1/sessions/{id}/tickets"));
    let secret = query.ticket.ok_or_else(|| invalid("the query has no `ticket`"))?;
    let ticket = app.tokens.consume_ticket(&secret).await?;
    if ticket.session != id || ticket.stream != Stream::Vnc {
        return Err(invalid("the ticket is for another stream"));
    }
    let upgrade = upgrade?;

    // What a ticket gives, whoever asked for it.
    let name = "desktop ticket".to_owned();
    let viewer = Principal { name, scope: Scope::Desktop(id.clone()), token_hash: ticket.token_hash.clone() };
    let at = app.sessions.find(&viewer, &id).await?;
    require_desktop(&at.view)?;
    let runner = online_runner(&app, &at.view).await?;
    let dialled = app.relay.dial_desktop(&runner, &at.desktop).await?;

    let span = tracing::info_span!("viewer", session.id = %id, runner.id = %runner);
    let live = app.relay.track();
    upgrade.raw(move |socket| {
        let work = async move {
            tracing::info!("opened");
            let stop = stop(&app, &ticket.token_hash);
            let end = splice(socket, dialled, stop).await;
            tracing::info!(?end, "closed");
            drop(live);
        };
        tracing::Instrument::instrument(work, span)
    })
}

/// A desktop is up while the session is Ready; of a lost runner nobody knows.
fn require_desktop(view: &SessionView) -> Result<()> {
    let (id, phase) = (&view.id, view.phase);
    match phase {
        SessionPhase::Ready => Ok(()),
        SessionPhase::Lost => {
            let detail = format!("the runner of session {id} is not heard; the desktop can be seen when it is back");
            Err(Error::new(ErrorCode::RunnerUnavailable, detail))
        }
        _ => {
            let detail = format!("session {id} is {phase}; its desktop can be seen while it is Ready");
            Err(Error::new(ErrorCode::SessionNotReady, detail))
        }
    }
}

/// Completes when a live socket must end whatever its peers do.
pub(super) async fn stop(app: &App, token_hash: &str) -> End {
    tokio::select! {
        () = app.tokens.revoked(token_hash) => End::Revoked,
        () = app.shutdown.cancelled() => End::Shutdown,
    }
}

/// The session's runner, if it is heard: a viewer of a silent one is told at once.
pub(super) async fn online_runner(app: &App, view: &SessionView) -> Result<RunnerId> {
    let Some(id) = &view.runner else {
        let detail = format!("session {} has no runner now; it is {}", view.id, view.phase);
        return Err(Error::new(ErrorCode::RunnerUnavailable, detail));
    };
    let liveness = match app.runners.get(id).await {
        Ok(runner) => runner.liveness,
        Err(error) if error.code == ErrorCode::RunnerNotFound => Liveness::Lost,
        Err(error) => return Err(error),
    };
    if liveness == Liveness::Online {
        return Ok(id.clone());
    }
    let detail = format!("runner {id} is not heard now; the session goes on there and can be reached when it is back");
    Err(Error::new(ErrorCode::RunnerUnavailable, detail))
}

fn forbidden(principal: &Principal, what: &str) -> Error {
    Error::new(ErrorCode::Forbidden, format!("token {:?} may not {what}", principal.name))
}
