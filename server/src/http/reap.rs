//! What belongs to nothing known: what was found, and a look at once.

use axum::Json;
use axum::extract::State;
use helix_protocol::api::reap::{ReapRequest, ReaperView};
use utoipa_axum::routes;

use super::extract::OptionalBody;
use super::registry::Registry;
use crate::app::App;
use crate::auth::Need;
use crate::error::Result;

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Operate, routes!(show)).add(Need::Operate, routes!(reap))
}

/// What the last look found, what the last one that removed something removed, and what runners have removed and keep.
#[utoipa::path(get, path = "/api/v1/reap", tag = "fleet", responses((status = 200, body = ReaperView)))]
async fn show(State(app): State<App>) -> Result<Json<ReaperView>> {
    app.reaper.view().await.map(Json)
}

/// Looks now. What belonged to something that was removed goes, if the grace time is over and a former look found the same;
/// everything else is told and left.
#[utoipa::path(post, path = "/api/v1/reap", tag = "fleet", request_body = ReapRequest,
    responses((status = 200, body = ReaperView)))]
async fn reap(State(app): State<App>, OptionalBody(wanted): OptionalBody<ReapRequest>) -> Result<Json<ReaperView>> {
    app.reaper.reap(wanted.dry_run).await.map(Json)
}
