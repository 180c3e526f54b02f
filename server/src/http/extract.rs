//! What handlers are given: parts of a request, decoded, or a problem that names the fault.

use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use helix_protocol::{ErrorCode, IdError};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::Instrument as _;

use crate::app::App;
use crate::error::{Error, Result};
use crate::relay::Socket;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// A JSON body. Whether unknown fields are refused is `T`'s matter: canonical types refuse, the documents' ignore.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        if !is_json(request.headers()) {
            let detail = "send the body with `Content-Type: application/json`";
            return Err(Error::new(ErrorCode::UnsupportedMediaType, detail));
        }
        parse(&read(request, app).await?).map(Self)
    }
}

/// A JSON body that may be left out; then it is `T`'s default.
pub struct OptionalBody<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<App> for OptionalBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let json = is_json(request.headers());
        let bytes = read(request, app).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !json {
            let detail = "send the body with `Content-Type: application/json`, or none";
            return Err(Error::new(ErrorCode::UnsupportedMediaType, detail));
        }
        parse(&bytes).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

async fn read(request: Request, app: &App) -> Result<Bytes> {
    let limit = app.config.max_body_bytes;
    let too_large = || Error::new(ErrorCode::BodyTooLarge, format!("the body may have at most {limit} bytes"));
    // A sender that announces too much is told before it sends.
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    let read = timeout(BODY_DEADLINE, Bytes::from_request(request, app)).await.map_err(|_| {
        let seconds = BODY_DEADLINE.as_secs();
        Error::new(ErrorCode::InvalidRequest, format!("the body did not arrive within {seconds} s"))
    })?;
    read.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(failed) if failed.status() == http::StatusCode::PAYLOAD_TOO_LARGE => {
            too_large()
        }
        other => Error::new(ErrorCode::InvalidRequest, "the body broke off").because(other),
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data if path == "." => {
                Error::new(ErrorCode::InvalidRequest, inner.to_string())
            }
            serde_json::error::Category::Data => Error::new(ErrorCode::InvalidRequest, format!("{path}: {inner}")),
            _ => Error::new(ErrorCode::MalformedJson, inner.to_string()),
        }
    })?;
    json.end().map_err(|error| Error::new(ErrorCode::MalformedJson, error.to_string()))?;
    Ok(value)
}

/// The `{id}` of the path.
pub struct Id<T>(pub T);

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: std::str::FromStr<Err = IdError>,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| Error::new(ErrorCode::InvalidRequest, "the path is not valid UTF-8").because(error))?;
        let text = path_id(&params).unwrap_or_default();
        text.parse().map(Self).map_err(|error: IdError| Error::new(ErrorCode::InvalidRequest, error.to_string()))
    }
}

/// The text of `{id}`, on routes that have one.
pub fn path_id(params: &RawPathParams) -> Option<&str> {
    params.iter().find_map(|(name, value)| (name == "id").then_some(value))
}

/// Every parameter of the path, on routes that have more than `{id}`.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value))
            .map_err(|error| Error::new(ErrorCode::InvalidRequest, format!("the path: {}", reason(&error))))
    }
}

/// The query. `T` refuses unknown parameters where it is canonical.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|error| Error::new(ErrorCode::InvalidRequest, format!("the query: {}", reason(&error))))
    }
}

/// The innermost cause: the wrappers around it only repeat that decoding failed.
fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// A request to become a WebSocket. Answers sub-protocol `helix` where the client offers it.
pub struct Upgrade {
    checked: WebSocketUpgrade,
    key: HeaderValue,
    connection: OnUpgrade,
}

/// Sub-protocols in the order of preference: the first goes with a bearer, noVNC may offer the second.
const PROTOCOLS: [&str; 2] = ["helix", "binary"];
/// Read and write buffer of a socket for messages; where less may come, the read buffer is as small.
const BUFFER: usize = 8 * 1024;

impl Upgrade {
    /// A socket for messages, with small buffers and a bound on what the peer may send.
    pub fn messages(self, max_message: usize) -> WebSocketUpgrade {
        self.checked
            .read_buffer_size(BUFFER.min(max_message))
            .write_buffer_size(BUFFER)
            .max_message_size(max_message)
            .max_frame_size(max_message)
    }

    /// The bytes behind the handshake, for who reads frames himself.
    pub fn raw<F, Fut>(self, then: F) -> Result<Response>
    where
        F: FnOnce(Socket) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let accept = HeaderValue::try_from(derive_accept_key(self.key.as_bytes()))
            .map_err(|error| Error::new(ErrorCode::Internal, "a hash is no header value").because(error))?;
        let connection = self.connection;
        tokio::spawn(
            async move {
                match connection.await {
                    Ok(upgraded) => then(TokioIo::new(upgraded)).await,
                    Err(error) => tracing::debug!("a client left during the WebSocket handshake: {error}"),
                }
            }
            .in_current_span(),
        );
        let head = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ];
        let mut response = (StatusCode::SWITCHING_PROTOCOLS, head).into_response();
        if let Some(protocol) = self.checked.selected_protocol() {
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol.clone());
        }
        Ok(response)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let refused = |why: &str| Error::new(ErrorCode::InvalidRequest, format!("this route speaks WebSocket: {why}"));
        // axum takes it out.
        let connection = parts.extensions.get::<OnUpgrade>().cloned();
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
        let checked = WebSocketUpgrade::from_request_parts(parts, state)
            .await
            .map_err(|rejection| refused(&rejection.body_text()))?
            .protocols(PROTOCOLS);
        let (key, connection) = key.zip(connection).ok_or_else(|| refused("only over HTTP/1.1"))?;
        Ok(Self { checked, key, connection })
    }
}

#[cfg(test)]
mod tests {
    use helix_protocol::api::CreateSession;
    use helix_protocol::external_agents::ZedAgent;

    use super::*;

    fn fault(json: &str) -> (ErrorCode, String) {
        let error = parse::<CreateSession>(json.as_bytes()).expect_err("a fault");
        (error.code, error.detail)
    }

    #[test]
    fn malformed_json_has_its_position() {
        insta::assert_debug_snapshot!(fault("{\n  \"input\": tru }"), @r#"
        (
            MalformedJson,
            "expected ident at line 2 column 15",
        )
        "#);
        insta::assert_debug_snapshot!(fault("{} x"), @r#"
        (
            MalformedJson,
            "trailing characters at line 1 column 4",
        )
        "#);
        insta::assert_debug_snapshot!(fault(""), @r#"
        (
            MalformedJson,
            "EOF while parsing a value at line 1 column 0",
        )
        "#);
    }

    #[test]
    fn a_wrong_field_is_named() {
        insta::assert_debug_snapshot!(fault(r#"{"inptu": "ls"}"#), @r#"
        (
            InvalidRequest,
            "inptu: unknown field `inptu`, expected one of `id`, `kind`, `project`, `project_path`, `input`, `geometry`, `display_server`, `image`, `pool`, `runner`, `labels`, `env`, `resources`, `reserve`, `network`, `on_lost`, `preemptible`, `recording`, `secrets`, `spec_task`, `idle_timeout`, `lifetime` at line 1 column 8",
        )
        "#);
        insta::assert_debug_snapshot!(fault(r#"{"geometry": "0x0"}"#), @r#"
        (
            InvalidRequest,
            "geometry: geometry \"0x0\" is not valid: write WIDTHxHEIGHT, from 320x200 to 7680x4320, for example 1920x1080 at line 1 column 19",
        )
        "#);
        insta::assert_debug_snapshot!(fault(r#"{"resources": {"cpu": 0}}"#), @r#"
        (
            InvalidRequest,
            "resources.cpu: 0 is not a number of processors: write 0.01 to 4096, for example 2 or 0.5 at line 1 column 24",
        )
        "#);
        insta::assert_debug_snapshot!(fault(r#"{"reserve": {"memory": "4 gigs"}}"#), @r#"
        (
            InvalidRequest,
            "reserve.memory: \"4 gigs\" is not an amount of memory: write bytes, or a number with KiB, MiB, GiB or TiB, for example 4GiB at line 1 column 32",
        )
        "#);
        insta::assert_debug_snapshot!(fault(r#"{"labels": {"a": 1}}"#), @r#"
        (
            InvalidRequest,
            "labels.a: invalid type: integer `1`, expected a string at line 1 column 18",
        )
        "#);
        insta::assert_debug_snapshot!(fault(r#"{"id": "a.b"}"#), @r#"
        (
            InvalidRequest,
            "id: session id \"a.b\" is not valid: use 1 to 64 characters of A-Z a-z 0-9 _ - at line 1 column 13",
        )
        "#);
        insta::assert_debug_snapshot!(fault(r#"{"project": {"git": "x", "brnch": "y"}}"#), @r#"
        (
            InvalidRequest,
            "project: write a git URL or a path, or an object with `git` and `branch` at line 1 column 39",
        )
        "#);
    }

    #[test]
    fn the_documents_bodies_may_have_more_fields() {
        let agent: ZedAgent = parse(br#"{"input": "x", "colour": "blue"}"#).expect("ignored");
        assert_eq!(agent.input, "x");
    }
}
