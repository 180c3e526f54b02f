//! Calls that are uses of a session: its idle time begins again with each. One layer for all routes, inside the guard; a
//! WebSocket that goes on after its request says so itself ([`crate::uses`]).

use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use helix_protocol::SessionId;
use http::Method;

use super::extract::path_id;
use crate::app::App;
use crate::auth::Principal;

/// What a use of a session is below its path: of its desktop, files, commands and terminals.
const USES: [&str; 10] = [
    "/clipboard",
    "/control",
    "/cursor",
    "/display",
    "/exec",
    "/files",
    "/input",
    "/screenshot",
    "/terminals",
    "/windows",
];
/// Here only what changes something: reading a conversation is no use of the session.
const CONVERSATION: &str = "/threads";

/// Middleware inside the guard.
pub async fn note(
    State(app): State<App>,
    pattern: MatchedPath,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let session = path_id(&params).filter(|_| is_use(request.method(), pattern.as_str()));
    let session = session.and_then(|id| SessionId::parse(id).ok()).filter(|id| {
        // Who may not even see it uses nothing.
        let owner = app.store.sessions.view().get(id.as_str()).map(|entry| entry.value.owner.clone());
        let by = request.extensions().get::<Principal>();
        owner.zip(by).is_some_and(|(owner, by)| by.may_see(id, &owner))
    });
    let _in_use = session.map(|session| app.uses.begin(&session));
    next.run(request).await
}

fn is_use(method: &Method, pattern: &str) -> bool {
    let Some(of_session) = pattern.strip_prefix("/api/v1/sessions/{id}") else { return false };
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    USES.iter().any(|part| of_session.starts_with(part)) || changes && of_session.starts_with(CONVERSATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_at_records_is_no_use() {
        let uses = [
            (Method::POST, "/input"),
            (Method::GET, "/screenshot"),
            (Method::GET, "/files/list"),
            (Method::GET, "/exec"),
            (Method::GET, "/terminals/{name}"),
            (Method::POST, "/threads/{thread}/prompts"),
        ];
        for (method, path) in uses {
            assert!(is_use(&method, &format!("/api/v1/sessions/{{id}}{path}")), "{method} {path}");
        }
        let others =
            ["", "/stop", "/logs", "/timeline", "/wait", "/placement", "/threads/{thread}", "/events", "/tickets"];
        for path in others {
            assert!(!is_use(&Method::GET, &format!("/api/v1/sessions/{{id}}{path}")), "{path}");
        }
        assert!(!is_use(&Method::POST, "/api/v1/runners/{id}/exec"));
    }
}
