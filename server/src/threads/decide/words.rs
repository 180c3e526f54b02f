//! What an agent says, in one form for both dialects: today's fork's, and that of document 000.
//!
//! Lenient: a field that is absent or of another type is taken for its default where the event still makes sense,
//! what makes none is an event like any other, kept under its own name. Nothing that an agent sends ends its socket.

use helix_protocol::sync::{AgentReady, ElicitationRequested};
use helix_protocol::thread::{Role, TokenUsage, ToolCall};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest piece of a malformed frame that is kept.
const EXCERPT: usize = 200;

/// One thing that an agent said. Servers pass it to each other too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Said {
    /// It takes prompts.
    Ready(AgentReady),
    /// A prompt has its thread.
    ThreadCreated {
        /// The agent's thread.
        acp: String,
        /// The turn; the old dialect does not say.
        request: Option<String>,
        /// For people.
        title: Option<String>,
    },
    /// A person began a thread.
    UserThread {
        /// The agent's thread.
        acp: String,
        /// For people.
        title: Option<String>,
    },
    /// A thread has a new title.
    Title {
        /// The agent's thread.
        acp: String,
        /// New title.
        title: String,
    },
    /// An entry changed.
    Entry(Box<EntrySaid>),
    /// A turn is over.
    Done(Done),
    /// A turn was given up.
    GivenUp {
        /// The turn.
        request: String,
        /// Why.
        error: String,
    },
    /// A thread could not be loaded, or a prompt not be sent to it.
    LoadFailed {
        /// The agent's thread.
        acp: String,
        /// The turn, or the id of the `open_thread`.
        request: String,
        /// Why.
        error: String,
    },
    /// Answer to a cancel.
    Cancelled {
        /// The turn.
        request: String,
        /// False: there was nothing to cancel.
        done: bool,
    },
    /// The agent asks.
    Asked(Box<ElicitationRequested>),
    /// The agent is not waiting any more.
    Resolved {
        /// The agent's thread.
        acp: String,
        /// The question.
        question: String,
        /// Its last word.
        status: String,
    },
    /// Questions that still wait.
    StillAsked {
        /// The agent's thread.
        acp: String,
        /// All that wait there.
        questions: Vec<String>,
    },
    /// Whether an answer was taken.
    AnswerTaken {
        /// The question.
        question: String,
        /// `accepted`, `noop`, `not_found`.
        status: String,
    },
    /// Anything else.
    Other {
        /// Its name.
        name: String,
        /// Its data.
        data: Value,
    },
    /// No event at all: not JSON, or binary.
    Malformed {
        /// How many in a row.
        count: u64,
        /// What is wrong with the first.
        problem: String,
        /// How it begins.
        excerpt: String,
    },
}

/// An entry as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntrySaid {
    /// The agent's thread; the old dialect's answers do not say.
    pub acp: Option<String>,
    /// The agent's id of it.
    pub id: String,
    /// The turn, where it says one.
    pub request: Option<String>,
    /// Who.
    pub role: Role,
    /// Use of a tool.
    pub tool: Option<ToolCall>,
    /// Its text.
    pub text: Text,
    /// It was told twice, the same or one right after the other, as before an end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flushed: bool,
}

/// How the text of an entry changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Text {
    /// So many bytes of what it was, then this.
    From(u64, String),
    /// This more.
    Append(String),
}

/// A turn is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The agent's thread.
    pub acp: Option<String>,
    /// The turn; may be stale.
    pub request: Option<String>,
    /// What it took.
    pub usage: Option<TokenUsage>,
    /// Of a shell command.
    pub exit_status: Option<i32>,
}

/// A frame as it was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// What it says, in order; nothing for a `ping`.
    pub said: Vec<Said>,
    /// It is of document 000's dialect.
    pub seed: bool,
}

/// Reads a text frame.
pub fn read(frame: &str) -> Heard {
    let mut envelope: Envelope = match serde_json::from_str(frame) {
        Ok(envelope) => envelope,
        Err(error) => return Heard { said: vec![malformed(&error.to_string(), frame)], seed: false },
    };
    let name = envelope.event_type.as_str();
    let seed = envelope.session_id.is_some()
        || name.starts_with("context_")
        || ["chat_response", "chat_response_chunk", "chat_response_done"].contains(&name);
    let said = understand(name, &mut envelope.data).unwrap_or_else(|| {
        // Not what its name promises, or a name that says nothing to us.
        vec![Said::Other { name: envelope.event_type.clone(), data: envelope.data.clone() }]
    });
    Heard { said, seed }
}

/// A frame that is no event.
pub fn malformed(problem: &str, frame: &str) -> Said {
    let excerpt = frame[..frame.floor_char_boundary(EXCERPT)].to_owned();
    Said::Malformed { count: 1, problem: problem.to_owned(), excerpt }
}

#[derive(Deserialize)]
struct Envelope {
    event_type: String,
    #[serde(default)]
    session_id: Option<Value>,
    #[serde(default)]
    data: Value,
}

fn understand(name: &str, data: &mut Value) -> Option<Vec<Said>> {
    let one = |said| Some(vec![said]);
    match name {
        "ping" => Some(Vec::new()),
        "agent_ready" => one(Said::Ready(ready(data)?)),
        "thread_created" => one(Said::ThreadCreated { acp: thread(data)?, request: request(data), title: None }),
        "context_created" => {
            one(Said::ThreadCreated { acp: thread(data)?, request: request(data), title: filled(data, "title") })
        }
        "user_created_thread" => one(Said::UserThread { acp: thread(data)?, title: filled(data, "title") }),
        "thread_title_changed" | "context_title_changed" => {
            let title = filled(data, "title").or_else(|| filled(data, "new_title"))?;
            one(Said::Title { acp: thread(data)?, title })
        }
        "message_added" | "message_updated" => one(Said::Entry(Box::new(entry(data)?))),
        "message_completed" => one(Said::Done(Done {
            acp: thread(data),
            request: request(data),
            usage: data.get("usage").and_then(usage),
            exit_status: data.get("exit_status").and_then(|status| status.as_i64()?.try_into().ok()),
        })),
        "chat_response_chunk" => one(answer(data, Text::Append(text(data, "chunk")?))?),
        "chat_response" => {
            Some(vec![answer(data, Text::From(0, text(data, "content")?))?, Said::Done(done_of(request(data)?))])
        }
        "chat_response_done" => one(Said::Done(done_of(request(data)?))),
        "chat_response_error" => {
            one(Said::GivenUp { request: request(data)?, error: text(data, "error").unwrap_or_default() })
        }
        "thread_load_error" => one(Said::LoadFailed {
            acp: thread(data).unwrap_or_default(),
            request: request(data).unwrap_or_default(),
            error: text(data, "error").unwrap_or_default(),
        }),
        "turn_cancelled" => {
            let status = text(data, "status").unwrap_or_default();
            one(Said::Cancelled { request: request(data)?, done: status == "cancelled" })
        }
        "elicitation_requested" => {
            let asked: ElicitationRequested = serde_json::from_value(data.clone()).ok()?;
            (!asked.elicitation_id.is_empty()).then(|| vec![Said::Asked(Box::new(asked))])
        }
        "elicitation_resolved" => one(Said::Resolved {
            acp: thread(data).unwrap_or_default(),
            question: filled(data, "elicitation_id")?,
            status: filled(data, "status").unwrap_or_else(|| "completed".to_owned()),
        }),
        "elicitation_resync" => {
            let ids = data.get("elicitation_ids").and_then(Value::as_array)?;
            let questions = ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
            one(Said::StillAsked { acp: thread(data).unwrap_or_default(), questions })
        }
        "elicitation_response_ack" => one(Said::AnswerTaken {
            question: filled(data, "elicitation_id")?,
            status: text(data, "status").unwrap_or_default(),
        }),
        _ => None,
    }
}

fn ready(data: &Value) -> Option<AgentReady> {
    if !data.is_object() {
        return None;
    }
    // Each field by itself: one that cannot be read must not cost the others.
    Some(AgentReady {
        agent_name: text(data, "agent_name").unwrap_or_default(),
        thread_id: filled(data, "thread_id"),
        active_turns: data
            .get("active_turns")
            .and_then(Value::as_array)
            .map(|turns| turns.iter().filter_map(|turn| serde_json::from_value(turn.clone()).ok()).collect()),
        deduplicates: data.get("deduplicates").and_then(Value::as_bool).unwrap_or_default(),
        concurrent: data.get("concurrent").and_then(Value::as_bool).unwrap_or_default(),
    })
}

fn entry(data: &mut Value) -> Option<EntrySaid> {
    let tool = text(data, "tool_name").unwrap_or_default();
    let is_tool = !tool.is_empty() || data.get("entry_type").and_then(Value::as_str) == Some("tool_call");
    let offset = data.get("content_offset").and_then(Value::as_u64).unwrap_or_default();
    let acp = thread(data)?;
    // The first fork sent a number.
    let id = match data.get("message_id")? {
        Value::String(id) => id.clone(),
        Value::Number(id) => id.to_string(),
        _ => return None,
    };
    // Last, and not copied: it may be long.
    let Value::String(content) = data.get_mut("content").filter(|content| content.is_string())?.take() else {
        return None;
    };
    Some(EntrySaid {
        acp: Some(acp),
        id,
        request: request(data),
        role: if data.get("role").and_then(Value::as_str) == Some("user") { Role::User } else { Role::Assistant },
        tool: is_tool.then(|| ToolCall { name: tool, status: text(data, "tool_status").unwrap_or_default() }),
        text: Text::From(offset, content),
        flushed: false,
    })
}

/// The old dialect's answers are entries named after their request.
fn answer(data: &Value, text: Text) -> Option<Said> {
    let request = request(data)?;
    Some(Said::Entry(Box::new(EntrySaid {
        acp: thread(data),
        id: request.clone(),
        request: Some(request),
        role: Role::Assistant,
        tool: None,
        text,
        flushed: false,
    })))
}

fn done_of(request: String) -> Done {
    Done { request: Some(request), ..Done::default() }
}

fn usage(data: &Value) -> Option<TokenUsage> {
    serde_json::from_value(data.clone()).ok().filter(|_| data.is_object())
}

fn thread(data: &Value) -> Option<String> {
    filled(data, "acp_thread_id").or_else(|| filled(data, "context_id"))
}

fn request(data: &Value) -> Option<String> {
    filled(data, "request_id")
}

fn text(data: &Value, key: &str) -> Option<String> {
    data.get(key)?.as_str().map(str::to_owned)
}

fn filled(data: &Value, key: &str) -> Option<String> {
    text(data, key).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
