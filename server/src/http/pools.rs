//! Pools: list, one, apply, scale, delete.

use axum::Json;
use axum::extract::State;
use helix_protocol::PoolName;
use helix_protocol::api::pools::{PoolList, PoolView, ScalePool};
use helix_protocol::pool::PoolSpec;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Body, Id, Query};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::Result;

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Fleet, routes!(list))
        .add(Need::Fleet, routes!(get))
        .add(Need::Operate, routes!(put))
        .add(Need::Operate, routes!(scale))
        .add(Need::Operate, routes!(delete))
}

/// Every pool: what it shall have, and what it has.
#[utoipa::path(get, path = "/api/v1/pools", tag = "pools", responses((status = 200, body = PoolList)))]
async fn list(State(app): State<App>, principal: Principal) -> Result<Json<PoolList>> {
    Ok(Json(app.pools.list(&principal).await?))
}

/// One pool.
#[utoipa::path(get, path = "/api/v1/pools/{id}", tag = "pools",
    params(("id" = PoolName, Path, description = "Name of the pool")), responses((status = 200, body = PoolView)))]
async fn get(State(app): State<App>, principal: Principal, Id(name): Id<PoolName>) -> Result<Json<PoolView>> {
    Ok(Json(app.pools.get(&principal, &name).await?))
}

/// What a change builds on.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PutQuery {
    /// `version` that the caller saw, 0 for no pool: another one is refused with 409 `conflict`, which says what it is now.
    version: Option<u64>,
}

/// Makes a pool, or changes what it is. The same again changes nothing. Agents that are nobody's and would be others now
/// are replaced; sessions that somebody has go on.
#[utoipa::path(put, path = "/api/v1/pools/{id}", tag = "pools",
    params(("id" = PoolName, Path, description = "Name of the pool"), PutQuery), request_body = PoolSpec,
    responses((status = 200, body = PoolView), (status = 201, body = PoolView, description = "It is new")))]
async fn put(
    State(app): State<App>,
    principal: Principal,
    Id(name): Id<PoolName>,
    Query(query): Query<PutQuery>,
    Body(spec): Body<PoolSpec>,
) -> Result<(StatusCode, Json<PoolView>)> {
    let (view, fresh) = app.pools.put(&principal, &name, spec, query.version).await?;
    Ok((if fresh { StatusCode::CREATED } else { StatusCode::OK }, Json(view)))
}

/// Changes how many agents it has.
#[utoipa::path(patch, path = "/api/v1/pools/{id}", tag = "pools",
    params(("id" = PoolName, Path, description = "Name of the pool")), request_body = ScalePool,
    responses((status = 200, body = PoolView)))]
async fn scale(
    State(app): State<App>,
    principal: Principal,
    Id(name): Id<PoolName>,
    Body(how): Body<ScalePool>,
) -> Result<Json<PoolView>> {
    Ok(Json(app.pools.scale(&principal, &name, how).await?))
}

/// What becomes of sessions that somebody has.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// They are stopped, too; they go on where this is absent.
    #[serde(default)]
    stop: bool,
}

/// Removes a pool; its agents that are nobody's end.
#[utoipa::path(delete, path = "/api/v1/pools/{id}", tag = "pools",
    params(("id" = PoolName, Path, description = "Name of the pool"), DeleteQuery),
    responses((status = 204, description = "Removed")))]
async fn delete(
    State(app): State<App>,
    principal: Principal,
    Id(name): Id<PoolName>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode> {
    app.pools.delete(&principal, &name, query.stop).await?;
    Ok(StatusCode::NO_CONTENT)
}
