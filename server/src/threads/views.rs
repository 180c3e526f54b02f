//! Conversations as the routes show them: pages of bounded size, and a wait for the end of a turn.
//!
//! Lists and turns come from the followed conversation; entries with their texts are read from the log, one thread at
//! a time, and are let go with the answer.

mod customs;

use std::time::Duration;

use helix_protocol::api::threads::{
    ENTRY_TEXT_BYTES, EntryPiece, EntryView, QuestionView, ThreadDetail, ThreadList, ThreadView, TurnView,
};
use helix_protocol::thread::{ThreadFeedItem, TokenUsage, TurnState};
use helix_protocol::{ErrorCode, SessionId, ThreadId, TurnId};
use tokio::time::{Instant, timeout_at};

use self::customs::Customs;
use super::Threads;
use super::model::{Conversation, Entry, Question, Thread, Turn};
use super::prompts::{thread_in, turn_in};
use crate::bus::unavailable;
use crate::error::{Error, Result};
use crate::sessions::Found;

/// Most entries of a page.
pub const MAX_ENTRIES: usize = 500;
/// Most bytes of text in a page of entries, and of prompts in its turns.
const PAGE_BYTES: usize = 1024 * 1024;
/// Most turns that go with a thread.
const MAX_TURNS: usize = 200;
/// How long reading one thread may take.
const READ_DEADLINE: Duration = Duration::from_secs(20);

/// Which entries of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// From the entry at place `start` on.
    From {
        /// Place of its first entry.
        start: usize,
        /// At most this many.
        limit: usize,
    },
    /// The newest, at most this many.
    Last(usize),
}

impl Threads {
    /// Every thread of a session, oldest first.
    pub async fn list(&self, at: &Found) -> Result<ThreadList> {
        let live = self.hub.open_of(&at.desktop, at.since).await?;
        let list = |conversation: &Conversation| {
            let mut usage = TokenUsage::default();
            conversation.threads().iter().for_each(|thread| usage += thread.usage);
            let threads = conversation.threads().iter().map(|thread| thread_view(&at.desktop, thread)).collect();
            ThreadList { threads, usage }
        };
        self.hub.look(&live, list).await
    }

    /// One thread with a page of its entries.
    pub async fn detail(&self, at: &Found, thread: &ThreadId, page: Page) -> Result<ThreadDetail> {
        let mut customs = Customs::default();
        let conversation = self.stored_with(at, thread, |conversation, item| customs.take(conversation, item)).await?;
        let thread = thread_in(&conversation, &at.view.id, thread)?;
        let (start, entries, next) = entries_of(thread, page);
        let waits = |question: &&Question| question.answer.is_none() && question.closed.is_none();
        Ok(ThreadDetail {
            thread: thread_view(&at.desktop, thread),
            recent_turns: recent_turns(thread),
            entries_before: start as u64,
            entries,
            custom_events: customs.into(),
            questions: thread.questions.iter().filter(waits).map(question_view).collect(),
            next_cursor: next.map(|next| next.to_string()),
        })
    }

    /// A piece of one entry's text: at most `limit` bytes from the first character at or after `offset`.
    pub async fn piece(
        &self,
        at: &Found,
        thread: &ThreadId,
        entry: &str,
        offset: u64,
        limit: usize,
    ) -> Result<EntryPiece> {
        let conversation = self.stored(at, thread).await?;
        let thread = thread_in(&conversation, &at.view.id, thread)?;
        let entry = thread.entry(entry).ok_or_else(|| {
            let shown: String = entry.chars().take(80).collect();
            Error::new(ErrorCode::EntryNotFound, format!("thread {} has no entry {shown:?}", thread.id))
        })?;
        Ok(piece_of(entry, offset, limit))
    }

    /// One turn: as it is once it is over, or when `patience` is over or the server leaves.
    pub async fn turn(
        &self,
        at: &Found,
        thread: &ThreadId,
        turn: &TurnId,
        patience: Duration,
        leaves: impl Future<Output = ()>,
    ) -> Result<TurnView> {
        let deadline = Instant::now() + patience;
        let live = self.hub.open_of(&at.desktop, at.since).await?;
        let mut places = live.places();
        let look = |conversation: &Conversation| {
            let found = thread_in(conversation, &at.view.id, thread)?;
            turn_in(found, turn).map(|turn| turn_view(thread, turn))
        };
        let mut view = self.hub.look(&live, look).await??;
        let mut leaves = std::pin::pin!(leaves);
        while !view.state.is_final() {
            // Both arms are cancel safe: a watch and a token.
            let changed = tokio::select! {
                changed = timeout_at(deadline, places.changed()) => matches!(changed, Ok(Ok(()))),
                () = &mut leaves => false,
            };
            if !changed {
                break;
            }
            // While the conversation is read anew, it is not all there.
            if places.borrow_and_update().synced {
                view = self.hub.look(&live, look).await??;
            }
        }
        Ok(view)
    }

    /// One thread with all of its texts, with everything that was written before the call.
    async fn stored(&self, at: &Found, thread: &ThreadId) -> Result<Conversation> {
        self.stored_with(at, thread, |_, _| {}).await
    }

    async fn stored_with(
        &self,
        at: &Found,
        thread: &ThreadId,
        seen: impl FnMut(&Conversation, ThreadFeedItem),
    ) -> Result<Conversation> {
        let read = self.hub.log().read_with(&at.desktop, Some(thread), seen);
        tokio::time::timeout(READ_DEADLINE, read).await.map_err(unavailable)?
    }
}

/// A thread without its content.
pub fn thread_view(session: &SessionId, thread: &Thread) -> ThreadView {
    let count = |wanted: fn(&Turn) -> bool| thread.turns.iter().filter(|turn| wanted(turn)).count() as u32;
    let open = thread.questions.iter().filter(|question| question.answer.is_none() && question.closed.is_none());
    ThreadView {
        id: thread.id.clone(),
        session: session.clone(),
        work_session: thread.work_session.clone(),
        title: thread.title.clone(),
        agent: thread.agent.clone(),
        origin: thread.origin,
        acp_thread_id: thread.acp.clone(),
        state: thread.turns.last().map(|turn| turn.state),
        active_turn: thread.active_turn().map(|turn| turn.id.clone()),
        queued: count(|turn| turn.state == TurnState::Queued),
        turns: count(|_| true),
        open_questions: open.count() as u32,
        usage: thread.usage,
        created_at: thread.created_at,
        last_activity_at: thread.last_activity_at,
        sequence: thread.sequence,
    }
}

/// A prompt and what came of it.
pub fn turn_view(thread: &ThreadId, turn: &Turn) -> TurnView {
    TurnView {
        id: turn.id.clone(),
        thread: thread.clone(),
        state: turn.state,
        cause: turn.cause.clone(),
        origin: turn.origin,
        by: turn.by.clone(),
        prompt: turn.prompt.clone(),
        attachments: turn.attachments.clone(),
        interrupt: turn.interrupt,
        // One that had not begun was called off at once, without a wish on the way.
        cancel_requested: turn.cancel_requested || turn.state == TurnState::Cancelled,
        resend_of: turn.resend_of.clone(),
        usage: turn.usage,
        exit_status: turn.exit_status,
        queued_at: turn.queued_at,
        dispatched_at: turn.dispatched_at,
        finished_at: turn.finished_at,
    }
}

/// A question of the agent's, and whether it waits.
pub fn question_view(question: &Question) -> QuestionView {
    let answered = question.answer.as_ref();
    let status = match &question.closed {
        Some(status) => status.clone(),
        None if answered.is_some() => "answered".to_owned(),
        None => "open".to_owned(),
    };
    QuestionView {
        id: question.id.clone(),
        turn: question.turn.clone(),
        mode: question.mode.clone(),
        message: question.message.clone(),
        schema: question.schema.clone(),
        entry: question.entry.clone(),
        status,
        answered_by: answered.map(|answer| answer.by.clone()),
    }
}

/// The last turns whose prompts fit, oldest first; at least one.
fn recent_turns(thread: &Thread) -> Vec<TurnView> {
    let mut bytes = 0;
    let fits = |turn: &&Turn| {
        let first = bytes == 0;
        bytes += turn.prompt.len().max(1);
        first || bytes <= PAGE_BYTES
    };
    let last = thread.turns.iter().rev().take(MAX_TURNS).take_while(fits);
    let mut turns: Vec<_> = last.map(|turn| turn_view(&thread.id, turn)).collect();
    turns.reverse();
    turns
}

/// Place of a page's first entry, its entries, and the place of the next one; at least one entry, if there is any.
fn entries_of(thread: &Thread, page: Page) -> (usize, Vec<EntryView>, Option<usize>) {
    match page {
        Page::From { start, limit } => {
            let start = start.min(thread.entries.len());
            let entries = as_fits(thread.entries.iter().skip(start).take(limit));
            let next = start + entries.len();
            (start, entries, Some(next).filter(|next| *next < thread.entries.len()))
        }
        Page::Last(limit) => {
            let mut entries = as_fits(thread.entries.iter().rev().take(limit));
            entries.reverse();
            (thread.entries.len() - entries.len(), entries, None)
        }
    }
}

/// As many as fit into a page.
fn as_fits<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<EntryView> {
    let mut bytes = 0;
    let fits = |view: &EntryView| {
        let first = bytes == 0;
        bytes += view.text.len().max(1);
        first || bytes <= PAGE_BYTES
    };
    entries.map(entry_view).take_while(fits).collect()
}

fn entry_view(entry: &Entry) -> EntryView {
    let whole = entry.text.as_deref().unwrap_or_default();
    let text = &whole[..whole.floor_char_boundary(ENTRY_TEXT_BYTES)];
    EntryView {
        id: entry.id.clone(),
        turn: entry.turn.clone(),
        role: entry.role,
        tool: entry.tool.clone(),
        text: text.to_owned(),
        length: entry.length,
        truncated: (text.len() as u64) < entry.length,
    }
}

fn piece_of(entry: &Entry, offset: u64, limit: usize) -> EntryPiece {
    let whole = entry.text.as_deref().unwrap_or_default();
    let start = whole.ceil_char_boundary(usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len()));
    let mut end = whole.floor_char_boundary(start.saturating_add(limit).min(whole.len()));
    if end <= start {
        // A character that is longer than the limit: who reads on gets on.
        end = whole[start..].chars().next().map_or(start, |one| start + one.len_utf8());
    }
    EntryPiece { id: entry.id.clone(), offset: start as u64, text: whole[start..end].to_owned(), length: entry.length }
}

#[cfg(test)]
mod tests;
