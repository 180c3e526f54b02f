//! Recordings of desktops: listed, shown, read, proved, deleted; and brought by the runner that records them.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use helix_protocol::recording::{EventPage, HeadList, RecordingDetail, RecordingList};
use helix_protocol::{Epoch, ErrorCode, RecordingId, SessionId};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use tokio::time::{Duration, timeout};
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Id, Path, Query};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::recordings::{Brought, MAX_BODY};

/// For one chunk to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(50);
/// A chunk never changes, and is nobody else's.
const FOR_GOOD: &str = "private, max-age=31536000, immutable";

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Fleet, routes!(list))
        .add(Need::Fleet, routes!(show))
        .add(Need::Change, routes!(delete))
        .add(Need::Fleet, routes!(read_chunk))
        .add(Need::Runner, routes!(bring_chunk))
        .add(Need::Fleet, routes!(events))
        .add(Need::Fleet, routes!(heads))
}

/// Which recordings.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this session.
    session: Option<SessionId>,
}

/// Recordings of the sessions that you may see, newest first, at most 1000.
#[utoipa::path(get, path = "/api/v1/recordings", tag = "recordings", params(ListQuery),
    responses((status = 200, body = RecordingList)))]
async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(ListQuery { session }): Query<ListQuery>,
) -> Result<Json<RecordingList>> {
    app.recordings.list(&principal, session.as_ref()).await.map(Json)
}

/// How much of the manifest.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ShowQuery {
    /// Chunks from this number on; all of them where absent. An answer has 8192 chunks at most.
    #[serde(default)]
    from_chunk: u32,
}

/// A recording and its manifest: its chunks with their hashes, and where replay can begin. 410 `recording_deleted` once
/// it is gone.
#[utoipa::path(get, path = "/api/v1/recordings/{id}", tag = "recordings",
    params(("id" = RecordingId, Path, description = "Recording id"), ShowQuery),
    responses((status = 200, body = RecordingDetail)))]
async fn show(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<RecordingId>,
    Query(ShowQuery { from_chunk }): Query<ShowQuery>,
) -> Result<Json<RecordingDetail>> {
    app.recordings.show(&principal, &id, from_chunk).await.map(Json)
}

/// Deletes a recording. The audit trail keeps that it was there, and who deleted it.
#[utoipa::path(delete, path = "/api/v1/recordings/{id}", tag = "recordings",
    params(("id" = RecordingId, Path, description = "Recording id")),
    responses((status = 204, description = "Deleted")))]
async fn delete(State(app): State<App>, principal: Principal, Id(id): Id<RecordingId>) -> Result<StatusCode> {
    app.recordings.delete(&principal, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A chunk's bytes. They never change: `ETag` is their SHA-256.
#[utoipa::path(get, path = "/api/v1/recordings/{id}/chunks/{number}", tag = "recordings",
    params(("id" = RecordingId, Path, description = "Recording id"),
        ("number" = u32, Path, description = "Its number, from 0")),
    responses((status = 200, content_type = "application/octet-stream", description = "The chunk"),
        (status = 304, description = "It is the one that you have")))]
async fn read_chunk(
    State(app): State<App>,
    principal: Principal,
    Path((id, number)): Path<(RecordingId, u32)>,
    headers: HeaderMap,
) -> Result<Response> {
    let entry = app.recordings.entry(&principal, &id, number).await?;
    let etag = format!("\"{}\"", entry.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).unwrap_or_default();
    let named = [(header::ETAG, etag.clone()), (header::CACHE_CONTROL, FOR_GOOD.to_owned())];
    if known.split(',').any(|tag| tag.trim() == etag) {
        return Ok((StatusCode::NOT_MODIFIED, named).into_response());
    }
    let bytes = app.recordings.bytes(&id, number).await?;
    Ok((named, [(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// Whose recording it is.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct BringQuery {
    /// The session.
    session: SessionId,
    /// Epoch of its assignment to this runner.
    #[param(value_type = u64)]
    epoch: Epoch,
}

/// Brings the next chunk of a recording of a session that this runner has. Acknowledged when it is stored and its hash is
/// in the audit trail; a chunk that is there is taken again. 409 `chunk_mismatch` where another one comes next.
#[utoipa::path(put, path = "/api/v1/recordings/{id}/chunks/{number}", tag = "recordings",
    params(("id" = RecordingId, Path, description = "Recording id"),
        ("number" = u32, Path, description = "Its number, from 0"), BringQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "Stored")))]
async fn bring_chunk(
    State(app): State<App>,
    principal: Principal,
    Path((id, number)): Path<(RecordingId, u32)>,
    Query(BringQuery { session, epoch }): Query<BringQuery>,
    body: Body,
) -> Result<StatusCode> {
    let runner = principal.runner().ok_or_else(|| Error::new(ErrorCode::Forbidden, "only runners bring chunks"))?;
    let bytes = timeout(BODY_WITHIN, to_bytes(body, MAX_BODY)).await;
    let bytes = bytes.map_err(|_| Error::new(ErrorCode::InvalidRequest, "the chunk did not arrive in time"))?;
    let bytes = bytes.map_err(|error| {
        Error::new(ErrorCode::BodyTooLarge, format!("a chunk has at most {MAX_BODY} bytes")).because(error)
    })?;
    let brought = Brought { runner, recording: &id, number, session: &session, epoch, bytes };
    app.recordings.put(&brought).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where a page begins.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// `next` of the page before.
    after: Option<String>,
}

/// What happened beside the picture, in the order of time: what was typed, who had the control, gaps, and how the
/// session's conversations moved.
#[utoipa::path(get, path = "/api/v1/recordings/{id}/events", tag = "recordings",
    params(("id" = RecordingId, Path, description = "Recording id"), EventsQuery),
    responses((status = 200, body = EventPage)))]
async fn events(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<RecordingId>,
    Query(EventsQuery { after }): Query<EventsQuery>,
) -> Result<Json<EventPage>> {
    app.recordings.events(&principal, &id, after.as_deref()).await.map(Json)
}

/// What the audit trail says of a recording's chunks, also once it is deleted: compare it with what you have.
#[utoipa::path(get, path = "/api/v1/recordings/{id}/heads", tag = "recordings",
    params(("id" = RecordingId, Path, description = "Recording id")),
    responses((status = 200, body = HeadList)))]
async fn heads(State(app): State<App>, principal: Principal, Id(id): Id<RecordingId>) -> Result<Json<HeadList>> {
    app.recordings.heads(&principal, &id).await.map(Json)
}
