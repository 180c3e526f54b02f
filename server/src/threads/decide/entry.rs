//! What was said and done: entries of threads, and what a person typed in the editor.

use std::time::Duration;

use helix_protocol::thread::{MAX_ENTRY_PIECE_BYTES, Origin, Role, ThreadEvent, TurnState};
use helix_protocol::{ThreadId, TurnId};
use serde_json::json;
use tokio::time::Instant;

use super::bind::derived_turn;
use super::hear::{custom, moved, moved_to};
use super::queue::sent_text;
use super::words::{EntrySaid, Text};
use super::{Append, CADENCE, Desk, PeerId, Streamed};
use crate::threads::model::{Conversation, Entry, Thread, Turn};
use crate::threads::turn::Evidence;

impl Desk {
    pub(super) fn hear_entry(
        &mut self,
        conversation: &Conversation,
        from: PeerId,
        said: &EntrySaid,
        now: Instant,
    ) -> Vec<Append> {
        let request = said.request.as_deref();
        let Some((id, mut appends)) =
            self.thread_of_message(conversation, from, said.acp.as_deref(), request, said.role)
        else {
            return vec![foreign(conversation, said)];
        };
        // A thread that is only being written has nothing in it yet.
        let thread = conversation.thread(&id);
        let renumbered;
        let said = match thread.map_or(0, |thread| thread.losses) {
            0 => said,
            // The agent made the thread anew and counts from the beginning.
            losses => {
                renumbered = EntrySaid { id: format!("{losses}.{}", said.id), ..said.clone() };
                &renumbered
            }
        };
        let known = thread.and_then(|thread| thread.entry(&said.id));
        let Some((offset, text)) = change(known, said) else {
            // A piece is missing before it. What comes whole later heals it.
            let data = json!({ "entry": said.id, "problem": "the entry is shorter than its offset" });
            appends.push(super::hear::custom_in(thread, "malformed", &data));
            return appends;
        };
        let unchanged = known.is_some_and(|known| text.is_empty() && offset == known.length && known.tool == said.tool);
        if unchanged {
            let turn = known.and_then(|known| known.turn.clone()).filter(|_| request.is_none());
            self.telling.extend(turn.map(|turn| (id.clone(), turn)));
            // The editor repeats all entries of a turn right before its end.
            let turn = thread.and_then(|thread| thread.entry(&said.id)).and_then(|entry| entry.turn.clone());
            self.flushed.extend(turn.map(|turn| (turn, now)));
            return appends;
        }
        let turn = match said.role {
            Role::User => match self.typed(conversation, from, thread, &id, said, &mut appends) {
                Typed::Echo(turn) => {
                    match turn {
                        Some(turn) => self.telling.insert(id, turn),
                        None => self.telling.remove(&id),
                    };
                    return appends;
                }
                Typed::By(turn) => {
                    self.telling.remove(&id);
                    turn
                }
            },
            Role::Assistant => thread.and_then(|thread| {
                let telling = self.telling.get(&id).filter(|_| request.is_none()).cloned();
                telling.or_else(|| Self::turn_of_entry(conversation, thread, request, &said.id))
            }),
        };
        if let Some((thread, turn)) = turn.as_ref().and_then(|turn| conversation.turn(turn)) {
            self.show(&turn.id, now);
            self.note_flush(from, &turn.id, said, known.is_none(), now);
            // What goes on was not given up.
            self.held.remove(&turn.id);
            // Of two turns the agent works on one: the end of what this one interrupted was lost on the way.
            let before = thread.turns.iter().filter(|former| turn.interrupt && former.sequence < turn.sequence);
            let before = before.filter(|former| former.state.is_active());
            appends.extend(before.filter_map(|former| moved(thread, former, Evidence::Interrupted, None)));
            appends.extend(moved(thread, turn, Evidence::Progress, None));
        }
        let before = thread.filter(|_| known.is_none()).and_then(|thread| successor(thread, &said.id));
        appends.extend(pieces(&id, said, before, turn.as_ref(), offset, text));
        appends
    }

    /// Whether the editor tells this sooner than it would in the middle of a turn, or may: the first word of an entry on a
    /// later socket than the turn was handed over on may have been told on the former one, be lost with it, and be told
    /// again at the end.
    fn note_flush(&mut self, from: PeerId, turn: &TurnId, said: &EntrySaid, is_new: bool, now: Instant) {
        let handed_here = self.peer(from).is_some_and(|peer| peer.handed.contains(turn));
        let this = Streamed { at: now, entry: said.id.clone(), by: from };
        let before = self.streamed.insert(turn.clone(), this).filter(|before| before.entry == said.id);
        let since = before.as_ref().map(|before| now.duration_since(before.at));
        // Heard again because another writer was faster, it is as it was.
        if since == Some(Duration::ZERO) {
            return;
        }
        let hurried = said.tool.is_none() && since.is_some_and(|since| since < CADENCE);
        let goes_on_here = before.is_some_and(|before| before.by == from);
        // Of several entries that are told again at an end, one may have changed. A new one also follows such a burst, and
        // says that the turn goes on.
        let of_a_burst = || self.flushed.get(turn).is_some_and(|at| now.duration_since(*at) < CADENCE);
        let told_again = !(handed_here || goes_on_here) || (!is_new && of_a_burst());
        if hurried || said.flushed || told_again {
            self.flushed.insert(turn.clone(), now);
        } else {
            self.flushed.remove(turn);
        }
    }

    /// Whether a person typed it, and which turn that is.
    fn typed(
        &self,
        conversation: &Conversation,
        from: PeerId,
        thread: Option<&Thread>,
        id: &ThreadId,
        said: &EntrySaid,
        appends: &mut Vec<Append>,
    ) -> Typed {
        let Text::From(0, prompt) = &said.text else { return Typed::By(None) };
        if let Some(thread) = thread.filter(|thread| self.is_echo(from, thread, said, prompt)) {
            let same = |turn: &&Turn| turn.origin != Origin::Editor && sent_text(turn) == *prompt;
            return Typed::Echo(thread.turns.iter().rev().find(same).map(|turn| turn.id.clone()));
        }
        let known = thread.and_then(|thread| thread.entry(&said.id));
        if let Some(turn) = known.and_then(|known| known.turn.clone()) {
            return Typed::By(Some(turn));
        }
        let Some(turn) = derived_turn(&self.session, id, &said.id, prompt) else { return Typed::By(None) };
        let state = conversation.turn(&turn).map(|(_, turn)| turn.state);
        if state.is_none() {
            let event = ThreadEvent::TurnQueued {
                turn: turn.clone(),
                origin: Origin::Editor,
                by: None,
                prompt: prompt.clone(),
                interrupt: false,
                attachments: Vec::new(),
                resend_of: None,
            };
            appends.push(Append { thread: id.clone(), event });
        }
        // The agent has it already; its way is that of every turn.
        for (before, next) in [(None, TurnState::Dispatched), (Some(TurnState::Dispatched), TurnState::Running)] {
            if state.is_none() || state == before || (before.is_none() && state == Some(TurnState::Queued)) {
                appends.push(moved_to(id.clone(), turn.clone(), next, None));
            }
        }
        Typed::By(Some(turn))
    }

    /// A prompt of ours that the agent tells back, now or when it shows a thread again.
    fn is_echo(&self, from: PeerId, thread: &Thread, said: &EntrySaid, prompt: &str) -> bool {
        let same = |turn: &&Turn| turn.origin != Origin::Editor && sent_text(turn) == prompt;
        if thread.turns.iter().rev().filter(|turn| turn.state.is_active()).any(|turn| same(&turn)) {
            return true;
        }
        // What is new has the highest number.
        if successor(thread, &said.id).is_some() {
            return true;
        }
        // Shown again, on another connection than it was handed over on, a prompt that got no answer is newer.
        let answered = |turn: &TurnId| thread.entries.iter().any(|entry| entry.turn.as_ref() == Some(turn));
        let handed_here = |turn: &TurnId| self.peer(from).is_some_and(|peer| peer.handed.contains(turn));
        // Latest first. Another order than that of the queue, which an interrupt jumps.
        let mut handed: Vec<_> = thread.turns.iter().filter(|turn| turn.dispatched_at.is_some()).collect();
        handed.sort_by_key(|turn| std::cmp::Reverse((turn.dispatched_at, turn.sequence)));
        let unanswered = handed.into_iter().take_while(|turn| !answered(&turn.id));
        unanswered.filter(|turn| !handed_here(&turn.id)).any(|turn| same(&turn))
    }
}

/// An entry's number, and how often the agent had lost the thread before it was given.
fn number(id: &str) -> (&str, Option<u64>) {
    let (life, number) = id.split_once('.').unwrap_or(("", id));
    (life, number.parse().ok())
}

/// The entry before which one that was not heard yet belongs, if not behind all: numbers grow along a thread, from the
/// beginning where it was made anew. One is heard late where the first telling of it was lost with a socket.
fn successor<'a>(thread: &'a Thread, id: &str) -> Option<&'a str> {
    let (life, this) = number(id);
    let this = this?;
    let is_later = |entry: &&Entry| {
        let (of, number) = number(&entry.id);
        of == life && number.is_some_and(|number| number > this)
    };
    thread.entries.iter().rev().take_while(is_later).last().map(|entry| entry.id.as_str())
}

enum Typed {
    /// Nobody typed it: it is the prompt of this turn, where one is found.
    Echo(Option<TurnId>),
    /// A person did: this turn, where one can be named.
    By(Option<TurnId>),
}

/// Bytes of the stored text that stay, and what follows them; `None` where bytes in between are missing.
fn change<'a>(known: Option<&Entry>, said: &'a EntrySaid) -> Option<(u64, &'a str)> {
    let length = known.map_or(0, |known| known.length);
    match (&said.text, known) {
        (Text::Append(text), _) => Some((length, text)),
        (Text::From(0, text), Some(known)) if known.text.is_none() && known.is(text) => Some((length, "")),
        (Text::From(0, text), Some(known)) => Some(known.change_to(text)),
        (Text::From(0, text), None) => Some((0, text)),
        (Text::From(offset, _), _) if *offset > length => None,
        (Text::From(offset, text), _) => {
            let kept = known.and_then(|known| known.text.as_deref()).unwrap_or_default();
            let kept = usize::try_from(*offset).ok().and_then(|offset| kept.get(offset..)).unwrap_or_default();
            let same = kept.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
            let same = text.floor_char_boundary(same);
            Some((offset + same as u64, &text[same..]))
        }
    }
}

/// A long text as several events.
fn pieces(
    thread: &ThreadId,
    said: &EntrySaid,
    before: Option<&str>,
    turn: Option<&TurnId>,
    mut offset: u64,
    mut text: &str,
) -> impl Iterator<Item = Append> {
    let mut pieces = Vec::new();
    loop {
        let (piece, rest) = text.split_at(text.floor_char_boundary(MAX_ENTRY_PIECE_BYTES));
        let event = ThreadEvent::Entry {
            entry: said.id.clone(),
            before: before.map(str::to_owned),
            turn: turn.cloned(),
            role: said.role,
            tool: said.tool.clone(),
            offset,
            text: piece.to_owned(),
        };
        pieces.push(Append { thread: thread.clone(), event });
        offset += piece.len() as u64;
        text = rest;
        if text.is_empty() {
            return pieces.into_iter();
        }
    }
}

/// A message of a thread that nobody knows.
fn foreign(conversation: &Conversation, said: &EntrySaid) -> Append {
    let text = match &said.text {
        Text::From(_, text) | Text::Append(text) => text,
    };
    let data = json!({
        "acp_thread_id": said.acp, "message_id": said.id, "request_id": said.request, "role": said.role,
        "tool": said.tool, "content": text,
    });
    custom(conversation, "message_added", &data)
}
