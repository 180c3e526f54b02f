//! JSON-RPC over the agent's standard streams, one message per line, both ways.
//!
//! What is said are the types of crate `agent-client-protocol`; how it gets there is ours. The crate's own connection
//! takes whatever comes into a queue without an end and answers every line that is no message: an agent that says more
//! than the journal takes would fill our memory, and one that logs on its output would get an error for each line. Here
//! a message is taken when the one before it is done, so that a pipe that is full slows the agent down. What it asks for
//! has places ([`super::places`]), each held until its answer is written: one that does not read is not answered more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_client_protocol::{Error, JsonRpcNotification, JsonRpcRequest, UntypedMessage};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::text::bounded;

/// Longest message of an agent.
const MAX_LINE: u64 = 64 * 1024 * 1024;
/// Room for a message that is kept for the next one.
const KEPT_LINE: usize = 1024 * 1024;

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RpcError {
    /// The agent says so; the message is for people.
    Refused(Error),
    /// It is not there any more.
    Gone,
}

/// What is to be written, and the place that is free then.
type Line = (String, Option<OwnedSemaphorePermit>);

type Waiting = BTreeMap<u64, oneshot::Sender<Result<Value, RpcError>>>;

/// To the agent.
#[derive(Debug, Clone)]
pub struct Rpc {
    out: mpsc::UnboundedSender<Line>,
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
        let (out, mut lines) = mpsc::unbounded_channel::<Line>();
        tokio::spawn(async move {
            while let Some((line, _place)) = lines.recv().await {
                // What reads from the agent sees that it is gone.
                if stdin.write_all(line.as_bytes()).await.is_err() || stdin.flush().await.is_err() {
                    return;
                }
            }
        });
        Self { out, waiting: Arc::new(Mutex::new(Some(Waiting::new()))), next: Arc::default() }
    }

    /// Sends a request at once; the future is its result. It is read as `A`: agents say more than the schema's types
    /// keep.
    pub fn request<R: JsonRpcRequest, A: DeserializeOwned>(
        &self,
        request: &R,
    ) -> impl Future<Output = Result<A, RpcError>> + use<R, A> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, result) = oneshot::channel();
        match request.to_untyped_message() {
            Ok(UntypedMessage { method, params, .. }) => {
                if let Some(waiting) = self.waiting().as_mut() {
                    waiting.insert(id, sender);
                    self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
                }
            }
            // Nobody waits for this answer yet.
            Err(error) => drop(sender.send(Err(RpcError::Refused(error)))),
        }
        async move {
            let result = result.await.unwrap_or(Err(RpcError::Gone))?;
            serde_json::from_value(result).map_err(|error| {
                let message = format!("its answer cannot be read: {error}");
                RpcError::Refused(Error::new(Error::internal_error().code, message))
            })
        }
    }

    /// Tells it something.
    pub fn notify(&self, notification: &impl JsonRpcNotification) {
        // Types of the protocol always become JSON.
        if let Ok(UntypedMessage { method, params, .. }) = notification.to_untyped_message() {
            self.write(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
        }
    }

    /// Answers a request, whose place is free once that is written.
    pub fn answer(&self, id: &Value, result: Result<Value, Error>, place: Option<OwnedSemaphorePermit>) {
        let message = match result {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
        };
        self.write_in(&message, place);
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
            // A long one is rare, and its room is not needed again.
            line.shrink_to(KEPT_LINE);
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
        let result = match message.get_mut("error").filter(|error| !error.is_null()) {
            Some(error) => Err(refused(error.take())),
            None => Ok(message.get_mut("result").map(Value::take).unwrap_or_default()),
        };
        // Nobody may wait for it any more.
        let _ = sender.send(result);
    }

    fn write(&self, message: &Value) {
        self.write_in(message, None);
    }

    fn write_in(&self, message: &Value, place: Option<OwnedSemaphorePermit>) {
        // Without a writer the reader ends, too.
        let _ = self.out.send((format!("{message}\n"), place));
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the agent says, with the reason that many put into `data`.
fn refused(error: Value) -> RpcError {
    let mut error = serde_json::from_value(error).unwrap_or_else(|_| Error::internal_error());
    let details = match &error.data {
        Some(Value::String(text)) => Some(text.as_str()),
        Some(Value::Object(data)) => ["details", "message", "error"].iter().find_map(|name| data.get(*name)?.as_str()),
        _ => None,
    };
    if let Some(details) = details.filter(|details| !error.message.contains(details)) {
        error.message = format!("{}: {details}", error.message);
    }
    error.message = bounded(error.message);
    RpcError::Refused(error)
}
