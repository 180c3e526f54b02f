//! The documents' older group, `/api/v1/external-agents`: thin aliases over the same rules as the canonical routes.
//!
//! Unknown fields in requests are ignored, every key of an answer is present. What has no service yet is `null` with
//! status `unavailable` and a reason, or a problem: never an address that nothing answers.

mod desktop;
mod shapes;
#[cfg(test)]
mod tests;

use axum::Json;
use axum::extract::State;
use helix_protocol::external_agents::{Command, Done, Logs, Stats, ZedAgent, ZedAgentResponse};
use helix_protocol::runner::Liveness;
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Body, Id, Query};
use super::logs::{line_count, read_logs};
use super::registry::Registry;
use super::sessions::MAX_PAGE;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::relay::LogQuery;
use crate::sessions::{Amendment, Filter};

pub(super) fn routes(registry: Registry) -> Registry {
    let registry = registry
        .add(Need::Change, routes!(create))
        .add(Need::Fleet, routes!(list))
        .add(Need::Fleet, routes!(no_id))
        .add(Need::Fleet, routes!(connections))
        .add(Need::Read, routes!(get))
        .add(Need::Change, routes!(amend))
        .add(Need::Change, routes!(delete))
        .add(Need::Read, routes!(stats))
        .add(Need::Read, routes!(logs))
        .add(Need::Change, routes!(command))
        .add(Need::Superseded, routes!(runner_line));
    desktop::routes(registry)
}

/// Starts a session of the runner's default kind.
#[utoipa::path(post, path = "/api/v1/external-agents", tag = "external-agents", request_body = ZedAgent,
    responses((status = 200, body = ZedAgentResponse)))]
async fn create(
    State(app): State<App>,
    principal: Principal,
    Body(agent): Body<ZedAgent>,
) -> Result<Json<ZedAgentResponse>> {
    let request = shapes::request(agent)?;
    // A session that exists is answered whatever the fleet looks like.
    let existing = match &request.id {
        Some(id) => found(app.sessions.get(&principal, id).await)?.is_some(),
        None => false,
    };
    if !existing && !app.runners.list().await?.iter().any(|runner| runner.liveness == Liveness::Online) {
        let detail = "no runner is connected; start agentd with API_HOST and API_TOKEN, or run `helixctl up`";
        return Err(Error::new(ErrorCode::NoRunner, detail));
    }
    let created = app.sessions.create(&principal, request).await?;
    let token = app.sessions.auth_token(&principal, &created.view);
    Ok(Json(shapes::session(&created.view, token)))
}

/// Every session that the token may see, and every runner.
#[utoipa::path(get, path = "/api/v1/external-agents", tag = "external-agents",
    responses((status = 200, body = [ZedAgentResponse])))]
async fn list(State(app): State<App>, principal: Principal) -> Result<Json<Vec<ZedAgentResponse>>> {
    let runners = app.runners.list().await?;
    let mut all = Vec::new();
    let mut filter = Filter { limit: MAX_PAGE, ..Filter::default() };
    loop {
        let page = app.sessions.list(&principal, &filter).await?;
        all.extend(page.sessions.iter().map(|view| shapes::session(view, None)));
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            break;
        }
    }
    all.extend(runners.iter().map(shapes::runner));
    Ok(Json(all))
}

/// An empty id.
#[utoipa::path(method(get, put, delete), path = "/api/v1/external-agents/", tag = "external-agents",
    responses((status = 400, description = "The id is empty")))]
async fn no_id() -> Error {
    Error::new(ErrorCode::InvalidRequest, "the id is empty: /api/v1/external-agents/{id}")
}

/// Connected sync sockets: none until the sync service exists.
#[utoipa::path(get, path = "/api/v1/external-agents/connections", tag = "external-agents",
    responses((status = 200, body = [String], description = "Always empty")))]
async fn connections() -> Json<[String; 0]> {
    Json([])
}

/// One session, or one runner.
#[utoipa::path(get, path = "/api/v1/external-agents/{id}", tag = "external-agents",
    params(("id" = String, Path, description = "Session or runner id")),
    responses((status = 200, body = ZedAgentResponse)))]
async fn get(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<ZedAgentResponse>> {
    let missing = match app.sessions.get(&principal, &id).await {
        Ok(view) => {
            let token = app.sessions.auth_token(&principal, &view);
            return Ok(Json(shapes::session(&view, token)));
        }
        Err(error) if error.code == ErrorCode::SessionNotFound => error,
        Err(error) => return Err(error),
    };
    if !Need::Fleet.admits(&principal.scope) {
        return Err(missing);
    }
    let Ok(runner) = RunnerId::parse(id.as_str()) else { return Err(missing) };
    match app.runners.get(&runner).await {
        Ok(view) => Ok(Json(shapes::runner(&view))),
        Err(error) if error.code == ErrorCode::RunnerNotFound => Err(missing),
        Err(error) => Err(error),
    }
}

/// What `PUT` can change. A key that is absent changes nothing.
#[derive(Deserialize)]
struct Change {
    input: Option<String>,
    env: Option<Vec<String>>,
    project_path: Option<String>,
}

/// Changes `env` and `project_path` of a session that has not started.
#[utoipa::path(put, path = "/api/v1/external-agents/{id}", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")), request_body = ZedAgent,
    responses((status = 200, body = ZedAgentResponse)))]
async fn amend(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Body(change): Body<Change>,
) -> Result<Json<ZedAgentResponse>> {
    let before = app.sessions.get(&principal, &id).await?;
    if change.input.is_some_and(|input| !input.is_empty() && before.spec.input.as_deref() != Some(&*input)) {
        let detail = "input: cannot be changed; only `env` and `project_path` can, before the session starts";
        return Err(Error::new(ErrorCode::InvalidRequest, detail));
    }
    let change = Amendment {
        env: change.env.map(shapes::environment).transpose()?,
        project_path: change.project_path.as_deref().and_then(shapes::project_path),
    };
    let view = app.sessions.amend(&principal, &id, change).await?;
    let token = app.sessions.auth_token(&principal, &view);
    Ok(Json(shapes::session(&view, token)))
}

/// Ends a session and forgets it.
#[utoipa::path(delete, path = "/api/v1/external-agents/{id}", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = Done)))]
async fn delete(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<Done>> {
    app.sessions.delete(&principal, &id).await?;
    let message = "External agent session is being stopped".to_owned();
    Ok(Json(Done { message, session_id: id.into() }))
}

/// Process, times and place of a session.
#[utoipa::path(get, path = "/api/v1/external-agents/{id}/stats", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = Stats)))]
async fn stats(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<Stats>> {
    let view = app.sessions.get(&principal, &id).await?;
    Ok(Json(shapes::stats(&view, Timestamp::now())))
}

/// How many log lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogsQuery {
    /// Last lines, 100 where absent, at most 5000.
    lines: Option<u32>,
}

/// The last log lines of all units together.
#[utoipa::path(get, path = "/api/v1/external-agents/{id}/logs", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id"), LogsQuery), responses((status = 200, body = Logs)))]
async fn logs(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(query): Query<LogsQuery>,
) -> Result<Json<Logs>> {
    let view = app.sessions.get(&principal, &id).await?;
    let count = line_count(query.lines)?;
    let lines = read_logs(&app, &view, LogQuery { lines: count, unit: None }).await?.lines;
    Ok(Json(shapes::logs(id, &lines, count as usize, Timestamp::now())))
}

/// A command for the session's agent: goes out on its sync socket, and there is none yet.
#[utoipa::path(post, path = "/api/v1/external-agents/{id}/command", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")), request_body = Command,
    responses((status = 409, description = "`no_sync_connection`")))]
async fn command(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Body(_command): Body<Command>,
) -> Result<Json<Done>> {
    app.sessions.get(&principal, &id).await?;
    let detail = format!("the agent of session {id} has no sync socket: this server does not have that service yet");
    Err(Error::new(ErrorCode::NoSyncConnection, detail))
}

/// The documents' runner line, superseded.
#[utoipa::path(get, path = "/api/v1/ws/external-agent-runner", tag = "external-agents",
    responses((status = 410, description = "`gone`")))]
async fn runner_line() -> Error {
    let detail = "this runner line is superseded: run agentd with API_HOST and API_TOKEN, it connects by itself";
    Error::new(ErrorCode::Gone, detail)
}

/// None instead of "no such session".
fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code == ErrorCode::SessionNotFound => Ok(None),
        Err(error) => Err(error),
    }
}
