//! Bodies of `/api/v1/sessions/{id}/threads/…`, `/api/v1/spec-tasks/…` and `/api/v1/secrets/…`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{SessionId, SpecTaskId, ThreadId, TurnId};
use crate::thread::{AnswerAction, Origin, Role, TokenUsage, ToolCall, TurnCause, TurnState};

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// Most bytes of an entry's text in a page; the rest is at `…/entries/{entry}?offset=`.
pub const ENTRY_TEXT_BYTES: usize = 64 * 1024;

/// `POST /api/v1/sessions/{id}/threads`: a thread and its first prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CreateThread {
    /// What to do.
    pub prompt: String,
    /// Agent that shall serve it (`claude`, `codex`, …); the session's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Paths in the workspace that go with the prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<String>,
    /// The same key with the same body is the same request (also as header `Idempotency-Key`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// `POST …/threads/{thread}/prompts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SendPrompt {
    /// What to do.
    pub prompt: String,
    /// End the thread's running turn; otherwise the prompt waits for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupt: bool,
    /// Paths in the workspace that go with the prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<String>,
    /// The same key with the same body is the same request (also as header `Idempotency-Key`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// `POST …/threads/{thread}/cancel`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CancelTurn {
    /// Which; the one that the agent has where absent, else the next in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
}

/// `PATCH …/threads/{thread}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct RenameThread {
    /// New title, 1 to 200 characters.
    pub title: String,
}

/// `POST …/threads/{thread}/questions/{question}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct AnswerQuestion {
    /// How.
    pub action: AnswerAction,
    /// With `accept`: what the question's schema asks for.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub content: Value,
}

/// A thread without its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ThreadView {
    /// Ours, stable.
    pub id: ThreadId,
    /// Session whose desktop it is on.
    pub session: SessionId,
    /// The session id that it was asked for under, where that is another name of the desktop.
    pub work_session: Option<SessionId>,
    /// For people.
    pub title: Option<String>,
    /// Agent that serves it; the session's own where absent.
    pub agent: Option<String>,
    /// Who began it.
    pub origin: Origin,
    /// The agent's own id of it, once it has one.
    pub acp_thread_id: Option<String>,
    /// State of its newest turn.
    pub state: Option<TurnState>,
    /// The turn that the agent has, as far as is known.
    pub active_turn: Option<TurnId>,
    /// Turns that wait.
    pub queued: u32,
    /// All turns.
    pub turns: u32,
    /// Questions that wait for an answer.
    pub open_questions: u32,
    /// Tokens of all its turns.
    pub usage: TokenUsage,
    /// When it began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When something happened in it last.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub last_activity_at: Timestamp,
    /// Sequence of its last event that this answer knows: where to resume the feed.
    pub sequence: u64,
}

/// `GET …/threads`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ThreadList {
    /// By creation, oldest first.
    pub threads: Vec<ThreadView>,
    /// Tokens of all of them.
    pub usage: TokenUsage,
}

/// `POST …/threads`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ThreadCreated {
    /// The thread.
    #[serde(flatten)]
    pub thread: ThreadView,
    /// Its first turn.
    pub turn: TurnView,
}

/// A prompt and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct TurnView {
    /// Which.
    pub id: TurnId,
    /// Thread that it is in.
    pub thread: ThreadId,
    /// How it is.
    pub state: TurnState,
    /// Why.
    pub cause: Option<TurnCause>,
    /// Who asked.
    pub origin: Origin,
    /// Name of the token that asked.
    pub by: Option<String>,
    /// What was asked.
    pub prompt: String,
    /// Paths in the workspace that went with it.
    pub attachments: Vec<String>,
    /// It ended, or ends, the turn before it.
    pub interrupt: bool,
    /// Somebody asked for its end.
    pub cancel_requested: bool,
    /// The turn that it asks again.
    pub resend_of: Option<TurnId>,
    /// Tokens, once over.
    pub usage: Option<TokenUsage>,
    /// Exit status of a shell command (kind `command`).
    pub exit_status: Option<i32>,
    /// When it was accepted.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub queued_at: Timestamp,
    /// When it went to the agent.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub dispatched_at: Option<Timestamp>,
    /// When it was over.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub finished_at: Option<Timestamp>,
}

/// Something said or done, in the order of first appearance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct EntryView {
    /// The agent's id of it.
    pub id: String,
    /// Turn it belongs to, where known.
    pub turn: Option<TurnId>,
    /// Who.
    pub role: Role,
    /// Set for a use of a tool.
    pub tool: Option<ToolCall>,
    /// The first [`ENTRY_TEXT_BYTES`] of its text.
    pub text: String,
    /// Bytes (UTF-8) of its whole text.
    pub length: u64,
    /// True when `text` is not all of it.
    pub truncated: bool,
}

/// `GET …/threads/{thread}/entries/{entry}?offset=&limit=`: a piece of a long entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct EntryPiece {
    /// Which.
    pub id: String,
    /// Byte at which `text` begins, at or after the one asked for.
    pub offset: u64,
    /// The piece.
    pub text: String,
    /// Bytes of the whole text.
    pub length: u64,
}

/// A question of the agent's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct QuestionView {
    /// Which.
    pub id: String,
    /// Turn that waits for it.
    pub turn: Option<TurnId>,
    /// `form`, `url`, `permission`, …
    pub mode: String,
    /// For people.
    pub message: String,
    /// JSON Schema of the answer.
    pub schema: Value,
    /// Entry of the tool call that it is about.
    pub entry: Option<String>,
    /// `open`, `answered`, or the agent's last word (`accepted`, `declined`, `cancelled`, `completed`, `expired`).
    pub status: String,
    /// Name of the token that answered.
    pub answered_by: Option<String>,
}

/// An event of the agent's that has no meaning to Helix, under its own name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CustomView {
    /// Its sequence in the feed.
    pub sequence: u64,
    /// When it came.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Its name.
    pub name: String,
    /// As it came.
    pub data: Value,
    /// The turn that the agent had then, else the one before.
    pub turn: Option<TurnId>,
}

/// `GET …/threads/{thread}?cursor=&limit=` or `?last=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ThreadDetail {
    /// The thread.
    #[serde(flatten)]
    pub thread: ThreadView,
    /// Its turns, oldest first; of long threads the last 200.
    pub recent_turns: Vec<TurnView>,
    /// Entries of the thread before the first of this page.
    #[serde(default)]
    pub entries_before: u64,
    /// A page of its entries.
    pub entries: Vec<EntryView>,
    /// Its newest events that have no meaning to Helix, oldest first: at most 50.
    #[serde(default)]
    pub custom_events: Vec<CustomView>,
    /// Questions that wait for an answer.
    pub questions: Vec<QuestionView>,
    /// Give as `cursor` for the next page of entries; absent on the last.
    pub next_cursor: Option<String>,
}

/// `POST /api/v1/spec-tasks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CreateSpecTask {
    /// Made up where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_task_id: Option<SpecTaskId>,
    /// Its desktop, as `POST /api/v1/sessions` takes it; `spec_task` in it is filled in.
    #[serde(default)]
    pub session: super::CreateSession,
}

/// A spec task in document 000's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SpecTaskView {
    /// Which.
    pub spec_task_id: SpecTaskId,
    /// Its one agent instance.
    pub zed_instance_id: String,
    /// The session whose desktop it is.
    pub helix_session_id: SessionId,
    /// Its threads, oldest first.
    pub contexts: Vec<SpecTaskContext>,
}

/// A thread of a spec task in document 000's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SpecTaskContext {
    /// Our id of the thread.
    pub zed_context_id: ThreadId,
    /// The agent's id of it; `null` until it has one.
    pub zed_thread_id: Option<String>,
    /// Its newest turn.
    pub helix_interaction_id: Option<TurnId>,
    /// The session id that it was asked for under.
    pub work_session_id: SessionId,
}

/// `GET /api/v1/spec-tasks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SpecTaskList {
    /// By creation, newest first.
    pub spec_tasks: Vec<SpecTaskView>,
}

/// `PUT /api/v1/secrets/{name}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SetSecret {
    /// The value. Never told again, not even to its owner.
    pub value: String,
}

impl std::fmt::Debug for SetSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetSecret").finish_non_exhaustive()
    }
}

/// A stored secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SecretView {
    /// Its name: that of an environment variable.
    pub name: String,
    /// When it was stored.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub stored_at: Timestamp,
}

/// `GET /api/v1/secrets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SecretList {
    /// The caller's own, by name.
    pub secrets: Vec<SecretView>,
}
