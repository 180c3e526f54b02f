//! What the bridge knows of its threads and turns: the fold of its journal, pure.
//!
//! A turn is known by its `request_id` for ever (of the last [`KNOWN_TURNS`]), so that none runs twice. Texts are kept
//! while a turn runs and of the last turns of each thread, for servers that ask for them again.

use std::collections::BTreeMap;
use std::time::Instant;

use helix_protocol::session::SessionResult;
use helix_protocol::thread::TokenUsage;

use super::record::{End, Origin, Record, Tool};

/// Turns whose ids are remembered.
const KNOWN_TURNS: usize = 10_000;
/// Turns of a thread whose texts are kept after their end.
const KEPT_TURNS: usize = 10;
/// Bytes of text that are kept of turns that are over, of all threads together.
const KEPT_BYTES: usize = 32 * 1024 * 1024;

/// All threads and turns.
#[derive(Debug, Default)]
pub struct Conversation {
    threads: BTreeMap<String, Thread>,
    turns: BTreeMap<String, Turn>,
    count: u64,
    /// The first turn of all: its outcome is the session's.
    pub first: Option<String>,
    /// The session's result is on the guest's disk.
    pub result_kept: bool,
}

/// A thread.
#[derive(Debug, Default)]
struct Thread {
    /// Index of its next entry.
    next: u64,
    /// Its turns, oldest first.
    turns: Vec<String>,
    title: Option<String>,
}

/// How a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Accepted; the agent has not got it.
    Queued,
    /// The agent has it.
    Running,
    /// It is over.
    Over,
}

/// A prompt and what came of it.
#[derive(Debug)]
pub struct Turn {
    /// Place in the order of acceptance.
    pub number: u64,
    /// Its thread, once it has one.
    pub thread: Option<String>,
    /// It began the thread.
    pub new_thread: bool,
    /// The prompt; empty once over.
    pub message: String,
    /// Agent, as the server named it.
    pub agent: String,
    /// Who asked.
    pub origin: Origin,
    /// How it is.
    pub state: State,
    /// Somebody wants its end.
    pub cancelling: bool,
    /// Its entries, by index.
    pub entries: Vec<Entry>,
    /// Questions of the agent's and how they ended.
    pub questions: Vec<(String, Option<String>)>,
    /// How it ended.
    pub end: Option<End>,
    /// Tokens.
    pub usage: Option<TokenUsage>,
    /// Of a shell command.
    pub exit_status: Option<i32>,
    /// The session's result, of the first turn.
    pub result: Option<SessionResult>,
    /// A server has taken its outcome.
    pub told: bool,
}

/// Something said or done.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Index in the thread.
    pub index: u64,
    /// Said by a person.
    pub user: bool,
    /// Use of a tool.
    pub tool: Option<Tool>,
    /// The text.
    pub text: String,
    /// Bytes in front that are in the journal.
    pub saved: usize,
    /// Bytes in front that were told on the present connection; None: it was not told there.
    pub told: Option<usize>,
    /// Something else than its text has changed since it was told.
    pub changed: bool,
    /// When it was told last.
    pub told_at: Option<Instant>,
}

impl Entry {
    /// Keeps `keep` bytes of the text and puts `text` behind them.
    pub fn edit(&mut self, keep: usize, text: &str) {
        let keep = self.text.floor_char_boundary(keep.min(self.text.len()));
        let rest = &self.text.as_bytes()[keep..];
        let same = rest.iter().zip(text.as_bytes()).take_while(|(old, new)| old == new).count();
        // Not inside a character, of either text.
        let same = text.floor_char_boundary(same);
        let whole = same == rest.len();
        let clean = keep + same;
        if !whole || same < text.len() {
            self.text.truncate(clean);
            self.text.push_str(&text[same..]);
        }
        // What was behind is not missed by looking at lengths alone.
        self.changed |= !whole;
        self.saved = self.saved.min(clean);
        self.told = self.told.map(|told| told.min(clean));
    }

    /// Whether the present connection knows all of it.
    pub fn is_told(&self) -> bool {
        !self.changed && self.told == Some(self.text.len())
    }
}

impl Turn {
    fn new(number: u64, thread: Option<String>, message: String, agent: String, origin: Origin) -> Self {
        Self {
            number,
            new_thread: thread.is_none(),
            thread,
            message,
            agent,
            origin,
            state: State::Queued,
            cancelling: false,
            entries: Vec::new(),
            questions: Vec::new(),
            end: None,
            usage: None,
            exit_status: None,
            result: None,
            told: false,
        }
    }

    /// One entry.
    pub fn entry_mut(&mut self, index: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().rev().find(|entry| entry.index == index)
    }

    fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.text.len()).sum()
    }
}

impl Conversation {
    /// One turn.
    pub fn turn(&self, request: &str) -> Option<&Turn> {
        self.turns.get(request)
    }

    /// One turn.
    pub fn turn_mut(&mut self, request: &str) -> Option<&mut Turn> {
        self.turns.get_mut(request)
    }

    /// Every turn with its id, in the order of acceptance.
    pub fn turns(&self) -> Vec<(&String, &Turn)> {
        let mut turns: Vec<_> = self.turns.iter().collect();
        turns.sort_by_key(|(_, turn)| turn.number);
        turns
    }

    /// Ids of the turns that are not over, in the order of acceptance.
    pub fn open(&self) -> Vec<String> {
        let open = self.turns().into_iter().filter(|(_, turn)| turn.state != State::Over);
        open.map(|(request, _)| request.clone()).collect()
    }

    /// Whether the thread is known.
    pub fn has_thread(&self, thread: &str) -> bool {
        self.threads.contains_key(thread)
    }

    /// The thread in which something happened last.
    pub fn newest_thread(&self) -> Option<&str> {
        let newest = self.turns.values().filter(|turn| turn.thread.is_some()).max_by_key(|turn| turn.number)?;
        newest.thread.as_deref()
    }

    /// Index of the thread's next entry.
    pub fn next_index(&self, thread: &str) -> u64 {
        self.threads.get(thread).map_or(0, |thread| thread.next)
    }

    /// The thread's title.
    pub fn title(&self, thread: &str) -> Option<&str> {
        self.threads.get(thread)?.title.as_deref()
    }

    /// The thread's turns, oldest first.
    pub fn turns_of(&self, thread: &str) -> &[String] {
        self.threads.get(thread).map_or(&[], |thread| &thread.turns)
    }

    /// Takes a record in.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Accepted { request, thread, message, agent, origin } => {
                self.count += 1;
                if let Some(former) = self.turns.remove(&request).and_then(|turn| turn.thread)
                    && let Some(former) = self.threads.get_mut(&former)
                {
                    former.turns.retain(|known| *known != request);
                }
                if self.first.is_none() {
                    self.first = Some(request.clone());
                }
                if let Some(thread) = &thread {
                    self.place(thread, &request);
                }
                self.turns.insert(request, Turn::new(self.count, thread, message, agent, origin));
            }
            Record::Bound { request, thread } => {
                self.place(&thread, &request);
                if let Some(turn) = self.turns.get_mut(&request) {
                    turn.thread = Some(thread);
                }
            }
            Record::Started { request, index } => {
                if let Some(turn) = self.turns.get_mut(&request) {
                    turn.state = State::Running;
                    let thread = turn.thread.clone();
                    self.use_index(thread, index);
                }
            }
            Record::Entry { request, index, user, tool, keep, text } => {
                let Some(turn) = self.turns.get_mut(&request) else { return };
                if turn.entry_mut(index).is_none() {
                    turn.entries.push(Entry { index, ..Entry::default() });
                }
                let thread = turn.thread.clone();
                if let Some(entry) = turn.entry_mut(index) {
                    entry.user = user;
                    if entry.tool != tool {
                        entry.tool = tool;
                        entry.changed = true;
                    }
                    entry.edit(keep, &text);
                }
                self.use_index(thread, index);
            }
            Record::Asked { request, question } => {
                if let Some(turn) = self.turns.get_mut(&request) {
                    turn.questions.push((question, None));
                }
            }
            Record::Closed { request, question, status } => {
                let turn = self.turns.get_mut(&request);
                let found = turn.and_then(|turn| turn.questions.iter_mut().find(|(id, _)| *id == question));
                if let Some((_, end)) = found {
                    *end = Some(status);
                }
            }
            Record::Cancelling { request } => {
                if let Some(turn) = self.turns.get_mut(&request) {
                    turn.cancelling = true;
                }
            }
            Record::Over { request, end, usage, exit_status, result } => {
                if let Some(turn) = self.turns.get_mut(&request) {
                    turn.state = State::Over;
                    turn.message = String::new();
                    turn.end = Some(end);
                    turn.usage = usage;
                    turn.exit_status = exit_status;
                    turn.result = result;
                }
            }
            Record::Told { request } => {
                if let Some(turn) = self.turns.get_mut(&request) {
                    turn.told = true;
                }
            }
            Record::ResultKept => self.result_kept = true,
            Record::Thread { thread, next, title } => {
                let known = self.threads.entry(thread).or_default();
                known.next = known.next.max(next);
                known.title = title.or(known.title.take());
            }
            Record::Unreadable => {}
        }
    }

    /// Everything is as in the journal.
    pub fn all_saved(&mut self) {
        for entry in self.turns.values_mut().flat_map(|turn| &mut turn.entries) {
            entry.saved = entry.text.len();
            entry.changed = false;
        }
    }

    /// A new connection knows nothing.
    pub fn nothing_told(&mut self) {
        for entry in self.turns.values_mut().flat_map(|turn| &mut turn.entries) {
            entry.told = None;
            entry.told_at = None;
        }
    }

    /// Lets go what nobody is going to ask for.
    pub fn forget_old(&mut self) {
        let mut bytes = 0;
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        let mut newest: Vec<_> = self.turns.iter_mut().filter(|(_, turn)| turn.state == State::Over).collect();
        newest.sort_by_key(|(_, turn)| std::cmp::Reverse(turn.number));
        let mut old = Vec::new();
        for (place, (request, turn)) in newest.into_iter().enumerate() {
            let of_thread = kept.entry(turn.thread.clone().unwrap_or_default()).or_default();
            *of_thread += 1;
            bytes += turn.bytes();
            if turn.told && (*of_thread > KEPT_TURNS || bytes > KEPT_BYTES) {
                turn.entries.clear();
                turn.questions.clear();
            }
            if turn.told && place >= KNOWN_TURNS {
                old.push(request.clone());
            }
        }
        for request in old {
            self.turns.remove(&request);
        }
        for thread in self.threads.values_mut() {
            thread.turns.retain(|request| self.turns.contains_key(request));
        }
    }

    /// Records whose fold is this, as short as can be.
    pub fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        if let Some(first) = &self.first
            && !self.turns.contains_key(first)
        {
            // Whatever comes first next is not the first.
            let origin = Origin::Server;
            let (thread, message, agent) = (None, String::new(), String::new());
            records.push(Record::Accepted { request: first.clone(), thread, message, agent, origin });
            let end = End::Completed;
            records.push(Record::Over { request: first.clone(), end, usage: None, exit_status: None, result: None });
            records.push(Record::Told { request: first.clone() });
        }
        for (request, turn) in self.turns() {
            let request = || request.clone();
            let thread = turn.thread.clone().filter(|_| !turn.new_thread);
            let Turn { message, agent, origin, .. } = turn;
            let (message, agent, origin) = (message.clone(), agent.clone(), *origin);
            records.push(Record::Accepted { request: request(), thread, message, agent, origin });
            if let Some(thread) = turn.thread.clone().filter(|_| turn.new_thread) {
                records.push(Record::Bound { request: request(), thread });
            }
            if turn.state == State::Running {
                // The thread's own record says where it goes on.
                records.push(Record::Started { request: request(), index: 0 });
            }
            for entry in &turn.entries {
                let Entry { index, user, tool, text, .. } = entry.clone();
                records.push(Record::Entry { request: request(), index, user, tool, keep: 0, text });
            }
            for (question, status) in &turn.questions {
                records.push(Record::Asked { request: request(), question: question.clone() });
                if let Some(status) = status.clone() {
                    records.push(Record::Closed { request: request(), question: question.clone(), status });
                }
            }
            if turn.cancelling {
                records.push(Record::Cancelling { request: request() });
            }
            if let Some(end) = turn.end.clone() {
                let (usage, exit_status, result) = (turn.usage, turn.exit_status, turn.result.clone());
                records.push(Record::Over { request: request(), end, usage, exit_status, result });
            }
            if turn.told {
                records.push(Record::Told { request: request() });
            }
        }
        for (thread, Thread { next, title, .. }) in &self.threads {
            records.push(Record::Thread { thread: thread.clone(), next: *next, title: title.clone() });
        }
        if self.result_kept {
            records.push(Record::ResultKept);
        }
        records
    }

    fn place(&mut self, thread: &str, request: &str) {
        let turns = &mut self.threads.entry(thread.to_owned()).or_default().turns;
        if !turns.iter().any(|known| known == request) {
            turns.push(request.to_owned());
        }
    }

    fn use_index(&mut self, thread: Option<String>, index: u64) {
        if let Some(thread) = thread {
            let next = &mut self.threads.entry(thread).or_default().next;
            *next = (*next).max(index + 1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn an_edit_changes_no_more_than_differs() {
        let mut entry = Entry { text: "abcdef".into(), saved: 6, told: Some(6), ..Entry::default() };
        entry.edit(usize::MAX, "g");
        assert_eq!((entry.text.as_str(), entry.saved, entry.told), ("abcdefg", 6, Some(6)));
        entry.edit(0, "abcXY");
        assert_eq!((entry.text.as_str(), entry.saved, entry.told), ("abcXY", 3, Some(3)));
        entry.edit(0, "abcXY");
        assert_eq!(entry.text, "abcXY");
        // é and è share their first byte.
        let mut entry = Entry { text: "xé".into(), saved: 3, ..Entry::default() };
        entry.edit(0, "xè");
        assert_eq!((entry.text.as_str(), entry.saved), ("xè", 1));
        entry.edit(0, "");
        assert_eq!((entry.text.as_str(), entry.saved), ("", 0));
    }
}
