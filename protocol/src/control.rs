//! Who may type in a session's desktop: the control lease.
//!
//! It is part of the session's record, goes to the runner in the desired set, and is enforced there, at the gate that
//! every input passes. Who may drive a desktop may type while nobody holds the lease; from then on the holder alone.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::Seat;

/// Who alone may type, and how often that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Counter of changes: an older one is never enforced after a newer one.
    pub epoch: u64,
    /// None: whoever may drive the desktop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

impl Control {
    /// True while nobody ever held it: not worth a field.
    pub fn is_unused(&self) -> bool {
        *self == Self::default()
    }
}

/// One that holds the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Holder {
    /// Name of the token.
    pub by: String,
    /// Which of the tokens with that name: a digest of it.
    pub token: String,
    /// Where: one token may be in use at several places.
    pub seat: Seat,
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
}

/// What a viewer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Role {
    /// Look.
    View,
    /// Type, point, paste and resize, as far as the lease allows.
    Control,
}

/// Somebody at a desktop: a viewer, or a caller of the API.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewer {
    /// Name of the token.
    pub by: String,
    /// Which of the tokens with that name: a digest of it.
    pub token: String,
    /// Where; none: it never holds the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seat: Option<Seat>,
    /// What it may do.
    pub role: Role,
    /// What a native viewer must prove to know (VNC authentication, at most 8 bytes count); none: the ticket was proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

impl Viewer {
    /// Whether what it types reaches the desktop.
    pub fn may_type(&self, control: &Control) -> bool {
        self.role == Role::Control
            && control
                .holder
                .as_ref()
                .is_none_or(|holder| self.token == holder.token && self.seat.as_ref() == Some(&holder.seat))
    }
}

impl std::fmt::Debug for Viewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { by, token, seat, role, password } = self;
        let password = password.as_ref().map(|_| "…");
        f.debug_struct("Viewer")
            .field("by", by)
            .field("token", token)
            .field("seat", seat)
            .field("role", role)
            .field("password", &password)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_holds_the_lease_types_alone() {
        let seat = |text: &str| Seat::parse(text).expect("valid");
        let viewer = |by: &str, at: Option<&str>, role| Viewer {
            by: "anybody".to_owned(),
            token: by.to_owned(),
            seat: at.map(seat),
            role,
            password: None,
        };
        let free = Control::default();
        let held = Control {
            epoch: 1,
            holder: Some(Holder {
                by: "anybody".to_owned(),
                token: "ann".to_owned(),
                seat: seat("tab"),
                since: Timestamp::UNIX_EPOCH,
            }),
        };
        assert!(viewer("bob", None, Role::Control).may_type(&free));
        assert!(!viewer("bob", None, Role::View).may_type(&free));
        assert!(viewer("ann", Some("tab"), Role::Control).may_type(&held));
        for other in [
            viewer("ann", Some("tab"), Role::View),
            viewer("ann", Some("other"), Role::Control),
            viewer("ann", None, Role::Control),
            viewer("bob", Some("tab"), Role::Control),
        ] {
            assert!(!other.may_type(&held), "{other:?}");
        }
    }

    #[test]
    fn a_password_is_in_no_log() {
        let viewer = Viewer {
            by: "ann".to_owned(),
            token: String::new(),
            seat: None,
            role: Role::View,
            password: Some("hunter22".to_owned()),
        };
        assert!(!format!("{viewer:?}").contains("hunter"));
    }
}
