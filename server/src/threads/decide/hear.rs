//! What an agent said → events that the log lacks.

use helix_protocol::thread::{MAX_CUSTOM_BYTES, ThreadEvent, TurnCause, TurnState};
use helix_protocol::{ThreadId, TurnId};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::words::Said;
use super::{Append, Desk, PeerId, session_thread, turn_of};
use crate::threads::model::{Conversation, Thread, Turn};
use crate::threads::turn::{Evidence, after};

/// Title texts longer than this are cut: they are for people.
const MAX_TITLE_CHARS: usize = 500;

impl Desk {
    /// Events that the log lacks after this. The same again, where another writer was faster, changes nothing more.
    pub fn hear(&mut self, conversation: &Conversation, from: PeerId, said: &Said, now: Instant) -> Vec<Append> {
        match said {
            Said::Ready(ready) => {
                self.ready(from, ready, now);
                self.hear_ready(conversation, from, ready, now)
            }
            Said::ThreadCreated { acp, request, title } => {
                self.hear_thread(conversation, from, acp, request.as_deref(), title.as_deref(), now)
            }
            Said::UserThread { acp, title } => {
                // It appears with its first message: an empty draft is nobody's thread.
                self.draft(conversation, acp, title.as_deref());
                Vec::new()
            }
            Said::Title { acp, title } => self.hear_title(conversation, acp, title),
            Said::Entry(entry) => self.hear_entry(conversation, from, entry, now),
            Said::Done(done) => self.hear_done(conversation, from, done, now),
            Said::GivenUp { request, error } => self.hear_error(conversation, request, error, now),
            Said::LoadFailed { acp, request, error } => {
                self.hear_load_failed(conversation, from, acp, request, error, now)
            }
            Said::Cancelled { request, done } => self.hear_cancelled(conversation, from, request, *done, now),
            Said::Asked(asked) => self.hear_asked(conversation, asked, now),
            Said::Resolved { acp, question, status } => Self::hear_resolved(conversation, acp, question, status),
            Said::StillAsked { acp, questions } => self.hear_still_asked(conversation, acp, questions, now),
            Said::AnswerTaken { question, status } => Self::hear_answer_taken(conversation, question, status),
            Said::Other { name, data } => vec![custom(conversation, name, data)],
            Said::Malformed { count, problem, excerpt } => {
                let data = json!({ "count": count, "problem": problem, "begins": excerpt });
                vec![custom(conversation, "malformed", &data)]
            }
        }
    }

    fn hear_title(&mut self, conversation: &Conversation, acp: &str, title: &str) -> Vec<Append> {
        let title: String = title.chars().take(MAX_TITLE_CHARS).collect();
        match conversation.thread_of_acp(acp) {
            Some(thread) if thread.title.as_ref() != Some(&title) => {
                vec![Append { thread: thread.id.clone(), event: ThreadEvent::ThreadRenamed { title } }]
            }
            Some(_) => Vec::new(),
            None if self.drafts.contains_key(acp) => {
                self.drafts.insert(acp.to_owned(), Some(title));
                Vec::new()
            }
            None => {
                vec![custom(conversation, "thread_title_changed", &json!({ "acp_thread_id": acp, "title": title }))]
            }
        }
    }
}

/// An event that is only passed on: under the thread that it names, else under the session.
pub(super) fn custom(conversation: &Conversation, name: &str, data: &Value) -> Append {
    let acp = data.get("acp_thread_id").or_else(|| data.get("context_id")).and_then(Value::as_str);
    let thread = acp.and_then(|acp| conversation.thread_of_acp(acp));
    custom_in(thread, name, data)
}

/// The same where the thread is known.
pub(super) fn custom_in(thread: Option<&Thread>, name: &str, data: &Value) -> Append {
    let mut data = data.clone();
    let text = data.to_string();
    if text.len() > MAX_CUSTOM_BYTES {
        let kept = &text[..text.floor_char_boundary(MAX_CUSTOM_BYTES)];
        data = Value::String(format!("{kept}…"));
    }
    let name = name.chars().take(MAX_TITLE_CHARS).collect();
    let event = ThreadEvent::Custom { name, data };
    Append { thread: thread.map_or_else(session_thread, |thread| thread.id.clone()), event }
}

/// The move of a turn by this evidence, if it moves.
pub(super) fn moved(thread: &Thread, turn: &Turn, evidence: Evidence, cause: Option<TurnCause>) -> Option<Append> {
    let state = after(turn.state, turn.cause.as_ref(), evidence)?;
    Some(moved_to(thread.id.clone(), turn.id.clone(), state, cause))
}

/// A move without figures.
pub(super) fn moved_to(thread: ThreadId, turn: TurnId, state: TurnState, cause: Option<TurnCause>) -> Append {
    Append { thread, event: ThreadEvent::TurnMoved { turn, state, cause, usage: None, exit_status: None } }
}

/// An agent's word for a turn of ours in this thread, where it is one.
pub(super) fn turn_in<'a>(conversation: &'a Conversation, thread: &'a Thread, request: &str) -> Option<&'a Turn> {
    turn_of(conversation, request).filter(|(of, _)| of.id == thread.id).map(|(_, turn)| turn)
}
