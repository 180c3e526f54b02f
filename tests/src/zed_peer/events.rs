//! The editor's events as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::state::Entry;
use super::{Dialect, SeedStyle};

/// An event in its envelope: two keys today, four in the seed.
#[expect(clippy::needless_pass_by_value, reason = "callers have made it for this")]
pub(super) fn envelope(dialect: Dialect, session: &str, event: &str, data: Value) -> Value {
    match dialect {
        Dialect::Today => json!({"event_type": event, "data": data}),
        Dialect::Seed(_) => json!({
            "session_id": session,
            "event_type": event,
            "data": data,
            "timestamp": jiff::Timestamp::now().to_string(),
        }),
    }
}

/// First frame of every connection.
pub(super) fn ping(dialect: Dialect, session: &str) -> Value {
    envelope(dialect, session, "ping", json!({"timestamp": now()}))
}

/// `message_added` of today.
pub(super) fn message_added(thread: &str, place: usize, entry: &Entry) -> Value {
    let (kind, tool, status) = match &entry.tool {
        Some((name, status)) => ("tool_call", name.as_str(), status.as_str()),
        None => ("text", "", ""),
    };
    json!({
        "acp_thread_id": thread,
        "message_id": place.to_string(),
        "role": entry.role,
        "content": entry.content,
        "request_id": entry.request_id,
        "entry_type": kind,
        "tool_name": tool,
        "tool_status": status,
        "timestamp": now(),
    })
}

/// `message_added` and `message_updated` of the seed.
pub(super) fn seed_message(style: SeedStyle, context: &str, place: usize, entry: &Entry) -> Value {
    let id = if style == SeedStyle::NumberedMessages { json!(place) } else { json!(format!("m{place}")) };
    json!({"context_id": context, "message_id": id, "content": entry.content, "role": entry.role})
}

/// `message_completed`. Its `message_id` says nothing.
pub(super) fn completed(thread: &str, request: &str, usage: &Value) -> Value {
    json!({
        "acp_thread_id": thread,
        "message_id": "0",
        "request_id": request,
        "agent_name": "zed",
        "usage": usage,
    })
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|time| time.as_secs()).unwrap_or_default()
}

/// The request whose end an event tells.
pub fn ended_request(event: &Value) -> Option<&str> {
    let is_end = ["message_completed", "chat_response_error", "turn_cancelled", "chat_response", "chat_response_done"]
        .iter()
        .any(|name| event["event_type"] == *name)
        && event["data"]["status"] != "noop";
    is_end.then(|| event["data"]["request_id"].as_str()).flatten()
}
