//! A session's desktop bytes: tickets and links that open them, and the viewer's WebSocket.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use helix_protocol::api::{CreateLink, CreateTicket, Link, SessionView, Ticket};
use helix_protocol::control::{Role, Viewer};
use helix_protocol::link::Stream;
use helix_protocol::record::Scope;
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use http::{HeaderMap, header};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::audit::Caller;
use super::extract::{Body, Id, OptionalBody, Query, Upgrade};
use super::registry::Registry;
use super::urls;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::relay::{End, splice};

/// Life of a link where none is given, in seconds.
const DEFAULT_LINK_TTL: u64 = 12 * 60 * 60;
/// Characters of a password for VNC authentication.
const PASSWORD_CHARS: usize = 8;
/// Longest life of a link in seconds.
const MAX_LINK_TTL: u64 = 7 * 24 * 60 * 60;

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Watch, routes!(create_ticket))
        .add(Need::Change, routes!(create_link))
        .add(Need::Ticket, routes!(vnc))
        .add(Need::Ticket, routes!(rdp))
}

/// A one-use ticket, 60 s, for a session's desktop: open `url` as a WebSocket, from the same page, or as a program does, without
/// an `Origin`. Who may only look at it gets one to look.
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
    let invalid = |detail: &str| Err(Error::new(ErrorCode::InvalidRequest, detail));
    let word = match request.stream {
        Stream::Vnc => "vnc",
        Stream::Rdp if request.password.is_some() => {
            return invalid("password: RDP asks for a grant's; POST /api/v1/sessions/{id}/grants");
        }
        Stream::Rdp => "rdp",
        _ => return invalid("stream: only `vnc` and `rdp` have tickets; read logs at /api/v1/sessions/{id}/logs"),
    };
    let password = request.password.map(checked_password).transpose()?;
    let view = app.sessions.get(&principal, &id).await?;
    require_desktop(&view)?;
    if request.stream == Stream::Rdp {
        require_rdp(&app, &view).await?;
    }
    let drives = principal.may_drive(&id, &view.owner) && !request.view_only;
    let role = if drives { Role::Control } else { Role::View };
    let viewer = Viewer { by: principal.name.clone(), token: principal.digest(), seat: request.seat, role, password };
    let issued = app.tokens.issue_ticket(&principal, &id, request.stream, viewer, origin(&headers)).await?;
    let base = urls::websocket_base(&app.config.public_url, &headers);
    let url = urls::desktop_stream(&base, &id, word, &issued.secret);
    let (recorded, expires_at) = (view.recording.is_some(), issued.expires_at);
    Ok(Json(Ticket { ticket: issued.secret, url, role, recorded, expires_at }))
}

/// A link to a session's desktop for a browser. Who has it can drive this one desktop until it ends, or only see it.
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
    let scope = if request.view_only { Scope::View(id.clone()) } else { Scope::Desktop(id.clone()) };
    let issued = app.tokens.issue(&name, scope, Duration::from_secs(ttl)).await?;
    let url = urls::view_page(&app.config.public_url, &id, &issued.secret);
    Ok(Json(Link { url, expires_at: issued.expires_at }))
}

/// How a viewer comes in.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct StreamQuery {
    /// One-use ticket.
    ticket: Option<String>,
}

/// WebSocket of a session's desktop: binary frames of RFB, security type None. The ticket is spent whatever
/// else is wrong; close code 1012 means: come back with a fresh one.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/streams/vnc", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id"), StreamQuery),
    responses((status = 101, description = "Binary RFB follows")))]
async fn vnc(
    app: State<App>,
    id: Id<SessionId>,
    query: Query<StreamQuery>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    by_ticket(app, id, Stream::Vnc, query, (caller, headers), upgrade).await
}

/// WebSocket of a session's desktop: binary frames of RDP, as any RDP client speaks it. The client must know a grant's
/// password, too (`/grants`). The ticket is spent whatever else is wrong.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/streams/rdp", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id"), StreamQuery),
    responses((status = 101, description = "Binary RDP follows")))]
async fn rdp(
    app: State<App>,
    id: Id<SessionId>,
    query: Query<StreamQuery>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    by_ticket(app, id, Stream::Rdp, query, (caller, headers), upgrade).await
}

async fn by_ticket(
    State(app): State<App>,
    Id(id): Id<SessionId>,
    stream: Stream,
    Query(query): Query<StreamQuery>,
    (caller, headers): (Option<Extension<Caller>>, HeaderMap),
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    let invalid =
        |why: &str| Error::new(ErrorCode::TicketInvalid, format!("{why}; POST /api/v1/sessions/{id}/tickets"));
    let secret = query.ticket.ok_or_else(|| invalid("the query has no `ticket`"))?;
    let entry = app.tokens.ticket(&secret).await?;
    let ticket = &entry.value;
    if let Some(Extension(caller)) = caller {
        caller.is(&ticket.viewer.by);
    }
    let open = async {
        if ticket.session != id || ticket.stream != stream {
            return Err(invalid("the ticket is for another stream"));
        }
        if ticket.origin != origin(&headers) {
            return Err(invalid("the ticket is for the page, or the program, that asked for it"));
        }
        // What a ticket gives, whoever asked for it.
        let name = "desktop ticket".to_owned();
        let bearer = Principal { name, scope: Scope::Desktop(id.clone()), token_hash: ticket.token_hash.clone() };
        Box::pin(open_desktop(app.clone(), &bearer, &id, stream, ticket.viewer.clone(), upgrade?)).await
    };
    // The runner dials while the store's disk takes the ticket; nothing passes before both are done. Of several who come
    // with one ticket, all but one are dialled in vain.
    let (spent, opened) = tokio::join!(app.tokens.consume_ticket(&secret, &entry), open);
    spent?;
    opened
}

/// Which page asks: a browser says it with each of these requests, and no program does.
fn origin(headers: &HeaderMap) -> Option<String> {
    headers.get(header::ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase())
}

/// Opens a session's desktop for `viewer`, who may: a socket that lives as long as the token of `bearer`.
pub(super) async fn open_desktop(
    app: App,
    bearer: &Principal,
    id: &SessionId,
    stream: Stream,
    viewer: Viewer,
    upgrade: Upgrade,
) -> Result<Response> {
    let at = app.sessions.find(bearer, id).await?;
    require_desktop(&at.view)?;
    let runner = online_runner(&app, &at.view).await?;
    let dialled = app.relay.dial_desktop(&runner, &at.desktop, stream, viewer).await?;

    let span = tracing::info_span!("viewer", session.id = %id, runner.id = %runner, ?stream);
    let (live, token_hash) = ((app.relay.track(), app.uses.begin(&at.desktop)), bearer.token_hash.clone());
    upgrade.raw(move |socket| {
        let work = async move {
            tracing::info!("opened");
            let stop = stop(&app, &token_hash);
            let end = splice(socket, dialled, stop).await;
            tracing::info!(?end, "closed");
            drop(live);
        };
        tracing::Instrument::instrument(work, span)
    })
}

/// Refuses where the session's runner cannot serve RDP, and says why.
pub(super) async fn require_rdp(app: &App, view: &SessionView) -> Result<()> {
    let Some(id) = &view.runner else { return Ok(()) };
    let facts = app.runners.get(id).await?.facts;
    match facts.and_then(|facts| facts.no_rdp) {
        None => Ok(()),
        Some(why) => {
            let detail = format!("runner {id} serves no RDP: {why}; use VNC (helixctl session vnc) or the browser");
            Err(Error::new(ErrorCode::ServiceUnavailable, detail))
        }
    }
}

/// What native viewers can be asked for: more than eight bytes are not looked at, and fewer would be guessed.
fn checked_password(password: String) -> Result<String> {
    if password.len() == PASSWORD_CHARS && password.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(password);
    }
    let detail =
        format!("password: {PASSWORD_CHARS} printable ASCII characters without spaces, made up for this purpose");
    Err(Error::new(ErrorCode::InvalidRequest, detail))
}

/// A desktop is up while the session is Ready; of a lost runner nobody knows.
pub(super) fn require_desktop(view: &SessionView) -> Result<()> {
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

pub(super) fn forbidden(principal: &Principal, what: &str) -> Error {
    Error::new(ErrorCode::Forbidden, format!("token {:?} may not {what}", principal.name))
}
