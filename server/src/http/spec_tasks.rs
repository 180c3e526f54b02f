//! Spec tasks, in document 000's words: create, list, get, stop.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use helix_protocol::api::threads::{CreateSpecTask, SpecTaskList, SpecTaskView};
use helix_protocol::{ErrorCode, SpecTaskId};
use http::{HeaderValue, StatusCode, header};
use utoipa_axum::routes;

use super::extract::{Body, Id};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Change, routes!(create))
        .add(Need::Fleet, routes!(list))
        .add(Need::Fleet, routes!(get))
        .add(Need::Change, routes!(stop))
}

/// Makes a spec task with its desktop. The same `spec_task_id` with the same body is the same request; where the task
/// has a desktop under another session id, the session becomes another name of it.
#[utoipa::path(post, path = "/api/v1/spec-tasks", tag = "spec-tasks", request_body = CreateSpecTask,
    responses((status = 201, body = SpecTaskView), (status = 200, body = SpecTaskView, description = "Existed already")))]
async fn create(State(app): State<App>, principal: Principal, Body(request): Body<CreateSpecTask>) -> Result<Response> {
    let (task, fresh) = app.spec_tasks.create(&principal, request).await?;
    let status = if fresh { StatusCode::CREATED } else { StatusCode::OK };
    let location = HeaderValue::try_from(format!("/api/v1/spec-tasks/{}", task.spec_task_id))
        .map_err(|error| Error::new(ErrorCode::Internal, "a spec task id is no header value").because(error))?;
    Ok((status, [(header::LOCATION, location)], Json(task)).into_response())
}

/// Every spec task whose desktop the token may see, newest first.
#[utoipa::path(get, path = "/api/v1/spec-tasks", tag = "spec-tasks", responses((status = 200, body = SpecTaskList)))]
async fn list(State(app): State<App>, principal: Principal) -> Result<Json<SpecTaskList>> {
    Ok(Json(app.spec_tasks.list(&principal).await?))
}

/// One spec task: its agent instance, its session and a context for each of its threads.
#[utoipa::path(get, path = "/api/v1/spec-tasks/{id}", tag = "spec-tasks",
    params(("id" = SpecTaskId, Path, description = "Spec task id")), responses((status = 200, body = SpecTaskView)))]
async fn get(State(app): State<App>, principal: Principal, Id(id): Id<SpecTaskId>) -> Result<Json<SpecTaskView>> {
    Ok(Json(app.spec_tasks.get(&principal, &id).await?))
}

/// Stops a spec task: its desktop ends, under all of its names. Its sessions and their conversation stay.
#[utoipa::path(delete, path = "/api/v1/spec-tasks/{id}", tag = "spec-tasks",
    params(("id" = SpecTaskId, Path, description = "Spec task id")), responses((status = 200, body = SpecTaskView)))]
async fn stop(State(app): State<App>, principal: Principal, Id(id): Id<SpecTaskId>) -> Result<Json<SpecTaskView>> {
    Ok(Json(app.spec_tasks.stop(&principal, &id).await?))
}
