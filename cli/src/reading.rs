//! One thread, read as it goes on: the feed's events become [`Piece`]s, and whatever the feed cannot tell is read.
//!
//! After a gap the whole thread is read again and only what is new of it is told; where an entry's beginning is
//! missing, that entry is. Nothing is lost when a call of [`Reading::next`] is dropped: what was begun is begun anew.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use helix_protocol::api::threads::{EntryView, ThreadDetail};
use helix_protocol::thread::ThreadFeedItem;
use helix_protocol::{ErrorCode, SessionId, ThreadId, TurnId};

use crate::client::{Client, Page, patiently};
use crate::error::Result;
use crate::feed::{ThreadFeed, Told};
use crate::transcript::{Piece, Transcript};

/// How long the server may be away while the thread is read.
const AWAY: Duration = Duration::from_mins(1);

/// What a reader wants to be told of.
#[derive(Debug, Clone)]
pub enum Interest {
    /// This turn.
    Turn(TurnId),
    /// All but these turns: they were over before.
    Except(BTreeSet<TurnId>),
}

impl Interest {
    fn wants(&self, turn: Option<&TurnId>) -> bool {
        match self {
            Self::Turn(wanted) => turn == Some(wanted),
            Self::Except(old) => turn.is_none_or(|turn| !old.contains(turn)),
        }
    }

    fn wants_piece(&self, piece: &Piece) -> bool {
        match piece {
            Piece::Text { turn, .. } | Piece::Tool { turn, .. } | Piece::Hole { turn, .. } => self.wants(turn.as_ref()),
            Piece::Queued(queued) => self.wants(Some(&queued.turn)),
            Piece::Moved(moved) => self.wants(Some(&moved.turn)),
            // Whoever waits for a turn wants to know why it does not go on.
            Piece::Asked(_) | Piece::Settled { .. } | Piece::Renamed(_) | Piece::Custom(_) => true,
        }
    }
}

/// What is new.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// Of the thread.
    Piece(Piece),
    /// Events from `from` up to but without `to` were not told; the thread is read instead.
    Gap {
        /// First missing sequence.
        from: u64,
        /// First sequence that follows.
        to: u64,
    },
    /// The line to the server broke; it is being opened again.
    Broken(String),
    /// It is open again, and nothing was missed.
    Back,
}

/// One thread that is followed.
pub struct Reading {
    client: Client,
    session: SessionId,
    thread: ThreadId,
    interest: Interest,
    feed: ThreadFeed,
    /// What is known.
    pub transcript: Transcript,
    news: VecDeque<News>,
    missing: Option<Missing>,
}

/// What must be read before the feed makes sense again.
#[derive(Debug, Clone)]
enum Missing {
    Thread,
    Entry(String),
}

impl Reading {
    /// Follows a thread from behind sequence `after`.
    pub async fn open(
        client: &Client,
        session: &SessionId,
        thread: &ThreadId,
        after: u64,
        interest: Interest,
    ) -> Result<Self> {
        let open = async || ThreadFeed::open(&client.connection, session, Some(thread), after).await;
        Ok(Self {
            client: client.clone(),
            session: session.clone(),
            thread: thread.clone(),
            interest,
            feed: patiently(AWAY, open).await?,
            transcript: Transcript::default(),
            news: VecDeque::new(),
            missing: None,
        })
    }

    /// The thread that is followed.
    pub fn thread(&self) -> &ThreadId {
        &self.thread
    }

    /// What is there already is told first.
    pub fn from_the_beginning(&mut self) {
        self.missing = Some(Missing::Thread);
    }

    /// Reads the thread now: what of it is wanted is [`Reading::ready`] when this returns.
    pub async fn read_now(&mut self) -> Result<()> {
        self.read_thread().await
    }

    /// What is new and needs no waiting.
    pub fn ready(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// What is new next. Cancel safe.
    pub async fn next(&mut self) -> Result<News> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
            }
            match self.missing.clone() {
                Some(Missing::Thread) => self.read_thread().await?,
                Some(Missing::Entry(entry)) => self.read_entry(&entry).await?,
                None => match self.feed.next().await? {
                    Told::Item(item) => self.take(&item),
                    Told::Gap { from, to } => {
                        self.missing = Some(Missing::Thread);
                        return Ok(News::Gap { from, to });
                    }
                    Told::Broken(why) => return Ok(News::Broken(why)),
                    Told::Back => return Ok(News::Back),
                },
            }
        }
    }

    fn take(&mut self, item: &ThreadFeedItem) {
        if item.thread == self.thread {
            let piece = self.transcript.apply(&item.record.event);
            self.tell(piece);
        }
    }

    fn tell(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        for piece in pieces {
            match piece {
                Piece::Hole { entry, turn } if self.interest.wants(turn.as_ref()) => {
                    self.missing = Some(Missing::Entry(entry));
                }
                Piece::Hole { .. } => {}
                piece if self.interest.wants_piece(&piece) => self.news.push_back(News::Piece(piece)),
                _ => {}
            }
        }
    }

    async fn read_thread(&mut self) -> Result<()> {
        let first = self.page(Page::First).await?;
        let (turns, questions, sequence) = (first.recent_turns.clone(), first.questions.clone(), first.thread.sequence);
        let mut entries = Vec::new();
        let mut page = first;
        loop {
            for entry in std::mem::take(&mut page.entries) {
                if self.is_news(&entry) {
                    entries.push(self.whole(entry).await?);
                }
            }
            let Some(cursor) = page.next_cursor.take() else { break };
            page = self.page(Page::At(&cursor)).await?;
        }
        // From here on nothing waits: it is done whole or not at all. Prompts come before what was said to them.
        let pieces: Vec<_> = turns.iter().flat_map(|turn| self.transcript.turn_is(turn)).collect();
        let (prompts, moves): (Vec<_>, Vec<_>) =
            pieces.into_iter().partition(|piece| matches!(piece, Piece::Queued(_)));
        let said = self.transcript.entries_are(&entries);
        let asked = self.transcript.questions_are(&questions);
        self.tell(prompts.into_iter().chain(said).chain(asked).chain(moves));
        self.feed.goes_on_after(sequence);
        self.missing = None;
        Ok(())
    }

    /// Entries of no turn are as old as the thread: only those that were followed are wanted.
    fn is_news(&self, entry: &EntryView) -> bool {
        match &entry.turn {
            Some(turn) => self.interest.wants(Some(turn)),
            None => self.transcript.knows(&entry.id),
        }
    }

    async fn read_entry(&mut self, id: &str) -> Result<()> {
        let piece = async || self.client.entry(&self.session, &self.thread, id, 0).await;
        let first = match patiently(AWAY, piece).await {
            Ok(first) => first,
            Err(error) if error.code == Some(ErrorCode::EntryNotFound) => {
                self.missing = None;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let text = self.rest(id, first.text, first.length).await?;
        let piece = self.transcript.text_is(id, &text);
        self.missing = None;
        self.tell(piece);
        Ok(())
    }

    async fn page(&self, page: Page<'_>) -> Result<ThreadDetail> {
        patiently(AWAY, async || self.client.thread(&self.session, &self.thread, page).await).await
    }

    /// The entry with its whole text; of a tool's nothing but its state is shown.
    async fn whole(&self, mut entry: EntryView) -> Result<EntryView> {
        if entry.truncated && entry.tool.is_none() {
            entry.text = self.rest(&entry.id, std::mem::take(&mut entry.text), entry.length).await?;
        }
        Ok(entry)
    }

    async fn rest(&self, id: &str, mut text: String, mut length: u64) -> Result<String> {
        while (text.len() as u64) < length {
            let offset = text.len() as u64;
            let piece = async || self.client.entry(&self.session, &self.thread, id, offset).await;
            let piece = patiently(AWAY, piece).await?;
            // It became shorter, or was rewritten, meanwhile: the feed tells what it is.
            if piece.text.is_empty() || piece.offset != offset {
                break;
            }
            text.push_str(&piece.text);
            length = piece.length;
        }
        Ok(text)
    }
}
