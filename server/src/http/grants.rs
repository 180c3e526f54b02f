//! Grants of a session: passwords for native viewers. Made, listed without them, revoked.

use axum::Json;
use axum::extract::State;
use helix_protocol::api::grants::{CreateGrant, GrantList, NewGrant, RevokedGrant};
use helix_protocol::{GrantId, SessionId};
use serde::Deserialize;
use utoipa_axum::routes;

use super::extract::{Id, OptionalBody, Path};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::Result;

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Change, routes!(make, list)).add(Need::Change, routes!(revoke))
}

/// Makes a password with which VNC and RDP clients come to the session's desktop (RDP's user name is `zed`). It is told
/// this once, and good until it is revoked, expires, or the session or the token that made it ends; a session has at most
/// 32, and one more is refused.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/grants", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), request_body = CreateGrant,
    responses((status = 200, body = NewGrant)))]
async fn make(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    OptionalBody(request): OptionalBody<CreateGrant>,
) -> Result<Json<NewGrant>> {
    app.sessions.make_grant(&principal, &id, &request).await.map(Json)
}

/// The session's grants, without their passwords.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/grants", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = GrantList)))]
async fn list(State(app): State<App>, principal: Principal, Id(id): Id<SessionId>) -> Result<Json<GrantList>> {
    app.sessions.grants(&principal, &id).await.map(Json)
}

/// Of which session, and which.
#[derive(Deserialize)]
struct GrantPath {
    id: SessionId,
    grant: GrantId,
}

/// Ends a grant, and within a second every connection that came with it; `enforced` is false where the session's runner has
/// not said so within two: it does when it is heard again.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}/grants/{grant}", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id"), ("grant" = GrantId, Path, description = "Grant id")),
    responses((status = 200, body = RevokedGrant), (status = 404, description = "`grant_not_found`")))]
async fn revoke(
    State(app): State<App>,
    principal: Principal,
    Path(GrantPath { id, grant }): Path<GrantPath>,
) -> Result<Json<RevokedGrant>> {
    app.sessions.revoke_grant(&principal, &id, &grant).await.map(Json)
}
