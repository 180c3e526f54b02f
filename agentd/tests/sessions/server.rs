//! A server for the agents of sessions: it gives each that is ready the input of its session, as a real one does.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::SessionId;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

const PATH: &str = "/api/v1/external-agents/sync";

/// What the sessions are to be asked. Served until the runtime ends.
#[derive(Clone, Default)]
pub struct Inputs(Arc<Mutex<BTreeMap<String, String>>>);

impl Inputs {
    /// Answers the server's origin, as `api_hosts` has it.
    pub fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        let origin = format!("http://{}", listener.local_addr().expect("an address"));
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let inputs = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, inputs.clone()));
            }
        });
        origin
    }

    pub fn set(&self, session: &SessionId, input: Option<&str>) {
        let session = session.to_string();
        match input {
            Some(input) => self.lock().insert(session, input.to_owned()),
            None => self.lock().remove(&session),
        };
    }

    fn of(&self, session: &str) -> Option<String> {
        self.lock().get(session).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().expect("nobody panics with it")
    }
}

/// None: the agent's end is gone, or is no agent's.
async fn serve(stream: TcpStream, inputs: Inputs) -> Option<()> {
    let mut session = None;
    #[expect(clippy::result_large_err, reason = "the form of the callback")]
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let query = request.uri().query().filter(|_| request.uri().path() == PATH);
        session = query.and_then(|query| query.strip_prefix("session_id=")).map(str::to_owned);
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, look).await.ok()?;
    let session = session?;
    loop {
        let Message::Text(text) = socket.next().await?.ok()? else { continue };
        let frame: Value = serde_json::from_str(&text).ok()?;
        if frame["event_type"] != "agent_ready" || !frame["data"]["thread_id"].is_null() {
            continue;
        }
        if let Some(input) = inputs.of(&session) {
            // The same on each connection: it is for the agent not to run it twice.
            let request = format!("int_{session}");
            let data = json!({"message": input, "request_id": request, "acp_thread_id": null});
            let prompt = json!({"type": "chat_message", "data": data}).to_string();
            socket.send(Message::text(prompt)).await.ok()?;
        }
    }
}
