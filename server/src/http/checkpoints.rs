//! Checkpoints of workspaces: listed, made, gone back to, forked from; sessions that move; and what runners bring and need.

use axum::Json;
use axum::body::{Body as Bytes, to_bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use helix_protocol::api::SessionView;
use helix_protocol::api::checkpoints::{
    CheckpointList, CommitCheckpoint, Committed, ForkSession, MoveSession, RestoreSession, WorkView,
};
use helix_protocol::checkpoint::MAX_STORED_BYTES;
use helix_protocol::image::Digest;
use helix_protocol::{Epoch, ErrorCode, RunnerId, SessionId};
use http::{StatusCode, header};
use serde::Deserialize;
use tokio::time::{Duration, timeout};
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Body, Id, OptionalBody, Path, Query};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};

/// For one pack to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(50);

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Read, routes!(list))
        .add(Need::Change, routes!(make))
        .add(Need::Read, routes!(work))
        .add(Need::Change, routes!(restore))
        .add(Need::Change, routes!(fork))
        .add(Need::Operate, routes!(begin_move))
        .add(Need::Runner, routes!(bring))
        .add(Need::Runner, routes!(read))
        .add(Need::Runner, routes!(commit))
}

/// The checkpoints of a session's workspace, newest first.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/checkpoints", tag = "checkpoints",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = CheckpointList)))]
async fn list(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<CheckpointList>> {
    app.checkpoints.list(&principal, &id).await.map(Json)
}

/// Makes a checkpoint now, unless nothing has changed since the last one. Answers when there is one, or after 20 s, with
/// `busy`: then ask `GET …/work?wait=true`. `error` says why there is none.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/checkpoints", tag = "checkpoints",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = WorkView)))]
async fn make(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<WorkView>> {
    app.checkpoints.ask(&principal, &id).await.map(Json)
}

/// What is waited for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WorkQuery {
    /// Answer once nothing is under way, or after 20 s.
    #[serde(default)]
    wait: bool,
}

/// Whether a checkpoint or a move of a session is under way, and how the last one ended.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/work", tag = "checkpoints",
    params(("id" = SessionId, Path, description = "Session id"), WorkQuery),
    responses((status = 200, body = WorkView)))]
async fn work(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(WorkQuery { wait }): Query<WorkQuery>,
) -> Result<Json<WorkView>> {
    app.checkpoints.work(&principal, &id, wait).await.map(Json)
}

/// Has a session begin again from one of its checkpoints, after a checkpoint of how it is now. Its agent is started anew. 409
/// `checkpoint_damaged` where a part is not what its digest says: nothing was changed then.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/restore", tag = "checkpoints",
    params(("id" = SessionId, Path, description = "Session id")), request_body = RestoreSession,
    responses((status = 200, body = WorkView)))]
async fn restore(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    OptionalBody(RestoreSession { checkpoint }): OptionalBody<RestoreSession>,
) -> Result<Json<WorkView>> {
    app.checkpoints.restore(&principal, &id, checkpoint).await.map(Json)
}

/// A new session in the same words that begins from a checkpoint of this one, which may have ended. It has none of its
/// secrets.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/fork", tag = "checkpoints",
    params(("id" = SessionId, Path, description = "Session id")), request_body = ForkSession,
    responses((status = 201, body = SessionView)))]
async fn fork(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    OptionalBody(request): OptionalBody<ForkSession>,
) -> Result<(StatusCode, Json<SessionView>)> {
    Ok((StatusCode::CREATED, Json(app.checkpoints.fork(&principal, &id, request).await?)))
}

/// Moves a session to another runner: a checkpoint while it runs, its end there, and a start elsewhere from where it was.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/move", tag = "checkpoints",
    params(("id" = SessionId, Path, description = "Session id")), request_body = MoveSession,
    responses((status = 200, body = WorkView)))]
async fn begin_move(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    OptionalBody(request): OptionalBody<MoveSession>,
) -> Result<Json<WorkView>> {
    app.checkpoints.begin_move(&principal, &id, &request).await.map(Json)
}

/// Under which assignment.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EpochQuery {
    /// Epoch of the session's assignment to this runner.
    #[param(value_type = u64)]
    epoch: Epoch,
}

/// Brings a pack or a manifest of a session that this runner has, named by the SHA-256 of its bytes. What is there is
/// taken again.
#[utoipa::path(put, path = "/api/v1/sessions/{id}/checkpoints/blobs/{digest}", tag = "checkpoints",
    params(("id" = SessionId, Path, description = "Session id"),
        ("digest" = String, Path, description = "`sha256:` and 64 hex digits"), EpochQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "Stored")))]
async fn bring(
    State(app): State<App>,
    principal: Principal,
    Path((id, digest)): Path<(SessionId, Digest)>,
    Query(EpochQuery { epoch }): Query<EpochQuery>,
    body: Bytes,
) -> Result<StatusCode> {
    let runner = runner(&principal)?;
    let bytes = timeout(BODY_WITHIN, to_bytes(body, MAX_STORED_BYTES)).await;
    let bytes = bytes.map_err(|_| Error::new(ErrorCode::InvalidRequest, "the pack did not arrive in time"))?;
    let bytes = bytes.map_err(|error| {
        Error::new(ErrorCode::BodyTooLarge, format!("a pack has at most {MAX_STORED_BYTES} bytes")).because(error)
    })?;
    app.checkpoints.put(runner, &id, epoch, &digest, bytes).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A pack or a manifest that this runner needs for a session which it has.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/checkpoints/blobs/{digest}", tag = "checkpoints",
    params(("id" = SessionId, Path, description = "Session id"),
        ("digest" = String, Path, description = "`sha256:` and 64 hex digits"), EpochQuery),
    responses((status = 200, content_type = "application/octet-stream", description = "Its bytes")))]
async fn read(
    State(app): State<App>,
    principal: Principal,
    Path((id, digest)): Path<(SessionId, Digest)>,
    Query(EpochQuery { epoch }): Query<EpochQuery>,
) -> Result<Response> {
    let bytes = app.checkpoints.read(runner(&principal)?, &id, epoch, &digest).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// Everything of a checkpoint was brought: from now on there is one. 409 `checkpoint_damaged` where something is missing.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/checkpoints/commit", tag = "checkpoints",
    params(("id" = SessionId, Path, description = "Session id"), EpochQuery), request_body = CommitCheckpoint,
    responses((status = 200, body = Committed)))]
async fn commit(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(EpochQuery { epoch }): Query<EpochQuery>,
    Body(request): Body<CommitCheckpoint>,
) -> Result<Json<Committed>> {
    if request.epoch != epoch {
        return Err(Error::new(ErrorCode::InvalidRequest, "epoch: it is another one in the query"));
    }
    app.checkpoints.commit(runner(&principal)?, &id, &request).await.map(Json)
}

fn runner(principal: &Principal) -> Result<&RunnerId> {
    principal.runner().ok_or_else(|| Error::new(ErrorCode::Forbidden, "only runners bring and need packs"))
}
