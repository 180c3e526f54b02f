//! Bodies of `/api/v1/sessions/{id}/grants`: passwords of native viewers (VNC and RDP).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::Role;
use crate::ids::{GrantId, Seat};

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// `POST …/grants`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CreateGrant {
    /// Life in seconds, 60 to 604800 (a week); 12 hours where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Who comes with it can look and do nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub view_only: bool,
    /// From where: who holds the control types from that seat alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seat: Option<Seat>,
}

/// A grant that was just made: the one time that its password is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct NewGrant {
    /// Which.
    pub id: GrantId,
    /// RDP's user name: always `zed`. VNC asks for none.
    pub username: String,
    /// The password.
    pub password: String,
    /// What whoever comes with it may do.
    pub role: Role,
    /// When it ends.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
    /// False while the session's runner has not said yet that its gate knows it.
    pub enforced: bool,
}

impl std::fmt::Debug for NewGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewGrant").field("id", &self.id).field("role", &self.role).finish_non_exhaustive()
    }
}

/// A grant without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct GrantView {
    /// Which.
    pub id: GrantId,
    /// Name of the token that made it.
    pub by: String,
    /// What whoever comes with it may do.
    pub role: Role,
    /// From where.
    pub seat: Option<Seat>,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub made_at: Timestamp,
    /// When it ends.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// A grant that was just revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct RevokedGrant {
    /// As it was.
    #[serde(flatten)]
    pub grant: GrantView,
    /// False while the session's runner has not said yet that its gate lets nobody in with it: what came with it may still
    /// be open.
    pub enforced: bool,
}

/// `GET …/grants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct GrantList {
    /// Those that have not ended, oldest first.
    pub grants: Vec<GrantView>,
}
