//! Agents fail without a word: whoever waits for one too long says so.
//!
//! A turn that was silent for too long is `unknown` and may still go on, so nothing is done to it, unless another prompt
//! waits: its place in the agent's loop may be what that waits for, and is freed by a cancel.

use std::time::Duration;

use helix_protocol::sync::Command;
use helix_protocol::thread::{TurnCause, TurnState};
use tokio::time::Instant;

use super::hear::moved;
use super::outcome::oldest_active;
use super::queue::text_of;
use super::{Act, Desk, Note, Peer};
use crate::threads::model::{Conversation, Thread, Turn};
use crate::threads::turn::Evidence;

/// Words of a tool that may be silent for long.
const BUSY_TOOL: [&str; 3] = ["Pending", "In Progress", "Waiting for confirmation"];

/// Causes of those of which nothing was heard.
const FELL_SILENT: [&str; 3] = ["no_thread_created", "silent", "not_proved"];

impl Desk {
    /// A turn of which nothing was heard for too long.
    pub(super) fn silent_turn(&self, conversation: &Conversation, peer: &Peer, now: Instant) -> Option<Act> {
        working(conversation).find_map(|(thread, turn)| {
            let (deadline, cause) = self.patience(peer, thread, turn, now);
            if deadline > now {
                return None;
            }
            let append = moved(thread, turn, Evidence::Silence, Some(cause()))?;
            Some(Act { peer: peer.id, append: Some(append), frame: None, note: Note::Nothing })
        })
    }

    /// A turn that fell silent and may hold up the prompt that comes next.
    pub(super) fn in_the_way(&self, conversation: &Conversation, peer: &Peer) -> Option<Act> {
        if peer.seed || peer.concurrent {
            return None;
        }
        let (next, _) = self.next_turn(conversation, peer)?;
        let silent = conversation.threads().iter().find_map(|thread| {
            // To cancel one that another one followed would cancel that.
            let last = thread.turns.iter().rev().find(|turn| turn.state != TurnState::Queued)?;
            // One that reports its turns is a new one, or would have named it.
            let is_its = peer.list.is_none() || peer.handed.contains(&last.id) || peer.considered.contains(&last.id);
            let in_its_way = thread.id == next.id || self.blocks(thread, last);
            let code = last.cause.as_ref().map(|cause| cause.code.as_str());
            let fell_silent = last.state == TurnState::Unknown && code.is_some_and(|code| FELL_SILENT.contains(&code));
            (is_its && in_its_way && fell_silent && !peer.cancels.contains_key(&last.id)).then_some(last)
        })?;
        let free = Command::CancelCurrentTurn { request_id: silent.id.to_string() };
        let note = Note::Freed(silent.id.clone());
        Some(Act { peer: peer.id, append: None, frame: Some(text_of(&free)), note })
    }

    /// When the next turn will have been silent for too long.
    pub(super) fn next_silence(&self, conversation: &Conversation, peer: &Peer, now: Instant) -> Option<Instant> {
        working(conversation).map(|(thread, turn)| self.patience(peer, thread, turn, now).0).min()
    }

    /// Until when a turn may be silent, and what it means if it is.
    fn patience<'a>(
        &self,
        peer: &'a Peer,
        thread: &'a Thread,
        turn: &'a Turn,
        now: Instant,
    ) -> (Instant, Box<dyn Fn() -> TurnCause + 'a>) {
        let timing = self.timing;
        let since = self.heard.get(&turn.id).map_or(self.succeeded, |heard| heard.awake);
        let until = |patience: Duration| now + (since + patience).saturating_sub(self.awake(now));
        if turn.state == TurnState::Dispatched && thread.acp.is_none() {
            let cause = move || {
                let seconds = timing.thread_created.as_secs();
                let message = format!(
                    "the agent made no thread within {seconds} s and said nothing: it may not have started; look at \
                     the session's log, then send the prompt again"
                );
                TurnCause::new("no_thread_created", message)
            };
            return (until(timing.thread_created), Box::new(cause));
        }
        let short = until(timing.silence);
        // Entries are only looked through once it matters.
        let waited = if short > now || !uses_a_tool(thread, turn) { timing.silence } else { timing.tool_silence };
        let deadline = until(waited);
        let cause = move || if peer.unproved.contains(&turn.id) { not_proved(waited) } else { silent(waited) };
        (deadline, Box::new(cause))
    }
}

/// Turns that the agent works on: who waits for the end of an earlier one of the thread is not silent.
fn working(conversation: &Conversation) -> impl Iterator<Item = (&Thread, &Turn)> {
    conversation.threads().iter().filter_map(|thread| Some((thread, oldest_active(thread)?)))
}

fn uses_a_tool(thread: &Thread, turn: &Turn) -> bool {
    let own = |of: &Option<helix_protocol::TurnId>| of.as_ref() == Some(&turn.id);
    thread.questions.iter().any(|question| question.closed.is_none() && own(&question.turn))
        || thread
            .entries
            .iter()
            .rev()
            .filter(|entry| own(&entry.turn))
            .any(|entry| entry.tool.as_ref().is_some_and(|tool| BUSY_TOOL.contains(&tool.status.as_str())))
}

fn silent(waited: Duration) -> TurnCause {
    let seconds = waited.as_secs();
    let message = format!(
        "nothing was heard of it for {seconds} s; it counts again if the agent goes on, otherwise look at the desktop \
         and send it again"
    );
    TurnCause::new("silent", message)
}

fn not_proved(waited: Duration) -> TurnCause {
    let seconds = waited.as_secs();
    let message = format!(
        "the agent came back and does not say which prompts it has; nothing was heard of this one for {seconds} s: \
         look at what it did, and send it again if it was lost"
    );
    TurnCause::new("not_proved", message)
}
