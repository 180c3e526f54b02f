//! Lets a request through to its handler, or not: declared need, `Origin`, bearer, scope. In that order.

use std::sync::Arc;

use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use helix_protocol::ErrorCode;
use http::{HeaderMap, Method, Uri, header};

use super::audit::Caller;
use super::extract::path_id;
use super::registry::Table;
use super::urls::authority_of;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::tokens::Tokens;

/// Before the token in `Sec-WebSocket-Protocol`: browsers cannot set `Authorization` on a WebSocket.
const PROTOCOL_BEARER: &str = "bearer.";

/// What the guard looks at.
#[derive(Clone)]
pub struct Gate {
    table: Arc<Table>,
    tokens: Tokens,
    public_authority: Arc<str>,
}

impl Gate {
    /// A gate for these routes.
    pub fn new(table: Arc<Table>, tokens: Tokens, public_url: &str) -> Self {
        Self { table, tokens, public_authority: authority_of(public_url).into() }
    }
}

/// Middleware of every route. Adds the [`Principal`](crate::auth::Principal) where the route needs a bearer.
pub async fn guard(
    State(gate): State<Gate>,
    pattern: MatchedPath,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
    let (method, headers, uri) = (request.method(), request.headers(), request.uri());
    match check(&gate, &pattern, &params, (method, headers, uri), &caller).await {
        Ok(principal) => {
            if let Some(principal) = principal {
                request.extensions_mut().insert(principal);
            }
            Ok(next.run(request).await)
        }
        Err(error) => {
            caller.was_refused();
            Err(error)
        }
    }
}

/// Who it is, on routes that need a bearer.
async fn check(
    gate: &Gate,
    pattern: &MatchedPath,
    params: &RawPathParams,
    (method, headers, uri): (&Method, &HeaderMap, &Uri),
    caller: &Caller,
) -> Result<Option<Principal>> {
    let need = gate
        .table
        .need(pattern.as_str(), method)
        .ok_or_else(|| Error::new(ErrorCode::Internal, format!("route {} has no declared need", pattern.as_str())))?;
    if need == Need::Public {
        return Ok(None);
    }
    check_origin(headers, &gate.public_authority)?;
    if need == Need::Ticket {
        return Ok(None);
    }
    // The documents' runner may learn that its line is gone, whatever its token is for.
    let (secret, need) = match (bearer(headers), need) {
        (None, Need::Superseded) => (access_token(uri), Need::Any),
        found => found,
    };
    let secret = secret.ok_or_else(|| {
        Error::new(ErrorCode::TokenMissing, "send a token as `Authorization: Bearer …`; `helixctl up` prints its file")
    })?;
    let principal = gate.tokens.verify(secret).await?;
    caller.is(&principal.name);
    if !need.admits(&principal.scope) {
        let scope = crate::auth::scope_word(&principal.scope);
        let detail = format!("token {:?} of scope {scope} may not do this: it needs {}", principal.name, need.words());
        return Err(Error::new(ErrorCode::Forbidden, detail));
    }
    // A token of one session reaches no path of another, whatever the handler looks at first.
    if let (Some(own), Some(id)) = (principal.session(), path_id(params))
        && own.as_str() != id
    {
        return Err(Error::new(ErrorCode::SessionNotFound, format!("there is no session {id}, or it is not yours")));
    }
    Ok(Some(principal))
}

/// The bearer of a request: `Authorization`, or for a WebSocket `Sec-WebSocket-Protocol: helix, bearer.<token>`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, secret) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim()).filter(|secret| !secret.is_empty());
    }
    let upgrade = headers.get(header::UPGRADE)?;
    if !upgrade.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(PROTOCOL_BEARER))
        .filter(|secret| !secret.is_empty())
}

/// `access_token` of the documents' runner line. Tokens need no percent-encoding.
fn access_token(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("access_token=")).filter(|secret| !secret.is_empty())
}

/// A browser says which page sent a request: only this server's own pages may. Other clients send none.
fn check_origin(headers: &HeaderMap, public_authority: &str) -> Result<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let known = origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_scheme, authority)| {
        authority.eq_ignore_ascii_case(public_authority) || own.is_some_and(|own| authority.eq_ignore_ascii_case(own))
    });
    if known {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::ForeignOrigin,
        "the page that sent this is not this server's; open the dashboard under the server's `public_url`",
    ))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_bearer_comes_from_the_header_or_from_a_sockets_protocols() {
        assert_eq!(bearer(&headers(&[(header::AUTHORIZATION, "Bearer abc")])), Some("abc"));
        assert_eq!(bearer(&headers(&[(header::AUTHORIZATION, "bearer  abc")])), Some("abc"));
        for none in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(bearer(&headers(&[(header::AUTHORIZATION, none)])), None, "{none}");
        }
        let protocols = (header::SEC_WEBSOCKET_PROTOCOL, "helix, bearer.abc");
        assert_eq!(bearer(&headers(std::slice::from_ref(&protocols))), None, "without an upgrade it is no WebSocket");
        assert_eq!(bearer(&headers(&[(header::UPGRADE, "WebSocket"), protocols])), Some("abc"));
    }

    #[test]
    fn only_own_origins_come_in() {
        let host = (header::HOST, "box:8080");
        let check = |origin| check_origin(&headers(&[host.clone(), (header::ORIGIN, origin)]), "helix.example");
        for own in ["http://box:8080", "https://helix.example", "http://BOX:8080"] {
            assert!(check(own).is_ok(), "{own}");
        }
        for foreign in ["http://box", "http://box:8081", "null", "https://evil.example", "https://helix.example.evil"] {
            assert_eq!(check(foreign).expect_err(foreign).code, ErrorCode::ForeignOrigin);
        }
        assert!(check_origin(&headers(&[host]), "helix.example").is_ok(), "other clients send no origin");
    }

    #[test]
    fn the_documents_runner_sends_its_token_in_the_query() {
        assert_eq!(access_token(&Uri::from_static("/x?concurrency=1&access_token=abc&runnerid=r")), Some("abc"));
        assert_eq!(access_token(&Uri::from_static("/x?access_token=")), None);
        assert_eq!(access_token(&Uri::from_static("/x")), None);
    }
}
