//! The audit trail: a note per request that matters, and the route that reads it.
//!
//! Notes are made by one layer for all routes: every request that changes something, opens a stream or reads a
//! session's files, and every one that is refused. A route cannot forget it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use helix_protocol::ErrorCode;
use helix_protocol::api::audit::AuditPage;
use helix_protocol::audit::AuditEntry;
use http::{Method, StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Query, path_id};
use super::registry::Registry;
use crate::app::App;
use crate::audit::{Audit, AuditFilter, OK};
use crate::auth::Need;
use crate::error::{Error, Result};

/// Entries of a page where no limit is given, and at most.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Paths that are read and shown in the trail all the same: they open something.
const OPENS: [&str; 6] = ["/streams/", "/external-agents/sync", "/files", "/exec", "/terminals/", "/rdp"];
/// The same, of a path that ends so: what was recorded is looked at.
const LOOKS: [&str; 1] = ["/recordings/{id}"];
/// Told by events of their own, or far too often: what is typed is recorded where recording is on, and of an image its manifest
/// and its tag are told.
const TOLD_ELSEWHERE: [&str; 6] =
    ["/control", "/input", "/wait", "/chunks/{number}", "/chunks/{digest}", "/chunks/missing"];
/// Result of a request whose caller did not wait for it: it may be done or not.
const LEFT: &str = "left";
/// Begins every path of the API.
const BASE: &str = "/api/v1";

/// What the guard finds out about a request.
#[derive(Clone, Default)]
pub(super) struct Caller(Arc<Found>);

#[derive(Default)]
struct Found {
    name: OnceLock<String>,
    refused: AtomicBool,
}

impl Caller {
    /// The name of the token.
    pub(super) fn is(&self, name: &str) {
        // One request has one caller.
        let _ = self.0.name.set(name.to_owned());
    }

    /// It was not let in, whatever it is told.
    pub(super) fn was_refused(&self) {
        self.0.refused.store(true, Ordering::Relaxed);
    }
}

/// A request that is under way. Dropped, it is noted: also where its caller hung up, after which nothing of it runs on.
struct Noted {
    audit: Audit,
    method: Method,
    pattern: String,
    target: String,
    caller: Caller,
    /// None until there is an answer.
    outcome: Option<Outcome>,
}

/// What an answer says about a request.
struct Outcome {
    status: StatusCode,
    code: Option<ErrorCode>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        let Some(result) = self.result() else { return };
        let path = self.pattern.strip_prefix(BASE).unwrap_or(&self.pattern);
        let principal = self.caller.0.name.get().cloned().unwrap_or_else(|| "?".to_owned());
        self.audit.note(AuditEntry {
            at: Timestamp::now(),
            principal,
            action: format!("{} {path}", self.method),
            target: std::mem::take(&mut self.target),
            result,
            repeated: 0,
            entrance: None,
        });
    }
}

/// Middleware outside the guard.
pub async fn note(
    State(app): State<App>,
    pattern: MatchedPath,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = Caller::default();
    let target = path_id(&params).map(str::to_owned).unwrap_or_default();
    let (method, pattern) = (request.method().clone(), pattern.as_str().to_owned());
    let mut noted = Noted { audit: app.audit.clone(), method, pattern, target, caller: caller.clone(), outcome: None };
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if noted.target.is_empty() {
        // What a request made is named by its answer.
        let made = response.headers().get(header::LOCATION).and_then(|place| place.to_str().ok()?.rsplit('/').next());
        made.unwrap_or_default().clone_into(&mut noted.target);
    }
    noted.outcome = Some(Outcome { status: response.status(), code: response.extensions().get().copied() });
    response
}

impl Noted {
    /// How it ended, if that is anybody's business.
    fn result(&self) -> Option<String> {
        let pattern = self.pattern.as_str();
        let (status, code) = self.outcome.as_ref().map(|outcome| (outcome.status, outcome.code)).unzip();
        let code = code.flatten();
        let refused = self.caller.0.refused.load(Ordering::Relaxed)
            || matches!(status, Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
            || code == Some(ErrorCode::ControlTaken);
        let reads = matches!(self.method, Method::GET | Method::HEAD);
        let opens = OPENS.iter().any(|part| pattern.contains(part)) || LOOKS.iter().any(|end| pattern.ends_with(end));
        let elsewhere = TOLD_ELSEWHERE.iter().any(|end| pattern.ends_with(end));
        if !pattern.starts_with(BASE) || (!refused && (elsewhere || (reads && !opens))) {
            return None;
        }
        let Some(status) = status else { return Some(LEFT.to_owned()) };
        let done =
            status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::NOT_MODIFIED;
        Some(match code {
            _ if done => OK.to_owned(),
            Some(code) => code.to_string(),
            None => status.as_u16().to_string(),
        })
    }
}

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Operate, routes!(list))
}

/// Which entries.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// Only entries after this sequence, oldest first. Absent: the newest.
    after: Option<u64>,
    /// At most so many, 100 where absent, at most 1000.
    limit: Option<usize>,
    /// Only of this token, `runner <id>`, `helix` or `?`.
    principal: Option<String>,
    /// Only about this session, runner, secret, …
    target: Option<String>,
    /// Only what was refused or failed.
    #[serde(default)]
    refused: bool,
}

/// Who did what, oldest first: requests that change or open something, refusals, and what happened by itself. New
/// entries come through the event feed (`/api/v1/events`), as `type` `audit` and the lifecycle's own types.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, body = AuditPage)))]
async fn list(State(app): State<App>, Query(query): Query<AuditQuery>) -> Result<Json<AuditPage>> {
    let AuditQuery { after, limit, principal, target, refused } = query;
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Error::new(ErrorCode::InvalidRequest, format!("the query: `limit` is 1 to {MAX_PAGE}")));
    }
    app.audit.page(&AuditFilter { after, limit, principal, target, refused }).await.map(Json)
}
