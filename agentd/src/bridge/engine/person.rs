//! The person at the desktop: keys for the command that runs, answers to questions, prompts of their own.

use helix_protocol::session::{OUTPUT_TAIL_BYTES, SessionResult};
use helix_protocol::sync::ChatMessage;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Engine, Question};
use crate::bridge::agent::{Order, new_id};
use crate::bridge::conversation::State;
use crate::bridge::record::{End, Origin};
use crate::bridge::view::Typed;

/// Exit status of a command of which nobody knows the exit status, and of an agent that failed.
const UNKNOWN_STATUS: i32 = 255;
/// As a shell says it of a program that was interrupted.
const CANCELLED_STATUS: i32 = 130;

impl Engine {
    pub(super) fn on_resize(&mut self) {
        if let Some(size) = self.view.size() {
            self.order(Order::Resize(size));
        }
    }

    pub(super) fn on_keys(&mut self, bytes: &[u8]) {
        if let Some(request) = self.view.front().filter(|_| self.shell).map(ToOwned::to_owned) {
            self.order(Order::Keys { request, bytes: bytes.to_owned() });
            return;
        }
        for typed in self.view.typed(bytes) {
            match typed {
                Typed::Interrupt => {
                    let running = self.journal.state.open().into_iter().rev();
                    let mut running = running
                        .filter(|id| self.journal.state.turn(id).is_some_and(|turn| turn.state == State::Running));
                    if let Some(request) = running.next() {
                        self.cancel(&request);
                    }
                }
                Typed::Line(line) if self.questions.is_empty() => self.say(line),
                Typed::Line(line) => self.reply(&line),
            }
        }
    }

    /// A prompt of theirs: it goes on where something happened last.
    fn say(&mut self, message: String) {
        if message.trim().is_empty() {
            return;
        }
        let acp_thread_id = self.journal.state.newest_thread().map(ToOwned::to_owned);
        let request_id = new_id("int_");
        let prompt = ChatMessage { message, request_id, acp_thread_id, agent_name: None, interrupt: false };
        self.accept(prompt, Origin::Typed);
    }

    /// An answer to the first question that is open.
    fn reply(&mut self, line: &str) {
        let Some(question) = self.questions.first() else { return };
        let line = line.trim();
        let (action, content) = match (line, choice_of(question, line)) {
            (_, Some(id)) => ("accept", json!({"option": id})),
            ("n" | "no", _) => ("decline", Value::Null),
            ("y" | "yes", _) if question.mode == "permission" => ("accept", Value::Null),
            (text, _) if text.starts_with('{') && question.mode != "permission" => {
                ("accept", serde_json::from_str(text).unwrap_or_default())
            }
            _ => return self.view.question(&question.clone()),
        };
        if let Ok(content) = question.check(action, &content) {
            self.order(Order::Answer { question: question.id.clone(), action: action.to_owned(), content });
        }
    }

    /// The session's result, if this is the first turn and somebody waits for it.
    pub(super) fn result_of(
        &self,
        request: &str,
        end: &End,
        exit_status: Option<i32>,
        tail: Option<(String, bool)>,
    ) -> Option<SessionResult> {
        let state = &self.journal.state;
        let turn =
            state.turn(request).filter(|_| self.outcome.is_wanted() && state.first.as_deref() == Some(request))?;
        if matches!(end, End::NotStarted { .. }) {
            return None;
        }
        let (mut output_tail, output_truncated) = tail.unwrap_or_else(|| {
            let texts: Vec<_> = turn
                .entries
                .iter()
                .filter(|entry| entry.tool.is_none() && !entry.user)
                .map(|entry| entry.text.as_str())
                .collect();
            tail_of(&texts.join("\n\n"))
        });
        if let End::Failed { error } = end {
            output_tail = tail_of(&format!("{}\n[{error}]\n", output_tail.trim_end())).0;
        }
        let exit_status = exit_status.unwrap_or(match end {
            End::Completed => 0,
            End::Cancelled | End::Interrupted => CANCELLED_STATUS,
            End::Failed { .. } | End::NotStarted { .. } => UNKNOWN_STATUS,
        });
        Some(SessionResult { exit_status, output_tail, output_truncated, finished_at: Timestamp::now() })
    }

    /// Gives the result to the guest, unless it is there.
    pub(super) fn deliver_result(&mut self) {
        let state = &self.journal.state;
        if state.result_kept {
            return;
        }
        let first = state.first.as_ref().and_then(|first| state.turn(first));
        if let Some(result) = first.and_then(|turn| turn.result.clone()) {
            self.outcome.deliver(result);
        }
    }
}

/// The choice that a person means by its number.
fn choice_of(question: &Question, line: &str) -> Option<String> {
    let number: usize = line.parse().ok()?;
    Some(question.choices.get(number.checked_sub(1)?)?.id.clone())
}

/// The end of a text, and whether it is not all.
fn tail_of(text: &str) -> (String, bool) {
    let cut = text.ceil_char_boundary(text.len().saturating_sub(OUTPUT_TAIL_BYTES));
    (text[cut..].to_owned(), cut > 0)
}
