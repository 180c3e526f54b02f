//! A session's log lines: one JSON body, or lines as they are written.
//!
//! A followed log is the body of its answer: pulled by the connection, so that a client that reads slowly holds up its
//! own runner socket, and one that leaves drops it.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use helix_protocol::api::SessionLogs;
use helix_protocol::link::{LogLine, UNITS};
use helix_protocol::{ErrorCode, SessionId};
use http::{HeaderValue, header};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Id, Query};
use super::registry::Registry;
use super::streams::{online_runner, stop};
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::relay::LogQuery;
use crate::sessions::Found;

/// Log lines where no number is given.
const DEFAULT_LINES: u32 = 100;
/// Most log lines of one unit.
const MAX_LINES: u32 = 5000;
/// One JSON object per line.
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Read, routes!(logs))
}

/// Which lines.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct LogsQuery {
    /// Last lines of each unit, 100 where absent, at most 5000.
    lines: Option<u32>,
    /// Only this unit: `workspace`, `dbus`, `display`, `wm` or `app`.
    unit: Option<String>,
    /// `true`: then every new line as it is written, until the session's log ends.
    follow: bool,
}

/// The number within its bounds.
pub(super) fn line_count(lines: Option<u32>) -> Result<u32> {
    let lines = lines.unwrap_or(DEFAULT_LINES);
    if (1..=MAX_LINES).contains(&lines) {
        return Ok(lines);
    }
    Err(Error::new(ErrorCode::InvalidRequest, format!("the query: `lines` is 1 to {MAX_LINES}")))
}

impl TryFrom<LogsQuery> for LogQuery {
    type Error = Error;

    fn try_from(query: LogsQuery) -> Result<Self> {
        if let Some(unit) = query.unit.as_deref().filter(|unit| !UNITS.contains(unit)) {
            let unit: String = unit.chars().take(40).collect();
            let detail = format!("the query: no unit {unit:?}; units are {}", UNITS.join(", "));
            return Err(Error::new(ErrorCode::InvalidRequest, detail));
        }
        Ok(Self { lines: line_count(query.lines)?, unit: query.unit })
    }
}

/// The units' last log lines, read by the session's runner; kept until the session is deleted. With `follow=true` one
/// JSON object per line, and it goes on; an answer that breaks off is not the end of the log.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/logs", tag = "sessions",
    params(("id" = SessionId, Path, description = "Session id"), LogsQuery),
    responses((status = 200, content((SessionLogs = "application/json"), (LogLine = "application/x-ndjson")))))]
async fn logs(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(query): Query<LogsQuery>,
) -> Result<Response> {
    let follow = query.follow;
    let query = LogQuery::try_from(query)?;
    let at = app.sessions.find(&principal, &id).await?;
    if follow {
        return follow_logs(app, &principal, &at, query).await;
    }
    Ok(Json(read_logs(&app, &at, query).await?).into_response())
}

/// A session's logs; empty while no runner has had it.
pub(super) async fn read_logs(app: &App, at: &Found, query: LogQuery) -> Result<SessionLogs> {
    let Found { view, desktop, .. } = at;
    let id = view.id.clone();
    if view.runner.is_none() {
        return Ok(SessionLogs { id, lines: Vec::new() });
    }
    let runner = online_runner(app, view).await?;
    let lines = app.relay.fetch_logs(&runner, desktop, query).await?;
    Ok(SessionLogs { id, lines })
}

async fn follow_logs(app: App, principal: &Principal, at: &Found, query: LogQuery) -> Result<Response> {
    let Found { view, desktop, .. } = at;
    let head = [(header::CONTENT_TYPE, NDJSON)];
    if view.runner.is_none() && view.phase.is_terminal() {
        return Ok((head, Body::empty()).into_response());
    }
    let runner = online_runner(&app, view).await?;
    let stop = {
        let (app, token_hash) = (app.clone(), principal.token_hash.clone());
        async move { stop(&app, &token_hash).await }.boxed()
    };
    let lines = app.relay.follow_logs(&runner, desktop, query, stop).await?;
    let span = tracing::info_span!("follower", session.id = %view.id, runner.id = %runner);
    let body = lines.map(move |batch| {
        let batch = batch.inspect_err(|error| span.in_scope(|| tracing::info!("a followed log broke off: {error}")));
        batch.and_then(|lines| encode(&lines))
    });
    Ok((head, Body::from_stream(body)).into_response())
}

/// One JSON object per line.
fn encode(lines: &[LogLine]) -> std::io::Result<Bytes> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<LogQuery> {
        let uri: http::Uri = format!("/x?{text}").parse().expect("a URI");
        let axum::extract::Query(query) = axum::extract::Query::<LogsQuery>::try_from_uri(&uri).expect("a query");
        query.try_into()
    }

    #[test]
    fn a_unit_that_is_none_is_told_the_known_ones() {
        for unit in UNITS {
            let known = query(&format!("unit={unit}&lines=7")).expect("a unit");
            assert_eq!(known, LogQuery { lines: 7, unit: Some(unit.to_owned()) });
        }
        assert_eq!(query("").expect("no unit"), LogQuery { lines: DEFAULT_LINES, unit: None });
        let error = query("unit=window").expect_err("no such unit");
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        insta::assert_snapshot!(error.detail, @r#"the query: no unit "window"; units are workspace, dbus, display, wm, forward, recorder, app, tools, rdp"#);
    }

    #[test]
    fn lines_have_bounds() {
        for bad in ["lines=0", "lines=5001"] {
            assert!(query(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_it_holds() {
        let line = |text: &str| LogLine { unit: "app".to_owned(), text: text.to_owned() };
        let bytes = encode(&[line("a\nb"), line("c")]).expect("JSON");
        assert_eq!(bytes, "{\"unit\":\"app\",\"text\":\"a\\nb\"}\n{\"unit\":\"app\",\"text\":\"c\"}\n");
    }
}
