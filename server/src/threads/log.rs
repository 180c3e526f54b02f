//! The log of conversations: stream `HELIX_THREADS`.
//!
//! An append names the last sequence that its writer knew of the thread and is refused with `Conflict` where another
//! writer was faster. One whose acknowledgement was lost may have been stored: its writer reads again and sees.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use helix_protocol::thread::{ThreadEvent, ThreadFeedItem, ThreadRecord};
use helix_protocol::{ErrorCode, SessionId, ThreadId, subject};
use jiff::Timestamp;

use super::commit::Commits;
use super::model::{Conversation, Keep};
use crate::bus::follow::{Follow, Stored};
use crate::bus::{Bus, unavailable};
use crate::error::{Error, Result};

/// The log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    bus: Bus,
    commits: Commits,
}

impl Log {
    /// The log over a bus.
    pub fn new(bus: Bus, commits: Commits) -> Self {
        Self { bus, commits }
    }

    /// The bus beneath.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Stores an event under a thread whose last sequence is `expected` (0: it has none); answers its sequence.
    pub async fn append(
        &self,
        session: &SessionId,
        thread: &ThreadId,
        event: &ThreadEvent,
        expected: u64,
    ) -> Result<u64> {
        let record = ThreadRecord { at: Timestamp::now(), event: event.clone() };
        self.append_record(session, thread, &record, expected, None).await
    }

    /// The same for a record that may be stored already: within two minutes, a repeat under the same `id` answers the
    /// sequence that it got.
    pub async fn append_record(
        &self,
        session: &SessionId,
        thread: &ThreadId,
        record: &ThreadRecord,
        expected: u64,
        id: Option<&str>,
    ) -> Result<u64> {
        self.bus.require_up()?;
        let payload = serde_json::to_vec(record)
            .map_err(|error| Error::new(ErrorCode::Internal, "cannot encode an event").because(error))?;
        let limit = self.bus.client().server_info().max_payload;
        if payload.len() > limit {
            let detail =
                format!("an event of {} bytes is above NATS's max_payload of {limit}; raise it", payload.len());
            return Err(Error::new(ErrorCode::Internal, detail));
        }
        let subject = subject::thread(session, thread);
        match self.commits.commit(subject, payload.into(), expected, id.map(str::to_owned)).await {
            Err(error) if error.code == ErrorCode::Conflict => {
                let detail = format!("thread {thread} of session {session} went on meanwhile; repeat the request");
                Err(Error::new(ErrorCode::Conflict, detail))
            }
            stored => stored,
        }
    }

    /// Last sequence of all of a session's threads; 0 where nothing was said.
    pub async fn last_sequence(&self, session: &SessionId) -> Result<u64> {
        Ok(self.last(session).await?.map_or(0, |(sequence, _)| sequence))
    }

    /// Last event of all of a session's threads, where one can be read.
    pub async fn last(&self, session: &SessionId) -> Result<Option<(u64, Option<ThreadRecord>)>> {
        self.bus.require_up()?;
        let jetstream = self.bus.jetstream();
        let stream = jetstream.get_stream_no_info(subject::STREAM_THREADS).await.map_err(unavailable)?;
        match stream.get_last_raw_message_by_subject(&subject::threads_of(session)).await {
            Ok(message) => Ok(Some((message.sequence, serde_json::from_slice(&message.payload).ok()))),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Events after sequence `after`, of one thread or of all threads of a session: what is stored, then what comes.
    pub async fn follow(&self, session: &SessionId, thread: Option<&ThreadId>, after: u64) -> Result<Follow> {
        let filter = thread.map_or_else(|| subject::threads_of(session), |thread| subject::thread(session, thread));
        let from = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        self.bus.follow(subject::STREAM_THREADS, &filter, from).await
    }

    /// A conversation as it is stored now, with all texts; of one thread or of all.
    pub async fn read(&self, session: &SessionId, thread: Option<&ThreadId>) -> Result<Conversation> {
        self.read_with(session, thread, |_, _| {}).await
    }

    /// The same; `seen` gets each event once, and the conversation as it was after it.
    pub async fn read_with(
        &self,
        session: &SessionId,
        thread: Option<&ThreadId>,
        mut seen: impl FnMut(&Conversation, ThreadFeedItem),
    ) -> Result<Conversation> {
        let mut conversation = Conversation::new(Keep::All);
        let mut follow = self.follow(session, thread, 0).await?;
        let mut pending = follow.pending;
        while pending > 0 {
            let stored = follow.next().await?;
            pending = stored.pending;
            if let Some(item) = item_of(&stored) {
                conversation.apply(item.sequence, &item.thread, &item.record);
                seen(&conversation, item);
            }
        }
        Ok(conversation)
    }

    /// Removes everything that was said in a session.
    pub async fn purge(&self, session: &SessionId) -> Result<()> {
        self.bus.require_up()?;
        let jetstream = self.bus.jetstream();
        let stream = jetstream.get_stream_no_info(subject::STREAM_THREADS).await.map_err(unavailable)?;
        stream.purge().filter(subject::threads_of(session)).await.map(|_| ()).map_err(unavailable)
    }
}

/// A stored message as the feed tells it.
pub fn item_of(stored: &Stored) -> Option<ThreadFeedItem> {
    let (_, thread) = subject::parse_thread(&stored.message.subject)?;
    match serde_json::from_slice(&stored.message.payload) {
        Ok(record) => Some(ThreadFeedItem { sequence: stored.sequence, thread, record }),
        Err(error) => {
            tracing::warn!(sequence = stored.sequence, "an event cannot be read and is left out: {error}");
            None
        }
    }
}
