use std::collections::BTreeSet;

use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use http::{Request, StatusCode, header};
use tower::ServiceExt as _;

use super::*;
use crate::auth::Need;

/// Every operation of the API document has a declared need, and every need of an API route is in the document.
#[test]
fn the_table_and_the_api_document_name_the_same_routes() {
    let (_router, table, document) = registry(true).into_parts();
    let declared: BTreeSet<(String, String)> = table
        .routes()
        .into_iter()
        .filter(|(path, _, need)| !(*need == Need::Public && is_page(path)))
        .map(|(path, method, _)| (path.to_owned(), method.to_owned()))
        .collect();
    let mut documented = BTreeSet::new();
    for (path, item) in &mut std::sync::Arc::unwrap_or_clone(document).paths.paths {
        documented.extend(registry::operations(item).map(|(method, _)| (path.clone(), method.to_owned())));
    }
    assert_eq!(declared, documented);
}

fn is_page(path: &str) -> bool {
    ["/", "/sessions/{id}/view", "/recordings/{id}/view", "/assets/{*file}", "/api/openapi.json"].contains(&path)
        || path.starts_with("/api/docs")
}

/// Whoever changes what a route needs changes this list.
#[test]
fn what_each_route_needs() {
    let (_router, table, _document) = registry(true).into_parts();
    let lines: Vec<_> =
        table.routes().iter().map(|(path, method, need)| format!("{need:?}: {method} {path}")).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    Public: GET /
    Public: GET /api/docs
    Public: GET /api/docs/
    Public: GET /api/docs/{*file}
    Public: GET /api/openapi.json
    Operate: GET /api/v1/audit
    Runner: GET /api/v1/dial
    Read: GET /api/v1/events
    Fleet: GET /api/v1/external-agents
    Change: POST /api/v1/external-agents
    Fleet: DELETE /api/v1/external-agents/
    Fleet: GET /api/v1/external-agents/
    Fleet: PUT /api/v1/external-agents/
    Fleet: GET /api/v1/external-agents/connections
    Operate: GET /api/v1/external-agents/runners/{id}/rdp
    Operate: GET /api/v1/external-agents/runners/{id}/rdp/proxy
    Agent: GET /api/v1/external-agents/sync
    Change: DELETE /api/v1/external-agents/{id}
    Read: GET /api/v1/external-agents/{id}
    Change: PUT /api/v1/external-agents/{id}
    Change: POST /api/v1/external-agents/{id}/command
    Read: GET /api/v1/external-agents/{id}/logs
    Change: GET /api/v1/external-agents/{id}/rdp
    Drive: GET /api/v1/external-agents/{id}/rdp/proxy
    Read: GET /api/v1/external-agents/{id}/stats
    Fleet: GET /api/v1/images
    Operate: POST /api/v1/images/chunks/missing
    Images: GET /api/v1/images/chunks/{digest}
    Operate: PUT /api/v1/images/chunks/{digest}
    Operate: POST /api/v1/images/gc
    Images: GET /api/v1/images/manifests/{digest}
    Operate: PUT /api/v1/images/manifests/{digest}
    Operate: DELETE /api/v1/images/names/{name}/tags/{tag}
    Operate: PUT /api/v1/images/names/{name}/tags/{tag}
    Operate: POST /api/v1/images/names/{name}/tags/{tag}/rollback
    Fleet: GET /api/v1/pools
    Operate: DELETE /api/v1/pools/{id}
    Fleet: GET /api/v1/pools/{id}
    Operate: PATCH /api/v1/pools/{id}
    Operate: PUT /api/v1/pools/{id}
    Operate: GET /api/v1/reap
    Operate: POST /api/v1/reap
    Fleet: GET /api/v1/recordings
    Change: DELETE /api/v1/recordings/{id}
    Fleet: GET /api/v1/recordings/{id}
    Fleet: GET /api/v1/recordings/{id}/chunks/{number}
    Runner: PUT /api/v1/recordings/{id}/chunks/{number}
    Fleet: GET /api/v1/recordings/{id}/events
    Fleet: GET /api/v1/recordings/{id}/heads
    Fleet: GET /api/v1/runners
    Enrol: POST /api/v1/runners/enrol
    Leave: DELETE /api/v1/runners/{id}
    Member: GET /api/v1/runners/{id}
    Operate: PATCH /api/v1/runners/{id}
    Operate: POST /api/v1/runners/{id}/rotate
    Runner: PUT /api/v1/runners/{id}/token
    Change: GET /api/v1/secrets
    Change: DELETE /api/v1/secrets/{name}
    Change: PUT /api/v1/secrets/{name}
    Fleet: GET /api/v1/sessions
    Change: POST /api/v1/sessions
    Change: DELETE /api/v1/sessions/{id}
    Read: GET /api/v1/sessions/{id}
    Change: PATCH /api/v1/sessions/{id}
    Change: POST /api/v1/sessions/{id}/adopt
    Read: GET /api/v1/sessions/{id}/checkpoints
    Change: POST /api/v1/sessions/{id}/checkpoints
    Runner: GET /api/v1/sessions/{id}/checkpoints/blobs/{digest}
    Runner: PUT /api/v1/sessions/{id}/checkpoints/blobs/{digest}
    Runner: POST /api/v1/sessions/{id}/checkpoints/commit
    Drive: GET /api/v1/sessions/{id}/clipboard
    Drive: PUT /api/v1/sessions/{id}/clipboard
    Drive: DELETE /api/v1/sessions/{id}/control
    Watch: GET /api/v1/sessions/{id}/control
    Drive: PUT /api/v1/sessions/{id}/control
    Read: GET /api/v1/sessions/{id}/cursor
    Read: GET /api/v1/sessions/{id}/display
    Drive: PUT /api/v1/sessions/{id}/display
    Read: GET /api/v1/sessions/{id}/events
    Change: GET /api/v1/sessions/{id}/exec
    Change: POST /api/v1/sessions/{id}/exec
    Change: DELETE /api/v1/sessions/{id}/files
    Change: GET /api/v1/sessions/{id}/files
    Change: PUT /api/v1/sessions/{id}/files
    Change: GET /api/v1/sessions/{id}/files/list
    Change: GET /api/v1/sessions/{id}/files/upload
    Change: POST /api/v1/sessions/{id}/fork
    Change: GET /api/v1/sessions/{id}/grants
    Change: POST /api/v1/sessions/{id}/grants
    Change: DELETE /api/v1/sessions/{id}/grants/{grant}
    Drive: POST /api/v1/sessions/{id}/input
    Change: POST /api/v1/sessions/{id}/links
    Read: GET /api/v1/sessions/{id}/logs
    Operate: POST /api/v1/sessions/{id}/move
    Read: GET /api/v1/sessions/{id}/placement
    Watch: GET /api/v1/sessions/{id}/pointer
    Change: GET /api/v1/sessions/{id}/rdp-connection
    Drive: GET /api/v1/sessions/{id}/rdp/proxy
    Change: POST /api/v1/sessions/{id}/restore
    Read: GET /api/v1/sessions/{id}/screenshot
    Change: POST /api/v1/sessions/{id}/stop
    Ticket: GET /api/v1/sessions/{id}/streams/rdp
    Ticket: GET /api/v1/sessions/{id}/streams/vnc
    Change: GET /api/v1/sessions/{id}/terminals
    Change: DELETE /api/v1/sessions/{id}/terminals/{name}
    Change: GET /api/v1/sessions/{id}/terminals/{name}
    Read: GET /api/v1/sessions/{id}/threads
    Drive: POST /api/v1/sessions/{id}/threads
    Read: GET /api/v1/sessions/{id}/threads/{thread}
    Drive: PATCH /api/v1/sessions/{id}/threads/{thread}
    Drive: POST /api/v1/sessions/{id}/threads/{thread}/cancel
    Read: GET /api/v1/sessions/{id}/threads/{thread}/entries/{entry}
    Drive: POST /api/v1/sessions/{id}/threads/{thread}/prompts
    Drive: POST /api/v1/sessions/{id}/threads/{thread}/questions/{question}
    Read: GET /api/v1/sessions/{id}/threads/{thread}/turns/{turn}
    Drive: POST /api/v1/sessions/{id}/threads/{thread}/turns/{turn}/resend
    Watch: POST /api/v1/sessions/{id}/tickets
    Read: GET /api/v1/sessions/{id}/timeline
    Read: POST /api/v1/sessions/{id}/wait
    Read: GET /api/v1/sessions/{id}/windows
    Drive: POST /api/v1/sessions/{id}/windows/{window}/{action}
    Read: GET /api/v1/sessions/{id}/work
    Fleet: GET /api/v1/spec-tasks
    Change: POST /api/v1/spec-tasks
    Change: DELETE /api/v1/spec-tasks/{id}
    Fleet: GET /api/v1/spec-tasks/{id}
    Fleet: GET /api/v1/status
    Operate: GET /api/v1/tokens
    Operate: POST /api/v1/tokens
    Operate: DELETE /api/v1/tokens/{id}
    Any: GET /api/v1/whoami
    Superseded: GET /api/v1/ws/external-agent-runner
    Public: GET /assets/{*file}
    Public: GET /healthz
    Public: GET /readyz
    Public: GET /recordings/{id}/view
    Public: GET /sessions/{id}/view
    ");
}

#[test]
fn the_documents_group_can_be_switched_off() {
    let (_router, table, _document) = registry(false).into_parts();
    assert!(table.routes().iter().all(|(path, ..)| !path.starts_with("/api/v1/external-agents")));
}

/// What programs are made from: whoever changes it sees what they will see.
#[test]
fn the_api_document() {
    let (_router, _table, document) = registry(true).into_parts();
    let mut json = serde_json::to_value(&*document).expect("JSON");
    json["info"]["version"] = "the version".into();
    insta::with_settings!({ sort_maps => true }, { insta::assert_json_snapshot!(json) });
}

#[test]
fn every_reference_in_the_api_document_resolves() {
    let (_router, _table, document) = registry(true).into_parts();
    let json = serde_json::to_value(&*document).expect("JSON");
    let text = json.to_string();
    let schemas = json["components"]["schemas"].as_object().expect("schemas");
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a name");
        assert!(schemas.contains_key(name), "{name} is not described");
    }
}

/// A client that writes its whole body before it reads gets its answer, even if nobody wanted the body.
#[tokio::test]
async fn a_refusal_arrives_although_its_body_was_not_read() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = tokio::spawn(axum::serve(listener, wrapped(Router::new())).into_future());
    let talk = async {
        let mut socket = tokio::net::TcpStream::connect(address).await?;
        let body = vec![b' '; 4 << 20];
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(&body).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), talk).await.expect("in time");
    assert!(answer.expect("not reset").starts_with("HTTP/1.1 404 "));
    server.abort();
}

/// An answer through everything that wraps the routes; its body as text.
async fn answer(method: &str, path: &str) -> (Response, String) {
    let routes = Router::new()
        .route("/panics", get(async || -> StatusCode { panic!("boom") }))
        .route("/docs", get(async || openapi::page("")))
        .route("/script", get(async || openapi::page("swagger-initializer.js")));
    let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
    let response = wrapped(routes).oneshot(request).await.expect("infallible");
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a whole body");
    (Response::from_parts(head, Body::empty()), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn whatever_goes_wrong_is_a_problem_document_with_strict_headers() {
    for (method, path, status, code) in [
        ("GET", "/nowhere?ticket=secret", 404, "route_not_found"),
        ("POST", "/docs", 405, "method_not_allowed"),
        ("GET", "/panics", 500, "internal"),
    ] {
        let (response, body) = answer(method, path).await;
        assert_eq!(response.status(), status, "{path}");
        let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(problem["code"], code, "{path}");
        assert!(!body.contains("secret") && !body.contains("boom"), "{body}");
        let text = |name: header::HeaderName| response.headers()[name].to_str().expect("text");
        assert_eq!(text(header::CONTENT_TYPE), "application/problem+json");
        assert_eq!(text(header::CACHE_CONTROL), "no-store");
        assert_eq!(text(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!(text(header::REFERRER_POLICY), "no-referrer");
        let policy = text(header::CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
    }
}

#[tokio::test]
async fn the_api_page_is_whole_without_a_network() {
    let (response, page) = answer("GET", "/docs").await;
    assert_eq!(response.status(), 200);
    assert!(!page.contains("https://"), "{page}");
    assert!(!page.contains("<script>"), "its policy allows no inline script: {page}");
    let (_, script) = answer("GET", "/script").await;
    assert!(script.contains("/api/openapi.json"), "{script}");
}
