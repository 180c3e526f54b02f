//! Who is calling and what they may do. Deny by default: every route names what it needs.

use helix_protocol::SessionId;
use helix_protocol::record::Scope;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Name of the token; owner of what it makes.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// Hash of the token, to close what it opened when it is revoked.
    pub token_hash: String,
}

impl Principal {
    /// May read this session.
    pub fn may_see(&self, session: &SessionId, owner: &str) -> bool {
        match &self.scope {
            Scope::Admin | Scope::Operator | Scope::Viewer => true,
            Scope::User => self.name == owner,
            Scope::Session(own) | Scope::Desktop(own) => own == session,
            Scope::Runner(_) | Scope::Enrol => false,
        }
    }

    /// May change or end this session.
    pub fn may_change(&self, _session: &SessionId, owner: &str) -> bool {
        match &self.scope {
            Scope::Admin | Scope::Operator => true,
            Scope::User => self.name == owner,
            Scope::Viewer | Scope::Session(_) | Scope::Desktop(_) | Scope::Runner(_) | Scope::Enrol => false,
        }
    }

    /// May open this session's desktop.
    pub fn may_drive(&self, session: &SessionId, owner: &str) -> bool {
        match &self.scope {
            Scope::Session(own) | Scope::Desktop(own) => own == session,
            _ => self.may_change(session, owner),
        }
    }

    /// May be told this session's own token.
    pub fn may_know_session_token(&self, owner: &str) -> bool {
        matches!(self.scope, Scope::Admin) || self.name == owner
    }
}
