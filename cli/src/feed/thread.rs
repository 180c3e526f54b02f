//! The feed of a session's conversation, `/api/v1/sessions/{id}/events`: what was said and done, event by event.
//!
//! Unlike the fleet's feed it is the content itself, so nothing may be missing: it resumes behind the last event that
//! was told, and what it cannot tell any more is a [`Told::Gap`], after which the thread must be read again.

use helix_protocol::thread::ThreadFeedItem;
use helix_protocol::{SessionId, ThreadId};
use serde::Deserialize;

use super::socket::Line;
use crate::error::Result;
use crate::settings::Connection;

/// What the feed tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// An event.
    Item(Box<ThreadFeedItem>),
    /// Events from `from` up to but without `to` are not told.
    Gap {
        /// First missing sequence.
        from: u64,
        /// First sequence that follows.
        to: u64,
    },
    /// The line broke; it is being opened again.
    Broken(String),
    /// It is open again, where it was.
    Back,
}

/// Events of one session, or of one of its threads.
pub struct ThreadFeed {
    line: Line,
    /// Sequence of the last event told.
    seen: u64,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Hole {
    #[serde(rename = "gap")]
    Gap { from: u64, to: u64 },
}

impl ThreadFeed {
    /// Connects; the first event told is the next one after sequence `after`.
    pub async fn open(
        connection: &Connection,
        session: &SessionId,
        thread: Option<&ThreadId>,
        after: u64,
    ) -> Result<Self> {
        let path = ["sessions", session.as_str(), "events"].map(str::to_owned).into();
        let query = thread.iter().map(|thread| ("thread", thread.to_string())).collect();
        Ok(Self { line: Line::open(connection, path, query, Some(after)).await?, seen: after })
    }

    /// What was told up to here is known by other means: the feed goes on behind it.
    pub fn goes_on_after(&mut self, sequence: u64) {
        self.seen = sequence;
    }

    /// What comes next. An error ends the feed: the server refuses it. Cancel safe.
    pub async fn next(&mut self) -> Result<Told> {
        loop {
            if self.line.is_broken() {
                self.line.reconnect(Some(self.seen)).await?;
                return Ok(Told::Back);
            }
            let text = match self.line.text().await {
                Ok(text) => text,
                Err(why) => return Ok(Told::Broken(why)),
            };
            let Ok(item) = serde_json::from_str::<ThreadFeedItem>(&text) else {
                let Ok(Hole::Gap { from, to }) = serde_json::from_str(&text) else { continue };
                // The server may count anew (a store that was emptied): what follows says where it is.
                self.seen = to.saturating_sub(1);
                return Ok(Told::Gap { from, to });
            };
            self.line.is_well();
            // Known already: it was read by other means meanwhile.
            if item.sequence > self.seen {
                self.seen = item.sequence;
                return Ok(Told::Item(Box::new(item)));
            }
        }
    }
}
