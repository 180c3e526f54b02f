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
use helix_protocol::external_agents::{Command, Connection, Done, Logs, Stats, ZedAgent, ZedAgentResponse};
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
use super::sync::{self, desktop_of};
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
    sync::routes(desktop::routes(registry))
}

/// Begins the key of every sync lease.
const SYNC_LEASES: &str = "sync.";

/// Starts a session of the runner's default kind. Where `instance_id` has a desktop already, none is started: the session
/// is another name of it, and `input` a new thread there, or goes on with `thread_id`.
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
    let joins = app.spec_tasks.joins(&request).await?;
    if !existing && !joins && !app.runners.list().await?.iter().any(|runner| runner.liveness == Liveness::Online) {
        let detail = "no runner is connected; start agentd with API_HOST and API_TOKEN, or run `helixctl up`";
        return Err(Error::new(ErrorCode::NoRunner, detail));
    }
    let thread = request.labels.get(shapes::THREAD_LABEL).cloned();
    let created = app.pools.begin(&principal, request, thread.as_deref()).await?;
    let token = app.sessions.auth_token(&principal, &created.view);
    let mut answer = shapes::session(&created.view, token, &app.config.public_url);
    // One that has ended meanwhile has no desktop to come to.
    answer.rdp_password = app.sessions.first_grant(&principal, &created.view.id).await.ok();
    Ok(Json(answer))
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
        all.extend(page.sessions.iter().map(|view| shapes::session(view, None, &app.config.public_url)));
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

/// Sync sockets that are open, of the sessions that the token may see.
#[utoipa::path(get, path = "/api/v1/external-agents/connections", tag = "external-agents",
    responses((status = 200, body = [Connection])))]
async fn connections(State(app): State<App>, principal: Principal) -> Result<Json<Vec<Connection>>> {
    app.store.leases.catch_up().await?;
    // Views are looked at one after the other: see the order of locks at `View::read`.
    let open: Vec<_> = {
        let leases = app.store.leases.view().read();
        let sync = leases.with_prefix(SYNC_LEASES).map(|(key, lease)| (key[SYNC_LEASES.len()..].to_owned(), lease));
        sync.map(|(session, lease)| (session, std::sync::Arc::clone(&lease.value))).collect()
    };
    let sessions = app.store.sessions.view().read();
    let may_see = |session: &str| {
        let owner = sessions.get(session).map_or("", |entry| entry.value.owner.as_str());
        SessionId::parse(session).is_ok_and(|id| principal.may_see(&id, owner))
    };
    let connections = open.iter().filter(|(session, _)| may_see(session));
    Ok(Json(connections.map(|(session, lease)| shapes::connection(session, lease)).collect()))
}

/// One session, or one runner.
#[utoipa::path(get, path = "/api/v1/external-agents/{id}", tag = "external-agents",
    params(("id" = String, Path, description = "Session or runner id")),
    responses((status = 200, body = ZedAgentResponse)))]
async fn get(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<ZedAgentResponse>> {
    let missing = match app.sessions.get(&principal, &id).await {
        Ok(view) => {
            let token = app.sessions.auth_token(&principal, &view);
            return Ok(Json(shapes::session(&view, token, &app.config.public_url)));
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
    Ok(Json(shapes::session(&view, token, &app.config.public_url)))
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
    let at = app.sessions.find(&principal, &id).await?;
    let count = line_count(query.lines)?;
    let lines = read_logs(&app, &at, LogQuery { lines: count, unit: None }).await?.lines;
    Ok(Json(shapes::logs(id, &lines, count as usize, Timestamp::now())))
}

/// Sends a command to the session's agent over its sync socket, as it is. What the agent says to it is in the
/// session's feed.
#[utoipa::path(post, path = "/api/v1/external-agents/{id}/command", tag = "external-agents",
    params(("id" = SessionId, Path, description = "Session id")), request_body = Command,
    responses((status = 200, body = Done), (status = 409, description = "`no_sync_connection`")))]
async fn command(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Body(command): Body<Command>,
) -> Result<Json<Done>> {
    let view = app.sessions.get(&principal, &id).await?;
    if !principal.may_change(&id, &view.owner) {
        let detail = format!("token {:?} may see session {id} but not command its agent", principal.name);
        return Err(Error::new(ErrorCode::Forbidden, detail));
    }
    check_command(&command)?;
    app.threads.sockets.command(&desktop_of(&app, &id).await?, &command.kind, command.data).await?;
    Ok(Json(Done { message: "Command sent to the external agent".to_owned(), session_id: id.into() }))
}

/// Refuses what Zed would drop without a word.
fn check_command(command: &Command) -> Result<()> {
    let invalid = |why: &str| Err(Error::new(ErrorCode::InvalidRequest, why.to_owned()));
    if command.kind.is_empty() {
        return invalid("type: is empty; name a command, for example query_ui_state");
    }
    if !matches!(command.kind.as_str(), "chat_message" | "simulate_user_input") {
        return Ok(());
    }
    let has = |key: &str| command.data[key].as_str().is_some_and(|text| !text.is_empty());
    if !has("message") || !has("request_id") {
        return invalid("data: `message` and `request_id` are needed, as texts; the agent drops a prompt without them");
    }
    if !command.data["role"].is_null() {
        return invalid("data.role: leave it out; the agent drops a prompt that has one");
    }
    Ok(())
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
