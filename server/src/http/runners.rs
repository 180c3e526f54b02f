//! Runners: list, one, enrol, remove; join tokens.

use axum::Json;
use axum::extract::State;
use helix_protocol::RunnerId;
use helix_protocol::api::{CreateJoinToken, EnrolRunner, Enrolled, JoinToken, RunnerList, RunnerView};
use http::StatusCode;
use utoipa_axum::routes;

use super::extract::{Body, Id};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::Result;
use crate::runners::issue_join_token;

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Fleet, routes!(list))
        .add(Need::Fleet, routes!(get))
        .add(Need::Operate, routes!(delete))
        .add(Need::Enrol, routes!(enrol))
        .add(Need::Operate, routes!(join_token))
}

/// Every runner, by id.
#[utoipa::path(get, path = "/api/v1/runners", tag = "runners", responses((status = 200, body = RunnerList)))]
async fn list(State(app): State<App>) -> Result<Json<RunnerList>> {
    Ok(Json(RunnerList { runners: app.runners.list().await? }))
}

/// One runner.
#[utoipa::path(get, path = "/api/v1/runners/{id}", tag = "runners",
    params(("id" = RunnerId, Path, description = "Runner id")),
    responses((status = 200, body = RunnerView)))]
async fn get(State(app): State<App>, Id(id): Id<RunnerId>) -> Result<Json<RunnerView>> {
    Ok(Json(app.runners.get(&id).await?))
}

/// Removes a runner that is not online and revokes its token.
#[utoipa::path(delete, path = "/api/v1/runners/{id}", tag = "runners",
    params(("id" = RunnerId, Path, description = "Runner id")),
    responses((status = 204, description = "Removed")))]
async fn delete(State(app): State<App>, Id(id): Id<RunnerId>) -> Result<StatusCode> {
    app.runners.delete(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Exchanges the enrolment token or a join token for a runner of its own. Repeating the same request is the same enrolment.
#[utoipa::path(post, path = "/api/v1/runners/enrol", tag = "runners", request_body = EnrolRunner,
    responses((status = 200, body = Enrolled)))]
async fn enrol(
    State(app): State<App>,
    principal: Principal,
    Body(request): Body<EnrolRunner>,
) -> Result<Json<Enrolled>> {
    Ok(Json(app.runners.enrol(&principal, request).await?))
}

/// Makes a token with which one runner enrols, once. It is told this once.
#[utoipa::path(post, path = "/api/v1/runners/join-tokens", tag = "runners", request_body = CreateJoinToken,
    responses((status = 200, body = JoinToken)))]
async fn join_token(State(app): State<App>, Body(request): Body<CreateJoinToken>) -> Result<Json<JoinToken>> {
    Ok(Json(issue_join_token(&app.tokens, &request).await?))
}
