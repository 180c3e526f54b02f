//! Which turn goes to the agent next, and in what words.
//!
//! Zed takes prompts in one loop: a follow-up blocks it to the end of its turn, a prompt for a new thread until that
//! thread is there. What is handed over meanwhile waits inside it, unseen, and cancels a running turn of its own
//! thread when it gets through. So it waits here.

use helix_protocol::TurnId;
use helix_protocol::sync::{ChatMessage, Command};
use helix_protocol::thread::{Origin, TurnState};
use serde_json::json;

use super::{Desk, Peer};
use crate::threads::model::{Conversation, Thread, Turn};

/// The editor's own agent.
const OWN_AGENT: &str = "zed-agent";

impl Desk {
    /// The next turn that may be handed to this peer.
    pub(super) fn next_turn<'a>(&self, conversation: &'a Conversation, peer: &Peer) -> Option<(&'a Thread, &'a Turn)> {
        let free = peer.concurrent || !conversation.active_turns().any(|(thread, turn)| self.blocks(thread, turn));
        let mut waiting: Vec<_> = conversation.threads().iter().filter_map(first_waiting).collect();
        waiting.sort_by_key(|(_, turn)| turn.sequence);
        waiting.into_iter().find(|(thread, turn)| match thread.active_turn() {
            None => free && self.ending_turn(thread).is_none(),
            // It ends what runs, round the loop; not before the agent has a name for the thread, and not in the dialect
            // that has no word for it.
            Some(_) => turn.interrupt && thread.acp.is_some() && !peer.seed,
        })
    }

    /// True while this turn keeps the agent's loop from taking another.
    pub(super) fn blocks(&self, thread: &Thread, turn: &Turn) -> bool {
        if turn.origin == Origin::Editor {
            return false;
        }
        let new_thread = self.new_threads.contains(&turn.id) || is_first_handed(thread, &turn.id);
        !new_thread || thread.acp.is_none()
    }
}

/// The turn of a thread that comes before its others: one that interrupts, else the oldest.
fn first_waiting(thread: &Thread) -> Option<(&Thread, &Turn)> {
    let waiting = || thread.turns.iter().filter(|turn| turn.state == TurnState::Queued && !turn.cancel_requested);
    let first = waiting().find(|turn| turn.interrupt).or_else(|| waiting().next())?;
    Some((thread, first))
}

/// Nothing was handed over in this thread before: it made the thread. What happened since may have made another, and
/// then this errs towards waiting.
fn is_first_handed(thread: &Thread, turn: &TurnId) -> bool {
    thread.acp_ids.len() <= 1
        && thread.turns.iter().find(|turn| turn.dispatches > 0).is_some_and(|first| first.id == *turn)
}

/// The prompt as the agent gets it.
pub(super) fn sent_text(turn: &Turn) -> String {
    if turn.attachments.is_empty() {
        return turn.prompt.clone();
    }
    let paths: Vec<_> = turn.attachments.iter().map(|path| format!("- {path}")).collect();
    format!("{}\n\nFiles in the workspace that go with this:\n{}", turn.prompt, paths.join("\n"))
}

/// Agent that serves a thread.
pub(super) fn agent_of(thread: &Thread) -> String {
    thread.agent.clone().unwrap_or_else(|| OWN_AGENT.to_owned())
}

/// The frame of a prompt.
pub(super) fn prompt(peer: &Peer, thread: &Thread, turn: &Turn) -> String {
    let message = sent_text(turn);
    if peer.seed {
        let data = json!({
            "request_id": turn.id, "context_id": thread.acp, "message": message, "role": "user",
        });
        return json!({ "type": "chat_message", "data": data }).to_string();
    }
    let runs = thread.turns.iter().any(|other| other.id != turn.id && other.state.is_active());
    text_of(&Command::ChatMessage(ChatMessage {
        message,
        request_id: turn.id.to_string(),
        acp_thread_id: thread.acp.clone(),
        agent_name: Some(agent_of(thread)),
        interrupt: turn.interrupt && runs && thread.acp.is_some(),
    }))
}

/// The text frame of a command.
pub(super) fn text_of(command: &Command) -> String {
    serde_json::to_string(command).expect("a command has only text keys, so it becomes JSON")
}
