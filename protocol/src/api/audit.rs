//! `GET /api/v1/audit`.

use serde::{Deserialize, Serialize};

use crate::audit::AuditEntry;

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// An entry with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct AuditItem {
    /// Sequence in stream `EXTERNAL_AGENTS`.
    pub sequence: u64,
    /// What happened.
    #[serde(flatten)]
    pub entry: AuditEntry,
}

/// Entries, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct AuditPage {
    /// The newest that fit, or those after `after`.
    pub entries: Vec<AuditItem>,
    /// Ask with `after` this for what comes next, here or in the event feed.
    pub next_after: u64,
    /// True where older ones may fit that were not looked at.
    pub truncated: bool,
}
