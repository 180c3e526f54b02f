//! JSON-RPC over the agent's standard streams, one message per line, both ways.
//!
//! A client of our own on plain JSON values: the protocol's Rust crates bring half a runtime, and turn on features of
//! `serde_json` that would change the order of every object in this workspace. Agents also say more than any schema.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{mpsc, oneshot};

/// Longest message of an agent.
const MAX_LINE: u64 = 64 * 1024 * 1024;
/// JSON-RPC: no such method.
pub const NO_METHOD: i64 = -32601;
/// JSON-RPC: wrong parameters.
pub const BAD_PARAMS: i64 = -32602;
/// JSON-RPC: it went wrong.
pub const FAILED: i64 = -32603;

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RpcError {
    /// The agent says so.
    Refused {
        /// JSON-RPC code.
        code: i64,
        /// For people.
        message: String,
    },
    /// It is not there any more.
    Gone,
}

type Waiting = BTreeMap<u64, oneshot::Sender<Result<Value, RpcError>>>;

/// To the agent.
#[derive(Debug, Clone)]
pub struct Rpc {
    out: mpsc::UnboundedSender<String>,
    /// None once the agent is gone.
    waiting: Arc<Mutex<Option<Waiting>>>,
    next: Arc<AtomicU64>,
}

/// From the agent, except answers.
#[derive(Debug)]
pub enum Incoming {
    /// It wants an answer: [`Rpc::answer`].
    Request {
        /// Comes back with the answer.
        id: Value,
        /// What.
        method: String,
        /// With what.
        params: Value,
    },
    /// It tells something.
    Notification {
        /// What.
        method: String,
        /// With what.
        params: Value,
    },
}

impl Rpc {
    /// Writes to `stdin` by a task of its own.
    pub fn new(mut stdin: impl AsyncWrite + Unpin + Send + 'static) -> Self {
        let (out, mut lines) = mpsc::unbounded_channel::<String>();
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                // What reads from the agent sees that it is gone.
                if stdin.write_all(line.as_bytes()).await.is_err() || stdin.flush().await.is_err() {
                    return;
                }
            }
        });
        Self { out, waiting: Arc::new(Mutex::new(Some(Waiting::new()))), next: Arc::default() }
    }

    /// Sends a request at once; the future is its result.
    pub fn request(&self, method: &str, params: &Value) -> impl Future<Output = Result<Value, RpcError>> + use<> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, result) = oneshot::channel();
        if let Some(waiting) = self.waiting().as_mut() {
            waiting.insert(id, sender);
            self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        }
        async move { result.await.unwrap_or(Err(RpcError::Gone)) }
    }

    /// Tells it something.
    pub fn notify(&self, method: &str, params: &Value) {
        self.write(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    /// Answers a request.
    pub fn answer(&self, id: &Value, result: Result<Value, (i64, String)>) {
        self.write(&match result {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err((code, message)) => {
                json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
            }
        });
    }

    /// Reads what the agent says and hands each message to `take`, in order, until its end.
    pub async fn read<F: Future<Output = ()>>(
        &self,
        stdout: impl AsyncRead + Unpin,
        mut take: impl FnMut(Incoming) -> F,
    ) {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut stdout).take(MAX_LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            // Some agents also log here.
            let Ok(message) = serde_json::from_slice::<Value>(&line) else { continue };
            let method = message.get("method").and_then(Value::as_str).map(ToOwned::to_owned);
            let id = message.get("id").filter(|id| !id.is_null()).cloned();
            let params = message.get("params").cloned().unwrap_or_default();
            match (method, id) {
                (Some(method), Some(id)) => take(Incoming::Request { id, method, params }).await,
                (Some(method), None) => take(Incoming::Notification { method, params }).await,
                (None, Some(id)) => self.resolve(&id, message),
                (None, None) => {}
            }
        }
        // Whoever waits hears that nothing comes any more.
        self.waiting().take();
    }

    fn resolve(&self, id: &Value, mut message: Value) {
        let sender = id.as_u64().and_then(|id| self.waiting().as_mut()?.remove(&id));
        let Some(sender) = sender else { return };
        let result = match message.get("error").filter(|error| !error.is_null()) {
            Some(error) => Err(refused(error)),
            None => Ok(message.get_mut("result").map(Value::take).unwrap_or_default()),
        };
        // Nobody may wait for it any more.
        let _ = sender.send(result);
    }

    fn write(&self, message: &Value) {
        // Without a writer the reader ends, too.
        let _ = self.out.send(format!("{message}\n"));
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(error: &Value) -> RpcError {
    let code = error.get("code").and_then(Value::as_i64).unwrap_or(FAILED);
    let mut message = error.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
    let details = match error.get("data") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Object(data)) => {
            let text = ["details", "message", "error"].iter().find_map(|name| data.get(*name)?.as_str());
            text.map(ToOwned::to_owned)
        }
        _ => None,
    };
    if let Some(details) = details.filter(|details| !message.contains(details.as_str())) {
        message = format!("{message}: {details}");
    }
    RpcError::Refused { code, message }
}
