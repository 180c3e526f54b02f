//! One line per request: method, route pattern, status, duration. Never the path or the query as sent: tickets and
//! tokens ride there.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;

/// Middleware: writes the line once the answer's head is ready.
pub async fn write(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let pattern = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    tracing::debug!(
        http.method = %method,
        http.route = pattern.as_ref().map_or("none", MatchedPath::as_str),
        http.status = response.status().as_u16(),
        http.ms = started.elapsed().as_millis() as u64,
        "answered"
    );
    response
}
