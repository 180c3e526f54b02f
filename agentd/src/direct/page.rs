//! `/vnc.html`: a VNC viewer for browsers, and the WebSocket that it speaks RFB over. What it loads is built with the
//! dashboard (`web/`) and part of this program.
//!
//! A small HTTP server of its own, one request per connection, bounded in bytes and time. A browser that comes
//! from a page of somebody else's is refused.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::supervisor::Supervisor;
use crate::viewers::{Coming, Viewers};

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// What a viewer may send in one frame: input and clipboard.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Where the page's RFB comes from.
const SOCKET: &str = "/websockify";
/// The page's own scripts, styles, pictures and socket, and nothing else.
const HEADERS: &str = "cache-control: no-cache\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n\
    content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n";
/// Path, type and content.
const FILES: [(&str, &str, &[u8]); 5] = [
    ("/vnc.html", "text/html; charset=utf-8", include_bytes!("../../../web/dist/vnc.html")),
    ("/assets/vnc.js", "text/javascript", include_bytes!("../../../web/dist/assets/vnc.js")),
    ("/assets/vnc.css", "text/css", include_bytes!("../../../web/dist/assets/vnc.css")),
    ("/assets/favicon.svg", "image/svg+xml", include_bytes!("../../../web/dist/assets/favicon.svg")),
    ("/assets/novnc-license.txt", "text/plain", include_bytes!("../../../web/dist/assets/novnc-license.txt")),
];

/// What a request wants.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    File(&'static str, &'static [u8]),
    /// The desktop: the key of the WebSocket, and the sub-protocol that was offered.
    Desktop(String, bool),
    /// The page, for who asks for the root.
    Page,
    Nothing(&'static str, &'static str),
}

/// A browser's, of a page of somebody else's.
#[derive(Debug, thiserror::Error)]
#[error("the page that wants the desktop is not this runner's")]
pub(super) struct ForeignOrigin;

const FOREIGN: Wanted = Wanted::Nothing("403 Forbidden", "open /vnc.html here\n");

/// Answers one request.
pub(super) async fn attend<S: Supervisor>(
    mut stream: TcpStream,
    coming: Coming<'_>,
    viewers: &Viewers<S>,
    host: &str,
) -> anyhow::Result<()> {
    let Some(request) = tokio::time::timeout(TIMEOUT, head(&mut stream)).await?? else { return Ok(()) };
    let wanted = wanted(&request, host);
    let is_foreign = wanted == FOREIGN;
    let (status, kind, body) = match wanted {
        Wanted::Desktop(key, binary) => {
            let protocol = if binary { "sec-websocket-protocol: binary\r\n" } else { "" };
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {}\r\n{protocol}\r\n",
                derive_accept_key(key.as_bytes())
            );
            tokio::time::timeout(TIMEOUT, stream.write_all(answer.as_bytes())).await??;
            let config = WebSocketConfig::default()
                .read_buffer_size(8 * 1024)
                .write_buffer_size(0)
                .max_write_buffer_size(128 * 1024)
                .max_message_size(Some(MAX_MESSAGE_BYTES))
                .max_frame_size(Some(MAX_MESSAGE_BYTES));
            let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
            let (mut say, mut hear) = socket.split();
            viewers.vnc(coming, &mut hear, &mut say, viewers.granted(coming.session)).await?;
            return Ok(());
        }
        Wanted::File(kind, body) => ("200 OK", kind, body),
        Wanted::Page => ("302 Found\r\nlocation: /vnc.html", "text/plain", &b"/vnc.html\n"[..]),
        Wanted::Nothing(status, why) => (status, "text/plain; charset=utf-8", why.as_bytes()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\n{HEADERS}content-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let say = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(body).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(TIMEOUT, say).await??;
    if is_foreign { Err(ForeignOrigin.into()) } else { Ok(()) }
}

/// The head of a request; `None` where it is none, or too long.
async fn head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > MAX_HEAD_BYTES {
            return Ok(None);
        }
    }
    Ok(String::from_utf8(head).ok())
}

fn wanted(head: &str, host: &str) -> Wanted {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some("GET"), Some(target)) = (words.next(), words.next()) else {
        return Wanted::Nothing("405 Method Not Allowed", "only GET is served here\n");
    };
    let fields: Vec<(&str, &str)> =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect();
    let field =
        |wanted: &str| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value);
    let path = target.split('?').next().unwrap_or_default();
    if path == "/" {
        return Wanted::Page;
    }
    if let Some((_, kind, content)) = FILES.iter().find(|(name, ..)| *name == path) {
        return Wanted::File(kind, content);
    }
    if path != SOCKET {
        return Wanted::Nothing("404 Not Found", "open /vnc.html\n");
    }
    // Another site's page must not reach into this network with the browser of somebody who may.
    let own = field("origin").and_then(|origin| Some(origin.split_once("://")?.1));
    // Nor by a name of its own that leads here.
    if own.is_none() || own != field("host") || !own.is_some_and(|own| is_own_name(own, host)) {
        return FOREIGN;
    }
    match (field("upgrade"), field("sec-websocket-version"), field("sec-websocket-key")) {
        (Some(upgrade), Some("13"), Some(key)) if upgrade.eq_ignore_ascii_case("websocket") => {
            let offered = field("sec-websocket-protocol").unwrap_or_default();
            Wanted::Desktop(key.to_owned(), offered.split(',').any(|word| word.trim() == "binary"))
        }
        _ => Wanted::Nothing("400 Bad Request", "this path speaks WebSocket\n"),
    }
}

/// Whether a browser that asks for this `Host` means this runner: an address, or the name that it goes by.
fn is_own_name(asked: &str, host: &str) -> bool {
    let name = match asked.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => asked.rsplit_once(':').map_or(asked, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.eq_ignore_ascii_case(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_its_files_and_its_own_socket_are_served() {
        let get = |path: &str, more: &str| wanted(&format!("GET {path} HTTP/1.1\r\nHost: h:6901\r\n{more}\r\n"), "h");
        for (path, kind, content) in FILES {
            assert_eq!(get(path, ""), Wanted::File(kind, content));
        }
        assert!(matches!(get("/vnc.html?autoconnect=1", ""), Wanted::File(..)));
        assert_eq!(get("/", ""), Wanted::Page);
        let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k\r\n";
        let from = |origin: &str| get(SOCKET, &format!("{upgrade}Origin: {origin}\r\n"));
        assert_eq!(from("http://h:6901"), Wanted::Desktop("k".to_owned(), false));
        let offered = get(SOCKET, &format!("{upgrade}Origin: http://h:6901\r\nSec-WebSocket-Protocol: a, binary\r\n"));
        assert_eq!(offered, Wanted::Desktop("k".to_owned(), true));
        let status = |wanted: Wanted| match wanted {
            Wanted::Nothing(status, _) => status,
            other => panic!("{other:?}"),
        };
        for foreign in [from("http://evil.example"), from("null"), get(SOCKET, upgrade)] {
            assert_eq!(status(foreign), "403 Forbidden");
        }
        assert_eq!(status(get(SOCKET, "Origin: http://h:6901\r\n")), "400 Bad Request");
        assert_eq!(status(get("/../Cargo.toml", "")), "404 Not Found");
        assert_eq!(status(wanted("POST /vnc.html HTTP/1.1\r\n\r\n", "h")), "405 Method Not Allowed");
        assert_eq!(status(wanted("nonsense\r\n\r\n", "h")), "405 Method Not Allowed");
    }
}
