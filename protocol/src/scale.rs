//! Room that is missing or not needed: what a scale hook, a program or a webhook of the operator's, is told.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{PoolName, RunnerId, SessionId};
use crate::resources::{Bytes, Cpus};

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// Version of [`ScaleCall`]; fields may come, none changes its meaning within one.
pub const SCALE_VERSION: u32 = 1;
/// Header of the webhook: `sha256=` and HMAC-SHA256 of the body under the secret, in hex.
pub const SIGNATURE_HEADER: &str = "x-helix-signature";
/// Header of the webhook, and variable of the command's environment (`HELIX_SCALE_KEY`): [`ScaleCall::key`].
pub const KEY_HEADER: &str = "idempotency-key";

/// One call: standard input of the command, body of the webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ScaleCall {
    /// [`SCALE_VERSION`].
    pub version: u32,
    /// The same for every repeat of this call: what was done for it already is not done again.
    pub key: String,
    /// Fence: grows with every call, whichever server makes it. One that is smaller than the last is out of date.
    pub number: u64,
    /// Tries of this call before this one.
    pub repeats: u32,
    /// Id of the server that leads.
    pub server: String,
    /// When it was decided.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// All that is missing and all that could go, at that moment.
    #[serde(flatten)]
    pub wanted: Wanted,
}

/// What is missing and what could go. Both empty: all is well again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Wanted {
    /// By pool; sessions without one come first.
    pub shortages: Vec<Shortage>,
    /// Runners without a session for longer than `shrink_after`, by id. None while anything is missing.
    pub idle_runners: Vec<RunnerId>,
}

/// Sessions of one pool that wait for room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Shortage {
    /// Which pool; `null`: sessions without one.
    pub pool: Option<PoolName>,
    /// Sessions that somebody waits for.
    pub queued: u32,
    /// Agents that shall be kept ready and have no runner.
    pub agents: u32,
    /// Slots that all of them need.
    pub missing_slots: u32,
    /// Processor cores that they ask to have kept free, together; what kinds and runners keep by default is not in it.
    pub missing_cpu: Option<Cpus>,
    /// Memory, as well.
    pub missing_memory: Option<Bytes>,
    /// Labels that a runner must have.
    pub selector: BTreeMap<String, String>,
    /// The session that has waited longest.
    pub oldest: SessionId,
    /// Why that one waits.
    pub why: String,
}

/// `helix_leases/scale`: what was told last, written before it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleRecord {
    /// The last call.
    pub call: ScaleCall,
    /// It was taken.
    pub done: bool,
    /// Tries that failed, in a row.
    pub failures: u32,
    /// Why the last one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Nothing is told before.
    pub not_before: Timestamp,
}

/// Of `GET /api/v1/status`: how the scale hook does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ScaleStatus {
    /// Number of the last call; 0 before the first.
    pub number: u64,
    /// When that was decided.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub at: Option<Timestamp>,
    /// The hook took it.
    pub done: bool,
    /// Tries of it that failed.
    pub failures: u32,
    /// Why the last one did.
    pub error: Option<String>,
    /// When it is tried again.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub retry_at: Option<Timestamp>,
    /// What it said.
    pub wanted: Wanted,
}
