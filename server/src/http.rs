//! HTTP entry: routes, decoding, authorisation, encoding. Decides nothing: the rules are in `sessions`, `runners`,
//! `tokens`.
//!
//! The way of a request, outside in: access log → security headers → [`leftover`] of a refused body → panic catcher →
//! routing → [`audit`] → [`guard`] (declared [`Need`](crate::auth::Need) of the route, `Origin`, bearer, scope) → [`uses`] → handler. Every
//! route comes from [`registry`], which takes no route without a declared need, and the guard refuses what is not in
//! its table. Every error leaves as a problem document ([`problem`]).
//!
//! Tasks: one per connection (axum's) and one per live WebSocket ([`events`], [`exec`], [`streams`], [`sync`], [`terminals`]); those end on
//! `App::shutdown` with close code 1012, and `Relay::drained` waits for them.

mod access_log;
mod assets;
mod audit;
mod checkpoints;
mod control;
mod desktop;
mod dial;
mod events;
mod exec;
mod external_agents;
mod extract;
mod files;
mod fleet;
mod grants;
mod guard;
mod headers;
mod health;
mod images;
mod leftover;
mod logs;
mod openapi;
mod pointer;
mod pools;
mod problem;
mod reap;
mod recordings;
mod registry;
mod runners;
mod secrets;
mod sessions;
pub mod sockets;
mod spec_tasks;
mod streams;
mod sync;
mod terminals;
mod thread_events;
mod threads;
mod tokens;
mod tools;
mod urls;
mod uses;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::App;
use registry::Registry;

/// Every route of the server.
pub fn router(app: App) -> Router {
    let (routes, table, document) = registry(app.config.external_agents_enabled).into_parts();
    let gate = guard::Gate::new(table, app.tokens.clone(), &app.config.public_url);
    let routes = routes
        .route_layer(from_fn_with_state(app.clone(), uses::note))
        .route_layer(from_fn_with_state(gate, guard::guard))
        .route_layer(from_fn_with_state(app.clone(), audit::note))
        .layer(axum::Extension(document))
        .layer(DefaultBodyLimit::max(app.config.max_body_bytes));
    let routes = routes.layer(from_fn_with_state(app.clone(), sync::refusals::note));
    wrapped(routes).with_state(app)
}

/// What every answer goes through, whatever the route.
fn wrapped<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(from_fn(leftover::read_away))
        .layer(from_fn(headers::apply))
        .layer(from_fn(access_log::write))
}

/// The routes with their needs, without anything alive behind them.
fn registry(external_agents: bool) -> Registry {
    let registry = Registry::new(openapi::document());
    let registry = health::routes(registry);
    let registry = assets::routes(registry);
    let registry = openapi::routes(registry);
    let registry = fleet::routes(registry);
    let registry = sessions::routes(registry);
    let registry = logs::routes(registry);
    let registry = streams::routes(registry);
    let registry = control::routes(registry);
    let registry = grants::routes(registry);
    let registry = audit::routes(registry);
    let registry = desktop::routes(registry);
    let registry = pointer::routes(registry);
    let registry = files::routes(registry);
    let registry = exec::routes(registry);
    let registry = terminals::routes(registry);
    let registry = runners::routes(registry);
    let registry = pools::routes(registry);
    let registry = tokens::routes(registry);
    let registry = events::routes(registry);
    let registry = secrets::routes(registry);
    let registry = spec_tasks::routes(registry);
    let registry = threads::routes(registry);
    let registry = thread_events::routes(registry);
    let registry = recordings::routes(registry);
    let registry = checkpoints::routes(registry);
    let registry = images::routes(registry);
    let registry = reap::routes(registry);
    let registry = dial::routes(registry);
    if external_agents { external_agents::routes(registry) } else { registry }
}

#[cfg(test)]
mod tests;
