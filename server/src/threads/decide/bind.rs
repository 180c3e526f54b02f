//! Which thread of ours an agent means: its ids come late, change, and are made by people.

use helix_protocol::ids::hex;
use helix_protocol::sync::AgentReady;
use helix_protocol::thread::{Origin, Role, ThreadEvent};
use helix_protocol::{SessionId, ThreadId, TurnId};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::hear::moved;
use super::{Append, DRAFTS, Desk, Load, PeerId, turn_of};
use crate::threads::model::{Conversation, Thread, Turn};
use crate::threads::turn::Evidence;

/// The state that `agent_ready` lists a turn in which the agent has begun.
const RUNNING: &str = "running";

impl Desk {
    pub(super) fn hear_ready(
        &mut self,
        conversation: &Conversation,
        from: PeerId,
        ready: &AgentReady,
        now: Instant,
    ) -> Vec<Append> {
        let mut appends = Vec::new();
        if let Some(acp) = &ready.thread_id {
            match conversation.thread_of_acp(acp) {
                Some(thread) => self.shows(from, &thread.id),
                None => appends.extend(self.alias(conversation, from, acp)),
            }
        }
        for listed in ready.active_turns.iter().flatten() {
            let Some((thread, turn)) = turn_of(conversation, &listed.request_id) else { continue };
            // It has it, so its end lies ahead.
            self.in_doubt.remove(&turn.id);
            self.flushed.remove(&turn.id);
            let lives = listed.vouched != Some(false);
            if lives {
                self.show(&turn.id, now);
            }
            let acp = listed.acp_thread_id.as_deref().filter(|acp| !acp.is_empty() && thread.acp.is_none());
            appends.extend(acp.map(|acp| bound(thread.id.clone(), Some(acp))));
            if listed.state == RUNNING && lives {
                appends.extend(moved(thread, turn, Evidence::Progress, None));
            }
        }
        appends
    }

    /// A thread of which nothing is known: another id of the one that is being loaded, where that is clear.
    pub(super) fn alias(&self, conversation: &Conversation, from: PeerId, acp: &str) -> Option<Append> {
        // A new thread tells its id by `agent_ready` too, before `thread_created`.
        if self.drafts.contains_key(acp) || awaits_thread(conversation).next().is_some() {
            return None;
        }
        // What comes by another server cannot be told apart by socket.
        let peer = self.peer(from).or_else(|| self.peers.last())?;
        // One that has another id by now is loaded.
        let waits =
            |load: &&Load| conversation.thread(&load.thread).is_some_and(|of| of.acp.as_ref() == Some(&load.acp));
        let mut loads = peer.loads.iter().filter(waits);
        let load = loads.next().filter(|_| loads.next().is_none())?;
        Some(bound(load.thread.clone(), Some(acp)))
    }

    pub(super) fn hear_thread(
        &mut self,
        conversation: &Conversation,
        from: PeerId,
        acp: &str,
        request: Option<&str>,
        title: Option<&str>,
        now: Instant,
    ) -> Vec<Append> {
        let asked = match request {
            Some(request) => turn_of(conversation, request),
            // The old dialect does not say for which prompt it is: they are served in order.
            None => awaits_thread(conversation).next(),
        };
        let Some((thread, turn)) = asked else {
            // Whoever asked for it, it is no thread of ours yet: it appears with its first message.
            self.draft(conversation, acp, title);
            return Vec::new();
        };
        self.drafts.remove(acp);
        self.show(&turn.id, now);
        self.shows(from, &thread.id);
        let mut appends = Vec::new();
        if thread.acp.as_deref() != Some(acp) {
            appends.push(bound(thread.id.clone(), Some(acp)));
        }
        if let Some(title) = title.filter(|title| thread.title.is_none() && !title.is_empty()) {
            let event = ThreadEvent::ThreadRenamed { title: title.to_owned() };
            appends.push(Append { thread: thread.id.clone(), event });
        }
        appends.extend(moved(thread, turn, Evidence::Progress, None));
        appends
    }

    /// A thread in which nothing was said yet.
    pub(super) fn draft(&mut self, conversation: &Conversation, acp: &str, title: Option<&str>) {
        if conversation.thread_of_acp(acp).is_none() && self.drafts.len() < DRAFTS {
            self.drafts.insert(acp.to_owned(), title.map(str::to_owned));
        }
    }

    /// The thread of a message, and what must be written for it to be one. `None`: nobody knows.
    pub(super) fn thread_of_message(
        &mut self,
        conversation: &Conversation,
        from: PeerId,
        acp: Option<&str>,
        request: Option<&str>,
        role: Role,
    ) -> Option<(ThreadId, Vec<Append>)> {
        let by_request = request.and_then(|request| turn_of(conversation, request));
        let Some(acp) = acp else { return by_request.map(|(thread, _)| (thread.id.clone(), Vec::new())) };
        if let Some(thread) = conversation.thread_of_acp(acp) {
            self.drafts.remove(acp);
            self.shows(from, &thread.id);
            return Some((thread.id.clone(), Vec::new()));
        }
        // The editor repeats a former request in threads of its own.
        let is_draft = self.drafts.contains_key(acp);
        let is_its = |thread: &Thread, turn: &Turn| thread.acp.is_none() && (turn.state.is_active() || !is_draft);
        if let Some((thread, _)) = by_request.filter(|(thread, turn)| is_its(thread, turn)) {
            self.shows(from, &thread.id);
            return Some((thread.id.clone(), vec![bound(thread.id.clone(), Some(acp))]));
        }
        if let Some(title) = self.drafts.get(acp) {
            return self.begun_by_a_person(conversation, acp, title.clone());
        }
        // An agent may load a thread again by itself: what runs there tells its new id.
        let rebound = by_request.filter(|(_, turn)| turn.state.is_active());
        let rebound = rebound.map(|(thread, _)| bound(thread.id.clone(), Some(acp)));
        if let Some(append) = self.alias(conversation, from, acp).or(rebound) {
            return Some((append.thread.clone(), vec![append]));
        }
        // The word of a person's new thread may have been lost, or heard by a server that died. What they typed is proof
        // enough where nothing else is on its way.
        let expected = awaits_thread(conversation).next().is_some()
            || self.peer(from).or_else(|| self.peers.last()).is_some_and(|peer| !peer.loads.is_empty());
        if role == Role::User && !expected { self.begun_by_a_person(conversation, acp, None) } else { None }
    }

    fn begun_by_a_person(
        &self,
        conversation: &Conversation,
        acp: &str,
        title: Option<String>,
    ) -> Option<(ThreadId, Vec<Append>)> {
        let id = derived_thread(&self.session, acp)?;
        let started =
            ThreadEvent::ThreadStarted { origin: Origin::Editor, by: None, agent: None, title, work_session: None };
        // Written by half where a writer died in between.
        let begun = conversation.thread(&id).is_none().then(|| Append { thread: id.clone(), event: started });
        let appends = begun.into_iter().chain([bound(id.clone(), Some(acp))]).collect();
        Some((id, appends))
    }
}

/// Turns that the agent has and that have no thread there yet, in the order of the queue.
pub(super) fn awaits_thread(conversation: &Conversation) -> impl Iterator<Item = (&Thread, &Turn)> {
    let mut waiting: Vec<_> = conversation.active_turns().filter(|(thread, _)| thread.acp.is_none()).collect();
    waiting.sort_by_key(|(_, turn)| turn.sequence);
    waiting.into_iter()
}

pub(super) fn bound(thread: ThreadId, acp: Option<&str>) -> Append {
    Append { thread, event: ThreadEvent::ThreadBound { acp_thread_id: acp.map(str::to_owned) } }
}

/// A thread that a person began has the same id whoever writes it.
fn derived_thread(session: &SessionId, acp: &str) -> Option<ThreadId> {
    ThreadId::parse(format!("thr_{}", digest(&["editor", session.as_str(), acp]))).ok()
}

/// So has a turn that a person typed.
pub(super) fn derived_turn(session: &SessionId, thread: &ThreadId, entry: &str, text: &str) -> Option<TurnId> {
    TurnId::parse(format!("int_{}", digest(&["editor", session.as_str(), thread.as_str(), entry, text]))).ok()
}

fn digest(parts: &[&str]) -> String {
    hex(&Sha256::digest(parts.join("\0"))[..12])
}
