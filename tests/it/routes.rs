//! Every route that the server names in its own description needs a token with the right scope.

use anyhow::{Context, Result, ensure};
use helix_tests::{Api, Cluster};
use reqwest::Method;
use serde_json::{Value, json};

/// What needs no token: health, the pages and the description of the API.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/api/openapi.json", "/api/docs"];

struct Route {
    method: Method,
    path: String,
}

/// Of an image that is not there.
const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn routes(description: &Value) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for (path, item) in description["paths"].as_object().context("no paths")? {
        for (method, _) in item.as_object().context("no methods")? {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
            if !matches!(method.as_str(), "GET" | "POST" | "PUT" | "DELETE" | "PATCH") {
                continue;
            }
            let parameters = [
                "{id}",
                "{runner}",
                "{session}",
                "{thread}",
                "{turn}",
                "{entry}",
                "{question}",
                "{name}",
                "{number}",
                "{window}",
                "{action}",
                "{grant}",
                "{tag}",
            ];
            let path = parameters.iter().fold(path.clone(), |path, parameter| path.replace(parameter, "some"));
            let path = path.replace("{digest}", DIGEST);
            ensure!(!path.contains('{'), "unknown parameter in {path}");
            routes.push(Route { method, path });
        }
    }
    Ok(routes)
}

async fn call(api: &Api, route: &Route) -> Result<(u16, String)> {
    let body = matches!(route.method, Method::POST | Method::PUT | Method::PATCH)
        .then(|| ("application/json", br"{}".to_vec()));
    let answer = api.send(route.method.clone(), &route.path, body).await?;
    Ok((answer.status.as_u16(), answer.text))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_without_the_right_token() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let description = api.get("/api/openapi.json").await?.expect(200)?;
    let routes = routes(&description)?;
    let expected = [
        "/api/v1/sessions",
        "/api/v1/sessions/some",
        "/api/v1/sessions/some/stop",
        "/api/v1/sessions/some/tickets",
        "/api/v1/sessions/some/links",
        "/api/v1/sessions/some/adopt",
        "/api/v1/sessions/some/logs",
        "/api/v1/sessions/some/timeline",
        "/api/v1/sessions/some/streams/vnc",
        "/api/v1/sessions/some/screenshot",
        "/api/v1/sessions/some/input",
        "/api/v1/sessions/some/windows",
        "/api/v1/sessions/some/windows/some/some",
        "/api/v1/sessions/some/clipboard",
        "/api/v1/sessions/some/display",
        "/api/v1/sessions/some/cursor",
        "/api/v1/sessions/some/wait",
        "/api/v1/sessions/some/files",
        "/api/v1/sessions/some/files/list",
        "/api/v1/sessions/some/files/upload",
        "/api/v1/sessions/some/exec",
        "/api/v1/sessions/some/terminals",
        "/api/v1/sessions/some/terminals/some",
        "/api/v1/sessions/some/threads",
        "/api/v1/sessions/some/threads/some",
        "/api/v1/sessions/some/threads/some/prompts",
        "/api/v1/sessions/some/threads/some/cancel",
        "/api/v1/sessions/some/threads/some/turns/some",
        "/api/v1/sessions/some/threads/some/turns/some/resend",
        "/api/v1/sessions/some/threads/some/entries/some",
        "/api/v1/sessions/some/threads/some/questions/some",
        "/api/v1/sessions/some/events",
        "/api/v1/recordings",
        "/api/v1/recordings/some",
        "/api/v1/recordings/some/chunks/some",
        "/api/v1/sessions/some/checkpoints",
        "/api/v1/sessions/some/checkpoints/commit",
        "/api/v1/sessions/some/move",
        "/api/v1/recordings/some/events",
        "/api/v1/recordings/some/heads",
        "/api/v1/spec-tasks",
        "/api/v1/spec-tasks/some",
        "/api/v1/secrets",
        "/api/v1/secrets/some",
        "/api/v1/runners",
        "/api/v1/runners/some",
        "/api/v1/runners/enrol",
        "/api/v1/runners/some/rotate",
        "/api/v1/runners/some/token",
        "/api/v1/tokens",
        "/api/v1/tokens/some",
        "/api/v1/whoami",
        "/api/v1/status",
        "/api/v1/reap",
        "/api/v1/events",
        "/api/v1/dial",
        "/api/v1/external-agents",
        "/api/v1/external-agents/some",
        "/api/v1/external-agents/some/rdp",
        "/api/v1/external-agents/some/stats",
        "/api/v1/external-agents/some/logs",
        "/api/v1/external-agents/connections",
        "/api/v1/external-agents/some/command",
    ];
    for path in expected {
        ensure!(routes.iter().any(|route| route.path == path), "{path} is not described");
    }

    let (nobody, stranger) = (api.with_token(""), api.with_token("stranger"));
    let closed: Vec<_> = routes.iter().filter(|route| !OPEN.iter().any(|open| route.path.starts_with(open))).collect();
    for route in &closed {
        for (who, caller) in [("no token", &nobody), ("a wrong token", &stranger)] {
            let (status, text) = call(caller, route).await?;
            // A superseded path is gone for everybody.
            ensure!(status == 401, "{} {} with {who}: {status} {text}", route.method, route.path);
        }
    }

    // Weak tokens open what they are for.
    api.create(&json!({"id": "other", "kind": "terminal"})).await?;
    let link = api.link("other").await?;
    let desktop = link.url.split_once("#token=").context("no token in the link")?.1.to_owned();
    let weak = [
        ("enrolment", cluster.enrolment_token()?, vec!["/api/v1/runners/enrol", "/api/v1/whoami"]),
        ("runner", cluster.runners[0].token()?, vec!["/api/v1/dial", "/api/v1/whoami"]),
        (
            "desktop",
            desktop,
            vec!["/api/v1/whoami", "/api/v1/events", "/api/v1/status", "/api/v1/sessions", "/api/v1/external-agents"],
        ),
    ];
    for (name, token, may) in weak {
        let caller = api.with_token(&token);
        for route in &closed {
            if may.contains(&route.path.as_str()) && route.method == Method::GET
                || may.contains(&route.path.as_str()) && name == "enrolment"
                // Runners read images.
                || name == "runner" && route.method == Method::GET && route.path.ends_with(DIGEST)
                // Only a runner brings what checkpoints are made of; the query says for which session of its.
                || name == "runner" && route.path.starts_with("/api/v1/sessions/some/checkpoints/")
                // Only a runner puts a chunk, and reads none; only a runner gets a new token, which begins with a body.
                || name == "runner" && route.method == Method::PUT
                    && ["/api/v1/recordings/some/chunks/some", "/api/v1/runners/some/token"].contains(&route.path.as_str())
            {
                continue;
            }
            let (status, text) = call(&caller, route).await?;
            // A session that it may not know of is not found; streams ask for a ticket, whoever comes.
            let hidden = name == "desktop" && status == 404;
            let ticket = route.path.contains("/streams/") && status == 401;
            ensure!(
                status == 403 || hidden || ticket,
                "{} {} with the {name} token: {status} {text}",
                route.method,
                route.path
            );
        }
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_strict_and_self_contained() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let api = cluster.api()?.with_token("");
    for page in ["/", "/sessions/any/view"] {
        let answer = api.get(page).await?;
        ensure!(answer.status == 200, "{page}: {}", answer.status);
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let policy = header("content-security-policy");
        ensure!(policy.contains("default-src 'none'") || policy.contains("default-src 'self'"), "{page}: {policy:?}");
        ensure!(!policy.contains("unsafe"), "{page}: {policy}");
        ensure!(policy.contains("frame-ancestors 'none'"), "{page}: {policy}");
        ensure!(header("x-content-type-options") == "nosniff", "{page}: no nosniff");
        ensure!(header("referrer-policy") == "no-referrer", "{page}: {:?}", header("referrer-policy"));
        ensure!(!answer.text.contains("http://") && !answer.text.contains("https://"), "{page} names another host");
    }
    for asset in ["/assets/index.js", "/assets/view.js", "/assets/style.css", "/assets/favicon.svg"] {
        ensure!(api.get(asset).await?.status == 200, "{asset} is not served");
    }
    for path in ["/assets/../Cargo.toml", "/assets/nothing.js", "/assets/%2e%2e/index.html"] {
        ensure!(api.get(path).await?.status == 404, "{path} is served");
    }
    let docs = api.get("/api/docs/").await?;
    ensure!(docs.status == 200 && !docs.text.contains("https://"), "the API's page: {}", docs.status);
    cluster.shutdown().await
}
