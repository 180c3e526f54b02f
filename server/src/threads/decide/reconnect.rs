//! What a new connection means for turns that were handed over before it.
//!
//! | it reports its turns | and names this one | so |
//! |---|---|---|
//! | yes | yes | it has it: wait |
//! | yes | no | it provably has not: hand it over again, unless its end may be what was lost |
//! | no, but never runs a request twice | – | hand it over again |
//! | no | – | never again: wait, and end as `unknown` if nothing comes |
//!
//! A break loses one event, and it may be the last of a turn. Right before that one Zed tells all entries again, sooner
//! than its cadence allows: where such a word was the last that was heard, nobody can prove that the prompt was not
//! carried out, and it ends as `unknown`. A line that fell silent, or a server that died, may have lost any number of events, those of a whole turn
//! where the store was away for a while: then so does every turn that the agent does not name. A successor finds in the
//! log which those are.
//!
//! An agent of another assignment of the session has the memory of a checkpoint, and its list, as its word that it runs
//! nothing twice, is of that moment: no turn that was handed over before is handed to it. It ends as `unknown`, unless
//! the agent shows it.
//!
//! Decided once per connection and turn, when the connection is ready. A turn that was handed to this very connection
//! is none of these: a list may be older than the prompt. Nor is one whose socket is still open.

use helix_protocol::thread::{Origin, TurnCause, TurnState};
use helix_protocol::{Epoch, TurnId};
use tokio::time::Instant;

use super::hear::moved;
use super::queue::prompt;
use super::{Act, Append, Desk, Note, Peer};
use crate::threads::model::{Conversation, Thread, Turn};
use crate::threads::turn::Evidence;

impl Desk {
    /// The next turn from before this connection about which is to be decided.
    pub(super) fn reconsider(&self, conversation: &Conversation, peer: &Peer) -> Option<Act> {
        let mut before: Vec<_> =
            conversation.active_turns().filter(|(_, turn)| Self::is_from_before(peer, turn)).collect();
        before.sort_by_key(|(_, turn)| turn.sequence);
        before.into_iter().find_map(|(thread, turn)| self.consider(peer, thread, turn))
    }

    /// Begins where a former owner stopped.
    pub fn succeed(&mut self, conversation: &Conversation, now: Instant) {
        self.succeeded = self.awake(now);
        if conversation.connected {
            self.in_doubt.extend(conversation.active_turns().map(|(_, turn)| turn.id.clone()));
        } else {
            self.in_doubt.extend(conversation.in_doubt.iter().cloned());
        }
    }

    /// Ends the turns of an agent of a former assignment: see above.
    pub fn left_behind(&self, conversation: &Conversation, epoch: Epoch) -> Vec<Append> {
        if conversation.epoch.is_none_or(|known| known >= epoch) {
            return Vec::new();
        }
        let active = conversation.active_turns().filter(|(_, turn)| !self.unsent.contains(&turn.id));
        active.filter_map(|(thread, turn)| moved(thread, turn, Evidence::Silence, Some(begun_elsewhere()))).collect()
    }

    /// Turns whose end may have been lost: see above.
    pub fn doubts(&self, conversation: &Conversation) -> Vec<TurnId> {
        let active = conversation.active_turns().map(|(_, turn)| &turn.id);
        active.filter(|turn| self.may_be_over(turn) && !self.unsent.contains(*turn)).cloned().collect()
    }

    fn may_be_over(&self, turn: &TurnId) -> bool {
        self.flushed.contains_key(turn) || self.in_doubt.contains(turn)
    }

    fn is_from_before(peer: &Peer, turn: &Turn) -> bool {
        !peer.handed.contains(&turn.id) && turn.origin != Origin::Editor
    }

    fn consider(&self, peer: &Peer, thread: &Thread, turn: &Turn) -> Option<Act> {
        if self.held.contains_key(&turn.id) {
            // The agent gave it up, which only waits to be believed.
            return None;
        }
        let elsewhere = self.peers.iter().any(|other| other.id != peer.id && other.handed.contains(&turn.id));
        let unsent = self.unsent.contains(&turn.id);
        if elsewhere && !unsent {
            return None;
        }
        let named = peer.list.as_ref().map(|list| list.iter().any(|listed| listed.request_id == turn.id.as_str()));
        // A list says nothing of what was heard, or handed over, after it.
        let heard_since = self.heard.get(&turn.id).is_some_and(|heard| heard.at > peer.listed_at);
        let has_it = match named {
            Some(named) => named || (heard_since && !unsent),
            None => !(peer.deduplicates || unsent),
        };
        if has_it {
            let attached = Act { peer: peer.id, append: None, frame: None, note: Note::Attached(turn.id.clone()) };
            return (!peer.considered.contains(&turn.id)).then_some(attached);
        }
        if peer.considered.contains(&turn.id) && !unsent && named.is_none() {
            return None;
        }
        // Nobody has it. It is over where its end was wanted anyway.
        let interrupted = thread
            .turns
            .iter()
            .any(|later| later.interrupt && later.state.is_active() && later.sequence > turn.sequence);
        let gone = match named {
            Some(_) if self.may_be_over(&turn.id) && !unsent && !peer.deduplicates => {
                moved(thread, turn, Evidence::Silence, Some(end_lost()))
            }
            Some(_) if turn.cancel_requested => moved(thread, turn, Evidence::CalledOff, None),
            Some(_) if interrupted => moved(thread, turn, Evidence::Interrupted, None),
            _ => None,
        };
        if let Some(gone) = gone {
            return Some(Act { peer: peer.id, append: Some(gone), frame: None, note: Note::Nothing });
        }
        Some(hand_over(peer, thread, turn))
    }
}

fn begun_elsewhere() -> TurnCause {
    let message = "its session began elsewhere from a checkpoint, and nobody can tell what ran since that: look at what \
                   it did, and send it again if it was cut off";
    TurnCause::new("begun_elsewhere", message)
}

fn end_lost() -> TurnCause {
    let message = "the agent has it no more, and its end was not heard: look at what it did, and send it again if it \
                   was cut off";
    TurnCause::new("end_lost", message)
}

/// Hands a turn to this peer, for the first time or again.
pub(super) fn hand_over(peer: &Peer, thread: &Thread, turn: &Turn) -> Act {
    let event = helix_protocol::thread::ThreadEvent::TurnMoved {
        turn: turn.id.clone(),
        state: TurnState::Dispatched,
        cause: None,
        usage: None,
        exit_status: None,
    };
    let note = Note::HandedOver { turn: turn.id.clone(), thread: thread.id.clone(), acp: thread.acp.clone() };
    Act {
        peer: peer.id,
        append: Some(Append { thread: thread.id.clone(), event }),
        frame: Some(prompt(peer, thread, turn)),
        note,
    }
}
