//! Pure: what is to be written and sent, given what was said and what is known.
//!
//! Two questions. [`Desk::hear`]: an agent said something; which events does the log lack? [`Desk::act`]: is there
//! something to do now, by the conversation as it is, the peers and the clock? The first is asked once per frame, the
//! second until it answers no, after each frame, each change of the conversation and each deadline. Both look at the
//! [`Conversation`] as it was folded and may be asked again after another writer was faster: what they note besides
//! (who is ready, what was sent on which socket, when a turn was heard of) is the same the second time. What an
//! [`Act`] changes is noted by [`Desk::done`], once its event is stored.
//!
//! What is noted here dies with the process. Whatever must outlive it is in the log.

mod act;
mod asked;
mod bind;
mod entry;
mod hear;
mod outcome;
mod peers;
mod queue;
mod reconnect;
#[cfg(test)]
mod tests;
mod timeouts;
pub mod words;

pub use self::act::sync_event;
pub use self::peers::Newest;
use self::peers::{Cancel, Peer};

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use helix_protocol::thread::{SESSION_THREAD, ThreadEvent, TurnState};
use helix_protocol::{SessionId, ThreadId, TurnId};
use tokio::time::Instant;

use super::model::{Conversation, Thread};

/// How long an error is held back while its turn still streams.
const STREAMS: Duration = Duration::from_secs(1);
/// How long the agent's last word on a cancelled turn is waited for before its thread goes on.
const LAST_WORD: Duration = Duration::from_secs(2);
/// The editor tells an entry this often at most, but before an end it tells the rest at once; a little less, for what
/// the way here takes now and then.
pub(super) const CADENCE: Duration = Duration::from_millis(95);
/// Turns of which something is noted before those that are over are forgotten.
const MANY: usize = 256;
/// Drafts that are remembered.
const DRAFTS: usize = 100;
/// Begins the request id of every `open_thread`: no turn's id does.
const OPEN_PREFIX: &str = "open_";

/// When patience ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A socket whose agent never says that it is ready is taken for ready.
    pub ready_fallback: Duration,
    /// A prompt without a thread must have got one.
    pub thread_created: Duration,
    /// A turn of which nothing was heard.
    pub silence: Duration,
    /// The same while it uses a tool or waits for an answer.
    pub tool_silence: Duration,
}

/// A socket, by the order of its arrival at this server. [`PeerId::ELSEWHERE`] is any at another server, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

impl PeerId {
    /// A socket at another server.
    pub const ELSEWHERE: Self = Self(0);
}

/// An event that the log lacks.
#[derive(Debug, Clone, PartialEq)]
pub struct Append {
    /// Under which thread.
    pub thread: ThreadId,
    /// What.
    pub event: ThreadEvent,
}

/// Something to do: store the event, if there is one, then send the frame, if there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Act {
    /// The newest peer, as far as it is about one.
    pub peer: PeerId,
    /// To be stored first.
    pub append: Option<Append>,
    /// To be sent to the peer then.
    pub frame: Option<String>,
    /// What to note once it is stored.
    pub note: Note,
}

/// What an [`Act`] changes of what is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Nothing.
    Nothing,
    /// The thread is asked for, or there is none to ask for.
    Opened(Option<Load>),
    /// A turn is handed over.
    HandedOver {
        /// The turn.
        turn: TurnId,
        /// Its thread.
        thread: ThreadId,
        /// The agent's thread; none makes a new one there.
        acp: Option<String>,
    },
    /// A turn is left to the agent that has it, as far as is known.
    Attached(TurnId),
    /// Its end is asked for.
    CancelSent(TurnId),
    /// The same of one that fell silent, for the sake of the next.
    Freed(TurnId),
    /// A question's answer is passed on.
    Answered(String),
}

/// A thread that an agent was asked to load and has not shown yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Ours.
    pub thread: ThreadId,
    /// The agent's id that it was asked for by.
    pub acp: String,
}

/// An error that is believed once its turn has been silent for [`STREAMS`].
#[derive(Debug)]
struct Held {
    heard: Instant,
    until: Instant,
    error: String,
}

/// A change of an entry.
#[derive(Debug)]
struct Streamed {
    at: Instant,
    entry: String,
    /// On which socket it was heard.
    by: PeerId,
}

/// The last sign of a turn.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    /// The same on the clock that stands still while no agent is there.
    awake: Duration,
    /// An agent has come back since: from there its silence counts.
    renewed: bool,
}

/// What is known of a session's agent besides its conversation.
#[derive(Debug)]
pub struct Desk {
    session: SessionId,
    timing: Timing,
    /// Oldest first: the last one gets what is sent.
    peers: Vec<Peer>,
    /// When a turn was heard of last, or handed over.
    heard: HashMap<TurnId, Heard>,
    /// For how long an agent that takes prompts was connected, up to the last time that this ended.
    awake: Duration,
    /// Since when one is.
    awake_since: Option<Instant>,
    /// The last change of a turn's entries.
    streamed: HashMap<TurnId, Streamed>,
    /// Turns whose last sign was one of those that the editor gives before an end, and when: they may be over.
    flushed: HashMap<TurnId, Instant>,
    /// Turns of which more than one event may have been lost: they may be over as well.
    in_doubt: HashSet<TurnId>,
    /// What sockets had that are gone, until it is known whether everything was read from them.
    limbo: HashMap<PeerId, HashSet<TurnId>>,
    /// The clock of patience when this server became the owner.
    succeeded: Duration,
    held: HashMap<TurnId, Held>,
    /// Where a thread's history is told again, without names: the turn that was told of last.
    telling: HashMap<ThreadId, TurnId>,
    /// Cancelled turns whose end is still to come: it may not name them, and would be taken for the next one's.
    ending: HashMap<TurnId, Instant>,
    /// Turns that were handed over to make a new thread.
    new_threads: HashSet<TurnId>,
    /// To whom a turn was handed last.
    handed_to: HashMap<TurnId, PeerId>,
    /// Handed over by the log, and provably never sent.
    unsent: HashSet<TurnId>,
    /// Threads that a person began and said nothing in yet, with their titles.
    drafts: HashMap<String, Option<String>>,
    /// When a question was heard of last.
    questions: HashMap<String, Instant>,
}

impl Desk {
    /// Nothing is known.
    pub fn new(session: SessionId, timing: Timing) -> Self {
        Self {
            session,
            timing,
            peers: Vec::new(),
            heard: HashMap::new(),
            awake: Duration::ZERO,
            awake_since: None,
            streamed: HashMap::new(),
            flushed: HashMap::new(),
            in_doubt: HashSet::new(),
            limbo: HashMap::new(),
            succeeded: Duration::ZERO,
            held: HashMap::new(),
            telling: HashMap::new(),
            ending: HashMap::new(),
            new_threads: HashSet::new(),
            handed_to: HashMap::new(),
            unsent: HashSet::new(),
            drafts: HashMap::new(),
            questions: HashMap::new(),
        }
    }

    /// What was sent, or stored, is done: to be called after the event of an [`Act`] is applied.
    pub fn done(&mut self, act: &Act, now: Instant) {
        if let Note::HandedOver { turn, acp, .. } = &act.note {
            self.heard.insert(turn.clone(), Heard { at: now, awake: self.awake(now), renewed: false });
            self.unsent.remove(turn);
            self.flushed.remove(turn);
            self.in_doubt.remove(turn);
            self.handed_to.insert(turn.clone(), act.peer);
            if acp.is_none() {
                self.new_threads.insert(turn.clone());
            } else {
                self.new_threads.remove(turn);
            }
        }
        if let Note::Freed(turn) = &act.note {
            // What the agent says of it yet must not be taken for the next one's.
            self.ending.insert(turn.clone(), now + LAST_WORD);
        }
        let heard = match &act.note {
            Note::Attached(turn) => self.heard.get(turn).map(|heard| heard.at),
            _ => None,
        };
        // It may have left while the event was stored.
        let Some(peer) = self.peer_mut(act.peer) else { return };
        match &act.note {
            Note::Nothing => {}
            Note::Opened(asked) => {
                peer.opened = true;
                peer.loads.extend(asked.clone());
            }
            Note::HandedOver { turn, thread, acp } => {
                peer.handed.insert(turn.clone());
                peer.unproved.remove(turn);
                // What the agent has not shown it loads now, and may give it another id.
                if let Some(acp) = acp
                    && !peer.shown.contains(thread)
                    && peer.loads.iter().all(|load| load.thread != *thread)
                {
                    peer.loads.push(Load { thread: thread.clone(), acp: acp.clone() });
                }
            }
            Note::Attached(turn) => {
                peer.considered.insert(turn.clone());
                let named = peer.list.iter().flatten().any(|listed| listed.request_id == turn.as_str());
                if !named && heard.is_none_or(|heard| heard < peer.since) {
                    peer.unproved.insert(turn.clone());
                }
            }
            Note::CancelSent(turn) | Note::Freed(turn) => {
                peer.cancels.insert(turn.clone(), Cancel::Sent);
            }
            Note::Answered(question) => {
                peer.answered.insert(question.clone());
            }
        }
    }

    /// What is over for good need not be known any more.
    fn forget(&mut self, conversation: &Conversation) {
        if self.heard.len() < MANY && self.questions.len() < MANY {
            return;
        }
        let may_go_on = |turn: &TurnId| {
            conversation.turn(turn).is_some_and(|(_, turn)| {
                !matches!(turn.state, TurnState::Completed | TurnState::Cancelled | TurnState::Interrupted)
            })
        };
        self.heard.retain(|turn, _| may_go_on(turn));
        self.streamed.retain(|turn, _| may_go_on(turn));
        self.telling.retain(|_, turn| may_go_on(turn));
        self.flushed.retain(|turn, _| may_go_on(turn));
        self.in_doubt.retain(may_go_on);
        self.handed_to.retain(|turn, _| may_go_on(turn));
        self.new_threads.retain(may_go_on);
        for peer in &mut self.peers {
            peer.handed.retain(may_go_on);
            peer.considered.retain(may_go_on);
            peer.cancels.retain(|turn, _| may_go_on(turn));
        }
        let waits = |id: &String| {
            conversation.threads().iter().any(|of| of.question(id).is_some_and(|question| question.closed.is_none()))
        };
        self.questions.retain(|id, _| waits(id));
    }
}

/// In the place of a thread: what concerns the session as a whole.
fn session_thread() -> ThreadId {
    ThreadId::parse(SESSION_THREAD).expect("the name of the session's own log is an id")
}

/// Thread and turn that a request names, where it is one of ours.
fn turn_of<'a>(conversation: &'a Conversation, request: &str) -> Option<(&'a Thread, &'a super::model::Turn)> {
    conversation.turn(&TurnId::parse(request).ok()?)
}
