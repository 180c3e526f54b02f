//! A server for bridges that run in tests: it takes their sync socket and gives each, once it is ready, the same prompt.

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

/// Lives as long as the runtime; answers its address, as `ZED_HELIX_URL` has it.
pub async fn server(script: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let script = script.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, script.clone()));
        }
    });
    address
}

/// A connection that ends early is the bridge's own end.
async fn serve(stream: TcpStream, script: String) -> Option<()> {
    let mut socket = accept_async(stream).await.ok()?;
    loop {
        let Message::Text(text) = socket.next().await?.ok()? else { continue };
        let frame: Value = serde_json::from_str(&text).ok()?;
        // It deduplicates: the same prompt may be given on each occasion.
        if frame["event_type"] == "agent_ready" && frame["data"]["thread_id"].is_null() {
            let data = json!({"message": script, "request_id": "int_input", "acp_thread_id": null});
            let prompt = json!({"type": "chat_message", "data": data}).to_string();
            socket.send(Message::text(prompt)).await.ok()?;
        }
    }
}
