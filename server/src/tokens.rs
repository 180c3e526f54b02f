//! Bearer tokens and one-use tickets: made here, stored as hashes, revoked here.

use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::link::Stream;
use helix_protocol::record::{Scope, TicketRecord};
use jiff::Timestamp;

use crate::auth::Principal;
use crate::error::Result;

/// Tokens over the store. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {}

/// A freshly made secret. It is nowhere else.
pub struct Issued {
    /// The secret.
    pub secret: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Tokens {
    /// Who the bearer is. `TokenInvalid` when unknown, expired or revoked. Knows, in this order: the configured
    /// admin and enrolment tokens (constant-time), derived session tokens, stored tokens.
    pub async fn verify(&self, _secret: &str) -> Result<Principal> {
        unimplemented!()
    }

    /// Makes and stores a token.
    pub async fn issue(&self, _name: &str, _scope: Scope, _ttl: Duration) -> Result<Issued> {
        unimplemented!()
    }

    /// Makes a one-use ticket for a session's stream, 60 s.
    pub async fn issue_ticket(&self, _by: &Principal, _session: &SessionId, _stream: Stream) -> Result<Issued> {
        unimplemented!()
    }

    /// Consumes a ticket: the first caller on any replica gets it, everybody else `TicketInvalid`.
    pub async fn consume_ticket(&self, _secret: &str) -> Result<TicketRecord> {
        unimplemented!()
    }

    /// Completes when the token with this hash is revoked or expires: what it opened must close.
    pub async fn revoked(&self, _token_hash: &str) {
        unimplemented!()
    }
}
