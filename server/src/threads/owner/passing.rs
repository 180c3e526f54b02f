//! What servers with sockets of one session say to each other.

use tokio::time::Instant;

use super::inbox::Frame;
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
                tracing::warn!(%error, "a request of another server cannot be read");
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
            Request::Frame(said) => {
                let replies = message.reply.into_iter().collect();
                self.inbox.push(Frame { from: PeerId::ELSEWHERE, said: *said, replies });
                return;
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

    /// Gives a frame to the owner. False where this server is to look again who that is.
    pub(super) async fn pass_on(&mut self, frame: &Frame) -> Result<bool, Leaving> {
        // What it says of the socket counts here too, should the lease come back.
        if let Said::Ready(ready) = &frame.said {
            self.desk.ready(frame.from, ready, Instant::now());
        }
        if frame.from == PeerId::ELSEWHERE {
            // Its server asks again, and then the right one.
            return Ok(true);
        }
        let (sockets, session) = (self.sockets.clone(), self.session.clone());
        let request = Request::Frame(Box::new(frame.said.clone()));
        match self.meanwhile(async move { sockets.ask(&session, &request).await }).await? {
            Ok(Some(Reply::Done)) => return Ok(true),
            Err(error) if error.code == helix_protocol::ErrorCode::InvalidRequest => {
                tracing::error!(%error, "a frame cannot be passed on to the session's owner and is left out");
                return Ok(true);
            }
            Err(error) => tracing::debug!(%error, "the owner does not answer"),
            Ok(Some(Reply::NoSocket | Reply::NotMine) | None) => {}
        }
        self.look_at_lease().await?;
        if !self.lease.is_held() {
            self.meanwhile(tokio::time::sleep(RETRY)).await?;
        }
        Ok(false)
    }
}
