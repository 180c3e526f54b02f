//! Is the process alive, and can it do its work?

use axum::Json;
use axum::extract::State;
use helix_protocol::ErrorCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::registry::Registry;
use crate::app::App;
use crate::auth::Need;
use crate::error::{Error, Result};

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Public, routes!(healthz)).add(Need::Public, routes!(readyz))
}

/// One word.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok` or `ready`.
    status: &'static str,
}

/// 200 while the process lives.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Health)))]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// 200 while the store answers, 503 otherwise.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, body = Health)))]
async fn readyz(State(app): State<App>) -> Result<Json<Health>> {
    if app.bus.healthy() {
        return Ok(Json(Health { status: "ready" }));
    }
    Err(Error::new(ErrorCode::StoreUnavailable, "NATS cannot be reached or its JetStream does not answer"))
}
