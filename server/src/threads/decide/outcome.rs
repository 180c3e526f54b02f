//! How a turn ends, by the agent's word.

use helix_protocol::TurnId;
use helix_protocol::thread::{Origin, ThreadEvent, TurnCause, TurnState};
use serde_json::json;
use tokio::time::Instant;

use super::bind::bound;
use super::hear::{custom, custom_in, moved, turn_in};
use super::words::Done;
use super::{Append, Cancel, Desk, Held, LAST_WORD, OPEN_PREFIX, PeerId, STREAMS, turn_of};
use crate::threads::model::{Conversation, Thread, Turn};
use crate::threads::turn::{Evidence, after};

/// Parts of an error that say: the agent does not know the thread any more.
const THREAD_GONE: [&str; 4] = [
    "no thread found with ID",
    "no rollout found for thread id",
    "Resource not found",
    "Agent does not support session loading",
];
/// Parts of an error that say: the agent's process is gone.
const CRASHED: [&str; 2] = ["Claude Agent process exited", "Session not found"];
/// Longest error text that is kept.
const MAX_ERROR_CHARS: usize = 4000;

impl Desk {
    pub(super) fn hear_done(
        &mut self,
        conversation: &Conversation,
        from: PeerId,
        done: &Done,
        now: Instant,
    ) -> Vec<Append> {
        let thread = done.acp.as_deref().and_then(|acp| conversation.thread_of_acp(acp));
        if let Some(thread) = thread {
            self.shows(from, &thread.id);
        }
        let ending = thread.and_then(|thread| Some((thread, self.ending_turn(thread)?)));
        let found = Self::turn_that_is_done(conversation, thread, done.request.as_deref());
        let Some((thread, turn)) = found.or(ending) else { return Vec::new() };
        // Where its beginning was lost, its end still names the thread.
        let named = done.acp.as_deref().filter(|acp| thread.acp.is_none() && conversation.thread_of_acp(acp).is_none());
        let bind = named.map(|acp| bound(thread.id.clone(), Some(acp)));
        self.show(&turn.id, now);
        self.held.remove(&turn.id);
        if turn.state != TurnState::Unknown {
            self.ending.remove(&turn.id);
        }
        let interrupted = thread
            .turns
            .iter()
            .any(|later| later.interrupt && later.state.is_active() && later.sequence > turn.sequence);
        let evidence = if interrupted { Evidence::Interrupted } else { Evidence::Done };
        let (usage, exit_status) = (done.usage, done.exit_status);
        let (state, cause) = match after(turn.state, turn.cause.as_ref(), evidence) {
            Some(state) => (state, None),
            // Cancelled before: it stays so, what it took is still told.
            None if turn.state != TurnState::Completed && usage.is_some() && turn.usage.is_none() => {
                (turn.state, turn.cause.clone())
            }
            None => return Vec::new(),
        };
        // Before it was handed over there is nothing to be done with.
        if turn.state == TurnState::Queued {
            return Vec::new();
        }
        let event = ThreadEvent::TurnMoved { turn: turn.id.clone(), state, cause, usage, exit_status };
        let ended = Append { thread: thread.id.clone(), event };
        // What it interrupted is over, even if its own end was lost on the way.
        let before = thread.turns.iter().filter(|former| turn.interrupt && former.sequence < turn.sequence);
        let before = before.filter(|former| former.state.is_active());
        let before = before.filter_map(|former| moved(thread, former, Evidence::Interrupted, None));
        bind.into_iter().chain(before).chain([ended]).collect()
    }

    /// The cancelled turn of a thread whose end is still to come.
    pub(super) fn ending_turn<'a>(&self, thread: &'a Thread) -> Option<&'a Turn> {
        let is_ending = |turn: &&Turn| matches!(turn.state, TurnState::Cancelled | TurnState::Unknown);
        thread.turns.iter().rev().filter(is_ending).find(|turn| self.ending.contains_key(&turn.id))
    }

    /// By the request, which may be stale: after turns of ours, the editor repeats the last one for its own turns.
    fn turn_that_is_done<'a>(
        conversation: &'a Conversation,
        thread: Option<&'a Thread>,
        request: Option<&str>,
    ) -> Option<(&'a Thread, &'a Turn)> {
        let named = request.and_then(|request| turn_of(conversation, request));
        if let Some((of, turn)) = named
            && (!turn.state.is_final() || thread.is_some_and(|thread| thread.id != of.id))
        {
            return Some((of, turn));
        }
        let typed = thread.and_then(|thread| {
            let typed = oldest_active(thread).filter(|turn| turn.origin == Origin::Editor)?;
            // A repeat of the last turn's end must not end what was typed a moment later.
            let answered = thread.entries.iter().rev().any(|entry| {
                entry.turn.as_ref() == Some(&typed.id) && entry.role == helix_protocol::thread::Role::Assistant
            });
            answered.then_some((thread, typed))
        });
        match named {
            Some((_, turn)) if turn.state == TurnState::Completed => typed.or(named),
            Some(_) => named,
            None => thread.and_then(|thread| Some((thread, oldest_active(thread)?))),
        }
    }

    pub(super) fn hear_error(
        &mut self,
        conversation: &Conversation,
        request: &str,
        error: &str,
        now: Instant,
    ) -> Vec<Append> {
        let Some((thread, turn)) = turn_of(conversation, request) else {
            let data = json!({ "request_id": request, "error": error });
            return vec![custom(conversation, "chat_response_error", &data)];
        };
        let streams = self.streamed.get(&turn.id).map(|last| last.at + STREAMS).filter(|until| *until > now);
        if let Some(until) = streams {
            self.held.insert(turn.id.clone(), Held { heard: now, until, error: error.to_owned() });
            return Vec::new();
        }
        moved(thread, turn, Evidence::GivenUp, Some(agent_error(error))).into_iter().collect()
    }

    pub(super) fn hear_load_failed(
        &mut self,
        conversation: &Conversation,
        from: PeerId,
        acp: &str,
        request: &str,
        error: &str,
        now: Instant,
    ) -> Vec<Append> {
        let thread = conversation.thread_of_acp(acp);
        if let Some(thread) = thread {
            self.shows(from, &thread.id);
        }
        let data = json!({ "acp_thread_id": acp, "request_id": request, "error": error });
        if request.starts_with(OPEN_PREFIX) {
            // It was awaited in the place of an `agent_ready`. The next prompt of that thread finds out what it means.
            if let Some(peer) = self.peer_mut(from) {
                peer.ready.get_or_insert(now);
            }
            self.watch_clock(now);
            return vec![custom_in(thread, "thread_load_error", &data)];
        }
        let Some((thread, turn)) = turn_of(conversation, request) else {
            return vec![custom_in(thread, "thread_load_error", &data)];
        };
        let says = |parts: &[&str]| parts.iter().any(|part| error.contains(part));
        if says(&THREAD_GONE) && turn.state == TurnState::Dispatched {
            let cause = TurnCause::new(
                "thread_gone",
                format!("the agent has lost its thread ({}); a new one is made", cut(error)),
            );
            let forget = thread.acp.is_some().then(|| bound(thread.id.clone(), None));
            return forget.into_iter().chain(moved(thread, turn, Evidence::ThreadGone, Some(cause))).collect();
        }
        let cause = if says(&CRASHED) {
            let message = format!("the agent's process is gone: {}; send the prompt again once it is back", cut(error));
            TurnCause::new("agent_crashed", message)
        } else {
            agent_error(error)
        };
        moved(thread, turn, Evidence::GivenUp, Some(cause)).into_iter().collect()
    }

    pub(super) fn hear_cancelled(
        &mut self,
        conversation: &Conversation,
        from: PeerId,
        request: &str,
        done: bool,
        now: Instant,
    ) -> Vec<Append> {
        let Some((thread, turn)) = turn_of(conversation, request) else { return Vec::new() };
        if done {
            if turn.state.is_active() {
                self.ending.insert(turn.id.clone(), now + LAST_WORD);
            }
            // One that was given up here keeps the reason.
            return moved(thread, turn, Evidence::Cancelled, turn.cause.clone()).into_iter().collect();
        }
        let cancels = match self.peer_mut(from) {
            Some(peer) => Some(&mut peer.cancels),
            None => self.peers.last_mut().map(|peer| &mut peer.cancels),
        };
        if let Some(cancel) = cancels.and_then(|cancels| cancels.get_mut(&turn.id)) {
            *cancel = Cancel::Noop;
        }
        self.ending.remove(&turn.id);
        Vec::new()
    }

    /// The next error that is believed by now.
    pub(super) fn due_error(&self, conversation: &Conversation, now: Instant) -> Option<Append> {
        let mut due = self.held.iter().filter(|(_, held)| held.until <= now);
        due.find_map(|(id, held)| {
            let (thread, turn) = conversation.turn(id)?;
            moved(thread, turn, Evidence::GivenUp, Some(agent_error(&held.error)))
        })
    }

    /// Turn that an entry belongs to: the named one if it is of this thread, else the active one, else its former.
    pub(super) fn turn_of_entry(
        conversation: &Conversation,
        thread: &Thread,
        request: Option<&str>,
        entry: &str,
    ) -> Option<TurnId> {
        let former = thread.entry(entry).and_then(|entry| entry.turn.clone());
        let named = request.and_then(|request| turn_in(conversation, thread, request));
        let active = oldest_active(thread);
        match (named, former) {
            (Some(turn), _) if !turn.state.is_final() => Some(turn.id.clone()),
            (_, Some(former)) => Some(former),
            // The editor names the last turn of ours in its own: what is new belongs to what was typed.
            (Some(turn), None) => {
                Some(active.filter(|active| active.origin == Origin::Editor).unwrap_or(turn).id.clone())
            }
            (None, None) => active.map(|turn| turn.id.clone()),
        }
    }
}

/// The turn that the agent works on: of two, the later waits for the earlier's end.
pub(super) fn oldest_active(thread: &Thread) -> Option<&Turn> {
    thread.turns.iter().filter(|turn| turn.state.is_active()).min_by_key(|turn| turn.sequence)
}

fn agent_error(error: &str) -> TurnCause {
    TurnCause::new("agent_error", cut(error))
}

fn cut(error: &str) -> String {
    error.chars().take(MAX_ERROR_CHARS).collect()
}
