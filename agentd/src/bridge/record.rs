//! What the bridge writes down, one JSON line each. The state is their fold ([`super::conversation`]).

use helix_protocol::session::SessionResult;
use helix_protocol::thread::TokenUsage;
use serde::{Deserialize, Serialize};

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Record {
    /// A prompt is ours now: it will run once, or be told to have failed.
    Accepted {
        /// Its id.
        request: String,
        /// The thread that it goes on with; a new one where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thread: Option<String>,
        /// The text.
        message: String,
        /// Agent, as the server named it.
        #[serde(default)]
        agent: String,
        /// Who asked.
        origin: Origin,
    },
    /// The prompt's thread exists.
    Bound {
        /// The prompt.
        request: String,
        /// The thread.
        thread: String,
    },
    /// The prompt is about to be given to the agent. After this it is never given again.
    Started {
        /// The prompt.
        request: String,
        /// Index of the prompt itself among the thread's entries.
        index: u64,
    },
    /// A piece of an entry.
    Entry {
        /// The prompt that it belongs to.
        request: String,
        /// Its index in the thread.
        index: u64,
        /// Said by a person.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        user: bool,
        /// Use of a tool.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tool: Option<Tool>,
        /// Bytes of the former text that stay.
        #[serde(default)]
        keep: usize,
        /// What follows them.
        text: String,
    },
    /// The agent asked something.
    Asked {
        /// The prompt that waits.
        request: String,
        /// The question.
        question: String,
    },
    /// The agent does not wait for it any more.
    Closed {
        /// The prompt that waited.
        request: String,
        /// The question.
        question: String,
        /// `accepted`, `declined`, `cancelled`.
        status: String,
    },
    /// Somebody wants its end.
    Cancelling {
        /// The prompt.
        request: String,
    },
    /// It is over.
    Over {
        /// The prompt.
        request: String,
        /// How.
        end: End,
        /// What it took.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<TokenUsage>,
        /// Of a shell command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_status: Option<i32>,
        /// Of the first prompt: the session's result.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<SessionResult>,
    },
    /// The server's end of a socket has taken its outcome.
    Told {
        /// The prompt.
        request: String,
    },
    /// The session's result is on the guest's disk.
    ResultKept,
    /// A thread, in a journal that was written anew.
    Thread {
        /// Which.
        thread: String,
        /// Index of its next entry.
        next: u64,
        /// For people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
    },
    /// Written by a newer version.
    #[serde(other)]
    Unreadable,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The server: `chat_message`.
    Server,
    /// The server, as if a person had typed it: `simulate_user_input`.
    Simulated,
    /// A person at the desktop.
    Typed,
}

/// A tool that was used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// For people.
    pub name: String,
    /// In the contract's words.
    pub status: String,
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum End {
    /// By itself.
    Completed,
    /// On request.
    Cancelled,
    /// A later prompt took its place.
    Interrupted,
    /// It could not be done, or nobody knows what became of it.
    Failed {
        /// For people.
        error: String,
    },
    /// The agent never got it, since its thread cannot be loaded. The same id may come again.
    NotStarted {
        /// For people, and with the substrings that servers look for.
        error: String,
    },
}
