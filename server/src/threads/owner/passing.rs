//! What servers with sockets of one session say to each other.
//!
//! A frame is passed on until its owner says that it is stored, so it may arrive again while it is still being dealt
//! with. It has a number, and counts once.

use tokio::time::Instant;

use super::inbox::{Frame, Passed};
use super::wire::{Reply, Request};
use super::{Leaving, Owner, RETRY};
use crate::threads::decide::PeerId;
use crate::threads::decide::words::Said;
use crate::threads::sync::Outgoing;

impl Owner {
    pub(super) async fn asked(&mut self, message: async_nats::Message) {
        let request = match serde_json::from_slice(&message.payload) {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!("a request of another server cannot be read: {error}");
                return;
            }
        };
        let reply = match request {
            Request::Taken(server) if server == *self.sockets.inner.server_id => return,
            Request::Taken(_) => {
                self.lease.doubt();
                return;
            }
            _ if !self.lease.is_held() => Reply::NotMine,
            Request::Frame { said, from, number } => {
                let known = self.passed.entry(from.clone()).or_default();
                if number > known.stored {
                    // Its repeat is answered once it is stored.
                    if number > known.taken
                        && let Some(inbox) = message.reply
                    {
                        known.taken = number;
                        let passed = vec![Passed { inbox, from, number }];
                        self.inbox.push(Frame { from: PeerId::ELSEWHERE, said: *said, at: Instant::now(), passed });
                    }
                    return;
                }
                Reply::Done
            }
            Request::Command(command) => {
                let outgoing = Outgoing { text: command.to_string(), turn: None };
                match self.desk.newest() {
                    Some(newest) if self.send(newest.peer, outgoing) => Reply::Done,
                    Some(_) | None => Reply::NoSocket,
                }
            }
        };
        if let Some(inbox) = message.reply {
            self.sockets.inner.bus.publish(inbox.to_string(), &reply).await;
        }
    }

    /// Tells those who passed a frame on what became of it.
    pub(super) async fn answer(&mut self, passed: Vec<Passed>, reply: Reply) {
        for Passed { inbox, from, number } in passed {
            let known = self.passed.entry(from).or_default();
            match reply {
                Reply::Done => known.stored = known.stored.max(number),
                // Should it come here again, it is to be taken.
                Reply::NoSocket | Reply::NotMine => known.taken = known.stored,
            }
            self.sockets.inner.bus.publish(inbox.to_string(), &reply).await;
        }
    }

    /// Gives a frame of a socket here to the owner. False where this server is to look again who that is.
    pub(super) async fn pass_on(&mut self, frame: &Frame, number: u64) -> Result<bool, Leaving> {
        // What it says of the socket counts here too, should the lease come back.
        if let Said::Ready(ready) = &frame.said {
            self.desk.ready(frame.from, ready, Instant::now());
        }
        let (sockets, session) = (self.sockets.clone(), self.session.clone());
        let from = format!("{}.{}", sockets.inner.server_id, self.number);
        let request = Request::Frame { said: Box::new(frame.said.clone()), from, number };
        match self.meanwhile(async move { sockets.ask(&session, &request).await }).await? {
            Ok(Some(Reply::Done)) => return Ok(true),
            Err(error) if error.code == helix_protocol::ErrorCode::InvalidRequest => {
                tracing::error!("a frame cannot be passed on to the session's owner and is left out: {error}");
                return Ok(true);
            }
            Err(error) => tracing::debug!("the owner does not answer: {error}"),
            Ok(Some(Reply::NoSocket | Reply::NotMine) | None) => {}
        }
        self.look_at_lease().await?;
        if !self.lease.is_held() {
            self.meanwhile(tokio::time::sleep(RETRY)).await?;
        }
        Ok(false)
    }
}
