//! What was run: the side of a prompt that nobody can take back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Every run of every prompt, in the order in which they began. Cheap to clone; clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    runs: Arc<Mutex<Vec<Effect>>>,
}

/// One run of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Session.
    pub session: String,
    /// Thread in the editor.
    pub thread: String,
    /// Request, as the editor knew it; empty for what a person typed.
    pub request_id: String,
    /// The prompt.
    pub prompt: String,
    /// How it ended.
    pub end: Option<End>,
    /// What the agent had said by then.
    pub text: String,
    /// The event that told so was lost on the way.
    pub lost: bool,
    /// An event with some of its text was lost on the way, or may have been on a line that was cut: it heals only where
    /// that text is told again.
    pub lost_text: bool,
    /// When some of its text was told last.
    pub said_at: Option<Instant>,
    /// When it was told, or lost.
    pub told_at: Option<Instant>,
    /// The event that told so died with the editor, or with a line that was cut: it was not sent yet, or a moment ago.
    pub buried: bool,
}

/// What was sent so long before a break has arrived.
const ON_THE_LINE: Duration = Duration::from_millis(50);
/// What was sent so long before a kill has arrived.
const UNDERWAY: Duration = Duration::from_millis(100);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The agent was done.
    Completed,
    /// Cancelled, by request or by a later prompt.
    Cancelled,
    /// The agent gave up.
    Failed,
    /// The editor was killed.
    Killed,
}

impl Ledger {
    /// Everything so far.
    pub fn all(&self) -> Vec<Effect> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The runs of one request.
    pub fn of(&self, request_id: &str) -> Vec<Effect> {
        self.all().into_iter().filter(|effect| effect.request_id == request_id).collect()
    }

    pub(super) fn begin(&self, effect: Effect) -> usize {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push(effect);
        runs.len() - 1
    }

    /// A session's line broke: what was told just now may not have arrived.
    pub(super) fn broke(&self, session: &str) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        for effect in runs.iter_mut().filter(|effect| effect.session == session && !effect.lost) {
            let on_the_line = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < ON_THE_LINE);
            effect.buried |= on_the_line(effect.told_at);
            effect.lost_text |= on_the_line(effect.said_at);
        }
    }

    /// A session's editor was killed.
    pub(super) fn bury(&self, session: &str) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        for effect in runs.iter_mut().filter(|effect| effect.session == session) {
            effect.buried |= effect.end.is_some() && effect.told_at.is_none_or(|at| at.elapsed() < UNDERWAY);
        }
    }

    /// The last run of a request.
    pub(super) fn mark(&self, request_id: &str, mark: impl FnOnce(&mut Effect)) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(effect) = runs.iter_mut().rev().find(|effect| effect.request_id == request_id) {
            mark(effect);
        }
    }

    pub(super) fn end(&self, number: usize, end: End, text: &str) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(effect) = runs.get_mut(number) {
            effect.end = Some(end);
            text.clone_into(&mut effect.text);
        }
    }
}
