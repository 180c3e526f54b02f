//! Addresses that answers name.

use helix_protocol::SessionId;
use http::{HeaderMap, header, uri::Authority};

/// `host[:port]` of a base URL.
pub fn authority_of(base: &str) -> &str {
    let rest = base.split_once("://").map_or(base, |(_scheme, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Base URL for a WebSocket to this server, as the caller of this request reaches it: through a forwarded port or
/// another name of the machine that is not `public_url`.
pub fn websocket_base(public_url: &str, headers: &HeaderMap) -> String {
    let (scheme, rest) = public_url.split_once("://").unwrap_or(("http", public_url));
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let host = text(header::HOST).filter(|host| host.parse::<Authority>().is_ok() && !host.contains('@'));
    match host {
        Some(host) if host != authority_of(public_url) => {
            // A browser says what it speaks; this process itself speaks plain HTTP.
            let secure = text(header::ORIGIN).is_some_and(|origin| origin.starts_with("https://"));
            format!("{}://{host}", if secure { "wss" } else { "ws" })
        }
        _ => format!("{}://{rest}", if scheme == "https" { "wss" } else { "ws" }),
    }
}

/// WebSocket address of a session's desktop bytes; `stream` is `vnc` or `rdp`.
pub fn desktop_stream(base: &str, session: &SessionId, stream: &str, ticket: &str) -> String {
    format!("{base}/api/v1/sessions/{session}/streams/{stream}?ticket={ticket}")
}

/// Page of a session's desktop. The token rides in the fragment: browsers keep it to themselves.
pub fn view_page(public_url: &str, session: &SessionId, token: &str) -> String {
    format!("{public_url}/sessions/{session}/view#token={token}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(public_url: &str, host: &'static str, origin: Option<&'static str>) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, http::HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, http::HeaderValue::from_static(origin));
        }
        websocket_base(public_url, &headers)
    }

    #[test]
    fn the_stream_is_where_the_caller_reaches_the_server() {
        assert_eq!(base("http://127.0.0.1:8080", "127.0.0.1:8080", None), "ws://127.0.0.1:8080");
        assert_eq!(base("http://127.0.0.1:8080", "localhost:9000", None), "ws://localhost:9000");
        assert_eq!(base("https://helix.example/fleet", "helix.example", None), "wss://helix.example/fleet");
        assert_eq!(
            base("https://helix.example", "other.example", Some("https://other.example")),
            "wss://other.example"
        );
        assert_eq!(base("https://helix.example", "not a host", None), "wss://helix.example");
        assert_eq!(base("https://helix.example", "user@evil.example", None), "wss://helix.example");
        assert_eq!(websocket_base("http://[::1]:8080", &HeaderMap::new()), "ws://[::1]:8080");
    }
}
