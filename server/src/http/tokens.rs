//! Tokens: make, list, revoke.

use axum::Json;
use axum::extract::State;
use helix_protocol::api::tokens::{CreateToken, NewToken, TokenList};
use http::StatusCode;
use utoipa_axum::routes;

use super::extract::{Body, Path};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::Result;

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Operate, routes!(list)).add(Need::Operate, routes!(create)).add(Need::Operate, routes!(revoke))
}

/// Tokens that enrol runners and, for the admin, those of people; the newest first, without their secrets.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses((status = 200, body = TokenList)))]
async fn list(State(app): State<App>, principal: Principal) -> Result<Json<TokenList>> {
    Ok(Json(TokenList { tokens: app.tokens.list(&principal).await? }))
}

/// Makes a token. Its secret is told this once.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = CreateToken,
    responses((status = 200, body = NewToken)))]
async fn create(
    State(app): State<App>,
    principal: Principal,
    Body(request): Body<CreateToken>,
) -> Result<Json<NewToken>> {
    Ok(Json(app.tokens.create(&principal, request).await?))
}

/// Revokes a token: what it opened closes at once. Runners that enrolled with it stay: they have tokens of their own.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "Id of the token, as the list has it")),
    responses((status = 204, description = "Revoked")))]
async fn revoke(State(app): State<App>, principal: Principal, Path(id): Path<String>) -> Result<StatusCode> {
    app.tokens.revoke(&principal, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
