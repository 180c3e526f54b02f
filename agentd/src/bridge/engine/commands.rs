//! What the server asks for.

use std::collections::BTreeMap;

use agent_client_protocol::v1::schema::ElicitationContentValue;
use helix_protocol::sync::{AgentEvent, ChatMessage, ElicitationAnswer, OpenThread};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Engine;
use crate::bridge::agent::{Order, Setting};
use crate::bridge::conversation::State;
use crate::bridge::record::{End, Origin, Record};

#[derive(Deserialize)]
struct CommandFrame {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    data: Value,
}

impl Engine {
    pub(super) fn on_command(&mut self, frame: Value) {
        let Ok(CommandFrame { kind, data }) = serde_json::from_value(frame) else {
            self.complain("a frame without a type");
            return;
        };
        let text = |name: &str| data.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        match kind.as_str() {
            "chat_message" | "simulate_user_input" => {
                let origin = if kind == "chat_message" { Origin::Server } else { Origin::Simulated };
                if let Some(message) = self.parse(&kind, data) {
                    self.accept(message, origin);
                }
            }
            "open_thread" => {
                if let Some(wish) = self.parse(&kind, data) {
                    self.open_thread(wish);
                }
            }
            "cancel_current_turn" => self.cancel(&text("request_id").unwrap_or_else(|| "unknown".to_owned())),
            "query_ui_state" => self.tell_ui_state(&text("query_id").unwrap_or_else(|| "unknown".to_owned())),
            "respond_elicitation" => {
                if let Some(answer) = self.parse(&kind, data) {
                    self.answer(answer);
                }
            }
            "set_session_mode" => self.set(&data, Setting::Mode, "mode_id"),
            "set_session_model" => self.set(&data, Setting::Model, "model_id"),
            _ => self.complain(&format!("a command that this bridge does not know: {kind:?}")),
        }
    }

    fn parse<T: DeserializeOwned>(&mut self, kind: &str, data: Value) -> Option<T> {
        match serde_json::from_value(data) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.complain(&format!("a {kind} that cannot be read ({error})"));
                None
            }
        }
    }

    /// Takes a prompt, unless it is known: then whatever became of it is told.
    pub(super) fn accept(&mut self, message: ChatMessage, origin: Origin) {
        let ChatMessage { message, request_id: request, acp_thread_id, agent_name, interrupt } = message;
        let thread = acp_thread_id.filter(|thread| !thread.is_empty());
        let agent = agent_name.unwrap_or_default();
        if request.is_empty() {
            self.complain("a prompt with an empty request_id");
            return;
        }
        match self.journal.state.turn(&request) {
            // The agent never had it.
            Some(turn) if matches!(turn.end, Some(End::NotStarted { .. })) => {}
            Some(turn) if turn.state == State::Over => {
                self.tell_again(&request);
                return;
            }
            // It is queued or running: its events come.
            Some(_) => return,
            None => {}
        }
        let refuse = |engine: &Self, error: String| {
            engine.tell(&AgentEvent::ChatResponseError { request_id: request.clone(), error });
        };
        if !self.serves(&agent) {
            let error = format!("this session's agent is {}; it has no agent {agent:?}", self.name);
            return refuse(self, error);
        }
        if let Some(thread) = thread.as_ref().filter(|thread| self.shell && !self.journal.state.has_thread(thread)) {
            let (acp_thread_id, request_id) = (thread.clone(), request);
            let error = format!("Failed to load thread: Resource not found: {thread}");
            self.tell(&AgentEvent::ThreadLoadError { acp_thread_id, request_id, error });
            return;
        }
        let accepted = Record::Accepted { request: request.clone(), thread: thread.clone(), message, agent, origin };
        if !self.commit(accepted) {
            return refuse(self, "the prompt cannot be written to the session's disk; it was not run".to_owned());
        }
        if let Some(thread) = thread.filter(|_| interrupt) {
            self.interrupt(&thread);
        }
        self.advance(&request);
    }

    fn serves(&self, agent: &str) -> bool {
        matches!(agent, "" | "zed-agent") || agent == self.name || agent.strip_suffix("-acp") == Some(&self.name)
    }

    fn open_thread(&mut self, wish: OpenThread) {
        let OpenThread { acp_thread_id: thread, request_id: request, agent_name } = wish;
        let agent = agent_name.unwrap_or_default();
        if self.shell {
            let error = (!self.journal.state.has_thread(&thread))
                .then(|| format!("Failed to load thread: Resource not found: {thread}"));
            return self.opened(&thread, request, agent, error);
        }
        self.named.insert(thread.clone());
        self.order(Order::Open { thread, request, agent });
    }

    pub(super) fn opened(&mut self, thread: &str, request: Option<String>, agent: String, error: Option<String>) {
        match (error, request) {
            (None, _) => self.tell_ready(Some(thread), Some(agent)),
            (Some(error), Some(request_id)) => {
                self.tell(&AgentEvent::ThreadLoadError { acp_thread_id: thread.to_owned(), request_id, error });
            }
            (Some(error), None) => self.view.notice(&format!("thread {thread} cannot be loaded: {error}")),
        }
    }

    /// Another mode or model for a thread.
    fn set(&mut self, data: &Value, setting: Setting, name: &str) {
        let text = |name: &str| data.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (what, thread, wanted) = (setting.word(), text("acp_thread_id"), text(name));
        let error = match (thread, wanted) {
            (Some(thread), Some(wanted)) if !self.shell => {
                let (thread, wanted) = (thread.to_owned(), wanted.to_owned());
                self.named.insert(thread.clone());
                return self.order(Order::Set { thread, setting, wanted });
            }
            (Some(_), Some(_)) => format!("a shell has no {what}"),
            _ => format!("acp_thread_id and {name} are wanted, as texts"),
        };
        let data = json!({"acp_thread_id": thread, "setting": what, "wanted": wanted, "error": error});
        self.tell_custom("agent_modes_refused", &data);
    }

    fn answer(&mut self, answer: ElicitationAnswer) {
        let ElicitationAnswer { elicitation_id: id, action, content, .. } = answer;
        let ack = |engine: &Self, status: &str, error: String| {
            let elicitation_id = id.clone();
            engine.tell(&AgentEvent::ElicitationResponseAck { elicitation_id, status: status.to_owned(), error });
        };
        let Some(place) = self.questions.iter().position(|question| question.id == id) else {
            let known = self.journal.state.turns().iter().any(|(_, turn)| turn.questions.iter().any(|(q, _)| *q == id));
            let (status, error) = if known {
                ("noop", "the agent does not wait for it any more")
            } else {
                ("not_found", "no such question")
            };
            return ack(self, status, error.to_owned());
        };
        match self.questions[place].check(&action, &content) {
            Ok(content) => {
                self.order(Order::Answer { question: id.clone(), action, content });
                ack(self, "accepted", String::new());
            }
            Err(error) => ack(self, "noop", error),
        }
    }
}

impl super::Question {
    /// The answer as the agent takes it, or what is wrong with it.
    pub(super) fn check(&self, action: &str, content: &Value) -> Result<Value, String> {
        match action {
            "decline" | "cancel" => return Ok(Value::Null),
            "accept" => {}
            other => return Err(format!("action {other:?} is none of accept, decline, cancel")),
        }
        if self.mode != "permission" {
            // All that an agent takes.
            return match Option::<BTreeMap<String, ElicitationContentValue>>::deserialize(content) {
                Ok(_) => Ok(content.clone()),
                Err(_) => Err("content must be an object of texts, numbers, yes or no, and lists of texts".to_owned()),
            };
        }
        let names = || self.choices.iter().map(|choice| choice.id.as_str()).collect::<Vec<_>>().join(", ");
        let chosen = match content.get("option").and_then(Value::as_str) {
            Some(option) => self.choices.iter().find(|choice| choice.id == option || choice.name == option),
            None if content.is_null() || content.as_object().is_some_and(serde_json::Map::is_empty) => {
                self.choices.iter().find(|choice| choice.kind.starts_with("allow"))
            }
            None => None,
        };
        let chosen = chosen.ok_or_else(|| format!("content.option must be one of: {}", names()))?;
        Ok(json!({"option": chosen.id}))
    }
}
