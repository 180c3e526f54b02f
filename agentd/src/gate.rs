//! The one gate to a session's desktop: who may type, and what of a viewer's bytes reaches the display.
//!
//! [`Gates`] knows the control lease and the grants of every session; a session task says what its order says, in
//! [`Gates::set`] and [`Gates::grant`]. A viewer's way in, whatever [`line`] it comes by: [`Door`] answers its RFB handshake in the display's place (a native viewer must know a
//! password), then [`Filter`] reads all that it sends, message by message, and drops what may not pass ([`viewer`]). What the
//! display sends is copied blind. No task of its own; on failure the viewer is closed with the reason.

mod door;
mod filter;
pub mod line;
pub mod viewer;
mod vnc_auth;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use helix_protocol::SessionId;
use helix_protocol::assignment::DesiredSession;
use helix_protocol::control::Control;
use helix_protocol::grant::Grant;
use tokio::sync::watch;

pub use door::{Door, Step, greet_display};
pub use filter::{Fault, Filter, Typed};
pub use vnc_auth::answer as vnc_answer;

/// The control leases and the grants of all sessions. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    sessions: Arc<Mutex<BTreeMap<SessionId, Gate>>>,
}

/// What holds at the gate of one session.
#[derive(Debug, Default)]
struct Gate {
    lease: watch::Sender<Control>,
    grants: watch::Sender<Granted>,
    /// Held by each of its viewers.
    viewers: Arc<()>,
}

/// Somebody looks at a desktop, until it is dropped.
#[derive(Debug)]
pub struct Looking {
    _held: Arc<()>,
}

/// The grants of a session, with the counter of their changes.
#[derive(Debug, Default)]
pub struct Granted {
    epoch: u64,
    /// All, ended ones among them.
    pub list: Vec<Grant>,
}

impl Gates {
    /// Enforces a lease from now on, unless a newer one is already.
    pub fn set(&self, session: &SessionId, control: &Control) {
        self.with(session, |gate| {
            gate.lease.send_if_modified(|known| {
                let newer = control.epoch > known.epoch;
                if newer {
                    known.clone_from(control);
                }
                newer
            });
        });
    }

    /// Lets in with these grants alone from now on, unless a newer list is known already.
    pub fn grant(&self, session: &SessionId, epoch: u64, grants: &[Grant]) {
        self.with(session, |gate| {
            gate.grants.send_if_modified(|known| {
                let newer = epoch > known.epoch;
                if newer {
                    *known = Granted { epoch, list: grants.to_vec() };
                }
                newer
            });
        });
    }

    /// Another life of the session begins: its lease and its grants count anew.
    pub fn begin(&self, order: &DesiredSession) {
        let grants = order.access.as_ref().map(|access| access.grants.clone()).unwrap_or_default();
        self.with(&order.session, |gate| {
            gate.lease.send_replace(order.control.clone());
            gate.grants.send_replace(Granted { epoch: order.grants, list: grants });
        });
    }

    /// The lease of a session, and every change of it.
    pub fn watch(&self, session: &SessionId) -> watch::Receiver<Control> {
        self.with(session, |gate| gate.lease.subscribe())
    }

    /// The grants of a session, and every change of them.
    pub fn grants(&self, session: &SessionId) -> watch::Receiver<Granted> {
        self.with(session, |gate| gate.grants.subscribe())
    }

    /// Somebody was let in, and looks at the desktop from now on.
    pub fn enter(&self, session: &SessionId) -> Looking {
        self.with(session, |gate| Looking { _held: Arc::clone(&gate.viewers) })
    }

    /// Sessions whose desktops somebody looks at.
    pub fn viewed(&self) -> BTreeSet<SessionId> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let viewed = sessions.iter().filter(|(_, gate)| Arc::strong_count(&gate.viewers) > 1);
        viewed.map(|(session, _)| session.clone()).collect()
    }

    /// The session is gone.
    pub fn forget(&self, session: &SessionId) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(session);
    }

    fn with<T>(&self, session: &SessionId, act: impl FnOnce(&mut Gate) -> T) -> T {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        act(sessions.entry(session.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_is_known_until_he_leaves() {
        let gates = Gates::default();
        let [a, b] = ["a", "b"].map(|id| SessionId::parse(id).expect("valid id"));
        let (first, second, other) = (gates.enter(&a), gates.enter(&a), gates.enter(&b));
        assert_eq!(gates.viewed(), [a.clone(), b].into());
        drop((first, other));
        assert_eq!(gates.viewed(), [a].into(), "one of two is there still");
        drop(second);
        assert!(gates.viewed().is_empty());
    }

    #[test]
    fn an_older_lease_is_never_enforced_after_a_newer_one() {
        let (gates, session) = (Gates::default(), SessionId::parse("s").expect("valid id"));
        let watched = gates.watch(&session);
        for (epoch, enforced) in [(2, 2), (1, 2), (3, 3)] {
            gates.set(&session, &Control { epoch, holder: None });
            assert_eq!(watched.borrow().epoch, enforced);
        }
        let grants = gates.grants(&session);
        for (epoch, enforced) in [(2, 2), (1, 2), (3, 3)] {
            gates.grant(&session, epoch, &[]);
            assert_eq!(grants.borrow().epoch, enforced);
        }
        gates.begin(&DesiredSession {
            session,
            epoch: helix_protocol::Epoch(2),
            generation: helix_protocol::Generation(1),
            desired: helix_protocol::session::Desired::Running,
            spec: helix_protocol::session::SessionSpec::default(),
            control: Control::default(),
            grants: 0,
            deleted: false,
            work: helix_protocol::checkpoint::WorkOrder::default(),
            access: None,
        });
        assert_eq!((watched.borrow().epoch, grants.borrow().epoch), (0, 0), "another life of the session");
    }
}
