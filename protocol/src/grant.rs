//! Grants: passwords with which native viewers (VNC and RDP) come to a session's desktop.
//!
//! A grant is part of the session's record, its password sealed there; the runner gets it in the answer to `sync`, beside
//! the session's other secrets, because VNC authentication needs the password itself. It ends when it is revoked, when it
//! expires, with the token that made it, or with the session.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::{Role, Viewer};
use crate::ids::{GrantId, Seat};

/// Characters of a password: VNC authentication looks at no more.
pub const PASSWORD_CHARS: usize = 8;

/// The grants of a session, as its record has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Counter of changes: an older list is never enforced after a newer one.
    pub epoch: u64,
    /// Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<GrantRecord>,
}

impl Grants {
    /// True while there never was one: not worth a field.
    pub fn is_unused(&self) -> bool {
        *self == Self::default()
    }
}

/// One grant, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// Which.
    pub id: GrantId,
    /// Name of the token that made it.
    pub by: String,
    /// Which of the tokens with that name: a digest of it.
    pub token: String,
    /// Hash of that token: the grant ends with it. Where a record has none, nobody's.
    #[serde(default)]
    pub token_hash: String,
    /// Made by a route that tells a password with each answer; told again once there are many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_repeated: bool,
    /// What whoever comes with it may do.
    pub role: Role,
    /// From where, as far as the control lease asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seat: Option<Seat>,
    /// When it was made.
    pub made_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Its password, sealed under the server key: base64.
    pub sealed: String,
}

/// One grant as the gate of the session's runner needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which.
    pub id: GrantId,
    /// Whom it lets in, and the password that proves it.
    pub viewer: Viewer,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Grant {
    /// Whether it has ended by itself.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }
}
