//! A turn as the agent inside the editor has it: the test is the agent.

use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use super::ledger::End;
use super::state::{self, State, Zed};
use super::stream;

/// A prompt that runs. What is said after its end is not heard.
#[derive(Clone)]
pub struct Run {
    /// As the server gave it; what was typed in the editor has an empty or a stale one.
    pub request_id: String,
    /// Thread in the editor.
    pub thread: String,
    /// The prompt.
    pub message: String,
    pub(super) zed: Arc<Zed>,
    pub(super) key: u64,
    pub(super) from: usize,
}

/// Something that the agent says or does.
#[derive(Clone)]
pub struct Entry {
    run: Run,
    place: usize,
}

/// A question that the agent asked.
pub struct Question {
    run: Run,
    id: String,
}

impl Run {
    /// Says something new.
    pub fn says(&self, content: &str) -> Entry {
        self.add(content, None)
    }

    /// Uses a tool.
    pub fn uses(&self, name: &str, status: &str, content: &str) -> Entry {
        self.add(content, Some((name.to_owned(), status.to_owned())))
    }

    fn add(&self, content: &str, tool: Option<(String, String)>) -> Entry {
        let place = self.zed.change(|state| {
            if !self.runs(state) {
                return usize::MAX;
            }
            let request_id = self.request_id.clone();
            let entry = state::Entry { role: "assistant", content: content.to_owned(), tool, request_id, told: None };
            state.add_entry(&self.thread, self.from, entry)
        });
        Entry { run: self.clone(), place }
    }

    /// The agent is done.
    pub fn completes(&self) {
        self.completes_with(&Value::Null);
    }

    /// The agent is done and has taken so many tokens.
    pub fn completes_with(&self, usage: &Value) {
        self.end(End::Completed, |state, turn| state.tell_completed(&self.thread, &turn.request_id, usage, turn.from));
    }

    /// The agent is done, and the editor says so under another request id: empty, stale or repeated.
    pub fn completes_as(&self, request_id: &str) {
        self.end(End::Completed, |state, turn| state.tell_completed(&self.thread, request_id, &Value::Null, turn.from));
    }

    /// The agent gives up.
    pub fn fails(&self, error: &str) {
        self.end(End::Failed, |state, turn| {
            state.tell("chat_response_error", json!({"request_id": turn.request_id, "error": error}));
        });
    }

    /// The agent ends without a word, as in a silent failure.
    pub fn vanishes(&self) {
        self.end(End::Failed, |_, _| {});
    }

    fn end(&self, end: End, last: impl FnOnce(&mut State, &state::Turn)) {
        self.zed.change(|state| {
            if self.runs(state) {
                state.end_turn(&self.thread, end, last);
            }
        });
    }

    /// Asks the person a question and waits for nothing yet.
    pub fn asks(&self, id: &str, mode: &str, message: &str, schema: &Value) -> Question {
        self.zed.change(|state| {
            let entry = state.threads.get(&self.thread).map_or(0, |thread| thread.entries.len()).saturating_sub(1);
            state.questions.insert(id.to_owned(), None);
            let data = json!({
                "acp_thread_id": self.thread, "request_id": self.request_id, "entry_index": entry.to_string(),
                "elicitation_id": id, "tool_call_id": format!("tc_{entry}"), "mode": mode, "message": message,
                "requested_schema": schema, "status": "pending", "timestamp": super::events::now(),
            });
            state.tell("elicitation_requested", data);
        });
        Question { run: self.clone(), id: id.to_owned() }
    }

    /// True while it runs.
    pub fn is_running(&self) -> bool {
        self.zed.look(|state| self.runs(state))
    }

    /// Waits until it has ended, by whomever.
    pub async fn ended(&self) -> Result<()> {
        let what = format!("the run of {:?} has ended", self.request_id);
        self.zed.when(&what, |state| (!self.runs(state)).then_some(())).await
    }

    /// The same, for as long as it takes.
    pub async fn end_of_it(&self) {
        self.zed.until(|state| (!self.runs(state)).then_some(())).await;
    }

    fn runs(&self, state: &State) -> bool {
        let turn = state.threads.get(&self.thread).and_then(|thread| thread.turn.as_ref());
        !state.dead && turn.is_some_and(|turn| turn.key == self.key)
    }
}

impl Entry {
    /// Number of the entry in its thread, as frames name it.
    pub fn id(&self) -> String {
        self.place.to_string()
    }

    /// Its whole text is this one now.
    pub fn becomes(&self, content: &str) {
        self.update(Some(content), None, false);
    }

    /// More of it.
    pub fn adds(&self, more: &str) {
        let now = self.run.zed.look(|state| {
            let thread = state.threads.get(&self.run.thread);
            thread.and_then(|thread| thread.entries.get(self.place)).map(|entry| entry.content.clone())
        });
        if let Some(now) = now {
            self.update(Some(&(now + more)), None, false);
        }
    }

    /// The tool is at another status now, with this text.
    pub fn is_at(&self, status: &str, content: &str) {
        self.update(Some(content), Some(status), false);
    }

    /// Waits until its text as it is now has been told.
    pub async fn told(&self) -> Result<()> {
        let (run, place) = (&self.run, self.place);
        let what = format!("entry {place} of {} is told", run.thread);
        let told = |state: &mut State| {
            let entry = state.threads.get(&run.thread)?.entries.get(place)?;
            let told = entry.told.as_ref().is_some_and(|(_, text)| *text == entry.content);
            (told && state.has_said_everything()).then_some(())
        };
        run.zed.when(&what, told).await
    }

    /// A background update after its turn's end, under the request of that turn.
    pub fn becomes_later(&self, content: &str) {
        self.update(Some(content), None, true);
    }

    fn update(&self, content: Option<&str>, status: Option<&str>, late: bool) {
        let (run, zed) = (&self.run, &self.run.zed);
        let throttle = zed.options.throttle;
        let wait = zed.change(|state| {
            if !late && !run.runs(state) {
                return None;
            }
            state.update_entry(&run.thread, self.place, content.unwrap_or_default(), status, throttle)
        });
        if let Some(wait) = wait {
            stream::tell_later(zed, run.thread.clone(), self.place, wait);
        }
    }
}

impl Question {
    /// Waits for the answer: the command's `data`. The editor has acknowledged and closed it then.
    pub async fn answer(&self) -> Result<Value> {
        let what = format!("an answer to question {}", self.id);
        self.run.zed.when(&what, |state| state.questions.get(&self.id).cloned().flatten()).await
    }
}
