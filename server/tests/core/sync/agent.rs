//! An agent that is nothing but its frames.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::harness::within;

/// How long nothing has to come for it to be nothing.
const QUIET: Duration = Duration::from_millis(300);

pub struct Agent {
    pub socket: WebSocketStream<TcpStream>,
}

impl Agent {
    /// Connects as Zed does: no origin, no sub-protocol. The status where it is refused.
    pub async fn dial(address: SocketAddr, query: &str, token: Option<&str>) -> Result<Self, u16> {
        let url = format!("ws://{address}/api/v1/external-agents/sync{query}");
        let mut request = url.into_client_request().expect("a request");
        // Zed says its host without the port.
        request.headers_mut().insert(http::header::HOST, HeaderValue::from_static("127.0.0.1"));
        if let Some(token) = token {
            let header = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
            request.headers_mut().insert(http::header::AUTHORIZATION, header);
        }
        let socket = TcpStream::connect(address).await.expect("connected");
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        match within("dialled", client_async_with_config(request, socket, Some(config))).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Connects to session `s` and says hello.
    pub async fn connect(address: SocketAddr, token: &str) -> Self {
        let mut agent = Self::dial(address, "?session_id=s", Some(token)).await.expect("let in");
        agent.say("ping", json!({ "timestamp": 1_795_000_000 })).await;
        agent
    }

    /// The same, ready for prompts, as a build that cannot list its turns.
    pub async fn old(address: SocketAddr, token: &str) -> Self {
        let mut agent = Self::connect(address, token).await;
        agent.say("agent_ready", json!({ "agent_name": "zed-agent", "thread_id": null })).await;
        agent
    }

    pub async fn say(&mut self, event: &str, data: Value) {
        self.raw(json!({ "event_type": event, "data": data }).to_string()).await;
    }

    pub async fn raw(&mut self, text: String) {
        within("sent", self.socket.send(Message::Text(text.into()))).await.expect("open");
    }

    /// The next command, which must be of this type: its data.
    pub async fn hear(&mut self, kind: &str) -> Value {
        let frame = within(kind, self.next()).await.unwrap_or_else(|code| panic!("{kind}: closed with {code:?}"));
        assert_eq!(frame["type"], kind, "{frame}");
        assert_eq!(frame.as_object().map(serde_json::Map::len), Some(2), "{frame}");
        frame["data"].clone()
    }

    /// Nothing comes for a while.
    pub async fn hears_nothing(&mut self) {
        self.hears_nothing_for(QUIET).await;
    }

    pub async fn hears_nothing_for(&mut self, quiet: Duration) {
        if let Ok(frame) = timeout(quiet, self.next()).await {
            panic!("unexpected: {frame:?}");
        }
    }

    /// The next text frame, or the close code.
    async fn next(&mut self) -> Result<Value, Option<u16>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code.into())),
                Some(Ok(other)) => panic!("{other:?}"),
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// Reads until it is closed: the code, if one was said.
    pub async fn closed(&mut self) -> Option<u16> {
        within("closed", async {
            loop {
                if let Err(code) = self.next().await {
                    return code;
                }
            }
        })
        .await
    }

    /// A prompt for a new thread, which is made.
    pub async fn make_thread(&mut self, acp: &str) -> String {
        let prompt = self.hear("chat_message").await;
        assert_eq!(prompt["acp_thread_id"], Value::Null, "{prompt}");
        let request = prompt["request_id"].as_str().expect("a request").to_owned();
        self.say("thread_created", json!({ "acp_thread_id": acp, "request_id": request })).await;
        request
    }

    /// A whole snapshot of an entry.
    pub async fn write(&mut self, acp: &str, entry: &str, request: &str, text: &str) {
        let data = json!({
            "acp_thread_id": acp, "message_id": entry, "role": "assistant", "content": text, "request_id": request,
            "entry_type": "text", "tool_name": "", "tool_status": "", "timestamp": 1_795_000_000,
        });
        self.say("message_added", data).await;
    }

    pub async fn complete(&mut self, acp: &str, request: &str) {
        let usage = json!({ "total_tokens": 12, "input_tokens": 10, "output_tokens": 2 });
        let data = json!({
            "acp_thread_id": acp, "message_id": "0", "request_id": request, "agent_name": "zed", "usage": usage,
        });
        self.say("message_completed", data).await;
    }
}
