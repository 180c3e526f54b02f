//! Errors on the wire: RFC 9457 problem documents, for whatever goes wrong, unknown routes and panics included.

use std::any::Any;
use std::error::Error as _;

use axum::response::{IntoResponse, Response};
use helix_protocol::ErrorCode;
use helix_protocol::api::Problem;
use http::{HeaderValue, Method, StatusCode, header};

use crate::error::Error;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let detail = match self.code {
            ErrorCode::Internal => logged(&self),
            code if code.status() >= 500 => {
                tracing::warn!(error.code = %code, error.cause = causes(&self), "{}", self.detail);
                self.detail
            }
            _ => self.detail,
        };
        respond(self.code, detail)
    }
}

/// The answer for an error that is fit to be shown.
fn respond(code: ErrorCode, detail: String) -> Response {
    let problem = Problem {
        kind: format!("urn:helix:problem:{code}"),
        title: code.title().to_owned(),
        status: code.status(),
        code,
        detail,
    };
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, axum::Json(problem)).into_response();
    // For the audit trail.
    response.extensions_mut().insert(code);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"helix\""));
    }
    if code == ErrorCode::StoreUnavailable {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Logs a fault of the server under a fresh id; the caller gets the id, not the inside.
fn logged(error: &Error) -> String {
    let id = fault_id();
    tracing::error!(error.id = id, error.cause = causes(error), "{}", error.detail);
    shown(&id)
}

fn shown(id: &str) -> String {
    format!("a fault of the server, logged there as error.id={id}; report it with that line of the log")
}

fn causes(error: &Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn fault_id() -> String {
    let mut bytes = [0; 6];
    // Without random numbers the id repeats; the log line is still there.
    let _ = getrandom::fill(&mut bytes);
    helix_protocol::ids::hex(&bytes)
}

/// A handler panicked: the panic hook has logged where, this ties it to the caller's answer.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the panic catcher asks for")]
pub fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let id = fault_id();
    tracing::error!(error.id = id, panic = what.unwrap_or("not a text"), "a handler panicked");
    respond(ErrorCode::Internal, shown(&id))
}

/// Fallback of the router.
pub async fn no_such_route() -> Error {
    Error::new(ErrorCode::RouteNotFound, "nothing is at this path; /api/openapi.json lists every route")
}

/// Fallback of a path that has other methods.
pub async fn no_such_method(method: Method) -> Error {
    Error::new(
        ErrorCode::MethodNotAllowed,
        format!("{method} is not a method of this path; /api/openapi.json lists every route"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(response: Response) -> serde_json::Value {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.expect("a whole body");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[tokio::test]
    async fn every_code_becomes_its_status_and_a_problem_document() {
        for code in ErrorCode::ALL {
            let response = Error::new(*code, "why").into_response();
            assert_eq!(response.status().as_u16(), code.status(), "{code}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.headers().contains_key(header::WWW_AUTHENTICATE), code.status() == 401, "{code}");
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), *code == ErrorCode::StoreUnavailable);
            let body = body(response).await;
            assert_eq!(body["code"], code.to_string());
            assert_eq!(body["status"], code.status());
        }
    }

    #[tokio::test]
    async fn a_problem_as_people_see_it() {
        let mut settings = insta::Settings::clone_current();
        settings.set_sort_maps(true);
        let _sorted = settings.bind_to_scope();
        let error =
            Error::new(ErrorCode::SessionNotFound, "there is no session demo; `helixctl session list` shows all");
        insta::assert_json_snapshot!(body(error.into_response()).await, @r#"
        {
          "code": "session_not_found",
          "detail": "there is no session demo; `helixctl session list` shows all",
          "status": 404,
          "title": "no such session",
          "type": "urn:helix:problem:session_not_found"
        }
        "#);
        insta::assert_json_snapshot!(body(no_such_route().await.into_response()).await, @r#"
        {
          "code": "route_not_found",
          "detail": "nothing is at this path; /api/openapi.json lists every route",
          "status": 404,
          "title": "no such route",
          "type": "urn:helix:problem:route_not_found"
        }
        "#);
        insta::assert_json_snapshot!(body(no_such_method(Method::PATCH).await.into_response()).await, @r#"
        {
          "code": "method_not_allowed",
          "detail": "PATCH is not a method of this path; /api/openapi.json lists every route",
          "status": 405,
          "title": "the method is not allowed here",
          "type": "urn:helix:problem:method_not_allowed"
        }
        "#);
    }

    #[tokio::test]
    async fn a_fault_keeps_its_inside_to_the_log() {
        let error = Error::new(ErrorCode::Internal, "the secret inside").because("deeper still");
        let text = body(error.into_response()).await.to_string();
        assert!(!text.contains("inside") && !text.contains("deeper"), "{text}");
        assert!(text.contains("error.id="), "{text}");
        let text = body(panicked(Box::new("boom"))).await.to_string();
        assert!(!text.contains("boom") && text.contains("error.id="), "{text}");
    }
}
