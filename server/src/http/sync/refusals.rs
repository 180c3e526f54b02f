//! Refused connections to sync sockets: agents dial again for ever and say nothing, so the session says it.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use helix_protocol::api::SyncStatus;
use helix_protocol::assignment::Lease;
use helix_protocol::{SessionId, subject};
use http::StatusCode;
use jiff::Timestamp;
use tracing::Instrument as _;

use crate::app::App;
use crate::sessions::view::has_ended;

/// How long a refusal is told.
const TTL: Duration = Duration::from_mins(2);
/// Between two notes of one session.
const AT_MOST_EVERY: Duration = Duration::from_secs(20);
const PATH: &str = "/api/v1/external-agents/sync";

/// Outside the guard: notes at the session why its agent is not let in.
pub async fn note(State(app): State<App>, request: Request, next: Next) -> Response {
    let asked = (request.uri().path() == PATH).then(|| session_of(request.uri().query())).flatten();
    let Some(session) = asked else { return next.run(request).await };
    let response = next.run(request).await;
    let why = match response.status() {
        StatusCode::UNAUTHORIZED => "the token is missing, wrong, or that of a former start of the session",
        StatusCode::FORBIDDEN => "the token may not speak for the session's agent",
        _ => return response,
    };
    if is_due(&app, &session) {
        let span = tracing::info_span!("agent", session.id = %session);
        tokio::spawn(async move { store(&app, &session, why).await }.instrument(span));
    }
    response
}

fn session_of(query: Option<&str>) -> Option<SessionId> {
    let value = query?.split('&').find_map(|pair| pair.strip_prefix("session_id="))?;
    SessionId::parse(value).ok()
}

/// Only of a session that there is, and not again and again.
fn is_due(app: &App, session: &SessionId) -> bool {
    let lives = app
        .store
        .sessions
        .view()
        .get(session.as_str())
        .is_some_and(|entry| !has_ended(&entry.value, &app.store.observed.view().read()));
    let noted = app.store.leases.view().get(&subject::sync_refused_key(session));
    lives && noted.is_none_or(|noted| noted.seen.elapsed() >= AT_MOST_EVERY)
}

async fn store(app: &App, session: &SessionId, why: &str) {
    tracing::warn!(why, "an agent is refused");
    let key = subject::sync_refused_key(session);
    let refused = format!(
        "{why} (last at {}); what runs in the session uses it: see ZED_HELIX_TOKEN there",
        Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")
    );
    let lease = Lease {
        server: app.server_id.to_string(),
        renewed_at: Timestamp::now(),
        heartbeat: None,
        sync: Some(SyncStatus { refused: Some(refused), ..SyncStatus::default() }),
        scale: None,
    };
    let written = match app.store.leases.get(&key).await {
        Ok(lookup) => app.store.leases.lease(&key, &lease, lookup.revision(), TTL).await.map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        tracing::debug!("the refusal is not noted; it comes again: {error}");
    }
}
