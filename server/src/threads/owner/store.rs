//! Writing to the log so that a lost acknowledgement is neither a lost event nor one told twice.

use std::collections::HashMap;

use helix_protocol::thread::ThreadRecord;
use helix_protocol::{ErrorCode, ThreadId};
use jiff::Timestamp;

use super::inbox::Frame;
use super::{Followed, Leaving, Owner, RETRY, until_up};
use crate::threads::decide::{Append, Desk};
use crate::threads::model::Conversation;

/// Refusals in a row after which it is doubted that this server is the owner.
pub(super) const PATIENT: u32 = 5;
/// Refusals of one frame after which it is left out.
const HOPELESS: u32 = 200;

/// Why something is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Another server is the owner.
    NoOwner,
    /// It can never be written; the log of this server says why.
    Impossible,
}

enum Written {
    At(u64),
    /// Another writer was faster.
    Behind,
    Impossible,
}

impl Owner {
    /// Writes what the log lacks after this.
    pub(super) async fn write(
        &mut self,
        followed: &mut Followed,
        frame: &Frame,
    ) -> Result<Result<(), Refused>, Leaving> {
        for refusals in 0..HOPELESS {
            let Frame { from, said, at, .. } = frame;
            let appends = self.look(followed, |desk, conversation| desk.hear(conversation, *from, said, *at)).await?;
            match self.store(followed, &appends).await? {
                Ok(true) => return Ok(Ok(())),
                Ok(false) if refusals < PATIENT => {}
                Ok(false) => {
                    // Another owner may be the faster one.
                    self.look_at_lease().await?;
                    if !self.lease.is_held() {
                        return Ok(Err(Refused::NoOwner));
                    }
                    self.meanwhile(tokio::time::sleep(RETRY)).await?;
                }
                Err(refused) => return Ok(Err(refused)),
            }
        }
        tracing::error!("the log does not take what the agent said; it is left out");
        Ok(Err(Refused::Impossible))
    }

    /// Stores events one by one and waits until they are applied. False where another writer was faster: then the
    /// conversation is up to date again.
    pub(super) async fn store(
        &mut self,
        followed: &mut Followed,
        appends: &[Append],
    ) -> Result<Result<bool, Refused>, Leaving> {
        let mut last: HashMap<ThreadId, u64> = HashMap::new();
        let mut reached = 0;
        for Append { thread, event } in appends {
            let expected = match last.get(thread) {
                Some(sequence) => *sequence,
                None => followed.live.read(|conversation| conversation.sequence_of(thread)),
            };
            let record = ThreadRecord { at: Timestamp::now(), event: event.clone() };
            match self.put(thread, &record, expected).await? {
                Written::At(sequence) => {
                    reached = sequence;
                    last.insert(thread.clone(), sequence);
                }
                Written::Behind => {
                    self.catch_up(followed).await?;
                    return Ok(Ok(false));
                }
                Written::Impossible => return Ok(Err(Refused::Impossible)),
            }
        }
        if reached > 0 {
            self.applied(followed, reached).await?;
        }
        Ok(Ok(true))
    }

    /// Repeats one write until it is known what became of it.
    async fn put(&mut self, thread: &ThreadId, record: &ThreadRecord, expected: u64) -> Result<Written, Leaving> {
        self.written += 1;
        let id = format!("{}.{}.{}", self.sockets.inner.server_id, self.number, self.written);
        let (log, session) = (self.sockets.inner.hub.log().clone(), self.session.clone());
        loop {
            let put = log.append_record(&session, thread, record, expected, Some(&id));
            match self.meanwhile(put).await? {
                Ok(sequence) => return Ok(Written::At(sequence)),
                Err(error) if error.code == ErrorCode::Conflict => return Ok(Written::Behind),
                Err(error) if error.code == ErrorCode::StoreUnavailable => {
                    tracing::debug!(source = ?error.source, "an event is not stored yet: {error}");
                    let sockets = self.sockets.clone();
                    // The process ends otherwise: nothing else takes the bus away for good.
                    let _ = self.meanwhile(until_up(&sockets)).await?;
                }
                Err(error) => {
                    tracing::error!(source = ?error.source, thread.id = %thread, "an event is left out: {error}");
                    return Ok(Written::Impossible);
                }
            }
        }
    }

    async fn catch_up(&mut self, followed: &mut Followed) -> Result<(), Leaving> {
        let (hub, live) = (self.sockets.inner.hub.clone(), followed.live.clone());
        while let Err(error) = self.meanwhile(hub.catch_up(&live)).await? {
            tracing::debug!(source = ?error.source, "the conversation is behind: {error}");
            let sockets = self.sockets.clone();
            let _ = self.meanwhile(until_up(&sockets)).await?;
        }
        Ok(())
    }

    /// Waits until the fold has this event, or begins anew.
    async fn applied(&mut self, followed: &mut Followed, sequence: u64) -> Result<(), Leaving> {
        let mut places = followed.places.clone();
        let generation = places.borrow().generation;
        let there = async move {
            let _ = places.wait_for(|place| place.applied >= sequence || place.generation > generation).await;
        };
        self.meanwhile(there).await
    }

    /// Looks at the whole conversation, never at half of it.
    pub(super) async fn look<T>(
        &mut self,
        followed: &mut Followed,
        mut look: impl FnMut(&mut Desk, &Conversation) -> T,
    ) -> Result<T, Leaving> {
        loop {
            let before = *followed.places.borrow_and_update();
            if !before.synced {
                let mut places = followed.places.clone();
                self.meanwhile(async move { places.wait_for(|place| place.synced).await.map(|_| ()) })
                    .await?
                    .map_err(|_| Leaving)?;
                continue;
            }
            let desk = &mut self.desk;
            let seen = followed.live.read(|conversation| look(desk, conversation));
            let after = *followed.places.borrow();
            if after.synced && after.generation == before.generation {
                return Ok(seen);
            }
        }
    }
}
