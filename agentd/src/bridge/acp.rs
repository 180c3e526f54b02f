//! Turns by an ACP agent (Agent Client Protocol, version 1) on stdio.
//!
//! [`run`] takes orders, one task per thing that takes time. The agent's process is started at once and, when it dies,
//! for the next prompt ([`process`]); threads are its sessions ([`threads`]). One task reads what it says, in order:
//! updates become entries ([`updates`]), requests are answered by tasks of their own ([`requests`]). An agent that
//! dies ends every turn that it had; one that does not end a cancelled turn in time is killed.

mod files;
mod offer;
mod places;
mod process;
mod requests;
mod rpc;
mod terminals;
mod text;
mod threads;
mod updates;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_client_protocol::v1::schema::{CancelNotification, PromptRequest, PromptResponse, SessionId, StopReason};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::sync::mpsc;

use self::files::Files;
use self::process::Live;
pub use self::process::become_agent;
use self::requests::Waiting;
use self::rpc::RpcError;
use self::updates::Log;
use super::agent::{Change, News, NewsSender, Order, Over};
use super::options::AgentOptions;
use super::record::End;

/// An agent that was told to end a turn does so within this time.
const CANCEL: Duration = Duration::from_secs(10);

/// The agent, whether it runs or not.
struct Acp {
    options: AgentOptions,
    files: Files,
    news: NewsSender,
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
    /// The last turn of each thread.
    turns: Mutex<BTreeMap<String, Turn>>,
    /// Questions that are open.
    questions: Mutex<BTreeMap<String, Waiting>>,
}

struct Turn {
    log: Log,
    live: Arc<Live>,
    running: bool,
    cancelled: bool,
}

/// Takes orders until there are none any more.
pub async fn run(options: AgentOptions, mut orders: mpsc::UnboundedReceiver<Order>, news: NewsSender) {
    let files = match Files::new(&options.project) {
        Ok(files) => files,
        Err(error) => {
            let _ = news.send(News::Fatal(format!("{}: {error}", options.project.display()))).await;
            return;
        }
    };
    let acp = Arc::new(Acp {
        options,
        files,
        news: news.clone(),
        live: tokio::sync::Mutex::new(None),
        turns: Mutex::default(),
        questions: Mutex::default(),
    });
    let first = match acp.live().await {
        Ok(_) => News::Ready,
        Err(error) => News::Fatal(error),
    };
    if news.send(first).await.is_err() {
        return;
    }
    while let Some(order) = orders.recv().await {
        match order {
            Order::Prepare { request, thread } => {
                let acp = acp.clone();
                tokio::spawn(async move {
                    let news = match acp.prepare(thread).await {
                        Ok(thread) => News::Prepared { request, thread },
                        Err(end) => News::NotPrepared { request, end },
                    };
                    acp.tell(news).await;
                });
            }
            Order::Prompt { request, thread, text } => acp.clone().prompt(request, thread, &text).await,
            Order::Cancel { request } => acp.clone().cancel(&request),
            Order::Answer { question, action, content } => acp.answer(&question, action, content),
            Order::Open { thread, request, agent } => {
                let acp = acp.clone();
                tokio::spawn(async move {
                    let error = match acp.prepare(Some(thread.clone())).await {
                        Ok(_) => None,
                        Err(End::NotStarted { error } | End::Failed { error }) => Some(error),
                        Err(_) => Some("it cannot be loaded".to_owned()),
                    };
                    acp.tell(News::Opened { thread, request, agent, error }).await;
                });
            }
            Order::Set { thread, setting, wanted } => {
                tokio::spawn(acp.clone().set(thread, setting, wanted));
            }
            // Only commands have keys and a window.
            Order::Keys { .. } | Order::Resize(_) => {}
        }
    }
}

impl Acp {
    async fn tell(&self, news: News) {
        // Without the engine there is nobody to tell.
        let _ = self.news.send(news).await;
    }

    async fn change(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.tell(News::Change(change)).await;
        }
    }

    fn turns(&self) -> MutexGuard<'_, BTreeMap<String, Turn>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a prompt to the agent that has its thread.
    async fn prompt(self: Arc<Self>, request: String, thread: String, text: &str) {
        let live = self.live.lock().await.clone();
        let Some(live) = live.filter(|live| live.has(&thread)) else {
            // It died since the thread was made ready.
            let error = "agent exited before it was given the prompt".to_owned();
            let (usage, exit_status, tail) = (None, None, None);
            return self.tell(News::Over(Over { request, end: End::Failed { error }, usage, exit_status, tail })).await;
        };
        let log = Log::new(request.clone());
        let turn = Turn { log, live: live.clone(), running: true, cancelled: false };
        self.turns().insert(thread.clone(), turn);
        let answer = live.rpc.request(&PromptRequest::new(SessionId::new(&*thread), vec![text.into()]));
        tokio::spawn(async move {
            let answer = answer.await;
            let (end, usage) = self.end_of(&thread, &live, answer).await;
            self.withdraw(&thread);
            let changes = match self.turns().get_mut(&thread).filter(|turn| turn.log.request == request) {
                Some(turn) => {
                    turn.running = false;
                    turn.log.end(&|id| live.terminals.text(id))
                }
                None => Vec::new(),
            };
            self.change(changes).await;
            self.tell(News::Over(Over { request, end, usage, exit_status: None, tail: None })).await;
        });
    }

    /// What the answer to a prompt means.
    async fn end_of(
        &self,
        thread: &str,
        live: &Live,
        answer: Result<Value, RpcError>,
    ) -> (End, Option<helix_protocol::thread::TokenUsage>) {
        let cancelled = self.turns().get(thread).is_some_and(|turn| turn.cancelled);
        let failed = |error: String| (End::Failed { error }, None);
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) if cancelled => return (End::Cancelled, None),
            Err(RpcError::Refused(error)) => return failed(error.message),
            Err(RpcError::Gone) => return failed(format!("agent exited mid-turn: {}", live.reason().await)),
        };
        let usage = threads::usage(&answer);
        let end = match PromptResponse::deserialize(&answer).map(|answer| answer.stop_reason) {
            Ok(StopReason::Cancelled) => End::Cancelled,
            Ok(StopReason::Refusal) => {
                End::Failed { error: "the agent refuses to go on with this conversation (refusal)".to_owned() }
            }
            Ok(StopReason::MaxTokens) => {
                End::Failed { error: "the agent hit max tokens before it was done".to_owned() }
            }
            Ok(StopReason::MaxTurnRequests) => End::Failed {
                error: "the agent asked its model as often as one turn allows (max_turn_requests)".to_owned(),
            },
            // Also where it ends for a reason that the protocol does not have: it has answered.
            Ok(_) | Err(_) => End::Completed,
        };
        (end, usage)
    }

    fn cancel(self: Arc<Self>, request: &str) {
        let (thread, live) = {
            let mut turns = self.turns();
            let Some((thread, turn)) = turns.iter_mut().find(|(_, turn)| turn.running && turn.log.request == request)
            else {
                return;
            };
            turn.cancelled = true;
            (thread.clone(), turn.live.clone())
        };
        self.withdraw(&thread);
        live.rpc.notify(&CancelNotification::new(SessionId::new(&*thread)));
        let request = request.to_owned();
        tokio::spawn(async move {
            tokio::time::sleep(CANCEL).await;
            let runs = self.turns().get(&thread).is_some_and(|turn| turn.running && turn.log.request == request);
            if runs {
                let seconds = CANCEL.as_secs();
                self.tell(News::Notice(format!("the agent did not end the turn within {seconds} s and is killed")))
                    .await;
                let thread = "the cancelled turn of another thread";
                live.kill_because(format!("it did not end {thread} within {seconds} s and was killed"));
            }
        });
    }
}
