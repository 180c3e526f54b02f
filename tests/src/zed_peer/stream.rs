//! How entries are told: cumulative snapshots, at most one per entry and throttle time, the first at once and the
//! last one surely; uses of tools are never held back.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde_json::json;

use super::state::{Entry, State, Zed};
use super::{Dialect, SeedStyle, events};

impl State {
    /// A new entry of a thread. What waits of others is told first, and all earlier ones of the turn again.
    pub fn add_entry(&mut self, id: &str, from: usize, entry: Entry) -> usize {
        self.tell_again(id, from);
        let thread = self.threads.entry(id.to_owned()).or_default();
        thread.entries.push(entry);
        let place = thread.entries.len() - 1;
        self.keep(id, place);
        self.tell_entry(id, place);
        place
    }

    /// An entry's text is another one now. Answers how long it must wait to be told, if it must.
    pub fn update_entry(
        &mut self,
        id: &str,
        place: usize,
        content: &str,
        status: Option<&str>,
        throttle: Duration,
    ) -> Option<Duration> {
        let entry = self.threads.get_mut(id)?.entries.get_mut(place)?;
        content.clone_into(&mut entry.content);
        if let (Some((_, word)), Some(status)) = (&mut entry.tool, status) {
            status.clone_into(word);
        }
        let (tool, told) = (entry.tool.is_some(), entry.told.clone());
        self.keep(id, place);
        let since = told.map_or(Duration::MAX, |(at, _)| at.elapsed());
        if tool || since >= throttle {
            self.tell_entry(id, place);
            return None;
        }
        Some(throttle.saturating_sub(since))
    }

    /// Tells an entry as it is.
    pub fn tell_entry(&mut self, id: &str, place: usize) {
        let Some(entry) = self.threads.get_mut(id).and_then(|thread| thread.entries.get_mut(place)) else { return };
        let before = entry.told.replace((Instant::now(), entry.content.clone()));
        let entry = entry.clone();
        match self.dialect {
            Dialect::Today => self.tell("message_added", events::message_added(id, place, &entry)),
            Dialect::Seed(style) => self.tell_seed_entry(style, id, place, &entry, before.map(|(_, text)| text)),
        }
    }

    /// What a person typed, and the answer to it, are messages of a context in every style.
    fn tell_seed_entry(&mut self, style: SeedStyle, id: &str, place: usize, entry: &Entry, before: Option<String>) {
        match style {
            SeedStyle::Chunks if !entry.request_id.is_empty() => {
                let before = before.unwrap_or_default();
                let chunk = entry.content.strip_prefix(&before).expect("the seed's chunks can only add");
                self.tell("chat_response_chunk", json!({"request_id": entry.request_id, "chunk": chunk}));
            }
            SeedStyle::Whole if !entry.request_id.is_empty() => {}
            _ => {
                let event = if before.is_some() { "message_updated" } else { "message_added" };
                self.tell(event, events::seed_message(style, id, place, entry));
            }
        }
    }

    /// Tells an entry if its text is not the one that was told last.
    pub fn tell_if_pending(&mut self, id: &str, place: usize) {
        let entry = self.threads.get(id).and_then(|thread| thread.entries.get(place));
        if entry.is_some_and(|entry| entry.told.as_ref().is_none_or(|(_, text)| *text != entry.content)) {
            self.tell_entry(id, place);
        }
    }

    /// Tells what waits of a turn.
    pub fn tell_pending(&mut self, id: &str, from: usize) {
        for place in self.assistant_entries(id, from) {
            self.tell_if_pending(id, place);
        }
    }

    /// Tells every entry of a turn, whole. The seed never repeats.
    pub fn tell_again(&mut self, id: &str, from: usize) {
        if self.dialect != Dialect::Today {
            return self.tell_pending(id, from);
        }
        for place in self.assistant_entries(id, from) {
            self.tell_entry(id, place);
        }
    }

    fn assistant_entries(&self, id: &str, from: usize) -> Vec<usize> {
        let entries = self.threads.get(id).map(|thread| thread.entries.as_slice()).unwrap_or_default();
        (from..entries.len()).filter(|place| entries[*place].role == "assistant").collect()
    }
}

/// Tells an entry's last text when its time has come, unless that has happened by then.
pub(super) fn tell_later(zed: &Arc<Zed>, thread: String, place: usize, after: Duration) {
    let zed: Weak<Zed> = Arc::downgrade(zed);
    tokio::spawn(async move {
        tokio::time::sleep(after).await; // the throttle itself
        if let Some(zed) = zed.upgrade() {
            zed.change(|state| state.tell_if_pending(&thread, place));
        }
    });
}
