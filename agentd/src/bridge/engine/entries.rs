//! Entries on their way to the journal and the server.
//!
//! An entry goes out at most every [`THROTTLE`], at the first change and at the last; uses of a tool at once. Only what
//! changed is sent (`content_offset`).

use helix_protocol::sync::{AgentEvent, MessageAdded};
use tokio::time::Instant;

use super::telling::now;
use super::{Engine, THROTTLE};
use crate::bridge::conversation::Entry;
use crate::bridge::record::Record;

/// Frames that wait for the network: text is held back behind as many.
const FULL: usize = 64;
/// Bytes of a text that go out in one frame. Servers refuse frames of 64 MiB, and JSON may make six bytes of one.
const MAX_CONTENT: usize = 4 * 1024 * 1024;

impl Engine {
    /// Tells an entry now, or when its time has come.
    pub(super) fn flush_in_time(&mut self, request: &str, index: u64) {
        let full = self.connection.as_ref().is_some_and(|connection| connection.waiting() >= FULL);
        let entry = self.journal.state.turn_mut(request).and_then(|turn| turn.entry_mut(index));
        let Some(entry) = entry else { return };
        let earliest = entry.told_at.map(|at| Instant::from_std(at) + THROTTLE);
        match earliest {
            Some(at) if full || at > Instant::now() => {
                let at = at.max(Instant::now() + THROTTLE / 10);
                self.due = Some(self.due.map_or(at, |due| due.min(at)));
                self.pending.insert((request.to_owned(), index));
            }
            _ => self.flush(request, index),
        }
    }

    /// Tells every entry whose time has come.
    pub(super) fn flush_due(&mut self) {
        self.due = None;
        for (request, index) in self.pending.clone() {
            self.flush_in_time(&request, index);
        }
    }

    /// Writes and tells what is new of each of the turn's entries.
    pub(super) fn flush_turn(&mut self, request: &str) {
        let Some(turn) = self.journal.state.turn(request) else { return };
        let unsaved = |entry: &&Entry| !entry.is_told() || entry.saved < entry.text.len();
        let pending: Vec<u64> = turn.entries.iter().filter(unsaved).map(|entry| entry.index).collect();
        for index in pending {
            self.flush(request, index);
        }
    }

    /// Writes and tells what is new of an entry.
    pub(super) fn flush(&mut self, request: &str, index: u64) {
        self.pending.remove(&(request.to_owned(), index));
        let Some(turn) = self.journal.state.turn_mut(request) else { return };
        let thread = turn.thread.clone().unwrap_or_default();
        let Some(entry) = turn.entry_mut(index) else { return };
        let unsaved = (entry.saved < entry.text.len() || entry.changed).then(|| Record::Entry {
            request: request.to_owned(),
            index,
            user: entry.user,
            tool: entry.tool.clone(),
            keep: entry.saved,
            text: entry.text[entry.saved..].to_owned(),
        });
        entry.saved = entry.text.len();
        let mut frames = Vec::new();
        while self.connection.is_some() && (frames.is_empty() || entry.told != Some(entry.text.len())) {
            let told = entry.told.unwrap_or(0);
            let end = entry.text.floor_char_boundary(told.saturating_add(MAX_CONTENT));
            let tool = entry.tool.clone();
            frames.push(MessageAdded {
                acp_thread_id: thread.clone(),
                message_id: index.to_string(),
                role: if entry.user { "user" } else { "assistant" }.to_owned(),
                content: entry.text[told..end].to_owned(),
                content_offset: (told > 0).then_some(told as u64),
                request_id: request.to_owned(),
                entry_type: if tool.is_some() { "tool_call" } else { "text" }.to_owned(),
                tool_name: tool.as_ref().map(|tool| tool.name.clone()).unwrap_or_default(),
                tool_status: tool.map(|tool| tool.status).unwrap_or_default(),
                timestamp: now(),
            });
            entry.told = Some(end);
        }
        entry.told_at = Some(std::time::Instant::now());
        entry.changed = false;
        if let Some(record) = unsaved
            && let Err(error) = self.journal.keep(&record)
        {
            self.view.notice(&format!("the journal cannot be written: {error}"));
        }
        for frame in frames {
            self.tell(&AgentEvent::MessageAdded(frame));
        }
    }

    /// The entry is in the journal as it is.
    pub(super) fn mark_saved(&mut self, request: &str, index: u64) {
        if let Some(entry) = self.journal.state.turn_mut(request).and_then(|turn| turn.entry_mut(index)) {
            entry.saved = entry.text.len();
        }
    }
}
