//! What bad input gets: the status, the stable code and words that name the fault.

use anyhow::{Result, ensure};
use helix_tests::http::Answer;
use helix_tests::{Api, Cluster};
use reqwest::Method;
use serde_json::json;

async fn raw(api: &Api, media: &str, body: impl Into<Vec<u8>>) -> Result<Answer> {
    api.send(Method::POST, "/api/v1/sessions", Some((media, body.into()))).await
}

fn names(detail: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(detail.contains(word), "{word:?} is not in {detail:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_name() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let json_type = "application/json";

    let malformed = raw(&api, json_type, "{\n  \"kind\": \"terminal\",\n  oops\n}").await?;
    names(&malformed.problem(400, "malformed_json")?.detail, &["line 3", "column 3"])?;
    let unknown = raw(&api, json_type, r#"{"kind": "terminal", "colour": "red"}"#).await?;
    names(&unknown.problem(400, "invalid_request")?.detail, &["colour"])?;
    let geometry = raw(&api, json_type, r#"{"kind": "terminal", "geometry": "0x0"}"#).await?;
    names(&geometry.problem(400, "invalid_request")?.detail, &["geometry", "0x0", "1920x1080"])?;
    let id = raw(&api, json_type, r#"{"id": "../up", "kind": "terminal"}"#).await?;
    names(&id.problem(400, "invalid_request")?.detail, &["../up"])?;
    let kind = raw(&api, json_type, r#"{"kind": "teapot"}"#).await?;
    names(&kind.problem(400, "unknown_kind")?.detail, &["teapot", "terminal"])?;
    let path = raw(&api, json_type, r#"{"kind": "terminal", "project_path": "../../etc"}"#).await?;
    names(&path.problem(400, "invalid_request")?.detail, &["project_path"])?;

    let long = json!({"kind": "command", "input": "x".repeat(51_000)});
    names(&api.post("/api/v1/sessions", &long).await?.problem(400, "invalid_input")?.detail, &["51000", "50000"])?;
    // Characters are counted, not bytes.
    let wide = json!({"id": "wide", "kind": "command", "input": "é".repeat(50_000)});
    ensure!(api.post("/api/v1/sessions", &wide).await?.status == 201, "50,000 characters were refused");

    let huge = raw(&api, json_type, vec![b' '; 2 * 1024 * 1024]).await?;
    huge.problem(413, "body_too_large")?;
    let media = raw(&api, "text/plain", "{}").await?;
    media.problem(415, "unsupported_media_type")?;

    api.get("/api/v1/sessions/nobody").await?.problem(404, "session_not_found")?;
    api.delete("/api/v1/sessions/nobody").await?.problem(404, "session_not_found")?;
    api.get("/api/v1/runners/nobody").await?.problem(404, "runner_not_found")?;
    api.get("/api/v1/nowhere").await?.problem(404, "route_not_found")?;
    api.put("/api/v1/sessions", &json!({})).await?.problem(405, "method_not_allowed")?;
    let ticket = api.post("/api/v1/sessions/nobody/tickets", &json!({"stream": "vnc"})).await?;
    ticket.problem(404, "session_not_found")?;
    api.post_empty("/api/v1/sessions/wide/adopt").await?.problem(409, "not_unclaimed")?;

    let anonymous = api.with_token("");
    let missing = anonymous.get("/api/v1/sessions").await?.problem(401, "token_missing")?;
    names(&missing.detail, &["Bearer"])?;
    api.with_token("wrong").get("/api/v1/sessions").await?.problem(401, "token_invalid")?;
    let enrolment = api.with_token(&cluster.enrolment_token()?);
    enrolment.get("/api/v1/sessions").await?.problem(403, "forbidden")?;
    ensure!(anonymous.get("/healthz").await?.status == 200, "health needs a token");
    ensure!(anonymous.get("/readyz").await?.status == 200, "not ready");
    cluster.shutdown().await
}
