//! `GET /health` on loopback: is this runner alive, and is it connected?
//!
//! A listener of its own, without an HTTP stack: one request per connection, bounded in bytes, time and number.
//! The port belongs to the first runner of a machine; the others go on without.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::link::LinkStatus;
use crate::link::reports::Reports;

const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_HEAD_BYTES: usize = 4096;
const MAX_CONNECTIONS: usize = 16;

/// What `/health` tells about.
#[derive(Debug, Clone)]
pub struct Health {
    /// Settings.
    pub config: Arc<Config>,
    /// Sessions.
    pub reports: Reports,
    /// The link.
    pub status: watch::Receiver<LinkStatus>,
}

/// Serves until dropped. Returns at once if it is switched off or the port is taken.
pub async fn run(health: Health) {
    let port = health.config.health_port;
    if port == 0 {
        return;
    }
    let listener = match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::info!(
                "no /health on port {port}: another runner of this machine has it, or set health_port: {error}"
            );
        }
    };
    serve(health, listener).await;
}

async fn serve(health: Health, listener: TcpListener) {
    let health = Arc::new(health);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                tokio::spawn(async move {
                    // A client that is slow or gone gets nothing.
                    let _ = tokio::time::timeout(TIMEOUT, answer(&health, stream)).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: an answer now would not come anyway.
                tracing::warn!("cannot accept on /health: {error}");
                tokio::time::sleep(TIMEOUT).await;
            }
        }
    }
}

async fn answer(health: &Health, mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        if head.len() > MAX_HEAD_BYTES {
            return respond(
                &mut stream,
                "431 Request Header Fields Too Large",
                r#"{"error":"the request is too large"}"#,
            )
            .await;
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/health")) => respond(&mut stream, "200 OK", &body(health)).await,
        (Some(_), Some(b"/health")) => {
            respond(&mut stream, "405 Method Not Allowed", r#"{"error":"only GET is served here"}"#).await
        }
        _ => respond(&mut stream, "404 Not Found", r#"{"error":"only /health is served here"}"#).await,
    }
}

fn body(health: &Health) -> String {
    // Not why: sessions can ask, too, and the reason may name servers. The service's status and its log say it.
    let connected = matches!(*health.status.borrow(), LinkStatus::Registered);
    json!({
        "status": "ok",
        "runner": health.config.runner,
        "version": env!("CARGO_PKG_VERSION"),
        "connected": connected,
        "slots": health.config.slots,
        "active": health.reports.active(),
        "sessions": health.reports.phases(),
    })
    .to_string()
}

async fn respond(stream: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\ncache-control: no-store\r\n\
         connection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, RunArgs};

    async fn ask(request: &[u8]) -> String {
        let env = Environment::from([("HOME".to_owned(), "/h".to_owned()), ("RUNNER_ID".to_owned(), "r-1".to_owned())]);
        let config = Arc::new(Config::load(&RunArgs::default(), &env).expect("valid settings"));
        let (_sender, status) = watch::channel(LinkStatus::Away("no server".to_owned()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let serving = tokio::spawn(serve(Health { config, reports: Reports::default(), status }, listener));
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(request).await.expect("sent");
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await;
        read.expect("in time").expect("read");
        serving.abort();
        answer
    }

    #[tokio::test]
    async fn it_tells_how_the_runner_is() {
        let answer = ask(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains(r#""runner":"r-1""#) && answer.contains(r#""connected":false"#), "{answer}");
        assert!(!answer.contains("no server"), "every session can read the reason: {answer}");
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        assert!(ask(b"POST /health HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        assert!(ask(b"GET /etc/passwd HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(b"nonsense\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(&[b'x'; 5000]).await.starts_with("HTTP/1.1 431"));
    }
}
