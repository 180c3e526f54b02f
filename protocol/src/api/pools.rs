//! Pools: bodies below `/api/v1/pools`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::PoolName;
use crate::pool::PoolSpec;
use crate::session::Cause;

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// A pool as it is: the answer of every route of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct PoolView {
    /// Which.
    pub name: PoolName,
    /// What it is. Who may not change it sees no values of its environment.
    pub spec: PoolSpec,
    /// Counter of its changes: a change that names another one is refused.
    pub version: u64,
    /// Agents that are ready and nobody's.
    pub ready: u32,
    /// Agents that start.
    pub starting: u32,
    /// Agents that wait for a runner.
    pub pending: u32,
    /// Sessions of it that somebody has.
    pub claimed: u32,
    /// Sessions that wait for it.
    pub queued: u32,
    /// Why less are ready than shall be, where that is not the way there.
    pub cause: Option<Cause>,
    /// When the next agent is made after failures.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub retry_at: Option<Timestamp>,
    /// Who changed it last.
    pub changed_by: String,
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub changed_at: Timestamp,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// `GET /api/v1/pools`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct PoolList {
    /// By name.
    pub pools: Vec<PoolView>,
}

/// `PATCH /api/v1/pools/{id}`: how many. What is absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ScalePool {
    /// Agents that are kept ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ready: Option<u32>,
    /// Most agents in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}
