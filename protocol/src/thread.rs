//! Conversations as they are stored and told: the events of stream `HELIX_THREADS`.
//!
//! A session has threads, a thread has turns (a prompt and what came of it) and entries (what was said and done).
//! All of it is the fold of a thread's events, in the order of the stream; the event feed tells the very same events
//! with their sequence. Subject `threads.<session>.<thread>`; what belongs to no thread is under [`SESSION_THREAD`].

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{Epoch, SessionId, ThreadId, TurnId};

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// In the place of a thread: events of the session as a whole (its sync socket, events of no known thread).
pub const SESSION_THREAD: &str = "_";
/// Most characters of a prompt.
pub const MAX_PROMPT_CHARS: usize = 200_000;
/// Most bytes of `data` kept of an event that is only passed on; more is cut off and said so.
pub const MAX_CUSTOM_BYTES: usize = 256 * 1024;
/// Most bytes of text in one stored [`ThreadEvent::Entry`]; a longer piece is stored as several.
pub const MAX_ENTRY_PIECE_BYTES: usize = 512 * 1024;

/// How a turn is.
///
/// `queued → dispatched → running → completed | failed | interrupted | cancelled`. `unknown` says that nobody can
/// prove what became of it: it is final for the queue, yet later evidence from the agent still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub enum TurnState {
    /// Accepted and durable; not handed to the agent.
    Queued,
    /// Handed to the agent, or about to be: written before the frame is sent.
    Dispatched,
    /// The agent has shown that it works on it.
    Running,
    /// The agent said that it is done.
    Completed,
    /// The agent, or we, said that it cannot be done; the cause says why.
    Failed,
    /// Ended by a later prompt that interrupted it.
    Interrupted,
    /// Ended on request.
    Cancelled,
    /// It was handed over, and nobody can prove what became of it.
    Unknown,
}

impl TurnState {
    /// Every state, in the order of a turn's life.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Dispatched,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Interrupted,
        Self::Cancelled,
        Self::Unknown,
    ];

    /// True once the queue goes on without it.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Dispatched | Self::Running)
    }

    /// True while the agent has it, as far as is known.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Dispatched | Self::Running)
    }
}

impl std::fmt::Display for TurnState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        };
        f.write_str(word)
    }
}

/// Why a turn is in its state, where there is a why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct TurnCause {
    /// Stable word: `agent_error`, `no_thread_created`, `silent`, `thread_gone`, `agent_crashed`, `not_proved`, `end_lost`,
    /// `exit_status`, `stopped`, …
    pub code: String,
    /// For people: what happened and what to do.
    pub message: String,
}

impl TurnCause {
    /// A cause.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

/// Tokens that a turn took, as its agent counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct TokenUsage {
    /// All together.
    pub total_tokens: u64,
    /// Read.
    pub input_tokens: u64,
    /// Written.
    pub output_tokens: u64,
    /// Thought.
    pub thought_tokens: u64,
    /// Read from a cache.
    pub cached_read_tokens: u64,
    /// Written to a cache.
    pub cached_write_tokens: u64,
}

impl std::ops::AddAssign for TokenUsage {
    fn add_assign(&mut self, other: Self) {
        self.total_tokens = self.total_tokens.saturating_add(other.total_tokens);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.thought_tokens = self.thought_tokens.saturating_add(other.thought_tokens);
        self.cached_read_tokens = self.cached_read_tokens.saturating_add(other.cached_read_tokens);
        self.cached_write_tokens = self.cached_write_tokens.saturating_add(other.cached_write_tokens);
    }
}

/// Who began a thread or a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub enum Origin {
    /// A prompt through the API.
    Api,
    /// The session's own `input`.
    Input,
    /// A person in the editor.
    Editor,
}

/// Who speaks in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub enum Role {
    /// A person, in the editor.
    User,
    /// The agent.
    Assistant,
}

/// A tool that the agent used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ToolCall {
    /// Its name, for people.
    pub name: String,
    /// The agent's word: `Pending`, `Waiting for confirmation`, `In Progress`, `Completed`, `Failed`, `Rejected`,
    /// `Canceled`, or empty.
    pub status: String,
}

/// What an answer to a question can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub enum AnswerAction {
    /// Yes, with `content` where the question has a schema.
    Accept,
    /// No.
    Decline,
    /// Neither: the question is taken away.
    Cancel,
}

/// One thing that happened in a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub enum ThreadEvent {
    /// First event of a thread.
    ThreadStarted {
        /// By whom.
        origin: Origin,
        /// Name of the token that asked for it; absent for the editor's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Agent that serves it; the session's own where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        /// For people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// The session id under which it was asked for, where that is another name of this session's desktop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        work_session: Option<SessionId>,
    },
    /// The agent's own id of the thread. `null`: the agent lost it, and the next turn begins a new one there.
    ThreadBound {
        /// The agent's id.
        acp_thread_id: Option<String>,
    },
    /// Its title changed.
    ThreadRenamed {
        /// New title.
        title: String,
    },
    /// A prompt was accepted. First event of a turn.
    TurnQueued {
        /// Which.
        turn: TurnId,
        /// By whom.
        origin: Origin,
        /// Name of the token that asked for it; absent for the editor's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// What was asked.
        prompt: String,
        /// Ends the thread's running turn instead of waiting for it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        interrupt: bool,
        /// Paths in the workspace that go with it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attachments: Vec<String>,
        /// The turn that this one asks again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resend_of: Option<TurnId>,
    },
    /// A turn moved.
    TurnMoved {
        /// Which.
        turn: TurnId,
        /// To which state.
        state: TurnState,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<TurnCause>,
        /// What it took, once it is over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<TokenUsage>,
        /// Exit status of a shell command (kind `command`), once it is over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_status: Option<i32>,
    },
    /// Somebody asked for a turn's end; it is over when the turn says so.
    CancelRequested {
        /// Which.
        turn: TurnId,
        /// Name of the token.
        by: String,
    },
    /// Something said or done. The entry's text is its former text up to byte `offset`, followed by `text`:
    /// `offset` equal to the former length appends, a smaller one rewrites.
    Entry {
        /// The agent's id of it: in the thread, stable.
        entry: String,
        /// Where it stands at its first appearance: right before this entry, which was heard sooner. None: last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        /// Turn it belongs to, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        turn: Option<TurnId>,
        /// Who.
        role: Role,
        /// Set for a use of a tool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tool: Option<ToolCall>,
        /// Bytes (UTF-8) of the former text that stay.
        offset: u64,
        /// What follows them.
        text: String,
    },
    /// The agent asks: a question, or leave to use a tool. Anyone may answer, once.
    QuestionAsked {
        /// Which: the agent's id.
        question: String,
        /// Turn that waits for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        turn: Option<TurnId>,
        /// `form`, `url`, `permission`, …
        mode: String,
        /// For people.
        message: String,
        /// JSON Schema of the answer's content, as the agent gave it.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        schema: Value,
        /// Entry of the tool call that it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entry: Option<String>,
    },
    /// Somebody answered; it goes to the agent as soon as its socket is there.
    QuestionAnswered {
        /// Which.
        question: String,
        /// How.
        action: AnswerAction,
        /// With `accept`: what the schema asks for.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        content: Value,
        /// Name of the token.
        by: String,
    },
    /// The agent is not waiting any more.
    QuestionClosed {
        /// Which.
        question: String,
        /// `accepted`, `declined`, `cancelled`, `completed`, `expired`.
        status: String,
    },
    /// The session's sync socket: in the log of the session.
    Sync {
        /// `connected`, `ready`, `disconnected`, `refused`.
        state: String,
        /// For people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// With `disconnected`: turns whose end may have been lost with the socket.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        in_doubt: Vec<TurnId>,
        /// With `connected` and `ready`: of which assignment of the session its agent is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
    },
    /// An event of the agent's that has no meaning to us, under its own name.
    Custom {
        /// Its name.
        name: String,
        /// As it came; a text that ends in `…` where it was longer than [`MAX_CUSTOM_BYTES`].
        data: Value,
    },
    /// Written by a newer version: kept, told, and left alone.
    #[serde(other)]
    Unreadable,
}

/// A message of the stream: an event and when the server wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ThreadRecord {
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: ThreadEvent,
}

/// What the feed of a session tells: `sequence` resumes it (`?after=SEQUENCE`, or SSE's `Last-Event-ID`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ThreadFeedItem {
    /// Sequence in stream `HELIX_THREADS`.
    pub sequence: u64,
    /// Which thread; `_` for the session as a whole.
    pub thread: ThreadId,
    /// What and when.
    #[serde(flatten)]
    pub record: ThreadRecord,
}

/// Names and values that a session's agent gets and nobody else sees: model keys.
pub type Secrets = BTreeMap<String, String>;
