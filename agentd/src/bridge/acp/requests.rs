//! What the agent says while it works: updates, questions, and wishes for files and commands.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use agent_client_protocol::v1::schema::{
    AgentRequest, CreateElicitationRequest, CreateElicitationResponse, CreateTerminalResponse, ElicitationAcceptAction,
    ElicitationAction, ElicitationMode, ElicitationScope, KillTerminalResponse, PermissionOption, ReadTextFileResponse,
    ReleaseTerminalRequest, ReleaseTerminalResponse, RequestPermissionOutcome, RequestPermissionRequest,
    RequestPermissionResponse, SelectedPermissionOutcome, SessionNotification, SessionUpdate, WriteTextFileResponse,
};
use agent_client_protocol::{Error, ErrorCode, JsonRpcMessage as _};
use serde::{Deserialize as _, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::places::Place;
use super::process::Live;
use super::rpc::Incoming;
use super::text::bounded;
use super::updates::MAX_TITLE_CHARS;
use super::{Acp, Turn};
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
            Incoming::Notification { method, params } if SessionNotification::matches_method(&method) => {
                // Agents tell more than the protocol has; that is passed over.
                if let Ok(SessionNotification { session_id, update, .. }) = serde_json::from_value(params) {
                    self.update(&live, &session_id.0, update).await;
                }
            }
            Incoming::Notification { .. } => {}
            Incoming::Request { id, method, params } => {
                // Nothing more is read before there is a place.
                match live.places.take(&method).await {
                    Place::Granted(place) => drop(tokio::spawn(async move {
                        let answer = self.request(&live, &method, params).await;
                        live.rpc.answer(&id, answer, place);
                    })),
                    Place::Refused(place) => {
                        let error = Error::new(ErrorCode::INTERNAL_ERROR, "too many questions are open");
                        live.rpc.answer(&id, Err(error), place);
                    }
                }
            }
        }
    }

    async fn update(&self, live: &Live, thread: &str, update: SessionUpdate) {
        match update {
            // The journal and the server have the history.
            _ if live.is_loading(thread) => {}
            SessionUpdate::SessionInfoUpdate(info) => {
                if let Some(Some(title)) = info.title.as_opt_deref::<str>() {
                    let title = title.chars().take(MAX_TITLE_CHARS).collect();
                    self.tell(News::Title { thread: thread.to_owned(), title }).await;
                }
            }
            SessionUpdate::CurrentModeUpdate(update) => {
                live.offers().entry(thread.to_owned()).or_default().in_mode(&update.current_mode_id);
                let data = json!({"acp_thread_id": thread, "mode": update.current_mode_id});
                self.tell(News::Custom { name: "agent_mode_changed", data }).await;
                self.tell_offer(live, thread).await;
            }
            SessionUpdate::ConfigOptionUpdate(update) => {
                live.offers().entry(thread.to_owned()).or_default().set_options(update.config_options);
                self.tell_offer(live, thread).await;
            }
            update => {
                let changes = match self.turns().get_mut(thread) {
                    Some(turn) => turn.log.update(update, &|id| live.terminals.text(id)),
                    None => Vec::new(),
                };
                self.change(changes).await;
            }
        }
    }

    async fn request(&self, live: &Live, method: &str, mut params: Value) -> Result<Value, Error> {
        // Its name in a draft.
        let method = if method == "session/elicitation" { "elicitation/create" } else { method };
        if let Some(options) = params.get_mut("options").and_then(Value::as_array_mut) {
            // One answer of a newer protocol does not take the others along.
            options.retain(|option| PermissionOption::deserialize(option).is_ok());
        }
        let request = AgentRequest::parse_message(method, &params).map_err(|error| unreadable(method, &error))?;
        match request {
            AgentRequest::RequestPermissionRequest(request) => answer(Ok(self.permission(live, request).await)),
            AgentRequest::CreateElicitationRequest(request) => {
                // Clients get the schema as the agent wrote it.
                let schema = params.get("requestedSchema").cloned().unwrap_or_default();
                answer(Ok(self.elicitation(request, schema).await))
            }
            AgentRequest::ReadTextFileRequest(wish) => {
                let text = self.files.read(&wish.path, wish.line.map(u64::from), wish.limit.map(u64::from));
                answer(text.map(ReadTextFileResponse::new))
            }
            AgentRequest::WriteTextFileRequest(wish) => {
                let written = self.files.write(&wish.path, &wish.content);
                answer(written.map(|()| WriteTextFileResponse::new()))
            }
            AgentRequest::CreateTerminalRequest(wish) => {
                answer(live.terminals.create(&wish, &self.files).map(CreateTerminalResponse::new))
            }
            AgentRequest::TerminalOutputRequest(wish) => answer(live.terminals.output(&wish.terminal_id)),
            AgentRequest::WaitForTerminalExitRequest(wish) => answer(live.terminals.wait(&wish.terminal_id).await),
            AgentRequest::KillTerminalRequest(wish) => {
                answer(live.terminals.kill(&wish.terminal_id).map(|()| KillTerminalResponse::new()))
            }
            AgentRequest::ReleaseTerminalRequest(wish) => answer(self.release(live, &wish)),
            _ => Err(unreadable(method, &Error::method_not_found())),
        }
    }

    /// A terminal is not needed any more, except by the tool call that shows it.
    fn release(&self, live: &Live, wish: &ReleaseTerminalRequest) -> Result<ReleaseTerminalResponse, String> {
        let output = live.terminals.release(&wish.terminal_id)?;
        if let Some(turn) = self.turns().get_mut(&*wish.session_id.0) {
            turn.log.released(wish.terminal_id.0.to_string(), output);
        }
        Ok(ReleaseTerminalResponse::new())
    }

    /// May it use this tool?
    async fn permission(&self, live: &Live, request: RequestPermissionRequest) -> RequestPermissionResponse {
        let RequestPermissionRequest { session_id, tool_call: call, options, .. } = request;
        let (thread, tool_call) = (&*session_id.0, call.tool_call_id.0.to_string());
        let choices: Vec<_> = options.iter().map(choice).collect();
        let terminal = |id: &str| live.terminals.text(id);
        let selected = |id: &str| {
            let outcome = SelectedPermissionOutcome::new(id.to_owned());
            RequestPermissionResponse::new(RequestPermissionOutcome::Selected(outcome))
        };
        let cancelled = RequestPermissionResponse::new(RequestPermissionOutcome::Cancelled);
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
            let change = turn.log.waits(call, &terminal);
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
            schema: Choice::schema(&choices),
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
    async fn elicitation(&self, request: CreateElicitationRequest, schema: Value) -> CreateElicitationResponse {
        let cancelled = CreateElicitationResponse::new(ElicitationAction::Cancel);
        let ElicitationMode::Form(form) = request.mode else { return cancelled };
        let ElicitationScope::Session(scope) = form.scope else { return cancelled };
        let thread = scope.session_id.0.to_string();
        let tool_call = scope.tool_call_id.map(|id| id.0.to_string()).unwrap_or_default();
        let place = {
            let turns = self.turns();
            let turn = turns.get(&thread).filter(|turn| turn.running && !turn.cancelled);
            turn.map(|turn| (turn.log.request.clone(), turn.log.key_of(&tool_call)))
        };
        let Some((request_id, key)) = place else { return cancelled };
        let question = Question {
            id: new_id("q_"),
            request: request_id,
            thread,
            key,
            tool_call,
            mode: "form",
            message: bounded(request.message),
            schema,
            choices: Vec::new(),
        };
        let id = question.id.clone();
        let reply = self.ask_person(question).await;
        let (status, action) = match reply {
            Some(Reply { action, content }) if action == "accept" => {
                // The engine takes no other content.
                let content: Option<BTreeMap<_, _>> = serde_json::from_value(content).unwrap_or_default();
                ("accepted", ElicitationAction::Accept(ElicitationAcceptAction::new().content(content)))
            }
            Some(Reply { action, .. }) if action == "decline" => ("declined", ElicitationAction::Decline),
            _ => ("cancelled", ElicitationAction::Cancel),
        };
        self.tell(News::Closed { question: id, status: status.to_owned() }).await;
        CreateElicitationResponse::new(action)
    }

    /// Asks, and waits for an answer; None when the turn has ended.
    async fn ask_person(&self, question: Question) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { thread: question.thread.clone(), reply };
        self.questions().insert(question.id.clone(), waiting);
        // Since it was looked at, its turn may have been cancelled, and its questions withdrawn.
        let runs = |turn: &Turn| turn.running && !turn.cancelled && turn.log.request == question.request;
        if !self.turns().get(&question.thread).is_some_and(runs) {
            self.questions().remove(&question.id);
            return None;
        }
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

    fn questions(&self) -> MutexGuard<'_, BTreeMap<String, Waiting>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer<T: Serialize>(result: Result<T, String>) -> Result<Value, Error> {
    let result = result.map_err(|error| Error::new(ErrorCode::INTERNAL_ERROR, error))?;
    serde_json::to_value(result).map_err(|error| Error::new(ErrorCode::INTERNAL_ERROR, error.to_string()))
}

/// Without the parameters themselves, which the crate would send back.
fn unreadable(method: &str, error: &Error) -> Error {
    let problem = error.data.as_ref().and_then(|data| data.get("error")?.as_str());
    let message = match problem {
        Some(problem) => format!("{method}: {problem}"),
        None if error.code == ErrorCode::METHOD_NOT_FOUND => format!("this client has no method {method}"),
        None => format!("{method}: {}", error.message),
    };
    Error::new(error.code, message)
}

fn choice(option: &PermissionOption) -> Choice {
    let kind = serde_json::to_value(option.kind).ok().and_then(|kind| Some(kind.as_str()?.to_owned()));
    Choice { id: option.option_id.0.to_string(), name: option.name.clone(), kind: kind.unwrap_or_default() }
}
