//! Between the engine and what runs turns, a shell or an ACP agent: orders one way, news the other.
//!
//! For one turn: [`Order::Prepare`] → [`News::Prepared`] (the thread exists and can take it) → the engine writes down that
//! it starts → [`Order::Prompt`] → any [`News::Change`] → [`News::Over`]. Nothing runs before the second order.

use helix_protocol::thread::TokenUsage;
use rustix::termios::Winsize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::record::{End, Tool};

/// To what runs turns.
#[derive(Debug)]
pub enum Order {
    /// Make the thread, or load it.
    Prepare {
        /// For this turn.
        request: String,
        /// The thread; a new one where absent.
        thread: Option<String>,
    },
    /// Run it. Follows [`News::Prepared`].
    Prompt {
        /// The turn.
        request: String,
        /// Its thread.
        thread: String,
        /// The text.
        text: String,
    },
    /// End the turn: [`News::Over`] follows.
    Cancel {
        /// The turn.
        request: String,
    },
    /// An answer to a question that is open.
    Answer {
        /// The question.
        question: String,
        /// `accept`, `decline`, `cancel`.
        action: String,
        /// What was chosen.
        content: Value,
    },
    /// Load a thread: [`News::Opened`] follows.
    Open {
        /// The thread.
        thread: String,
        /// Id of the wish.
        request: Option<String>,
        /// Agent, as the server named it.
        agent: String,
    },
    /// Choose another mode or model: [`News::Offer`] or [`News::Custom`] tells what came of it.
    Set {
        /// The thread.
        thread: String,
        /// Which of them.
        setting: Setting,
        /// Its id or name.
        wanted: String,
    },
    /// What a person typed while a command runs.
    Keys {
        /// The turn.
        request: String,
        /// As typed.
        bytes: Vec<u8>,
    },
    /// The window has another size.
    Resize(Winsize),
}

/// What can be chosen in a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// How the agent works.
    Mode,
    /// Which model it asks.
    Model,
}

impl Setting {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mode => "mode",
            Self::Model => "model",
        }
    }
}

/// From what runs turns.
#[derive(Debug)]
pub enum News {
    /// It takes prompts.
    Ready,
    /// The turn's thread can take it.
    Prepared {
        /// The turn.
        request: String,
        /// Its thread.
        thread: String,
    },
    /// The turn's thread cannot be had. It has not been given to the agent.
    NotPrepared {
        /// The turn.
        request: String,
        /// Why.
        end: End,
    },
    /// The answer to [`Order::Open`].
    Opened {
        /// The thread that was asked for.
        thread: String,
        /// Id of the wish.
        request: Option<String>,
        /// Agent, as the server named it.
        agent: String,
        /// Why it cannot be loaded.
        error: Option<String>,
    },
    /// Something was said or done.
    Change(Change),
    /// The very bytes that a command wrote, for the window.
    Raw {
        /// The turn.
        request: String,
        /// As written.
        bytes: Vec<u8>,
    },
    /// It asks.
    Asked(Question),
    /// It does not wait any more.
    Closed {
        /// The question.
        question: String,
        /// `accepted`, `declined`, `cancelled`.
        status: String,
    },
    /// The turn is over.
    Over(Over),
    /// A thread has a title.
    Title {
        /// The thread.
        thread: String,
        /// For people.
        title: String,
    },
    /// What can be chosen in a thread, and what is chosen.
    Offer {
        /// The thread.
        thread: String,
        /// The data of `agent_modes`.
        data: Value,
    },
    /// For the event feed, under a name of its own.
    Custom {
        /// Its name.
        name: &'static str,
        /// What.
        data: Value,
    },
    /// For the person at the window.
    Notice(String),
    /// It cannot run at all.
    Fatal(String),
}

/// A turn's end.
#[derive(Debug)]
pub struct Over {
    /// The turn.
    pub request: String,
    /// How.
    pub end: End,
    /// Tokens.
    pub usage: Option<TokenUsage>,
    /// Of a command.
    pub exit_status: Option<i32>,
    /// End of a command's output, byte for byte but for line ends, and whether it is not all.
    pub tail: Option<(String, bool)>,
}

/// A change of an entry, or a new one.
#[derive(Debug)]
pub struct Change {
    /// The turn.
    pub request: String,
    /// Which entry of the turn's; the same for ever.
    pub key: u32,
    /// Use of a tool.
    pub tool: Option<Tool>,
    /// Bytes of the former text that stay.
    pub keep: usize,
    /// What follows them.
    pub text: String,
}

/// A question of the agent's.
#[derive(Debug, Clone)]
pub struct Question {
    /// Ours.
    pub id: String,
    /// The turn that waits.
    pub request: String,
    /// Its thread.
    pub thread: String,
    /// Entry that it is about.
    pub key: Option<u32>,
    /// The tool call that it is about.
    pub tool_call: String,
    /// `permission`, `form`, `url`.
    pub mode: &'static str,
    /// For people.
    pub message: String,
    /// JSON Schema of the answer.
    pub schema: Value,
    /// What can be chosen, with `permission`.
    pub choices: Vec<Choice>,
}

/// One answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The agent's id of it.
    pub id: String,
    /// For people.
    pub name: String,
    /// `allow_once`, `allow_always`, `reject_once`, `reject_always`.
    pub kind: String,
}

impl Choice {
    /// The answer to a question for leave, as a schema: one of the agent's options.
    pub fn schema(choices: &[Self]) -> Value {
        let ids: Vec<_> = choices.iter().map(|choice| choice.id.as_str()).collect();
        let names: Vec<_> = choices.iter().map(|choice| choice.name.as_str()).collect();
        let kinds: Vec<_> = choices.iter().map(|choice| choice.kind.as_str()).collect();
        json!({
            "type": "object", "required": ["option"],
            "properties": {"option": {"type": "string", "enum": ids, "enumNames": names, "x-kinds": kinds}},
        })
    }
}

/// Where news go.
pub type NewsSender = mpsc::Sender<News>;
/// Where orders go.
pub type OrderSender = mpsc::UnboundedSender<Order>;

/// 24 random hexadecimal digits behind `prefix`.
pub fn new_id(prefix: &str) -> String {
    let mut bytes = [0; 12];
    if getrandom::fill(&mut bytes).is_err() {
        // Unique is enough.
        let now = jiff::Timestamp::now().as_nanosecond().to_le_bytes();
        bytes.copy_from_slice(&now[..12]);
    }
    bytes.iter().fold(prefix.to_owned(), |id, byte| format!("{id}{byte:02x}"))
}
