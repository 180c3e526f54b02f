//! What the agent says while it works: updates, questions, and wishes for files and commands.

use std::sync::{Arc, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Acp;
use super::process::Live;
use super::rpc::{BAD_PARAMS, FAILED, Incoming, NO_METHOD};
use crate::bridge::agent::{Choice, News, Question, new_id};
use crate::bridge::options::Permissions;

/// A question that is open.
pub(super) struct Waiting {
    thread: String,
    reply: oneshot::Sender<Reply>,
}

/// What somebody said to a question.
struct Reply {
    action: String,
    content: Value,
}

impl Acp {
    /// Takes what the agent said. Updates are done when this is; requests are answered by and by.
    pub(super) async fn incoming(self: Arc<Self>, live: Arc<Live>, incoming: Incoming) {
        match incoming {
            Incoming::Notification { method, params } if method == "session/update" => {
                self.update(&live, &params).await;
            }
            Incoming::Notification { .. } => {}
            Incoming::Request { id, method, params } => {
                tokio::spawn(async move {
                    let answer = self.request(&live, &method, params).await;
                    live.rpc.answer(&id, answer);
                });
            }
        }
    }

    async fn update(&self, live: &Live, params: &Value) {
        let Some(thread) = params.get("sessionId").and_then(Value::as_str) else { return };
        let update = params.get("update").unwrap_or(&Value::Null);
        match update.get("sessionUpdate").and_then(Value::as_str).unwrap_or_default() {
            // The journal and the server have the history.
            _ if live.is_loading(thread) => {}
            "session_info_update" => {
                if let Some(title) = update.get("title").and_then(Value::as_str) {
                    self.tell(News::Title { thread: thread.to_owned(), title: title.to_owned() }).await;
                }
            }
            "current_mode_update" => {
                let data = json!({"acp_thread_id": thread, "mode": update.get("currentModeId")});
                self.tell(News::Custom { name: "agent_mode_changed", data }).await;
            }
            _ => {
                let changes = match self.turns().get_mut(thread) {
                    Some(turn) => turn.log.update(update, &|id| live.terminals.text(id)),
                    None => Vec::new(),
                };
                self.change(changes).await;
            }
        }
    }

    async fn request(&self, live: &Live, method: &str, params: Value) -> Result<Value, (i64, String)> {
        let text = |name: &str| params.get(name).and_then(Value::as_str);
        let number = |name: &str| params.get(name).and_then(Value::as_u64);
        let path = || text("path").map(std::path::Path::new).ok_or((BAD_PARAMS, "a path is wanted".to_owned()));
        let failed = |error: String| (FAILED, error);
        match method {
            "session/request_permission" => Ok(self.permission(live, &params).await),
            "elicitation/create" | "session/elicitation" => Ok(self.elicitation(&params).await),
            "fs/read_text_file" => {
                let content = self.files.read(path()?, number("line"), number("limit")).map_err(failed)?;
                Ok(json!({"content": content}))
            }
            "fs/write_text_file" => {
                let content = text("content").ok_or((BAD_PARAMS, "a content is wanted".to_owned()))?;
                self.files.write(path()?, content).map_err(failed)?;
                Ok(json!({}))
            }
            "terminal/create" => live.terminals.create(&params, &self.files).map_err(failed),
            "terminal/output" => live.terminals.output(&params).map_err(failed),
            "terminal/wait_for_exit" => live.terminals.wait(&params).await.map_err(failed),
            "terminal/kill" => live.terminals.kill(&params).map_err(failed),
            "terminal/release" => live.terminals.release(&params).map_err(failed),
            other => Err((NO_METHOD, format!("this client has no method {other}"))),
        }
    }

    /// May it use this tool?
    async fn permission(&self, live: &Live, params: &Value) -> Value {
        let thread = params.get("sessionId").and_then(Value::as_str).unwrap_or_default();
        let call = params.get("toolCall").cloned().unwrap_or_default();
        let tool_call = call.get("toolCallId").and_then(Value::as_str).unwrap_or_default().to_owned();
        let choices = choices(params);
        let terminal = |id: &str| live.terminals.text(id);
        let selected = |id: &str| json!({"outcome": {"outcome": "selected", "optionId": id}});
        let cancelled = json!({"outcome": {"outcome": "cancelled"}});
        if self.options.permissions == Permissions::Allow
            && let Some(choice) = choices.iter().find(|choice| choice.kind.starts_with("allow"))
        {
            return selected(&choice.id);
        }
        let (request, change, key) = {
            let mut turns = self.turns();
            let Some(turn) = turns.get_mut(thread).filter(|turn| turn.running && !turn.cancelled) else {
                return cancelled;
            };
            let change = turn.log.waits(&call, &terminal);
            (turn.log.request.clone(), change, turn.log.key_of(&tool_call))
        };
        let title = change.as_ref().and_then(|change| change.tool.clone()).map(|tool| tool.name).unwrap_or_default();
        self.change(change).await;
        let question = Question {
            id: new_id("q_"),
            request: request.clone(),
            thread: thread.to_owned(),
            key,
            tool_call: tool_call.clone(),
            mode: "permission",
            message: title,
            schema: schema(&choices),
            choices: choices.clone(),
        };
        let id = question.id.clone();
        let reply = self.ask_person(question).await;
        let content = reply.as_ref().and_then(|reply| reply.content.get("option")?.as_str()).unwrap_or_default();
        let chosen = match reply.as_ref().map(|reply| reply.action.as_str()) {
            Some("accept") => choices.iter().find(|choice| choice.id == content),
            Some("decline") => choices.iter().find(|choice| choice.kind.starts_with("reject")),
            _ => None,
        };
        let allowed = chosen.is_some_and(|choice| !choice.kind.starts_with("reject"));
        let status = match (&reply, allowed) {
            (_, true) => "accepted",
            (Some(reply), false) if reply.action != "cancel" => "declined",
            _ => "cancelled",
        };
        self.tell(News::Closed { question: id, status: status.to_owned() }).await;
        let change = match self.turns().get_mut(thread).filter(|turn| turn.log.request == request && turn.running) {
            Some(turn) => turn.log.answered(&tool_call, allowed, &terminal),
            None => None,
        };
        self.change(change).await;
        chosen.map_or(cancelled, |choice| selected(&choice.id))
    }

    /// A question with a form.
    async fn elicitation(&self, params: &Value) -> Value {
        let text = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let thread = text("sessionId");
        let request = {
            let turns = self.turns();
            let turn = turns.get(&thread).filter(|turn| turn.running && !turn.cancelled);
            turn.map(|turn| (turn.log.request.clone(), turn.log.key_of(&text("toolCallId"))))
        };
        let Some((request, key)) = request.filter(|_| text("mode") != "url") else {
            return json!({"action": "cancel"});
        };
        let question = Question {
            id: new_id("q_"),
            request,
            thread,
            key,
            tool_call: text("toolCallId"),
            mode: "form",
            message: text("message"),
            schema: params.get("requestedSchema").cloned().unwrap_or_default(),
            choices: Vec::new(),
        };
        let id = question.id.clone();
        let reply = self.ask_person(question).await;
        let (status, answer) = match reply {
            Some(Reply { action, content }) if action == "accept" => {
                ("accepted", json!({"action": "accept", "content": content}))
            }
            Some(Reply { action, .. }) if action == "decline" => ("declined", json!({"action": "decline"})),
            _ => ("cancelled", json!({"action": "cancel"})),
        };
        self.tell(News::Closed { question: id, status: status.to_owned() }).await;
        answer
    }

    /// Asks, and waits for an answer; None when the turn has ended.
    async fn ask_person(&self, question: Question) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { thread: question.thread.clone(), reply };
        self.questions().insert(question.id.clone(), waiting);
        self.tell(News::Asked(question)).await;
        answer.await.ok()
    }

    /// Somebody answered.
    pub(super) fn answer(&self, question: &str, action: String, content: Value) {
        if let Some(waiting) = self.questions().remove(question) {
            // Whoever asked may be gone.
            let _ = waiting.reply.send(Reply { action, content });
        }
    }

    /// Nobody answers the thread's questions any more.
    pub(super) fn withdraw(&self, thread: &str) {
        self.questions().retain(|_, waiting| waiting.thread != thread);
    }

    /// The agent is gone, and with it its questions.
    pub(super) fn withdraw_all(&self, live: &Live) {
        self.questions().retain(|_, waiting| !live.had(&waiting.thread));
    }

    fn questions(&self) -> MutexGuard<'_, std::collections::BTreeMap<String, Waiting>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn choices(params: &Value) -> Vec<Choice> {
    let options = params.get("options").and_then(Value::as_array).into_iter().flatten();
    let choice = |option: &Value| {
        let text = |name: &str| option.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        let id = text("optionId")?;
        Some(Choice { name: text("name").unwrap_or_else(|| id.clone()), kind: text("kind").unwrap_or_default(), id })
    };
    options.filter_map(choice).collect()
}

/// The answer to a question for leave, as a schema: one of the agent's options.
fn schema(choices: &[Choice]) -> Value {
    let ids: Vec<_> = choices.iter().map(|choice| choice.id.as_str()).collect();
    let names: Vec<_> = choices.iter().map(|choice| choice.name.as_str()).collect();
    let kinds: Vec<_> = choices.iter().map(|choice| choice.kind.as_str()).collect();
    json!({
        "type": "object", "required": ["option"],
        "properties": {"option": {"type": "string", "enum": ids, "enumNames": names, "x-kinds": kinds}},
    })
}
