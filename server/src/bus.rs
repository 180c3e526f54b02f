//! The NATS connection: typed publish, request and health. Names come from `protocol::subject`.

use helix_protocol::RunnerId;
use helix_protocol::link::Nudge;

/// The bus. Cheap to clone.
#[derive(Clone)]
pub struct Bus {}

impl Bus {
    /// Nudges a runner; lost nudges are repaired by its timer.
    pub async fn nudge(&self, _runner: &RunnerId, _nudge: Nudge) {
        unimplemented!()
    }

    /// True while connected and JetStream answers: what `/readyz` tells.
    pub fn healthy(&self) -> bool {
        unimplemented!()
    }
}
