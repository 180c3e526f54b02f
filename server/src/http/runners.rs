//! Runners: list, one, enrol, amend, a new token, remove.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use helix_protocol::api::runners::{AmendRunner, EnrolRunner, Enrolled, RenewToken};
use helix_protocol::api::{RunnerList, RunnerView};
use helix_protocol::{ErrorCode, RunnerId};
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Body, Id, Query};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};

/// Longest wait for a runner, in seconds.
const MAX_WAIT: u64 = 600;
const DEFAULT_WAIT: u64 = 30;

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Fleet, routes!(list))
        .add(Need::Member, routes!(get))
        .add(Need::Operate, routes!(amend))
        .add(Need::Leave, routes!(delete))
        .add(Need::Enrol, routes!(enrol))
        .add(Need::Operate, routes!(rotate))
        .add(Need::Runner, routes!(renew))
}

/// Every runner, by id.
#[utoipa::path(get, path = "/api/v1/runners", tag = "runners", responses((status = 200, body = RunnerList)))]
async fn list(State(app): State<App>) -> Result<Json<RunnerList>> {
    Ok(Json(RunnerList { runners: app.runners.list().await? }))
}

/// What is waited for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct GetQuery {
    /// `online`: answers when the runner is heard and has said what it offers.
    wait: Option<String>,
    /// With `wait`: later than this, a former `registered_at`.
    #[param(value_type = Option<String>, format = DateTime)]
    after: Option<Timestamp>,
    /// With `wait`: for so many seconds, 30 where absent; then 504.
    timeout: Option<u64>,
}

impl GetQuery {
    fn patience(&self) -> Result<Option<Duration>> {
        let fault = |detail: &str| Err(Error::new(ErrorCode::InvalidRequest, format!("the query: {detail}")));
        let seconds = self.timeout.unwrap_or(DEFAULT_WAIT);
        match self.wait.as_deref() {
            None if self.timeout.is_some() || self.after.is_some() => {
                fault("`timeout` and `after` go with `wait=online`")
            }
            None => Ok(None),
            Some("online") if (1..=MAX_WAIT).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
            Some("online") => fault("`timeout` is 1 to 600 seconds"),
            Some(_) => fault("`wait` can only be `online`"),
        }
    }
}

/// One runner. Its own token shows it itself and no other.
#[utoipa::path(get, path = "/api/v1/runners/{id}", tag = "runners",
    params(("id" = RunnerId, Path, description = "Runner id"), GetQuery),
    responses((status = 200, body = RunnerView)))]
async fn get(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<RunnerId>,
    Query(query): Query<GetQuery>,
) -> Result<Json<RunnerView>> {
    require_own(&principal, &id)?;
    Ok(Json(match query.patience()? {
        Some(patience) => app.runners.wait_online(&id, query.after, patience).await?,
        None => app.runners.get(&id).await?,
    }))
}

/// Sets labels, cordons: placement goes by it at once. Labels win over those of the runner's own settings; `null` removes
/// one that was set here.
#[utoipa::path(patch, path = "/api/v1/runners/{id}", tag = "runners",
    params(("id" = RunnerId, Path, description = "Runner id")), request_body = AmendRunner,
    responses((status = 200, body = RunnerView)))]
async fn amend(
    State(app): State<App>,
    Id(id): Id<RunnerId>,
    Body(change): Body<AmendRunner>,
) -> Result<Json<RunnerView>> {
    Ok(Json(app.runners.amend(&id, change).await?))
}

/// How it is removed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Although it is online: its link ends at once, and its sessions are nobody's.
    #[serde(default)]
    force: bool,
}

/// Removes a runner and revokes its token; its NATS connection ends. One that is online only with `force`, or by its own
/// token.
#[utoipa::path(delete, path = "/api/v1/runners/{id}", tag = "runners",
    params(("id" = RunnerId, Path, description = "Runner id"), DeleteQuery),
    responses((status = 204, description = "Removed")))]
async fn delete(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<RunnerId>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode> {
    require_own(&principal, &id)?;
    app.runners.remove(&principal, &id, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Exchanges an enrolment token for a runner of its own. Repeating the same request is the same enrolment.
#[utoipa::path(post, path = "/api/v1/runners/enrol", tag = "runners", request_body = EnrolRunner,
    responses((status = 200, body = Enrolled)))]
async fn enrol(
    State(app): State<App>,
    principal: Principal,
    Body(request): Body<EnrolRunner>,
) -> Result<Json<Enrolled>> {
    Ok(Json(app.runners.enrol(&principal, request).await?))
}

/// Wants a new token of a runner. The runner makes it as soon as it is connected: `rotating` is false then, and
/// `token_since` later than before.
#[utoipa::path(post, path = "/api/v1/runners/{id}/rotate", tag = "runners",
    params(("id" = RunnerId, Path, description = "Runner id")), responses((status = 200, body = RunnerView)))]
async fn rotate(State(app): State<App>, Id(id): Id<RunnerId>) -> Result<Json<RunnerView>> {
    Ok(Json(app.runners.rotate(&id).await?))
}

/// The runner's part of a rotation: with its token it announces the hash of a new one, with the new one it ends the old.
#[utoipa::path(put, path = "/api/v1/runners/{id}/token", tag = "runners",
    params(("id" = RunnerId, Path, description = "Runner id")), request_body = RenewToken,
    responses((status = 204, description = "Announced, or proved")))]
async fn renew(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<RunnerId>,
    Body(request): Body<RenewToken>,
) -> Result<StatusCode> {
    require_own(&principal, &id)?;
    app.runners.renew_token(&principal, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A runner's own token is for that runner.
fn require_own(principal: &Principal, id: &RunnerId) -> Result<()> {
    match principal.runner() {
        Some(own) if own != id => {
            Err(Error::new(ErrorCode::Forbidden, format!("this is the token of runner {own}, not of {id}")))
        }
        _ => Ok(()),
    }
}
