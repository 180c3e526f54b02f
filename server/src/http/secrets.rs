//! The caller's stored secrets: set, list, delete. Values go in and never come out.

use axum::Json;
use axum::extract::State;
use helix_protocol::api::threads::{SecretList, SecretView, SetSecret};
use http::StatusCode;
use serde::Deserialize;
use utoipa_axum::routes;

use super::extract::{Body, Path};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::Result;

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Change, routes!(list)).add(Need::Change, routes!(set)).add(Need::Change, routes!(delete))
}

/// Which secret.
#[derive(Deserialize)]
struct SecretPath {
    name: String,
}

/// The caller's stored secrets, by name, without their values.
#[utoipa::path(get, path = "/api/v1/secrets", tag = "secrets", responses((status = 200, body = SecretList)))]
async fn list(State(app): State<App>, principal: Principal) -> Result<Json<SecretList>> {
    Ok(Json(app.secrets.list(&principal).await?))
}

/// Stores a secret, or another value of it: sessions of the caller may ask for it by name. Sealed in the store, and
/// never told again.
#[utoipa::path(put, path = "/api/v1/secrets/{name}", tag = "secrets",
    params(("name" = String, Path, description = "Name of an environment variable")), request_body = SetSecret,
    responses((status = 200, body = SecretView)))]
async fn set(
    State(app): State<App>,
    principal: Principal,
    Path(path): Path<SecretPath>,
    Body(request): Body<SetSecret>,
) -> Result<Json<SecretView>> {
    Ok(Json(app.secrets.set(&principal, &path.name, &request).await?))
}

/// Removes a stored secret. Sessions that have it keep it.
#[utoipa::path(delete, path = "/api/v1/secrets/{name}", tag = "secrets",
    params(("name" = String, Path, description = "Name of an environment variable")),
    responses((status = 204, description = "Removed")))]
async fn delete(State(app): State<App>, principal: Principal, Path(path): Path<SecretPath>) -> Result<StatusCode> {
    app.secrets.delete(&principal, &path.name).await?;
    Ok(StatusCode::NO_CONTENT)
}
