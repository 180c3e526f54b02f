//! An agent's sockets, and what was seen on each.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use helix_protocol::sync::{ActiveTurn, AgentReady};
use helix_protocol::{ThreadId, TurnId};
use tokio::time::Instant;

use super::{Desk, Heard, Load, PeerId};

/// What is known of an agent's socket.
#[derive(Debug)]
pub(super) struct Peer {
    pub id: PeerId,
    pub since: Instant,
    /// Since when prompts may go to it.
    pub ready: Option<Instant>,
    pub agent: Option<String>,
    /// The first list of turns that it gave, and when.
    pub list: Option<Vec<ActiveTurn>>,
    pub listed_at: Instant,
    pub deduplicates: bool,
    pub concurrent: bool,
    /// It speaks document 000's dialect.
    pub seed: bool,
    /// It was asked for the session's thread, where there is one.
    pub opened: bool,
    /// Threads that it was asked to load and has not shown yet.
    pub loads: Vec<Load>,
    /// Threads that it has shown.
    pub shown: HashSet<ThreadId>,
    /// Turns that it was handed.
    pub handed: HashSet<TurnId>,
    /// Older turns about which was decided what this connection means for them.
    pub considered: HashSet<TurnId>,
    /// Of those: nothing proves yet that the agent has them.
    pub unproved: HashSet<TurnId>,
    pub cancels: HashMap<TurnId, Cancel>,
    pub answered: HashSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancel {
    /// No answer yet, or one that said yes.
    Sent,
    /// There was nothing to cancel: to be repeated once the turn shows itself.
    Noop,
}

/// How the socket that gets what is sent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Which.
    pub peer: PeerId,
    /// Prompts may go to it.
    pub ready: bool,
    /// Agent that it named.
    pub agent: Option<String>,
}

impl Desk {
    /// A socket opened.
    pub fn connected(&mut self, id: PeerId, now: Instant) {
        self.telling.clear();
        self.peers.push(Peer {
            id,
            since: now,
            ready: None,
            agent: None,
            list: None,
            listed_at: now,
            deduplicates: false,
            concurrent: false,
            seed: false,
            opened: false,
            loads: Vec::new(),
            shown: HashSet::new(),
            handed: HashSet::new(),
            considered: HashSet::new(),
            unproved: HashSet::new(),
            cancels: HashMap::new(),
            answered: HashSet::new(),
        });
        self.watch_clock(now);
    }

    /// A socket is gone. `heard_out`: everything that arrived on it before its end was read. `unsent` are turns whose
    /// frames provably never left.
    pub fn lost(&mut self, id: PeerId, heard_out: bool, unsent: impl IntoIterator<Item = TurnId>, now: Instant) {
        self.cut(id, unsent, now);
        let had = self.limbo.remove(&id).unwrap_or_default();
        if !heard_out {
            self.in_doubt.extend(had);
        }
    }

    /// The same before it is known whether everything was read; [`Desk::lost`] follows.
    pub fn cut(&mut self, id: PeerId, unsent: impl IntoIterator<Item = TurnId>, now: Instant) {
        if let Some(place) = self.peers.iter().position(|peer| peer.id == id) {
            let peer = self.peers.remove(place);
            self.limbo.insert(id, peer.handed.into_iter().chain(peer.considered).collect());
        }
        if self.peers.is_empty() {
            // Nothing that streams could contradict an error any more.
            self.held.values_mut().for_each(|held| held.until = held.heard);
        }
        // What went to another one since was sent.
        let its = |turn: &TurnId| self.handed_to.get(turn) == Some(&id);
        let unsent: Vec<_> = unsent.into_iter().filter(its).collect();
        self.unsent.extend(unsent);
        self.watch_clock(now);
    }

    /// The clock of patience runs while the newest peer takes prompts.
    pub(super) fn watch_clock(&mut self, now: Instant) {
        let is_awake = self.peers.last().is_some_and(|peer| peer.ready.is_some());
        match self.awake_since {
            Some(since) if !is_awake => {
                self.awake += now.duration_since(since);
                self.awake_since = None;
            }
            None if is_awake => {
                self.awake_since = Some(now);
                // Who comes back gets the whole patience once, however often that happens: turns must not wait for
                // ever because a line is bad.
                for heard in self.heard.values_mut() {
                    if !std::mem::replace(&mut heard.renewed, true) {
                        heard.awake = self.awake;
                    }
                }
            }
            _ => {}
        }
    }

    /// For how long an agent that takes prompts was connected.
    pub(super) fn awake(&self, now: Instant) -> Duration {
        self.awake + self.awake_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// The socket that gets what is sent.
    pub fn newest(&self) -> Option<Newest> {
        let peer = self.peers.last()?;
        Some(Newest { peer: peer.id, ready: peer.ready.is_some(), agent: peer.agent.clone() })
    }

    /// True where no socket is left here.
    pub fn is_alone(&self) -> bool {
        self.peers.is_empty()
    }

    /// A socket speaks document 000's dialect, which has no word for being ready.
    pub fn speaks_seed(&mut self, id: PeerId, now: Instant) {
        if let Some(peer) = self.peer_mut(id) {
            peer.seed = true;
            peer.ready.get_or_insert(now);
        }
        self.watch_clock(now);
    }

    /// A socket's agent takes prompts. Also noted while another server is the owner, who may leave at any moment.
    pub fn ready(&mut self, id: PeerId, ready: &AgentReady, now: Instant) {
        let Some(peer) = self.peer_mut(id) else { return };
        peer.ready.get_or_insert(now);
        if !ready.agent_name.is_empty() {
            peer.agent = Some(ready.agent_name.clone());
        }
        if peer.list.is_none() && ready.active_turns.is_some() {
            peer.list.clone_from(&ready.active_turns);
            peer.listed_at = now;
        }
        peer.deduplicates |= ready.deduplicates;
        peer.concurrent |= ready.concurrent;
        self.watch_clock(now);
    }

    pub(super) fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    pub(super) fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// The agent shows that it has this turn. Proves it on every socket: it is one agent.
    pub(super) fn show(&mut self, turn: &TurnId, now: Instant) {
        self.heard.insert(turn.clone(), Heard { at: now, awake: self.awake(now), renewed: false });
        for peer in &mut self.peers {
            peer.unproved.remove(turn);
            // A cancel that came too early is repeated.
            if peer.cancels.get(turn) == Some(&Cancel::Noop) {
                peer.cancels.remove(turn);
            }
        }
    }

    /// The agent shows this thread: whoever asked for it has it.
    pub(super) fn shows(&mut self, id: PeerId, thread: &ThreadId) {
        if let Some(peer) = self.peer_mut(id) {
            peer.loads.retain(|load| load.thread != *thread);
            if !peer.shown.contains(thread) {
                peer.shown.insert(thread.clone());
            }
        }
    }
}
