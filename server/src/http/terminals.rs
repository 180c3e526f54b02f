//! Terminals of a session: shells that stay when nobody looks, seen and typed into over WebSockets.
//!
//! One task per WebSocket. Many may look at one terminal; each has what it showed last, then everything.

use axum::Json;
use axum::extract::State;
use axum::extract::ws::WebSocket;
use axum::response::Response;
use helix_protocol::SessionId;
use helix_protocol::tools::{Done, Notice, Request, TerminalList, TerminalSize, TerminalView};
use http::StatusCode;
use serde::Deserialize;
use tracing::Instrument as _;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Id, Path, Query, Upgrade};
use super::registry::Registry;
use super::tools::{ANSWER_WITHIN, MAX_MESSAGE, Output, Place, ask, carry, refuse};
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::Result;

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Change, routes!(list_terminals)).add(Need::Change, routes!(open_terminal, end_terminal))
}

/// The session's terminals, by name.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/terminals", tag = "commands",
    params(("id" = SessionId, Path, description = "Session id")),
    responses((status = 200, body = TerminalList)))]
async fn list_terminals(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
) -> Result<Json<TerminalList>> {
    ask(&app, &principal, &id, &Request::Terminals {}).await.map(Json)
}

/// Which terminal.
#[derive(Deserialize)]
struct TerminalPath {
    id: SessionId,
    name: String,
}

/// How it is looked at.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TerminalQuery {
    /// Columns that the viewer has, 1 to 1000; with `rows`.
    cols: Option<u16>,
    /// Rows that the viewer has, 1 to 1000; with `cols`.
    rows: Option<u16>,
}

/// A terminal on a WebSocket; made where the session has none of that name: a login shell in the workspace. Binary frames
/// are its bytes, both ways: first what it showed last, at most 256 KiB, then what comes. Text frames of the client are
/// `{"type":"resize","cols":…,"rows":…}` and `{"type":"signal","signal":"INT"}`, those of the server notices: first
/// `attached`, last `exit` or `failed`. Who leaves leaves the terminal as it is. A session has 16 at most.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/terminals/{name}", tag = "commands",
    params(("id" = SessionId, Path, description = "Session id"),
        ("name" = String, Path, description = "1 to 64 letters, digits, _ and -"), TerminalQuery),
    responses((status = 101, body = Notice, description = "Bytes as binary frames, notices as text frames")))]
async fn open_terminal(
    State(app): State<App>,
    principal: Principal,
    Path(TerminalPath { id, name }): Path<TerminalPath>,
    Query(TerminalQuery { cols, rows }): Query<TerminalQuery>,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    let place = Place::find(&app, &principal, &id).await?;
    let upgrade = upgrade?;
    let span = tracing::info_span!("terminal", session.id = %id, principal = principal.name, name);
    let size = cols.zip(rows).map(|(cols, rows)| TerminalSize { cols, rows });
    let live = (app.relay.track(), app.uses.begin(&id));
    let serve = async move |client: WebSocket| {
        let opened = async {
            let mut stream = place.open(&app, &Request::Terminal { name, size }).await?;
            let seen: TerminalView = stream.1.answer(ANSWER_WITHIN).await?;
            Ok((stream, seen))
        };
        match opened.await {
            Ok((stream, seen)) => {
                tracing::info!(pid = seen.pid, "attached");
                carry(&app, &principal.token_hash, client, stream, Output::Plain, Notice::Attached(seen)).await;
                tracing::info!("detached");
            }
            Err(error) => refuse(client, error).await,
        }
        drop(live);
    };
    Ok(upgrade.messages(MAX_MESSAGE).on_upgrade(move |client| serve(client).instrument(span)))
}

/// Ends a terminal: its shell is told to hang up, and killed if it does not.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}/terminals/{name}", tag = "commands",
    params(("id" = SessionId, Path, description = "Session id"),
        ("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "It is told")))]
async fn end_terminal(
    State(app): State<App>,
    principal: Principal,
    Path(TerminalPath { id, name }): Path<TerminalPath>,
) -> Result<StatusCode> {
    let _done: Done = ask(&app, &principal, &id, &Request::EndTerminal { name }).await?;
    Ok(StatusCode::NO_CONTENT)
}
