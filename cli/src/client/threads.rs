//! Threads of a session: list, begin, prompt, cancel, ask again, answer, and read.

use helix_protocol::api::threads::{
    AnswerQuestion, CancelTurn, CreateThread, EntryPiece, QuestionView, RenameThread, SendPrompt, ThreadCreated,
    ThreadDetail, ThreadList, ThreadView, TurnView,
};
use helix_protocol::{SessionId, ThreadId, TurnId};
use reqwest::Method;

use super::Client;
use crate::error::Result;

/// Entries of a page: the most that a server gives.
const PAGE: usize = 500;
/// Bytes of a piece of a long entry: the most that a server gives.
const PIECE: usize = 1024 * 1024;

/// Which entries of a thread.
#[derive(Debug, Clone, Copy)]
pub enum Page<'a> {
    /// From the first.
    First,
    /// From the entry of this cursor.
    At(&'a str),
    /// The newest, at most this many.
    Last(usize),
}

impl Client {
    /// `GET /sessions/{id}/threads`.
    pub async fn threads(&self, session: &SessionId) -> Result<ThreadList> {
        self.get("list the threads", &["sessions", session.as_str(), "threads"]).await
    }

    /// `POST /sessions/{id}/threads`.
    pub async fn create_thread(&self, session: &SessionId, request: &CreateThread) -> Result<ThreadCreated> {
        let path = ["sessions", session.as_str(), "threads"];
        self.call("begin a thread", Method::POST, &path, &[], Some(request)).await
    }

    /// `GET /sessions/{id}/threads/{thread}`: one page of its entries.
    pub async fn thread(&self, session: &SessionId, thread: &ThreadId, page: Page<'_>) -> Result<ThreadDetail> {
        let path = ["sessions", session.as_str(), "threads", thread.as_str()];
        let query = match page {
            Page::First => vec![("limit", PAGE.to_string())],
            Page::At(cursor) => vec![("limit", PAGE.to_string()), ("cursor", cursor.to_owned())],
            Page::Last(entries) => vec![("last", entries.clamp(1, PAGE).to_string())],
        };
        self.call("read the thread", Method::GET, &path, &query, None::<&()>).await
    }

    /// `PATCH /sessions/{id}/threads/{thread}`.
    pub async fn rename_thread(
        &self,
        session: &SessionId,
        thread: &ThreadId,
        request: &RenameThread,
    ) -> Result<ThreadView> {
        let path = ["sessions", session.as_str(), "threads", thread.as_str()];
        self.call("rename the thread", Method::PATCH, &path, &[], Some(request)).await
    }

    /// `POST …/threads/{thread}/prompts`.
    pub async fn send_prompt(&self, session: &SessionId, thread: &ThreadId, request: &SendPrompt) -> Result<TurnView> {
        let path = ["sessions", session.as_str(), "threads", thread.as_str(), "prompts"];
        self.call("send the prompt", Method::POST, &path, &[], Some(request)).await
    }

    /// `POST …/threads/{thread}/cancel`.
    pub async fn cancel_turn(&self, session: &SessionId, thread: &ThreadId, request: &CancelTurn) -> Result<TurnView> {
        let path = ["sessions", session.as_str(), "threads", thread.as_str(), "cancel"];
        self.call("cancel the turn", Method::POST, &path, &[], Some(request)).await
    }

    /// `GET …/threads/{thread}/turns/{turn}`.
    pub async fn turn(&self, session: &SessionId, thread: &ThreadId, turn: &TurnId) -> Result<TurnView> {
        let path = ["sessions", session.as_str(), "threads", thread.as_str(), "turns", turn.as_str()];
        self.get("read the turn", &path).await
    }

    /// `POST …/threads/{thread}/turns/{turn}/resend`.
    pub async fn resend_turn(&self, session: &SessionId, thread: &ThreadId, turn: &TurnId) -> Result<TurnView> {
        let path = ["sessions", session.as_str(), "threads", thread.as_str(), "turns", turn.as_str(), "resend"];
        self.call("ask again", Method::POST, &path, &[], None::<&()>).await
    }

    /// `GET …/threads/{thread}/entries/{entry}`: a piece of its text from byte `offset`.
    pub async fn entry(&self, session: &SessionId, thread: &ThreadId, entry: &str, offset: u64) -> Result<EntryPiece> {
        let path = ["sessions", session.as_str(), "threads", thread.as_str(), "entries", entry];
        let query = [("offset", offset.to_string()), ("limit", PIECE.to_string())];
        self.call("read the entry", Method::GET, &path, &query, None::<&()>).await
    }

    /// `POST …/threads/{thread}/questions/{question}`.
    pub async fn answer_question(
        &self,
        session: &SessionId,
        thread: &ThreadId,
        question: &str,
        request: &AnswerQuestion,
    ) -> Result<QuestionView> {
        let path = ["sessions", session.as_str(), "threads", thread.as_str(), "questions", question];
        self.call("answer the question", Method::POST, &path, &[], Some(request)).await
    }
}
