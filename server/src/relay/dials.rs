//! Dials that wait for a runner: made by a viewer, fetched once by the runner, answered once by its connection.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use helix_protocol::RunnerId;
use helix_protocol::ids::secret_hash;
use helix_protocol::link::Dial;
use tokio::sync::oneshot;

/// By the hash of the ticket, so that how long a look-up takes says nothing about a ticket.
pub(super) struct Dials<Socket = super::Socket> {
    waiting: Mutex<HashMap<String, Waiting<Socket>>>,
}

// Not derived: that would ask for a default socket.
impl<Socket> Default for Dials<Socket> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

struct Waiting<Socket> {
    runner: RunnerId,
    /// Present until the runner fetched it.
    dial: Option<Dial>,
    viewer: oneshot::Sender<Socket>,
}

/// A ticket that was right: where the runner's socket goes.
pub struct Answer<Socket = super::Socket> {
    viewer: oneshot::Sender<Socket>,
}

impl<Socket> Answer<Socket> {
    /// Hands the socket to the viewer. False when the viewer has left meanwhile: the socket is closed.
    pub fn hand_over(self, socket: Socket) -> bool {
        self.viewer.send(socket).is_ok()
    }
}

/// A viewer's place. Dropping it forgets the dial.
pub(super) struct Registered<'a, Socket> {
    dials: &'a Dials<Socket>,
    key: String,
    socket: oneshot::Receiver<Socket>,
}

impl<Socket> Registered<'_, Socket> {
    /// The runner's socket; None when the runner's connection broke before it was a socket.
    pub(super) async fn socket(mut self) -> Option<Socket> {
        (&mut self.socket).await.ok()
    }
}

impl<Socket> Drop for Registered<'_, Socket> {
    fn drop(&mut self) {
        self.dials.lock().remove(&self.key);
    }
}

impl<Socket> Dials<Socket> {
    pub(super) fn register(&self, runner: &RunnerId, dial: Dial) -> Registered<'_, Socket> {
        let (viewer, socket) = oneshot::channel();
        let key = secret_hash(&dial.ticket);
        let waiting = Waiting { runner: runner.clone(), dial: Some(dial), viewer };
        self.lock().insert(key.clone(), waiting);
        Registered { dials: self, key, socket }
    }

    pub(super) fn take(&self, runner: &RunnerId) -> Vec<Dial> {
        let mut waiting = self.lock();
        waiting.values_mut().filter(|waiting| waiting.runner == *runner).filter_map(|w| w.dial.take()).collect()
    }

    pub(super) fn answer(&self, runner: &RunnerId, ticket: &str) -> Option<Answer<Socket>> {
        let key = secret_hash(ticket);
        let mut waiting = self.lock();
        // Another runner's ticket stays valid for its own runner.
        if waiting.get(&key)?.runner != *runner {
            return None;
        }
        waiting.remove(&key).map(|waiting| Answer { viewer: waiting.viewer })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting<Socket>>> {
        // No holder panics between two changes that belong together.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use helix_protocol::SessionId;
    use helix_protocol::link::Stream;

    use super::*;

    fn runner(id: &str) -> RunnerId {
        RunnerId::parse(id).expect("valid id")
    }

    fn dial(ticket: &str) -> Dial {
        Dial {
            url: "http://127.0.0.1:1".to_owned(),
            ticket: ticket.to_owned(),
            session: SessionId::parse("s").expect("valid id"),
            stream: Stream::Vnc,
            viewer: None,
            lines: None,
            unit: None,
            follow: false,
        }
    }

    #[tokio::test]
    async fn a_dial_is_fetched_once_and_answered_once_by_its_runner() {
        let dials = Dials::<&str>::default();
        let waiting = dials.register(&runner("a"), dial("t"));
        assert!(dials.take(&runner("b")).is_empty(), "another runner fetched it");
        assert_eq!(dials.take(&runner("a")).len(), 1);
        assert!(dials.take(&runner("a")).is_empty(), "fetched twice");

        assert!(dials.answer(&runner("b"), "t").is_none(), "another runner answered it");
        assert!(dials.answer(&runner("a"), "u").is_none(), "an unknown ticket was taken");
        let answer = dials.answer(&runner("a"), "t").expect("the right ticket");
        assert!(dials.answer(&runner("a"), "t").is_none(), "a ticket was used twice");
        assert!(answer.hand_over("socket"));
        assert_eq!(waiting.socket().await, Some("socket"));
    }

    #[tokio::test]
    async fn a_viewer_that_leaves_takes_its_dial_along() {
        let dials = Dials::<&str>::default();
        let waiting = dials.register(&runner("a"), dial("t"));
        let late = dials.register(&runner("a"), dial("u"));
        let answer = dials.answer(&runner("a"), "u").expect("the right ticket");
        drop((waiting, late));
        assert!(dials.take(&runner("a")).is_empty());
        assert!(dials.answer(&runner("a"), "t").is_none());
        assert!(!answer.hand_over("socket"), "a viewer that had left got a socket");
    }

    #[tokio::test]
    async fn a_connection_that_breaks_while_upgrading_is_told() {
        let dials = Dials::<&str>::default();
        let waiting = dials.register(&runner("a"), dial("t"));
        drop(dials.answer(&runner("a"), "t").expect("the right ticket"));
        assert_eq!(waiting.socket().await, None);
    }
}
