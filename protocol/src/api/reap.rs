//! `/api/v1/reap`: what belongs to nothing known.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::RunnerId;
use crate::reap::{LeftoverKind, RunnerLeftovers};

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// Most places that [`Leftovers`] names.
pub const MAX_EXAMPLES: usize = 5;

/// `POST /api/v1/reap`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ReapRequest {
    /// Only look: nothing is removed, and nothing is remembered for the next look.
    #[serde(default)]
    pub dry_run: bool,
}

/// Leftovers of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Leftovers {
    /// What they are.
    pub kind: LeftoverKind,
    /// How many.
    pub count: u64,
    /// Their bytes, as they are stored; 0 where that is not known.
    pub bytes: u64,
    /// Places of the first few, `<stream>/<subject>`.
    #[serde(default)]
    pub examples: Vec<String>,
}

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ReapReport {
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Id of the server process that looked.
    pub server: String,
    /// Nothing was removed: `removed` is what would have been.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What was ours, and whose owner is gone for good.
    #[serde(default)]
    pub removed: Vec<Leftovers>,
    /// The same, but its time has not come: the grace time has not passed, or it was seen for the first time.
    #[serde(default)]
    pub waiting: Vec<Leftovers>,
    /// Named like ours, but nothing says that its owner was removed on purpose. It is left.
    #[serde(default)]
    pub unproved: Vec<Leftovers>,
    /// Nothing of Helix. It is left.
    #[serde(default)]
    pub foreign: Vec<Leftovers>,
    /// There was more than one look takes: the next one goes on there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// `GET /api/v1/reap`, and the answer to `POST`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ReaperView {
    /// The last look, or the one that was asked for; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ReapReport>,
    /// The last one that removed something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_removal: Option<ReapReport>,
    /// What runners have removed and keep; only those with something to tell.
    #[serde(default)]
    pub runners: Vec<LeftoversOfRunner>,
}

/// Of one runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct LeftoversOfRunner {
    /// Which.
    pub runner: RunnerId,
    /// What it says.
    #[serde(flatten)]
    pub leftovers: RunnerLeftovers,
}

/// The last look in numbers, as part of the fleet's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ReaperSummary {
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// What was removed.
    pub removed: u64,
    /// Its bytes.
    pub removed_bytes: u64,
    /// What goes when its time has come.
    pub waiting: u64,
    /// What is left because nothing proves that its owner was removed.
    pub unproved: u64,
    /// What is nothing of Helix.
    pub foreign: u64,
}

impl From<&ReapReport> for ReaperSummary {
    fn from(report: &ReapReport) -> Self {
        let count = |list: &[Leftovers]| list.iter().map(|of| of.count).sum();
        Self {
            at: report.at,
            removed: count(&report.removed),
            removed_bytes: report.removed.iter().map(|of| of.bytes).sum(),
            waiting: count(&report.waiting),
            unproved: count(&report.unproved),
            foreign: count(&report.foreign),
        }
    }
}
