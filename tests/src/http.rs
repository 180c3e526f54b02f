//! The server's HTTP API as a test speaks it, and a WebSocket with a bearer token.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use helix_protocol::api::{Link, Problem, RunnerList, RunnerView, SessionPage, SessionView, Ticket};
use helix_protocol::session::SessionPhase;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::eventually::eventually;

/// A WebSocket to the server.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A server with a token.
#[derive(Clone)]
pub struct Api {
    base: String,
    token: String,
    client: reqwest::Client,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as text.
    pub text: String,
}

impl Answer {
    /// The body as JSON, if the status is the expected one.
    pub fn expect(self, status: u16) -> Result<Value> {
        ensure!(self.status.as_u16() == status, "expected {status}, got {}: {}", self.status, self.text);
        if self.text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&self.text).with_context(|| format!("not JSON: {}", self.text))
    }

    /// The body as `T`, if the status is 200 or 201.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        ensure!(matches!(self.status.as_u16(), 200 | 201), "got {}: {}", self.status, self.text);
        serde_json::from_str(&self.text).with_context(|| format!("unexpected shape: {}", self.text))
    }

    /// The problem document, whose status, type, title and media type must fit each other.
    pub fn problem(self, status: u16, code: &str) -> Result<Problem> {
        ensure!(self.status.as_u16() == status, "expected {status} {code}, got {}: {}", self.status, self.text);
        let media = self.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        ensure!(media.starts_with("application/problem+json"), "media type {media:?} of: {}", self.text);
        let problem: Problem =
            serde_json::from_str(&self.text).with_context(|| format!("no problem document: {}", self.text))?;
        ensure!(problem.code.to_string() == code, "expected code {code}: {}", self.text);
        ensure!(problem.status == status, "status in the body: {}", self.text);
        ensure!(problem.kind == format!("urn:helix:problem:{code}"), "type: {}", problem.kind);
        ensure!(problem.title == problem.code.title(), "title: {}", problem.title);
        ensure!(!problem.detail.is_empty(), "no detail: {}", self.text);
        Ok(problem)
    }
}

impl Api {
    /// A client of the server at `base`.
    pub fn new(base: &str, token: &str) -> Result<Self> {
        crate::init();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(90)).no_proxy().build()?;
        Ok(Self { base: base.to_owned(), token: token.to_owned(), client })
    }

    /// The same server with another token; an empty one sends none.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// One request with any body.
    pub async fn send(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Result<Answer> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some((media, bytes)) = body {
            request = request.header("content-type", media).body(bytes);
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.with_context(|| format!("body of {method} {path}"))?;
        Ok(Answer { status, headers, text })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, None).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, path, Some(("application/json", serde_json::to_vec(body)?))).await
    }

    /// POST without a body.
    pub async fn post_empty(&self, path: &str) -> Result<Answer> {
        self.send(Method::POST, path, None).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::PUT, path, Some(("application/json", serde_json::to_vec(body)?))).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(Method::DELETE, path, None).await
    }

    // Sessions

    /// Creates a session; 201 or 200.
    pub async fn create(&self, body: &Value) -> Result<SessionView> {
        self.post("/api/v1/sessions", body).await?.json()
    }

    /// One session.
    pub async fn session(&self, id: &str) -> Result<SessionView> {
        self.get(&format!("/api/v1/sessions/{id}")).await?.json()
    }

    /// Every session (one page of a thousand).
    pub async fn sessions(&self) -> Result<Vec<SessionView>> {
        Ok(self.get("/api/v1/sessions?limit=1000").await?.json::<SessionPage>()?.sessions)
    }

    /// Asks for a session's end.
    pub async fn stop(&self, id: &str) -> Result<SessionView> {
        self.post_empty(&format!("/api/v1/sessions/{id}/stop")).await?.json()
    }

    /// Waits until a session is in `phase`; another terminal phase is an error at once.
    pub async fn wait_phase(&self, id: &str, phase: SessionPhase, within: Duration) -> Result<SessionView> {
        let deadline = tokio::time::Instant::now() + within;
        let view = eventually(&format!("session {id} is {phase}"), within, || async {
            let view = self.session(id).await?;
            ensure!(view.phase == phase || view.phase.is_terminal(), "{}", told(&view));
            Ok(view)
        })
        .await?;
        ensure!(
            view.phase == phase,
            "session {id} ended, {phase} was expected ({:?} left): {}",
            deadline - tokio::time::Instant::now(),
            told(&view)
        );
        Ok(view)
    }

    /// Waits until a session's task has an outcome.
    pub async fn wait_result(&self, id: &str, within: Duration) -> Result<SessionView> {
        eventually(&format!("session {id} has a result"), within, || async {
            let view = self.session(id).await?;
            ensure!(view.result.is_some(), "{}", told(&view));
            Ok(view)
        })
        .await
    }

    /// Deletes a session and waits until its record is gone.
    pub async fn delete_session(&self, id: &str, within: Duration) -> Result<()> {
        let path = format!("/api/v1/sessions/{id}");
        let answer = self.delete(&path).await?;
        ensure!(answer.status.is_success(), "DELETE {path}: {} {}", answer.status, answer.text);
        eventually(&format!("session {id} is gone"), within, || async {
            let answer = self.get(&path).await?;
            ensure!(answer.status == StatusCode::NOT_FOUND, "{} {}", answer.status, answer.text);
            Ok(())
        })
        .await
    }

    /// Every runner.
    pub async fn runners(&self) -> Result<Vec<RunnerView>> {
        Ok(self.get("/api/v1/runners").await?.json::<RunnerList>()?.runners)
    }

    // Streams

    /// A one-use ticket for a session's desktop.
    pub async fn ticket(&self, id: &str) -> Result<Ticket> {
        self.post(&format!("/api/v1/sessions/{id}/tickets"), &json!({"stream": "vnc"})).await?.json()
    }

    /// The same, asked for by a page of this origin.
    pub async fn ticket_of_page(&self, id: &str, origin: &str) -> Result<Ticket> {
        let request = self.client.post(format!("{}/api/v1/sessions/{id}/tickets", self.base));
        let request = request.bearer_auth(&self.token).header("origin", origin).json(&json!({"stream": "vnc"}));
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// A WebSocket that a ticket in its path opens, as a page of this origin asks for it.
    pub async fn socket_of_page(&self, path: &str, origin: &str) -> Result<Socket> {
        let mut request = format!("{}{path}", self.base.replacen("http", "ws", 1)).into_client_request()?;
        request.headers_mut().insert("origin", origin.parse()?);
        Ok(tokio_tungstenite::connect_async(request).await?.0)
    }

    /// A link for a browser to a session's desktop.
    pub async fn link(&self, id: &str) -> Result<Link> {
        self.post(&format!("/api/v1/sessions/{id}/links"), &json!({})).await?.json()
    }

    /// A WebSocket with the token in the `Authorization` header.
    pub async fn socket(&self, path: &str) -> Result<Socket> {
        let url = format!("{}{path}", self.base.replacen("http", "ws", 1));
        let mut request = url.into_client_request()?;
        if !self.token.is_empty() {
            request.headers_mut().insert("authorization", format!("Bearer {}", self.token).parse()?);
        }
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(socket)
    }

    /// Like [`Api::socket`] with subprotocols instead of the header, as a browser does it.
    pub async fn socket_as_browser(&self, path: &str, origin: &str) -> Result<Socket> {
        let mut request = format!("{}{path}", self.base.replacen("http", "ws", 1)).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", format!("helix, bearer.{}", self.token).parse()?);
        headers.insert("origin", origin.parse()?);
        let (socket, answer) = tokio_tungstenite::connect_async(request).await?;
        let chosen = answer.headers().get("sec-websocket-protocol").map(http::HeaderValue::as_bytes);
        ensure!(chosen == Some(b"helix".as_slice()), "subprotocol: {chosen:?}");
        Ok(socket)
    }
}

/// HTTP status with which a WebSocket was refused.
pub fn refusal(outcome: Result<Socket>) -> Result<u16> {
    let Err(fault) = outcome else { bail!("the WebSocket was accepted") };
    match fault.downcast_ref::<tokio_tungstenite::tungstenite::Error>() {
        Some(tokio_tungstenite::tungstenite::Error::Http(answer)) => Ok(answer.status().as_u16()),
        _ => Err(fault).context("refused otherwise than by HTTP status"),
    }
}

/// A session in one line, for messages.
pub fn told(view: &SessionView) -> String {
    let steps: Vec<_> = view.timeline.iter().map(|step| step.step.as_str()).collect();
    format!(
        "{} is {} on {:?}, cause {:?}, result {:?}, steps {steps:?}",
        view.id, view.phase, view.runner, view.cause, view.result
    )
}
