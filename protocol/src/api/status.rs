//! The fleet in one answer: `GET /api/v1/status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::RunnerView;
use super::pools::PoolView;
use super::reap::ReaperSummary;
use crate::scale::ScaleStatus;

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// `GET /api/v1/status`: the fleet in one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct FleetStatus {
    /// Version of the server.
    pub version: String,
    /// Id of the server process that answered.
    pub server: String,
    /// Every runner.
    pub runners: Vec<RunnerView>,
    /// Number of sessions by phase.
    pub sessions: BTreeMap<String, u32>,
    /// Every pool.
    #[serde(default)]
    pub pools: Vec<PoolView>,
    /// The store; absent while it does not answer, and from a server that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreStatus>,
    /// How the scale hook does; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleStatus>,
    /// The reaper's last look; absent before the first, and while the store does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaper: Option<ReaperSummary>,
}

/// NATS JetStream, where everything is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct StoreStatus {
    /// Version of nats-server.
    pub nats: String,
    /// Bytes on its disk.
    pub bytes: u64,
    /// Most that the account may have there; absent without a limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// The last write was refused because there is no room: its disk or `max_file_store` is full.
    pub full: bool,
    /// Where it is a cluster: who keeps the sessions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<StoreMember>,
}

/// One nats-server of a cluster, as the leader of the sessions' stream sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct StoreMember {
    /// Its name.
    pub name: String,
    /// It leads: it decides what is stored.
    #[serde(default)]
    pub leader: bool,
    /// It is heard.
    pub online: bool,
    /// It has all that is stored.
    pub current: bool,
    /// Messages that it is behind.
    #[serde(default)]
    pub lag: u64,
}
