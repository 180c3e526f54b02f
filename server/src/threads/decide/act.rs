//! What is to be done now, one thing at a time, and when to look again.

use helix_protocol::sync::{Command, ElicitationAnswer, OpenThread};
use helix_protocol::thread::{AnswerAction, Origin, ThreadEvent, TurnState};
use helix_protocol::{Epoch, TurnId};
use serde_json::Value;
use tokio::time::Instant;

use super::asked::closed;
use super::hear::moved;
use super::outcome::oldest_active;
use super::queue::{agent_of, text_of};
use super::reconnect::hand_over;
use super::{Act, Append, Desk, Load, Note, OPEN_PREFIX, Peer, PeerId, session_thread};
use crate::threads::model::Conversation;
use crate::threads::turn::Evidence;

impl Desk {
    /// The next thing to do, or nothing. To be asked again after it is done.
    pub fn act(&mut self, conversation: &Conversation, now: Instant) -> Option<Act> {
        if let Some(peer) = self.peers.last_mut()
            && peer.ready.is_none()
            && now >= peer.since + self.timing.ready_fallback
        {
            peer.ready = Some(now);
            self.watch_clock(now);
        }
        self.housekeeping(conversation, now).or_else(|| {
            let peer = self.peers.last()?;
            Self::open(conversation, peer).or_else(|| {
                peer.ready?;
                self.reconsider(conversation, peer)
                    .or_else(|| Self::cancel(conversation, peer))
                    .or_else(|| Self::answer(conversation, peer))
                    .or_else(|| self.silent_turn(conversation, peer, now))
                    .or_else(|| Self::untold_end(conversation, peer))
                    .or_else(|| self.in_the_way(conversation, peer))
                    .or_else(|| self.next_turn(conversation, peer).map(|(thread, turn)| hand_over(peer, thread, turn)))
            })
        })
    }

    /// When [`Desk::act`] has to be asked again though nothing has happened.
    pub fn deadline(&self, conversation: &Conversation, now: Instant) -> Option<Instant> {
        let errors = self.held.values().map(|held| held.until).min();
        let endings = self.ending.values().min().copied();
        let peer = self.peers.last();
        let gate = peer.filter(|peer| peer.ready.is_none()).map(|peer| peer.since + self.timing.ready_fallback);
        let ready = peer.filter(|peer| peer.ready.is_some());
        let silence = ready.and_then(|peer| self.next_silence(conversation, peer, now));
        [errors, endings, gate, silence].into_iter().flatten().min()
    }

    /// What needs no peer.
    fn housekeeping(&mut self, conversation: &Conversation, now: Instant) -> Option<Act> {
        let stored = |append| Act { peer: PeerId::ELSEWHERE, append: Some(append), frame: None, note: Note::Nothing };
        if let Some(failed) = self.due_error(conversation, now) {
            return Some(stored(failed));
        }
        self.held.retain(|_, held| held.until > now);
        self.ending.retain(|_, until| *until > now);
        self.forget(conversation);
        let called_off =
            conversation.turns().find(|(_, turn)| turn.state == TurnState::Queued && turn.cancel_requested);
        if let Some((thread, turn)) = called_off {
            return moved(thread, turn, Evidence::CalledOff, None).map(stored);
        }
        // Nobody waits for an answer any more once the turn that asked is over.
        conversation.threads().iter().find_map(|thread| {
            let over = |turn: &TurnId| thread.turn(turn).is_some_and(|turn| turn.state.is_final());
            let question = thread
                .questions
                .iter()
                .rev()
                .find(|question| question.closed.is_none() && question.turn.as_ref().is_some_and(over))?;
            Some(stored(closed(thread, question, "expired")))
        })
    }

    /// On connect, ahead of everything: the thread in which something happened last.
    fn open(conversation: &Conversation, peer: &Peer) -> Option<Act> {
        if peer.opened {
            return None;
        }
        let known = conversation.threads().iter().filter_map(|thread| Some((thread, thread.acp.clone()?)));
        let Some((thread, acp)) = known.max_by_key(|(thread, _)| thread.sequence) else {
            return Some(Act { peer: peer.id, append: None, frame: None, note: Note::Opened(None) });
        };
        let request_id = format!("{OPEN_PREFIX}{}", peer.id.0);
        let command = Command::OpenThread(OpenThread {
            acp_thread_id: acp.clone(),
            request_id: Some(request_id),
            agent_name: Some(agent_of(thread)),
        });
        let load = Load { thread: thread.id.clone(), acp };
        Some(Act { peer: peer.id, append: None, frame: Some(text_of(&command)), note: Note::Opened(Some(load)) })
    }

    /// The end of a running turn was asked for. One that has not begun answers that there is nothing to cancel and
    /// runs nevertheless: then the wish is repeated as soon as it shows itself.
    fn cancel(conversation: &Conversation, peer: &Peer) -> Option<Act> {
        if peer.seed {
            // The dialect has no word for it.
            return None;
        }
        let wanted = conversation.threads().iter().filter_map(oldest_active).find(|turn| {
            // To cancel another turn of the thread would cancel this one.
            turn.cancel_requested && !peer.cancels.contains_key(&turn.id)
        })?;
        let command = Command::CancelCurrentTurn { request_id: wanted.id.to_string() };
        Some(Act {
            peer: peer.id,
            append: None,
            frame: Some(text_of(&command)),
            note: Note::CancelSent(wanted.id.clone()),
        })
    }

    /// Document 000's dialect does not tell when the answer to what a person typed is done: our next prompt in that
    /// thread ends it.
    fn untold_end(conversation: &Conversation, peer: &Peer) -> Option<Act> {
        if !peer.seed {
            return None;
        }
        conversation.threads().iter().find_map(|thread| {
            let typed = oldest_active(thread).filter(|turn| turn.origin == Origin::Editor)?;
            thread.turns.iter().find(|turn| turn.state == TurnState::Queued)?;
            let done = moved(thread, typed, Evidence::Done, None)?;
            Some(Act { peer: peer.id, append: Some(done), frame: None, note: Note::Nothing })
        })
    }

    fn answer(conversation: &Conversation, peer: &Peer) -> Option<Act> {
        conversation.threads().iter().find_map(|thread| {
            let acp = thread.acp.as_ref()?;
            let waits = thread.questions.iter().rev().find(|question| {
                question.closed.is_none() && question.answer.is_some() && !peer.answered.contains(&question.id)
            })?;
            let answer = waits.answer.as_ref()?;
            let (action, content) = match answer.action {
                AnswerAction::Accept => ("accept", answer.content.clone()),
                AnswerAction::Decline => ("decline", Value::Null),
                AnswerAction::Cancel => ("cancel", Value::Null),
            };
            let command = Command::RespondElicitation(ElicitationAnswer {
                acp_thread_id: acp.clone(),
                elicitation_id: waits.id.clone(),
                action: action.to_owned(),
                content,
            });
            Some(Act {
                peer: peer.id,
                append: None,
                frame: Some(text_of(&command)),
                note: Note::Answered(waits.id.clone()),
            })
        })
    }
}

/// How the session's socket is, for its log.
pub fn sync_event(state: &str, detail: Option<String>, in_doubt: Vec<TurnId>, epoch: Option<Epoch>) -> Append {
    Append { thread: session_thread(), event: ThreadEvent::Sync { state: state.to_owned(), detail, in_doubt, epoch } }
}
