//! A thread as its reader sees it: events in, pieces to show out. Pure.
//!
//! An entry's text is told by byte offsets: text that is appended becomes a piece with just that, whatever the length
//! of what was there. Text that is rewritten cannot be taken back from a pipe, nor from a terminal that has scrolled:
//! a piece then begins at the start of the line where old and new part. Text that only became shorter says nothing
//! at first, as agents shorten a text to go on from there; [`Transcript::settle`] tells it at the end of the turn.

use std::collections::{BTreeMap, BTreeSet};

use helix_protocol::TurnId;
use helix_protocol::api::threads::{EntryView, QuestionView, TurnView};
use helix_protocol::thread::{Origin, Role, ThreadEvent, ToolCall, TurnCause, TurnState};
use serde_json::Value;

/// Something to show.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text of an entry.
    Text {
        /// Which entry.
        entry: String,
        /// Its turn.
        turn: Option<TurnId>,
        /// Who speaks.
        role: Role,
        /// Where it belongs.
        how: How,
        /// The text.
        text: String,
    },
    /// A use of a tool began, or is in another state.
    Tool {
        /// Which entry.
        entry: String,
        /// Its turn.
        turn: Option<TurnId>,
        /// What and how far.
        tool: ToolCall,
    },
    /// A prompt was accepted.
    Queued(Queued),
    /// A turn moved.
    Moved(Moved),
    /// The agent asks.
    Asked(Question),
    /// A question needs no answer any more.
    Settled {
        /// Which.
        question: String,
        /// `answered`, `accepted`, `declined`, `cancelled`, …
        status: String,
        /// Who answered.
        by: Option<String>,
    },
    /// The thread's title changed.
    Renamed(String),
    /// An event of the agent's that has no meaning to us.
    Custom(String),
    /// The text of this entry is not known as far as it was told: it must be read.
    Hole {
        /// Which entry.
        entry: String,
        /// Its turn.
        turn: Option<TurnId>,
    },
}

/// Where a piece of text belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Behind the former text of its entry.
    More,
    /// In the place of the former text, from the start of some line of it.
    Anew,
}

/// A prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// Its turn.
    pub turn: TurnId,
    /// Who asked.
    pub origin: Origin,
    /// Name of the token.
    pub by: Option<String>,
    /// What was asked.
    pub prompt: String,
}

/// A new state of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Which.
    pub turn: TurnId,
    /// To which state.
    pub state: TurnState,
    /// Why.
    pub cause: Option<TurnCause>,
    /// Exit status of a shell command.
    pub exit_status: Option<i32>,
}

/// A question of the agent's.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Which.
    pub id: String,
    /// Turn that waits.
    pub turn: Option<TurnId>,
    /// `form`, `url`, `permission`, …
    pub mode: String,
    /// For people.
    pub message: String,
    /// JSON Schema of the answer.
    pub schema: Value,
}

/// What is known of a thread, and what of it was shown.
#[derive(Debug, Default)]
pub struct Transcript {
    entries: Vec<Entry>,
    places: BTreeMap<String, usize>,
    turns: BTreeMap<TurnId, TurnState>,
    open_questions: BTreeSet<String>,
    /// The turn that the agent works on: what names no turn belongs to it.
    active: Option<TurnId>,
}

#[derive(Debug)]
struct Entry {
    id: String,
    turn: Option<TurnId>,
    role: Role,
    tool: Option<ToolCall>,
    text: String,
    /// What was shown is `text` and this behind it: more than none only while the text is shorter than it was.
    beyond: String,
}

impl Transcript {
    /// Takes the thread's next event in.
    pub fn apply(&mut self, event: &ThreadEvent) -> Option<Piece> {
        match event {
            ThreadEvent::TurnQueued { turn, origin, by, prompt, .. } => {
                self.turn_queued(turn, *origin, by.as_ref(), prompt)
            }
            ThreadEvent::TurnMoved { turn, state, cause, exit_status, .. } => {
                self.turn_moved(turn, *state, cause.as_ref(), *exit_status)
            }
            ThreadEvent::Entry { entry, before, turn, role, tool, offset, text } => {
                let place = before.as_ref().and_then(|before| self.places.get(before)).copied();
                self.place(entry, place.unwrap_or(self.entries.len()), *role);
                self.write(entry, turn.as_ref(), *role, tool.as_ref(), *offset, text)
            }
            ThreadEvent::QuestionAsked { question, turn, mode, message, schema, .. } => {
                let question = Question {
                    id: question.clone(),
                    turn: turn.clone(),
                    mode: mode.clone(),
                    message: message.clone(),
                    schema: schema.clone(),
                };
                self.open_questions.insert(question.id.clone()).then_some(Piece::Asked(question))
            }
            ThreadEvent::QuestionAnswered { question, by, .. } => self.settled(question, "answered", Some(by.clone())),
            ThreadEvent::QuestionClosed { question, status } => self.settled(question, status, None),
            ThreadEvent::ThreadRenamed { title } => Some(Piece::Renamed(title.clone())),
            ThreadEvent::Custom { name, .. } => Some(Piece::Custom(name.clone())),
            ThreadEvent::ThreadStarted { .. }
            | ThreadEvent::ThreadBound { .. }
            | ThreadEvent::CancelRequested { .. }
            | ThreadEvent::Sync { .. }
            | ThreadEvent::Unreadable => None,
        }
    }

    /// A turn as a reading of the thread has it: what of it is news.
    pub fn turn_is(&mut self, view: &TurnView) -> Vec<Piece> {
        let queued = self.turn_queued(&view.id, view.origin, view.by.as_ref(), &view.prompt);
        let moved = self.turn_moved(&view.id, view.state, view.cause.as_ref(), view.exit_status);
        queued.into_iter().chain(moved).collect()
    }

    /// The questions that wait, as a reading of the thread has them: what of it is news.
    pub fn questions_are(&mut self, open: &[QuestionView]) -> Vec<Piece> {
        let gone: Vec<_> =
            self.open_questions.iter().filter(|id| open.iter().all(|view| view.id != **id)).cloned().collect();
        let mut pieces: Vec<_> = gone.iter().filter_map(|id| self.settled(id, "answered", None)).collect();
        for view in open {
            if self.open_questions.insert(view.id.clone()) {
                pieces.push(Piece::Asked(Question {
                    id: view.id.clone(),
                    turn: view.turn.clone(),
                    mode: view.mode.clone(),
                    message: view.message.clone(),
                    schema: view.schema.clone(),
                }));
            }
        }
        pieces
    }

    /// Entries in their order, with their whole texts, as a reading of the thread has them: what of it is news.
    pub fn entries_are(&mut self, views: &[EntryView]) -> Vec<Piece> {
        let mut next = 0;
        let mut pieces = Vec::new();
        for view in views {
            next = self.place(&view.id, next, view.role) + 1;
            pieces.extend(self.write(&view.id, view.turn.as_ref(), view.role, view.tool.as_ref(), 0, &view.text));
        }
        pieces
    }

    /// The whole text of an entry that there is.
    pub fn text_is(&mut self, id: &str, text: &str) -> Option<Piece> {
        let entry = &self.entries[*self.places.get(id)?];
        let (role, tool) = (entry.role, entry.tool.clone());
        self.write(id, None, role, tool.as_ref(), 0, text)
    }

    /// Something of this entry was told.
    pub fn knows(&self, id: &str) -> bool {
        self.places.contains_key(id)
    }

    /// A turn that was accepted by our own request: the feed need not tell it.
    pub fn is_ours(&mut self, turn: &TurnView) {
        self.turns.entry(turn.id.clone()).or_insert(turn.state);
    }

    fn turn_queued(&mut self, turn: &TurnId, origin: Origin, by: Option<&String>, prompt: &str) -> Option<Piece> {
        if self.turns.contains_key(turn) {
            return None;
        }
        self.turns.insert(turn.clone(), TurnState::Queued);
        Some(Piece::Queued(Queued { turn: turn.clone(), origin, by: by.cloned(), prompt: prompt.to_owned() }))
    }

    fn turn_moved(
        &mut self,
        turn: &TurnId,
        state: TurnState,
        cause: Option<&TurnCause>,
        exit_status: Option<i32>,
    ) -> Option<Piece> {
        if state.is_active() {
            self.active = Some(turn.clone());
        } else if self.active.as_ref() == Some(turn) {
            self.active = None;
        }
        let former = self.turns.insert(turn.clone(), state);
        (former != Some(state))
            .then(|| Piece::Moved(Moved { turn: turn.clone(), state, cause: cause.cloned(), exit_status }))
    }

    fn settled(&mut self, question: &str, status: &str, by: Option<String>) -> Option<Piece> {
        self.open_questions.remove(question).then(|| Piece::Settled {
            question: question.to_owned(),
            status: status.to_owned(),
            by,
        })
    }

    /// Where an entry stands; a new one is made at `place`.
    fn place(&mut self, id: &str, place: usize, role: Role) -> usize {
        if let Some(place) = self.places.get(id) {
            return *place;
        }
        if place < self.entries.len() {
            self.places.values_mut().filter(|later| **later >= place).for_each(|later| *later += 1);
        }
        let entry = Entry {
            id: id.to_owned(),
            turn: self.active.clone(),
            role,
            tool: None,
            text: String::new(),
            beyond: String::new(),
        };
        self.entries.insert(place, entry);
        self.places.insert(id.to_owned(), place);
        place
    }

    fn write(
        &mut self,
        id: &str,
        turn: Option<&TurnId>,
        role: Role,
        tool: Option<&ToolCall>,
        offset: u64,
        text: &str,
    ) -> Option<Piece> {
        let entry = &mut self.entries[*self.places.get(id)?];
        entry.role = role;
        if let Some(turn) = turn {
            entry.turn = Some(turn.clone());
        }
        let (id, turn) = (id.to_owned(), entry.turn.clone());
        if let Some(tool) = tool {
            // Of a tool the name and the state are shown; what it wrote would fill memory for nobody.
            let news = entry.tool.as_ref() != Some(tool);
            entry.tool = Some(tool.clone());
            return news.then(|| Piece::Tool { entry: id, turn, tool: tool.clone() });
        }
        entry.tool = None;
        let Ok(offset) = usize::try_from(offset) else { return Some(Piece::Hole { entry: id, turn }) };
        if offset > entry.text.len() {
            return Some(Piece::Hole { entry: id, turn });
        }
        let (how, text) = entry.rewrite(offset, text)?;
        Some(Piece::Text { entry: id, turn, role, how, text })
    }

    /// State of a turn, as far as is known.
    pub fn state(&self, turn: &TurnId) -> Option<TurnState> {
        self.turns.get(turn).copied()
    }

    /// Turns that are not over.
    pub fn unfinished(&self) -> impl Iterator<Item = &TurnId> {
        self.turns.iter().filter(|(_, state)| !state.is_final()).map(|(turn, _)| turn)
    }

    /// What the agent said in a turn: its texts, a blank line between two.
    pub fn answer(&self, turn: &TurnId) -> String {
        let mut answer = String::new();
        for entry in self.said_in(turn).filter(|entry| entry.role == Role::Assistant && !entry.text.is_empty()) {
            if !answer.is_empty() {
                answer.push_str(if answer.ends_with('\n') { "\n" } else { "\n\n" });
            }
            answer.push_str(&entry.text);
        }
        answer
    }

    /// The turn is over: texts that are shorter than what was shown of them.
    pub fn settle(&mut self, turn: &TurnId) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.turn.as_ref() == Some(turn)) {
            let beyond = std::mem::take(&mut entry.beyond);
            if !beyond.trim().is_empty() {
                pieces.push(Piece::Text {
                    entry: entry.id.clone(),
                    turn: Some(turn.clone()),
                    role: entry.role,
                    how: How::Anew,
                    text: entry.text[line_start(entry.text.trim_end())..].to_owned(),
                });
            }
        }
        pieces
    }

    fn said_in(&self, turn: &TurnId) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.turn.as_ref() == Some(turn) && entry.tool.is_none())
    }
}

impl Entry {
    /// Bytes before `offset` stay, `text` follows them. What is there to show, if anything.
    fn rewrite(&mut self, offset: usize, text: &str) -> Option<(How, String)> {
        // A cut inside a character could only come from another program's hand.
        let cut = self.text.floor_char_boundary(offset);
        let mut shown = self.text.split_off(cut);
        shown.push_str(&std::mem::take(&mut self.beyond));
        self.text.push_str(text);
        if let Some(beyond) = shown.strip_prefix(text) {
            beyond.clone_into(&mut self.beyond);
            return None;
        }
        if let Some(more) = text.strip_prefix(shown.as_str()) {
            return Some((How::More, more.to_owned()));
        }
        let same = shown.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let parted = self.text.floor_char_boundary(cut + same);
        Some((How::Anew, self.text[line_start(&self.text[..parted])..].to_owned()))
    }
}

/// Where the last line of a text begins.
fn line_start(text: &str) -> usize {
    text.rfind('\n').map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests;
