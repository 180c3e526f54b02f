//! Who did what: entries of the audit trail.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::viewer::Entrance;

/// One thing that somebody did or wanted to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Who: the name of a token, `runner <id>`, `helix` for the control plane itself, `session <id>` that
    /// others give way to, or `?` where nobody was let in.
    pub principal: String,
    /// What: `POST /sessions/{id}/tickets` for a request, `session.Ready` for what happened by itself, `viewer.joined` and
    /// `viewer.refused` for what a runner's gate says.
    pub action: String,
    /// With what: mostly a session id; empty where the action has no target.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// `ok`, or the stable code of the refusal or failure.
    pub result: String,
    /// How often in a row the same was refused since it was told last: refusals are told at most every ten seconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated: u32,
    /// For `viewer.joined` and `viewer.refused`: where he came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrance: Option<Entrance>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
