//! Sessions: create, list, get, amend, stop, delete, adopt, timeline.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use helix_protocol::api::placement::PlacementView;
use helix_protocol::api::{AmendSession, CreateSession, SessionPage, SessionView, Timeline};
use helix_protocol::session::SessionPhase;
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Body, Id, Query};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::sessions::Filter;

/// Wait of `?wait=ready` where no timeout is given, in seconds.
const DEFAULT_WAIT: u64 = 60;
/// Longest wait in seconds.
const MAX_WAIT: u64 = 600;
/// Page of a list where no limit is given.
const DEFAULT_PAGE: usize = 100;
/// Largest page of a list.
pub(super) const MAX_PAGE: usize = 1000;

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Change, routes!(create))
        .add(Need::Fleet, routes!(list))
        .add(Need::Read, routes!(get))
        .add(Need::Change, routes!(amend))
        .add(Need::Change, routes!(delete))
        .add(Need::Change, routes!(stop))
        .add(Need::Change, routes!(adopt))
        .add(Need::Read, routes!(timeline))
        .add(Need::Read, routes!(placement))
}

/// Whether a creation holds on.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CreateQuery {
    /// `ready`: answer when the session is Ready, or has ended before.
    wait: Option<String>,
    /// Seconds to wait, 60 where absent, at most 600. Then 504 `wait_timeout`; the session stands.
    timeout: Option<u64>,
}

impl CreateQuery {
    fn patience(&self) -> Result<Option<Duration>> {
        let fault = |detail: &str| Err(Error::new(ErrorCode::InvalidRequest, detail));
        let seconds = self.timeout.unwrap_or(DEFAULT_WAIT);
        match self.wait.as_deref() {
            None if self.timeout.is_some() => fault("the query: `timeout` goes with `wait=ready`"),
            None => Ok(None),
            Some("ready") if (1..=MAX_WAIT).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
            Some("ready") => fault("the query: `timeout` is 1 to 600 seconds"),
            Some(_) => fault("the query: `wait` can only be `ready`"),
        }
    }
}

/// Makes a session. Durable when answered: 201, or 200 where the same id with the same body existed already.
#[utoipa::path(post, path = "/api/v1/sessions", tag = "sessions", params(CreateQuery), request_body = CreateSession,
    responses((status = 201, body = SessionView), (status = 200, body = SessionView, description = "Existed already")))]
async fn create(
    State(app): State<App>,
    principal: Principal,
    Query(query): Query<CreateQuery>,
    Body(request): Body<CreateSession>,
) -> Result<Response> {
    let patience = query.patience()?;
    let created = app.pools.begin(&principal, request, None).await?;
    let mut view = created.view;
    if let Some(patience) = patience {
        view = app.sessions.wait(&principal, &view.id, &[SessionPhase::Ready], patience).await?;
    }
    let status = if created.fresh { StatusCode::CREATED } else { StatusCode::OK };
    let location = HeaderValue::try_from(format!("/api/v1/sessions/{}", view.id))
        .map_err(|error| Error::new(ErrorCode::Internal, "a session id is no header value").because(error))?;
    Ok((status, [(header::LOCATION, location)], Json(view)).into_response())
}

/// What a list shows. Every parameter narrows it.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Phases, comma-separated: `Ready,Starting`.
    phase: Option<String>,
    /// Runner id.
    runner: Option<String>,
    /// Kind.
    kind: Option<String>,
    /// Name of the token that made it.
    owner: Option<String>,
    /// Labels, comma-separated: `team=web,stage=test`.
    label: Option<String>,
    /// Page size, 100 where absent, at most 1000.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl TryFrom<ListQuery> for Filter {
    type Error = Error;

    fn try_from(query: ListQuery) -> Result<Self> {
        let fault = |detail: String| Error::new(ErrorCode::InvalidRequest, format!("the query: {detail}"));
        let phase = |word: &str| {
            let found = SessionPhase::ALL.into_iter().find(|phase| phase.to_string().eq_ignore_ascii_case(word));
            found.ok_or_else(|| fault(format!("no phase {word:?}; phases are {:?}", SessionPhase::ALL)))
        };
        let label = |pair: &str| {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| fault(format!("label {pair:?} is not `name=value`")))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        let limit = query.limit.unwrap_or(DEFAULT_PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(fault(format!("`limit` is 1 to {MAX_PAGE}")));
        }
        Ok(Self {
            phases: list_items(query.phase.as_deref()).map(phase).collect::<Result<_>>()?,
            runner: query
                .runner
                .map(|id| id.parse::<RunnerId>().map_err(|error| fault(error.to_string())))
                .transpose()?,
            kind: query.kind,
            owner: query.owner,
            labels: list_items(query.label.as_deref()).map(label).collect::<Result<_>>()?,
            limit,
            cursor: query.cursor,
        })
    }
}

fn list_items(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// A page of the sessions that the token may see, newest first.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions", params(ListQuery),
    responses((status = 200, body = SessionPage)))]
async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(query): Query<ListQuery>,
) -> Result<Json<SessionPage>> {
    Ok(Json(app.sessions.list(&principal, &query.try_into()?).await?))
}

/// One session.
#[utoipa::path(get, path = "/api/v1/sessions/{id}", tag = "sessions",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = SessionView)))]
async fn get(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<SessionView>> {
    Ok(Json(app.sessions.get(&principal, &id).await?))
}

/// Changes the limits of a session, also while it runs: what is given replaces, the rest stays. The same again changes
/// nothing. What its runner enforces of it is in `limits` once the runner has said so.
#[utoipa::path(patch, path = "/api/v1/sessions/{id}", tag = "sessions",
    params(("id" = SessionId, Path, description = "Session id")), request_body = AmendSession,
    responses((status = 200, body = SessionView)))]
async fn amend(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Body(change): Body<AmendSession>,
) -> Result<Json<SessionView>> {
    Ok(Json(app.sessions.limit(&principal, &id, change).await?))
}

/// Stops a session and forgets it, its workspace and logs once nothing of it runs.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", tag = "sessions",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = SessionView)))]
async fn delete(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<SessionView>> {
    Ok(Json(app.sessions.delete(&principal, &id).await?))
}

/// Asks for the end of a session; its record, workspace and logs stay.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/stop", tag = "sessions",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = SessionView)))]
async fn stop(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<SessionView>> {
    Ok(Json(app.sessions.stop(&principal, &id).await?))
}

/// Makes a record for a session that runs unclaimed, so that it is managed again.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/adopt", tag = "sessions",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = SessionView)))]
async fn adopt(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<SessionView>> {
    Ok(Json(app.sessions.adopt(&principal, &id).await?))
}

/// Every timed step of a session.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/timeline", tag = "sessions",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = Timeline)))]
async fn timeline(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<Timeline>> {
    let view = app.sessions.get(&principal, &id).await?;
    Ok(Json(Timeline { id, timeline: view.timeline }))
}

/// Why a session is where it is, or why it waits: what each runner says to it now.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/placement", tag = "sessions",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = PlacementView)))]
async fn placement(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<PlacementView>> {
    Ok(Json(app.sessions.explain(&principal, &id).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(query: &str) -> Result<Filter> {
        let uri: http::Uri = format!("/x?{query}").parse().expect("a URI");
        let axum::extract::Query(query) = axum::extract::Query::<ListQuery>::try_from_uri(&uri).expect("a query");
        query.try_into()
    }

    #[test]
    fn a_query_becomes_a_filter() {
        let filter = filter("phase=Ready,starting&label=a%3Db,c%3D&runner=r-1&limit=7").expect("a filter");
        assert_eq!(filter.phases, [SessionPhase::Ready, SessionPhase::Starting]);
        assert_eq!(filter.labels, [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
        assert_eq!(filter.runner.expect("a runner").as_str(), "r-1");
        assert_eq!(filter.limit, 7);
    }

    #[test]
    fn a_wrong_query_is_named() {
        for (query, word) in
            [("phase=Redy", "Redy"), ("label=a", "name=value"), ("limit=0", "limit"), ("runner=a.b", "a.b")]
        {
            let error = filter(query).expect_err(query);
            assert_eq!(error.code, ErrorCode::InvalidRequest);
            assert!(error.detail.contains(word), "{query}: {}", error.detail);
        }
    }

    #[test]
    fn waiting_has_bounds() {
        let patience = |wait: Option<&str>, timeout| CreateQuery { wait: wait.map(str::to_owned), timeout }.patience();
        assert_eq!(patience(None, None).expect("no wait"), None);
        assert_eq!(patience(Some("ready"), None).expect("a wait"), Some(Duration::from_mins(1)));
        for (wait, timeout) in
            [(None, Some(5)), (Some("stopped"), None), (Some("ready"), Some(0)), (Some("ready"), Some(601))]
        {
            assert!(patience(wait, timeout).is_err(), "{wait:?} {timeout:?}");
        }
    }
}
