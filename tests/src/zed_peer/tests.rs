//! The peer against a WebSocket server of the test's own: that it behaves as the contract says the real Zed does.

mod connection;
mod editor;

use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, http::HeaderMap};

use super::ledger::End;
use super::*;

/// The server's side.
struct Host {
    listener: TcpListener,
}

/// One connection of it.
struct Line {
    socket: WebSocketStream<TcpStream>,
    headers: HeaderMap,
    path: String,
}

impl Host {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn options(&self) -> Options {
        let address = self.listener.local_addr().unwrap().to_string();
        Options { second: Duration::from_mins(1), ..Options::new(&address, "ses_1", "secret") }
    }

    #[expect(clippy::result_large_err, reason = "the library's own type")]
    async fn accept(&self) -> Line {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("nobody dials").unwrap();
        let (mut headers, mut path) = (HeaderMap::new(), String::new());
        let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            headers = request.headers().clone();
            path = request.uri().to_string();
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, look).await.unwrap();
        Line { socket, headers, path }
    }

    /// Refuses one connection with a status.
    async fn refuse(&self, status: u16) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("nobody dials").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    async fn ready(&self) -> Line {
        let mut line = self.accept().await;
        assert_eq!(line.next().await["event_type"], "ping");
        line.is(json!({"event_type": "agent_ready", "data": {"agent_name": "zed-agent", "thread_id": null}})).await;
        line
    }
}

impl Line {
    async fn next(&mut self) -> Value {
        let message = timeout(PATIENCE, self.socket.next()).await.expect("no event").unwrap().unwrap();
        let mut event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        // Times are not compared.
        if let Some(data) = event["data"].as_object_mut().filter(|data| data.contains_key("content")) {
            data.remove("timestamp");
        }
        event
    }

    async fn is(&mut self, expected: Value) {
        assert_eq!(self.next().await, expected);
    }

    async fn send(&mut self, kind: &str, data: Value) {
        self.socket.send(Message::text(json!({"type": kind, "data": data}).to_string())).await.unwrap();
    }

    async fn prompt(&mut self, request: &str, thread: Option<&str>, message: &str) {
        self.send("chat_message", json!({"message": message, "request_id": request, "acp_thread_id": thread})).await;
    }

    /// A prompt in a new thread up to its run.
    async fn first_turn(&mut self, peer: &Peer, request: &str) -> Run {
        self.prompt(request, None, "go").await;
        let run = peer.run().await.unwrap();
        self.is(ready("zed-agent", &run.thread)).await;
        self.is(json!({"event_type": "thread_created", "data": {"acp_thread_id": run.thread, "request_id": request}}))
            .await;
        run
    }
}

fn ready(agent: &str, thread: &str) -> Value {
    json!({"event_type": "agent_ready", "data": {"agent_name": agent, "thread_id": thread}})
}

fn text(run: &Run, place: u32, content: &str) -> Value {
    json!({"event_type": "message_added", "data": {
        "acp_thread_id": run.thread, "message_id": place.to_string(), "role": "assistant", "content": content,
        "request_id": run.request_id, "entry_type": "text", "tool_name": "", "tool_status": ""}})
}

fn completed(run: &Run) -> Value {
    json!({"event_type": "message_completed", "data": {
        "acp_thread_id": run.thread, "message_id": "0", "request_id": run.request_id, "agent_name": "zed", "usage": null}})
}
