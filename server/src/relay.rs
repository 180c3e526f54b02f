//! Viewers waiting for a runner to dial back, and the splice of the two sockets.
//!
//! A viewer's request registers a one-use dial and nudges the runner; the runner fetches `up.<me>.dials.<server>`,
//! which only this process answers, and dials `/api/v1/dial` here. Nothing of it is stored: dials die with the
//! viewer's socket or with the process.

use helix_protocol::RunnerId;
use helix_protocol::link::Dial;

/// Dials of this process. Cheap to clone.
#[derive(Clone)]
pub struct Relay {}

impl Relay {
    /// Takes every dial that waits for this runner: the answer to its `dials` request. Called by `link`.
    pub fn take_dials(&self, _runner: &RunnerId) -> Vec<Dial> {
        unimplemented!()
    }
}
