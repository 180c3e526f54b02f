//! The sync socket between an agent and the server, `GET /api/v1/external-agents/sync?session_id=`: text frames in the
//! words of the Zed fork (crate `external_websocket_sync`, as read on 2026-07-22).
//!
//! Agent → server is an [`EventFrame`], server → agent a [`CommandFrame`]. The server reads leniently (the older
//! dialect of document 000 too) and writes exactly these; `agentd acp-bridge` speaks the agent's side. Fields marked
//! *ours* are additions that Zed neither sends nor minds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::thread::TokenUsage;

/// Agent → server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventFrame {
    /// Name of the event.
    pub event_type: String,
    /// Its fields.
    #[serde(default)]
    pub data: Value,
}

/// Server → agent. `data` is always there: Zed drops a frame without it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum Command {
    /// A prompt.
    ChatMessage(ChatMessage),
    /// A prompt as if a person had typed it: the agent tells it back as an entry of role `user`.
    SimulateUserInput(ChatMessage),
    /// Load a thread and show it.
    OpenThread(OpenThread),
    /// End the running turn of this request.
    CancelCurrentTurn {
        /// The turn.
        request_id: String,
    },
    /// What is on the screen?
    QueryUiState {
        /// Comes back with the answer.
        query_id: String,
    },
    /// An answer to a question.
    RespondElicitation(ElicitationAnswer),
}

/// A prompt. Never has a `role`: Zed drops a message that says `user`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// The text.
    pub message: String,
    /// The turn's id.
    pub request_id: String,
    /// The agent's thread; `null` makes a new one.
    #[serde(default)]
    pub acp_thread_id: Option<String>,
    /// Which agent; absent or `zed-agent` is the editor's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    /// End the thread's running turn first.
    #[serde(default)]
    pub interrupt: bool,
}

/// Load a thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenThread {
    /// The agent's thread.
    pub acp_thread_id: String,
    /// Without one Zed says nothing when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The agent that made the thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
}

/// An answer to a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ElicitationAnswer {
    /// The agent's thread.
    pub acp_thread_id: String,
    /// The question.
    pub elicitation_id: String,
    /// `accept`, `decline`, `cancel`.
    pub action: String,
    /// With `accept` only.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub content: Value,
}

/// What an agent says. Each is the `data` of an [`EventFrame`] whose `event_type` is the variant's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event_type", content = "data", rename_all = "snake_case")]
pub enum AgentEvent {
    /// First frame of every connection. Not a heartbeat.
    Ping {
        /// Unix seconds.
        timestamp: i64,
    },
    /// It takes prompts. Comes several times per connection.
    AgentReady(AgentReady),
    /// Answer to a prompt without a thread.
    ThreadCreated {
        /// The agent's thread.
        acp_thread_id: String,
        /// The turn.
        request_id: String,
    },
    /// A person began a thread in the editor.
    UserCreatedThread {
        /// The agent's thread.
        acp_thread_id: String,
        /// For people.
        title: Option<String>,
    },
    /// A thread has a new title.
    ThreadTitleChanged {
        /// The agent's thread.
        acp_thread_id: String,
        /// New title.
        title: String,
    },
    /// An entry as it is now.
    MessageAdded(MessageAdded),
    /// The turn is over, also when it was cancelled.
    MessageCompleted(MessageCompleted),
    /// The turn was given up; nothing follows.
    ChatResponseError {
        /// The turn.
        request_id: String,
        /// Why.
        error: String,
    },
    /// A thread could not be loaded, or a prompt not sent to it.
    ThreadLoadError {
        /// The agent's thread.
        acp_thread_id: String,
        /// The turn, or the id of the `open_thread`.
        request_id: String,
        /// Why.
        error: String,
    },
    /// Answer to `cancel_current_turn`.
    TurnCancelled {
        /// The turn.
        request_id: String,
        /// `cancelled` or `noop`.
        status: String,
    },
    /// Answer to `query_ui_state`.
    UiStateResponse(Value),
    /// The agent asks.
    ElicitationRequested(ElicitationRequested),
    /// It has its answer, or gave up.
    ElicitationResolved {
        /// The agent's thread.
        acp_thread_id: String,
        /// The question.
        elicitation_id: String,
        /// `accepted`, `declined`, `cancelled`, `completed`.
        status: String,
    },
    /// Whether an answer was taken.
    ElicitationResponseAck {
        /// The question.
        elicitation_id: String,
        /// `accepted`, `noop`, `not_found`.
        status: String,
        /// Why not.
        #[serde(default)]
        error: String,
    },
}

/// It takes prompts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentReady {
    /// Agent, or `zed-connection` when nothing else was said for 5 s.
    #[serde(default)]
    pub agent_name: String,
    /// Thread that was loaded or made.
    #[serde(default)]
    pub thread_id: Option<String>,
    /// Every turn that it has; absent from builds that cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_turns: Option<Vec<ActiveTurn>>,
    /// *Ours.* It remembers every `request_id` on disk and never runs one twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deduplicates: bool,
    /// *Ours.* It works on several threads at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub concurrent: bool,
}

/// A turn that an agent has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveTurn {
    /// The turn.
    pub request_id: String,
    /// `queued` or `running`.
    #[serde(default)]
    pub state: String,
    /// Its thread, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acp_thread_id: Option<String>,
    /// *Ours.* `false`: it has said nothing for so long that it may hang. Being listed is no sign of its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched: Option<bool>,
}

/// An entry as it is now: `content` is the whole text, not an addition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MessageAdded {
    /// The agent's thread.
    pub acp_thread_id: String,
    /// The entry's index in the thread, as text.
    pub message_id: String,
    /// `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
    /// *Ours.* Bytes (UTF-8) of the former text that stay in front of `content`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_offset: Option<u64>,
    /// The turn; may be empty.
    #[serde(default)]
    pub request_id: String,
    /// `text` or `tool_call`.
    #[serde(default)]
    pub entry_type: String,
    /// Empty for text.
    #[serde(default)]
    pub tool_name: String,
    /// Empty for text.
    #[serde(default)]
    pub tool_status: String,
    /// Unix seconds.
    #[serde(default)]
    pub timestamp: i64,
}

/// The turn is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MessageCompleted {
    /// The agent's thread.
    pub acp_thread_id: String,
    /// Always `0`; says nothing.
    #[serde(default)]
    pub message_id: String,
    /// The turn; may be empty, stale or repeated.
    #[serde(default)]
    pub request_id: String,
    /// Agent.
    #[serde(default)]
    pub agent_name: String,
    /// What it took.
    #[serde(default)]
    pub usage: Option<TokenUsage>,
    /// *Ours.* Exit status of a shell command (kind `command`), as a shell tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
}

/// The agent asks a question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ElicitationRequested {
    /// The agent's thread.
    pub acp_thread_id: String,
    /// The turn.
    pub request_id: String,
    /// Index of the entry that it is about.
    pub entry_index: String,
    /// The question.
    pub elicitation_id: String,
    /// The tool call that it is about.
    pub tool_call_id: String,
    /// `form`, `url`; *ours*: `permission`.
    pub mode: String,
    /// For people.
    pub message: String,
    /// JSON Schema of the answer.
    pub requested_schema: Value,
    /// `pending`.
    pub status: String,
    /// Unix seconds.
    pub timestamp: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_prompt_is_written_in_zeds_words() {
        let message = ChatMessage {
            message: "hi".into(),
            request_id: "int_1".into(),
            acp_thread_id: None,
            agent_name: Some("zed-agent".into()),
            interrupt: false,
        };
        assert_eq!(
            serde_json::to_value(Command::ChatMessage(message)).expect("JSON"),
            json!({"type": "chat_message", "data": {
                "message": "hi", "request_id": "int_1", "acp_thread_id": null, "agent_name": "zed-agent", "interrupt": false}})
        );
    }

    #[test]
    fn the_contracts_examples_are_read() {
        for frame in [
            json!({"event_type":"ping","data":{"timestamp":1_795_000_000}}),
            json!({"event_type":"agent_ready","data":{"agent_name":"claude","thread_id":"th_7f2","active_turns":[{"request_id":"int_1","acp_thread_id":"th_7f2","state":"running"}]}}),
            json!({"event_type":"agent_ready","data":{"agent_name":"zed-agent","thread_id":null}}),
            json!({"event_type":"message_completed","data":{"acp_thread_id":"th_7f2","message_id":"0","request_id":"int_1","agent_name":"zed","usage":null}}),
        ] {
            serde_json::from_value::<AgentEvent>(frame.clone()).expect("an event of the contract");
        }
    }
}
