//! Conversations of a session: threads, prompts, turns, entries, questions. See `threads` for the rules.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use helix_protocol::api::threads::{
    AnswerQuestion, CancelTurn, CreateThread, ENTRY_TEXT_BYTES, EntryPiece, QuestionView, RenameThread, SendPrompt,
    ThreadCreated, ThreadDetail, ThreadList, ThreadView, TurnView,
};
use helix_protocol::{ErrorCode, SessionId, ThreadId, TurnId};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Body, Id, OptionalBody, Path, Query};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::sessions::Found;
use crate::threads::views::{MAX_ENTRIES, Page};

/// Entries of a page where no limit is given.
const DEFAULT_ENTRIES: usize = 200;
/// Longest wait for the end of a turn, in seconds.
const MAX_WAIT: u64 = 300;
/// Largest piece of an entry, in bytes.
const MAX_PIECE: usize = 1024 * 1024;
const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Drive, routes!(create))
        .add(Need::Read, routes!(list))
        .add(Need::Read, routes!(get))
        .add(Need::Drive, routes!(rename))
        .add(Need::Drive, routes!(prompt))
        .add(Need::Drive, routes!(cancel))
        .add(Need::Read, routes!(turn))
        .add(Need::Drive, routes!(resend))
        .add(Need::Read, routes!(entry))
        .add(Need::Drive, routes!(answer))
}

/// The session, if the caller may talk to its agent: who drives the desktop can type there anyway.
async fn driven(app: &App, principal: &Principal, id: &SessionId) -> Result<Found> {
    let at = app.sessions.find(principal, id).await?;
    if principal.may_drive(id, &at.view.owner) {
        return Ok(at);
    }
    let detail = format!("token {:?} may not talk to the agent of session {id}", principal.name);
    Err(Error::new(ErrorCode::Forbidden, detail))
}

/// The idempotency key, which can come with the body or as a header.
fn key(body: Option<String>, headers: &HeaderMap) -> Result<Option<String>> {
    let Some(header) = headers.get(IDEMPOTENCY_KEY) else { return Ok(body) };
    let fault = |detail: &str| Error::new(ErrorCode::InvalidRequest, detail);
    let header = header.to_str().map_err(|_| fault("header Idempotency-Key is not ASCII text"))?;
    match body {
        Some(body) if body != header => Err(fault("header Idempotency-Key and idempotency_key differ; send one")),
        _ => Ok(Some(header.to_owned())),
    }
}

/// Begins a thread with its first prompt. Durable when answered, also while the desktop still starts: the prompt is
/// delivered once the agent is ready. The same `idempotency_key` with the same body is the same request.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/threads", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id")), request_body = CreateThread,
    responses((status = 201, body = ThreadCreated), (status = 200, body = ThreadCreated, description = "Existed already")))]
async fn create(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    headers: HeaderMap,
    Body(mut request): Body<CreateThread>,
) -> Result<Response> {
    request.idempotency_key = key(request.idempotency_key, &headers)?;
    let at = driven(&app, &principal, &id).await?;
    let (created, fresh) = app.threads.create(&principal, &at, request).await?;
    let status = if fresh { StatusCode::CREATED } else { StatusCode::OK };
    let location = HeaderValue::try_from(format!("/api/v1/sessions/{id}/threads/{}", created.thread.id))
        .map_err(|error| Error::new(ErrorCode::Internal, "a thread id is no header value").because(error))?;
    Ok((status, [(header::LOCATION, location)], Json(created)).into_response())
}

/// Every thread of a session, oldest first.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/threads", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = ThreadList)))]
async fn list(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<ThreadList>> {
    let at = app.sessions.find(&principal, &id).await?;
    Ok(Json(app.threads.list(&at).await?))
}

/// Which thread.
#[derive(Deserialize)]
struct ThreadPath {
    id: SessionId,
    thread: ThreadId,
}

/// Which entries.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DetailQuery {
    /// `next_cursor` of the page before, or the place of any entry; the first one is at 0.
    cursor: Option<String>,
    /// Entries of a page, 200 where absent, at most 500; a page holds about 1 MiB of text at most.
    limit: Option<usize>,
    /// Instead of both: the newest entries, so many at most, 1 to 500. `entries_before` tells how many were said before.
    last: Option<usize>,
}

impl TryFrom<DetailQuery> for Page {
    type Error = Error;

    fn try_from(query: DetailQuery) -> Result<Self> {
        let fault = |detail: &str| Error::new(ErrorCode::InvalidRequest, format!("the query: {detail}"));
        let bounded = |name: &str, entries: usize| match entries {
            1..=MAX_ENTRIES => Ok(entries),
            _ => Err(fault(&format!("`{name}` is 1 to {MAX_ENTRIES}"))),
        };
        if let Some(last) = query.last {
            if query.cursor.is_some() || query.limit.is_some() {
                return Err(fault("`last` goes with neither `cursor` nor `limit`"));
            }
            return Ok(Self::Last(bounded("last", last)?));
        }
        let limit = bounded("limit", query.limit.unwrap_or(DEFAULT_ENTRIES))?;
        let start = query.cursor.as_deref().map_or(Ok(0), str::parse);
        let start = start.map_err(|_| fault("`cursor` is not one that a former page gave"))?;
        Ok(Self::From { start, limit })
    }
}

/// A thread with a page of its entries, its last turns, and the questions that wait for an answer.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/threads/{thread}", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id"), ("thread" = ThreadId, Path, description = "Thread id"),
        DetailQuery),
    responses((status = 200, body = ThreadDetail)))]
async fn get(
    State(app): State<App>,
    principal: Principal,
    Path(path): Path<ThreadPath>,
    Query(query): Query<DetailQuery>,
) -> Result<Json<ThreadDetail>> {
    let page = query.try_into()?;
    let at = app.sessions.find(&principal, &path.id).await?;
    Ok(Json(app.threads.detail(&at, &path.thread, page).await?))
}

/// Gives a thread another title.
#[utoipa::path(patch, path = "/api/v1/sessions/{id}/threads/{thread}", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id"), ("thread" = ThreadId, Path, description = "Thread id")),
    request_body = RenameThread, responses((status = 200, body = ThreadView)))]
async fn rename(
    State(app): State<App>,
    principal: Principal,
    Path(path): Path<ThreadPath>,
    Body(request): Body<RenameThread>,
) -> Result<Json<ThreadView>> {
    let at = driven(&app, &principal, &path.id).await?;
    Ok(Json(app.threads.rename(&at, &path.thread, request).await?))
}

/// Sends a prompt. Durable when answered; it waits for the thread's running turn, or ends it with `interrupt`. The same
/// `idempotency_key` with the same body is the same request.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/threads/{thread}/prompts", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id"), ("thread" = ThreadId, Path, description = "Thread id")),
    request_body = SendPrompt, responses((status = 202, body = TurnView)))]
async fn prompt(
    State(app): State<App>,
    principal: Principal,
    Path(path): Path<ThreadPath>,
    headers: HeaderMap,
    Body(mut request): Body<SendPrompt>,
) -> Result<(StatusCode, Json<TurnView>)> {
    request.idempotency_key = key(request.idempotency_key, &headers)?;
    let at = driven(&app, &principal, &path.id).await?;
    let turn = app.threads.prompt(&principal, &at, &path.thread, request).await?;
    Ok((StatusCode::ACCEPTED, Json(turn)))
}

/// Ends a turn: one that waits at once, one that the agent has as soon as it lets go of it.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/threads/{thread}/cancel", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id"), ("thread" = ThreadId, Path, description = "Thread id")),
    request_body = CancelTurn, responses((status = 200, body = TurnView)))]
async fn cancel(
    State(app): State<App>,
    principal: Principal,
    Path(path): Path<ThreadPath>,
    OptionalBody(request): OptionalBody<CancelTurn>,
) -> Result<Json<TurnView>> {
    let at = driven(&app, &principal, &path.id).await?;
    Ok(Json(app.threads.cancel(&principal, &at, &path.thread, request).await?))
}

/// Which turn.
#[derive(Deserialize)]
struct TurnPath {
    id: SessionId,
    thread: ThreadId,
    turn: TurnId,
}

/// How long to wait.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    /// Seconds to wait for its end, at most 300; at once where absent.
    wait: Option<u64>,
}

/// A turn: as it is, or with `wait` once it is over or the time is.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/threads/{thread}/turns/{turn}", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id"), ("thread" = ThreadId, Path, description = "Thread id"),
        ("turn" = TurnId, Path, description = "Turn id"), WaitQuery),
    responses((status = 200, body = TurnView)))]
async fn turn(
    State(app): State<App>,
    principal: Principal,
    Path(path): Path<TurnPath>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<TurnView>> {
    let seconds = query.wait.unwrap_or(0);
    if seconds > MAX_WAIT {
        let detail = format!("the query: `wait` is 0 to {MAX_WAIT} seconds");
        return Err(Error::new(ErrorCode::InvalidRequest, detail));
    }
    let at = app.sessions.find(&principal, &path.id).await?;
    let leaves = app.shutdown.clone().cancelled_owned();
    let patience = Duration::from_secs(seconds);
    Ok(Json(app.threads.turn(&at, &path.thread, &path.turn, patience, leaves).await?))
}

/// Asks again what a turn asked that failed, was ended, or of which nobody knows what became of it. While the new turn
/// is not over, the same again answers it.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/threads/{thread}/turns/{turn}/resend", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id"), ("thread" = ThreadId, Path, description = "Thread id"),
        ("turn" = TurnId, Path, description = "Turn id")),
    responses((status = 202, body = TurnView)))]
async fn resend(
    State(app): State<App>,
    principal: Principal,
    Path(path): Path<TurnPath>,
) -> Result<(StatusCode, Json<TurnView>)> {
    let at = driven(&app, &principal, &path.id).await?;
    Ok((StatusCode::ACCEPTED, Json(app.threads.resend(&principal, &at, &path.thread, &path.turn).await?)))
}

/// Which entry.
#[derive(Deserialize)]
struct EntryPath {
    id: SessionId,
    thread: ThreadId,
    entry: String,
}

/// Which piece of its text.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PieceQuery {
    /// First byte, 0 where absent; the piece begins at the first character from there.
    offset: u64,
    /// Bytes, 65536 where absent, at most 1 MiB.
    limit: Option<usize>,
}

/// A piece of a long entry.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/threads/{thread}/entries/{entry}", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id"), ("thread" = ThreadId, Path, description = "Thread id"),
        ("entry" = String, Path, description = "Entry id"), PieceQuery),
    responses((status = 200, body = EntryPiece)))]
async fn entry(
    State(app): State<App>,
    principal: Principal,
    Path(path): Path<EntryPath>,
    Query(query): Query<PieceQuery>,
) -> Result<Json<EntryPiece>> {
    let limit = query.limit.unwrap_or(ENTRY_TEXT_BYTES);
    if !(1..=MAX_PIECE).contains(&limit) {
        let detail = format!("the query: `limit` is 1 to {MAX_PIECE} bytes");
        return Err(Error::new(ErrorCode::InvalidRequest, detail));
    }
    let at = app.sessions.find(&principal, &path.id).await?;
    Ok(Json(app.threads.piece(&at, &path.thread, &path.entry, query.offset, limit).await?))
}

/// Which question.
#[derive(Deserialize)]
struct QuestionPath {
    id: SessionId,
    thread: ThreadId,
    question: String,
}

/// Answers a question of the agent's, or its wish to use a tool. The first answer counts.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/threads/{thread}/questions/{question}", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id"), ("thread" = ThreadId, Path, description = "Thread id"),
        ("question" = String, Path, description = "Question id")),
    request_body = AnswerQuestion, responses((status = 200, body = QuestionView)))]
async fn answer(
    State(app): State<App>,
    principal: Principal,
    Path(path): Path<QuestionPath>,
    Body(request): Body<AnswerQuestion>,
) -> Result<Json<QuestionView>> {
    let at = driven(&app, &principal, &path.id).await?;
    Ok(Json(app.threads.answer(&principal, &at, &path.thread, &path.question, request).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_comes_from_the_body_or_the_header_and_not_from_two() {
        let header = |text: &'static str| {
            HeaderMap::from_iter([(http::HeaderName::from_static(IDEMPOTENCY_KEY), HeaderValue::from_static(text))])
        };
        let body = |text: &str| Some(text.to_owned());
        assert_eq!(key(None, &HeaderMap::new()).expect("none"), None);
        assert_eq!(key(body("a"), &HeaderMap::new()).expect("a key"), body("a"));
        assert_eq!(key(None, &header("a")).expect("a key"), body("a"));
        assert_eq!(key(body("a"), &header("a")).expect("a key"), body("a"));
        assert_eq!(key(body("a"), &header("b")).expect_err("two").code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_page_has_bounds() {
        let page = |cursor: Option<&str>, limit, last| {
            Page::try_from(DetailQuery { cursor: cursor.map(str::to_owned), limit, last })
        };
        assert_eq!(page(None, None, None).expect("a page"), Page::From { start: 0, limit: DEFAULT_ENTRIES });
        assert_eq!(page(Some("7"), Some(500), None).expect("a page"), Page::From { start: 7, limit: 500 });
        assert_eq!(page(None, None, Some(500)).expect("a page"), Page::Last(500));
        for (cursor, limit, last) in [
            (Some("x"), None, None),
            (Some("-1"), None, None),
            (None, Some(0), None),
            (None, Some(501), None),
            (None, None, Some(0)),
            (None, None, Some(501)),
            (Some("7"), None, Some(7)),
            (None, Some(7), Some(7)),
        ] {
            assert!(page(cursor, limit, last).is_err(), "{cursor:?} {limit:?} {last:?}");
        }
    }
}
