//! A session's conversation as the fold of its events: pure.
//!
//! [`Conversation::apply`] takes events in the order of the stream and refuses nothing: what is written happened.
//! What may be written is decided elsewhere, before. Texts are kept whole only where asked for ([`Keep`]); of an entry
//! whose text was let go its length and digest stay.

mod entry;

use std::collections::BTreeMap;

use helix_protocol::thread::{
    AnswerAction, Origin, Role, SESSION_THREAD, ThreadEvent, ThreadRecord, TokenUsage, ToolCall, TurnCause, TurnState,
};
use helix_protocol::{Epoch, SessionId, ThreadId, TurnId};
use jiff::Timestamp;
use serde_json::Value;

pub use self::entry::Entry;

/// [`ThreadEvent::Sync`]: a socket is open.
pub const CONNECTED: &str = "connected";
/// The same: its agent takes prompts.
pub const READY: &str = "ready";
/// The same: none is open any more, and all that was said on it is stored.
pub const DISCONNECTED: &str = "disconnected";

/// Which texts of entries are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All.
    All,
    /// Those of turns that are not over: what is needed to tell what changed.
    Running,
}

/// Every thread of one session.
#[derive(Debug, Clone)]
pub struct Conversation {
    keep: Keep,
    /// Sequence of the last event that was applied; 0 = none.
    pub applied: u64,
    /// Last sequence under [`SESSION_THREAD`].
    pub session_sequence: u64,
    /// A server has a socket of the agent, or died with one.
    pub connected: bool,
    /// Turns whose end may have been lost with the last socket.
    pub in_doubt: Vec<TurnId>,
    /// Of which assignment of the session its agent was, last.
    pub epoch: Option<Epoch>,
    threads: Vec<Thread>,
}

/// One thread.
#[derive(Debug, Clone)]
pub struct Thread {
    /// Ours.
    pub id: ThreadId,
    /// Who began it.
    pub origin: Origin,
    /// Name of the token that asked for it.
    pub by: Option<String>,
    /// Agent that serves it.
    pub agent: Option<String>,
    /// For people.
    pub title: Option<String>,
    /// Session id that it was asked for under.
    pub work_session: Option<SessionId>,
    /// The agent's own id of it, while it has one.
    pub acp: Option<String>,
    /// All ids that the agent had for it, oldest first.
    pub acp_ids: Vec<String>,
    /// How often the agent lost it: each time its numbering of entries begins anew.
    pub losses: u32,
    /// Its turns, oldest first.
    pub turns: Vec<Turn>,
    /// Its entries, in the order of the agent's numbers.
    pub entries: Vec<Entry>,
    /// Its questions, oldest first.
    pub questions: Vec<Question>,
    /// Tokens of all turns.
    pub usage: TokenUsage,
    /// Time of the first event.
    pub created_at: Timestamp,
    /// Time of the last event.
    pub last_activity_at: Timestamp,
    /// Sequence of its last event: what the next write must expect.
    pub sequence: u64,
    places: BTreeMap<String, usize>,
}

/// One turn.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Which.
    pub id: TurnId,
    /// How it is.
    pub state: TurnState,
    /// Why.
    pub cause: Option<TurnCause>,
    /// Who asked.
    pub origin: Origin,
    /// Name of the token.
    pub by: Option<String>,
    /// What was asked.
    pub prompt: String,
    /// Ends the turn before it.
    pub interrupt: bool,
    /// Paths in the workspace.
    pub attachments: Vec<String>,
    /// The turn that it asks again.
    pub resend_of: Option<TurnId>,
    /// Somebody wants its end.
    pub cancel_requested: bool,
    /// How often it was handed to the agent.
    pub dispatches: u32,
    /// Tokens.
    pub usage: Option<TokenUsage>,
    /// Exit status of a shell command.
    pub exit_status: Option<i32>,
    /// Sequence of its first event: its place in the queue of the session.
    pub sequence: u64,
    /// When it was accepted.
    pub queued_at: Timestamp,
    /// When it was handed over, last.
    pub dispatched_at: Option<Timestamp>,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
}

/// A question of the agent's.
#[derive(Debug, Clone)]
pub struct Question {
    /// The agent's id.
    pub id: String,
    /// Turn that waits.
    pub turn: Option<TurnId>,
    /// `form`, `url`, `permission`.
    pub mode: String,
    /// For people.
    pub message: String,
    /// JSON Schema of the answer.
    pub schema: Value,
    /// Entry that it is about.
    pub entry: Option<String>,
    /// The answer, once somebody gave one.
    pub answer: Option<Answer>,
    /// The agent's last word on it.
    pub closed: Option<String>,
}

/// An answer to a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// How.
    pub action: AnswerAction,
    /// With what.
    pub content: Value,
    /// Name of the token.
    pub by: String,
}

impl Conversation {
    /// Nothing was said yet.
    pub fn new(keep: Keep) -> Self {
        Self {
            keep,
            applied: 0,
            session_sequence: 0,
            connected: false,
            in_doubt: Vec::new(),
            epoch: None,
            threads: Vec::new(),
        }
    }

    /// By creation.
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// One thread.
    pub fn thread(&self, id: &ThreadId) -> Option<&Thread> {
        self.threads.iter().find(|thread| thread.id == *id)
    }

    /// The thread that has, or had, this id with the agent.
    pub fn thread_of_acp(&self, acp: &str) -> Option<&Thread> {
        let has = |thread: &&Thread| thread.acp_ids.iter().any(|id| id == acp);
        // The newest: an agent may give an id anew.
        self.threads.iter().rev().find(has)
    }

    /// A turn and its thread.
    pub fn turn(&self, id: &TurnId) -> Option<(&Thread, &Turn)> {
        self.threads.iter().find_map(|thread| Some((thread, thread.turn(id)?)))
    }

    /// Turns that the agent has, as far as is known.
    pub fn active_turns(&self) -> impl Iterator<Item = (&Thread, &Turn)> {
        self.turns().filter(|(_, turn)| turn.state.is_active())
    }

    /// Every turn of every thread.
    pub fn turns(&self) -> impl Iterator<Item = (&Thread, &Turn)> {
        self.threads.iter().flat_map(|thread| thread.turns.iter().map(move |turn| (thread, turn)))
    }

    /// Sequence that the next write under this thread must expect; 0 where there is none.
    pub fn sequence_of(&self, thread: &ThreadId) -> u64 {
        if thread.as_str() == SESSION_THREAD {
            return self.session_sequence;
        }
        self.thread(thread).map_or(0, |thread| thread.sequence)
    }

    /// Takes the next event in.
    pub fn apply(&mut self, sequence: u64, id: &ThreadId, record: &ThreadRecord) {
        self.applied = sequence;
        if id.as_str() == SESSION_THREAD {
            self.session_sequence = sequence;
            if let ThreadEvent::Sync { state, in_doubt, epoch, .. } = &record.event {
                self.epoch = epoch.or(self.epoch);
                self.connected = [CONNECTED, READY].contains(&state.as_str());
                self.in_doubt.clone_from(in_doubt);
            }
            return;
        }
        let place = self.threads.iter().position(|thread| thread.id == *id).unwrap_or_else(|| {
            self.threads.push(Thread::new(id.clone(), record.at));
            self.threads.len() - 1
        });
        self.threads[place].apply(self.keep, sequence, record);
    }
}

impl Thread {
    fn new(id: ThreadId, at: Timestamp) -> Self {
        Self {
            id,
            origin: Origin::Api,
            by: None,
            agent: None,
            title: None,
            work_session: None,
            acp: None,
            acp_ids: Vec::new(),
            losses: 0,
            turns: Vec::new(),
            entries: Vec::new(),
            questions: Vec::new(),
            usage: TokenUsage::default(),
            created_at: at,
            last_activity_at: at,
            sequence: 0,
            places: BTreeMap::new(),
        }
    }

    /// One turn.
    pub fn turn(&self, id: &TurnId) -> Option<&Turn> {
        // The newest ones are asked for.
        self.turns.iter().rev().find(|turn| turn.id == *id)
    }

    /// The turn that the agent has, as far as is known.
    pub fn active_turn(&self) -> Option<&Turn> {
        self.turns.iter().rev().find(|turn| turn.state.is_active())
    }

    /// One entry.
    pub fn entry(&self, id: &str) -> Option<&Entry> {
        Some(&self.entries[*self.places.get(id)?])
    }

    /// One question.
    pub fn question(&self, id: &str) -> Option<&Question> {
        self.questions.iter().rev().find(|question| question.id == id)
    }

    fn turn_mut(&mut self, id: &TurnId) -> Option<&mut Turn> {
        self.turns.iter_mut().rev().find(|turn| turn.id == *id)
    }

    fn question_mut(&mut self, id: &str) -> Option<&mut Question> {
        self.questions.iter_mut().rev().find(|question| question.id == id)
    }

    fn apply(&mut self, keep: Keep, sequence: u64, record: &ThreadRecord) {
        self.sequence = sequence;
        self.last_activity_at = record.at;
        match &record.event {
            ThreadEvent::ThreadStarted { origin, by, agent, title, work_session } => {
                self.origin = *origin;
                self.by.clone_from(by);
                self.agent.clone_from(agent);
                self.title.clone_from(title);
                self.work_session.clone_from(work_session);
            }
            ThreadEvent::ThreadBound { acp_thread_id } => {
                self.acp.clone_from(acp_thread_id);
                self.losses += u32::from(acp_thread_id.is_none());
                self.acp_ids.extend(acp_thread_id.clone().filter(|id| !self.acp_ids.contains(id)));
            }
            ThreadEvent::ThreadRenamed { title } => self.title = Some(title.clone()),
            ThreadEvent::TurnQueued { turn, origin, by, prompt, interrupt, attachments, resend_of } => {
                // A repeat changes nothing: writers may have been in doubt whether the first one arrived.
                if self.turn(turn).is_none() {
                    self.turns.push(Turn {
                        id: turn.clone(),
                        state: TurnState::Queued,
                        cause: None,
                        origin: *origin,
                        by: by.clone(),
                        prompt: prompt.clone(),
                        interrupt: *interrupt,
                        attachments: attachments.clone(),
                        resend_of: resend_of.clone(),
                        cancel_requested: false,
                        dispatches: 0,
                        usage: None,
                        exit_status: None,
                        sequence,
                        queued_at: record.at,
                        dispatched_at: None,
                        finished_at: None,
                    });
                }
            }
            ThreadEvent::TurnMoved { turn, state, cause, usage, exit_status } => {
                self.move_turn(keep, turn, *state, cause.as_ref(), *usage, *exit_status, record.at);
            }
            ThreadEvent::CancelRequested { turn, .. } => {
                if let Some(turn) = self.turn_mut(turn) {
                    turn.cancel_requested = true;
                }
            }
            ThreadEvent::Entry { entry, before, turn, role, tool, offset, text } => {
                let place = self.place(entry, before.as_deref(), *role);
                self.apply_entry(keep, place, turn.as_ref(), *role, tool.as_ref(), *offset, text);
            }
            ThreadEvent::QuestionAsked { question, turn, mode, message, schema, entry } => {
                if self.question(question).is_none() {
                    self.questions.push(Question {
                        id: question.clone(),
                        turn: turn.clone(),
                        mode: mode.clone(),
                        message: message.clone(),
                        schema: schema.clone(),
                        entry: entry.clone(),
                        answer: None,
                        closed: None,
                    });
                }
            }
            ThreadEvent::QuestionAnswered { question, action, content, by } => {
                if let Some(question) = self.question_mut(question)
                    && question.answer.is_none()
                {
                    question.answer = Some(Answer { action: *action, content: content.clone(), by: by.clone() });
                }
            }
            ThreadEvent::QuestionClosed { question, status } => {
                if let Some(question) = self.question_mut(question) {
                    question.closed = Some(status.clone());
                }
            }
            ThreadEvent::Sync { .. } | ThreadEvent::Custom { .. } | ThreadEvent::Unreadable => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    fn move_turn(
        &mut self,
        keep: Keep,
        id: &TurnId,
        state: TurnState,
        cause: Option<&TurnCause>,
        usage: Option<TokenUsage>,
        exit_status: Option<i32>,
        at: Timestamp,
    ) {
        let Some(turn) = self.turn_mut(id) else { return };
        turn.state = state;
        turn.cause = cause.cloned();
        turn.exit_status = exit_status.or(turn.exit_status);
        match state {
            TurnState::Dispatched => {
                turn.dispatches += 1;
                turn.dispatched_at = Some(at);
            }
            _ if state.is_final() => turn.finished_at = Some(at),
            _ => turn.finished_at = None,
        }
        if let Some(usage) = usage {
            turn.usage = Some(usage);
            self.usage += usage;
        }
        if state.is_final() && keep == Keep::Running {
            for entry in self.entries.iter_mut().filter(|entry| entry.turn.as_ref() == Some(id)) {
                entry.let_go();
            }
        }
    }

    /// Where an entry stands; a new one is made there.
    fn place(&mut self, id: &str, before: Option<&str>, role: Role) -> usize {
        if let Some(place) = self.places.get(id) {
            return *place;
        }
        let place = before.and_then(|before| self.places.get(before)).copied().unwrap_or(self.entries.len());
        if place < self.entries.len() {
            self.places.values_mut().filter(|later| **later >= place).for_each(|later| *later += 1);
        }
        let text = Some(String::new());
        let entry = Entry { id: id.to_owned(), turn: None, role, tool: None, length: 0, text, digest: None };
        self.entries.insert(place, entry);
        self.places.insert(id.to_owned(), place);
        place
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    fn apply_entry(
        &mut self,
        keep: Keep,
        place: usize,
        turn: Option<&TurnId>,
        role: Role,
        tool: Option<&ToolCall>,
        offset: u64,
        text: &str,
    ) {
        let over = turn.and_then(|turn| self.turn(turn)).is_none_or(|turn| turn.state.is_final());
        let entry = &mut self.entries[place];
        entry.role = role;
        entry.turn = turn.cloned().or_else(|| entry.turn.take());
        entry.tool = tool.cloned();
        entry.write(offset, text);
        if over && keep == Keep::Running {
            entry.let_go();
        }
    }
}

#[cfg(test)]
mod tests;
