//! The server's feeds as WebSockets that reconnect by themselves and resume where they were: [`Feed`] of the fleet
//! (`/api/v1/events`), [`ThreadFeed`] of a session's conversation.
//!
//! The fleet's feed says *that* something changed; what it is now is read by a request. So a lost connection costs
//! nothing but a reading too many: after every reconnect [`Feed::changed`] answers at once.

mod socket;
mod thread;

use helix_protocol::SessionId;
use helix_protocol::event::{Event, FeedItem};

use self::socket::Line;
pub use self::thread::{ThreadFeed, Told};
use crate::error::Result;
use crate::settings::Connection;

/// Changes of one session.
pub struct Feed {
    line: Line,
    /// Sequence of the last event seen: where a new connection resumes.
    seen: Option<u64>,
}

impl Feed {
    /// Connects; what happens from now on is not missed.
    pub async fn open(connection: &Connection) -> Result<Self> {
        let line = Line::open(connection, vec!["events".to_owned()], Vec::new(), None).await?;
        Ok(Self { line, seen: None })
    }

    /// Returns when anything may have happened. Cancel safe.
    pub async fn happened(&mut self) -> Result<()> {
        if self.line.is_broken() {
            return self.line.reconnect(self.seen).await;
        }
        if let Ok(text) = self.line.text().await {
            self.seen = serde_json::from_str::<FeedItem>(&text).map(|item| item.sequence).ok().or(self.seen);
            self.line.is_well();
        }
        Ok(())
    }

    /// True after [`Feed::happened`] has found it broken. The next call would connect again, after a pause.
    pub fn is_broken(&self) -> bool {
        self.line.is_broken()
    }

    /// Returns when the session may have changed. Cancel safe: nothing is lost but what the next reading shows.
    pub async fn changed(&mut self, session: &SessionId) -> Result<()> {
        loop {
            if self.line.is_broken() {
                return self.line.reconnect(self.seen).await;
            }
            let Ok(text) = self.line.text().await else { continue };
            match concerns(&text, session) {
                Notice::Item { sequence, ours } => {
                    self.seen = Some(sequence);
                    self.line.is_well();
                    if ours {
                        return Ok(());
                    }
                }
                Notice::Unknown => return Ok(()),
            }
        }
    }
}

enum Notice {
    Item {
        sequence: u64,
        ours: bool,
    },
    /// A gap, or an event that this helixctl does not know: better read once too often.
    Unknown,
}

fn concerns(text: &str, wanted: &SessionId) -> Notice {
    let Ok(item) = serde_json::from_str::<FeedItem>(text) else { return Notice::Unknown };
    let ours = match &item.event {
        Event::Session { session, .. } | Event::SessionDeleted { session, .. } | Event::Control { session, .. } => {
            session == wanted
        }
        // A session that is queued may wait for exactly this runner.
        Event::Runner { .. } => true,
        Event::Audit { .. } | Event::Recording { .. } => false,
    };
    Notice::Item { sequence: item.sequence, ours }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_told_apart() {
        let id = SessionId::parse("a").expect("valid id");
        let event = |session: &str| {
            format!(
                r#"{{"sequence":7,"type":"session","session":"{session}","phase":"Ready","at":"2026-01-01T00:00:00Z"}}"#
            )
        };
        assert!(matches!(concerns(&event("a"), &id), Notice::Item { sequence: 7, ours: true }));
        assert!(matches!(concerns(&event("b"), &id), Notice::Item { sequence: 7, ours: false }));
        assert!(matches!(concerns(r#"{"type":"gap","from":1,"to":5}"#, &id), Notice::Unknown));
    }
}
