//! Who am I, and the fleet in one answer.

use axum::Json;
use axum::extract::State;
use helix_protocol::api::WhoAmI;
use helix_protocol::api::status::FleetStatus;
use utoipa_axum::routes;

use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal, scope_word};
use crate::error::Result;

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Any, routes!(whoami)).add(Need::Fleet, routes!(status))
}

/// Name and scope of the token.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "fleet", responses((status = 200, body = WhoAmI)))]
async fn whoami(principal: Principal) -> Json<WhoAmI> {
    Json(WhoAmI { scope: scope_word(&principal.scope).to_owned(), name: principal.name })
}

/// Every runner, how many sessions are in each phase, every pool, and the store.
#[utoipa::path(get, path = "/api/v1/status", tag = "fleet", responses((status = 200, body = FleetStatus)))]
async fn status(State(app): State<App>, principal: Principal) -> Result<Json<FleetStatus>> {
    let all = async { tokio::try_join!(app.runners.list(), app.sessions.count_by_phase(), app.pools.list(&principal)) };
    let (all, store, reaper) = tokio::join!(all, app.bus.store_status(), app.reaper.summary());
    let (runners, sessions, pools) = all?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let scale = app.config.scale.as_ref().map(|_| crate::scale::status(&app.store));
    let (server, pools, reaper) = (app.server_id.to_string(), pools.pools, reaper.ok().flatten());
    Ok(Json(FleetStatus { version, server, runners, sessions, pools, store, scale, reaper }))
}
