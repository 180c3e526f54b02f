//! The sync socket of a session's agent, `GET /api/v1/external-agents/sync?session_id=`.
//!
//! Zed's client sends neither `Origin` nor a sub-protocol, `Host` without the port, and nothing but text; it dials
//! again for ever, whatever the answer. So every refusal is noted where people look ([`refusals`]), and a socket is
//! closed for good reasons only. Tasks: one per socket ([`socket`]).

pub mod refusals;
mod socket;

use axum::extract::State;
use axum::response::Response;
use helix_protocol::api::SessionView;
use helix_protocol::record::Scope;
use helix_protocol::{ErrorCode, SessionId};
use serde::Deserialize;
use tracing::Instrument as _;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Query, Upgrade};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Agent, routes!(sync))
}

/// Which session's agent connects.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SyncQuery {
    /// Session id.
    session_id: Option<String>,
}

/// Sync WebSocket of a session's agent: text frames in the words of the Zed fork, at most 64 MiB each. The token is
/// the session's own, or that of a person who may change it. Several sockets of one session may be open: commands go
/// to the newest, events come from all.
#[utoipa::path(get, path = "/api/v1/external-agents/sync", tag = "external-agents", params(SyncQuery),
    responses((status = 101, description = "Events and commands follow, one JSON text frame each"),
        (status = 400, description = "`session_id` is missing"), (status = 409, description = "`session_ended`")))]
async fn sync(
    State(app): State<App>,
    principal: Principal,
    Query(query): Query<SyncQuery>,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    let id = query.session_id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "session_id is required"))?;
    let id = SessionId::parse(id).map_err(|error| Error::new(ErrorCode::InvalidRequest, error.to_string()))?;
    let view = admit(&app, &principal, &id).await?;
    let desktop = desktop_of(&app, &id).await?;
    let upgrade = upgrade?;
    let span = tracing::info_span!("agent", session.id = %id);
    let live = app.relay.track();
    upgrade.raw(move |socket| {
        let work = async move {
            tracing::info!(token = %principal.name, "connected");
            let stop = socket::stop(&app, &principal, &view.id);
            let sockets = app.threads.sockets.clone();
            let end = socket::carry(socket, sockets.open(&desktop).await, stop).await;
            tracing::info!(?end, "disconnected");
            drop(live);
        };
        work.instrument(span)
    })
}

/// Who may be the agent of a session: its own token, or a person who may change it.
async fn admit(app: &App, principal: &Principal, id: &SessionId) -> Result<SessionView> {
    if matches!(&principal.scope, Scope::Session(own) if own != id) {
        let detail = format!("the token is not that of session {id}");
        return Err(Error::new(ErrorCode::TokenInvalid, detail));
    }
    let view = app.sessions.get(principal, id).await?;
    if principal.session().is_none() && !principal.may_change(id, &view.owner) {
        let detail = format!("token {:?} may see session {id} but not speak for its agent", principal.name);
        return Err(Error::new(ErrorCode::Forbidden, detail));
    }
    if view.phase.is_terminal() {
        let detail = format!(
            "session {id} is {}: its agent has nothing more to say; delete it and create it again to go on",
            view.phase
        );
        return Err(Error::new(ErrorCode::SessionEnded, detail));
    }
    Ok(view)
}

/// The session whose desktop this one is a name of: itself, mostly.
pub(super) async fn desktop_of(app: &App, id: &SessionId) -> Result<SessionId> {
    let record = app.store.sessions.get(id.as_str()).await?.found();
    Ok(record.and_then(|entry| entry.value.desktop_of.clone()).unwrap_or_else(|| id.clone()))
}
