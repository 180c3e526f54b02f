//! What is left without an owner: how it is named, remembered between two looks, and told.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::reap::ReapReport;

/// What a leftover is. Shown to people as its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LeftoverKind {
    /// What a runner reported of a session (`helix_observed`).
    Report,
    /// A lease of a runner or of a sync socket (`helix_leases`).
    Lease,
    /// A one-use ticket (`helix_tickets`).
    Ticket,
    /// A token of a runner, or of a session's desktop (`helix_tokens`).
    Token,
    /// A spec task (`helix_spec_tasks`).
    SpecTask,
    /// A thread of a session (`HELIX_THREADS`).
    Conversation,
    /// Chunks and pages of a recording (`HELIX_RECORDINGS`).
    Recording,
    /// Packs and manifests of checkpoints (`HELIX_CHECKPOINTS`).
    Checkpoint,
    /// An image whose manifest came and never its chunks (`helix_images`).
    Image,
    /// A chunk that no image names (`HELIX_IMAGES`).
    ImageChunk,
    /// A key or subject whose name or content is none of Helix's.
    Key,
    /// An object of the object store, which nothing of Helix writes to.
    Object,
    /// A stream beside those of Helix.
    Stream,
}

impl LeftoverKind {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Lease => "lease",
            Self::Ticket => "ticket",
            Self::Token => "token",
            Self::SpecTask => "spec task",
            Self::Conversation => "conversation",
            Self::Recording => "recording",
            Self::Checkpoint => "checkpoint",
            Self::Image => "image",
            Self::ImageChunk => "image chunk",
            Self::Key => "key",
            Self::Object => "object",
            Self::Stream => "stream",
        }
    }
}

/// Something whose owner was gone when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Last sequence that it had: whoever wrote to it since is its owner.
    pub last: u64,
    /// When it was seen like this first.
    pub since: Timestamp,
}

/// `helix_reaper/report`: what the last look found, and what the next one goes by. Any server can go on from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaperRecord {
    /// The last look.
    #[serde(default)]
    pub last: Option<ReapReport>,
    /// The last one that removed something.
    #[serde(default)]
    pub last_removal: Option<ReapReport>,
    /// Those that may go with the next look, by place (`<stream>/<subject>`).
    #[serde(default)]
    pub suspects: BTreeMap<String, Suspect>,
    /// Place up to which was looked, where there was more than one look takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What a runner has removed or keeps that belongs to no session: part of its heartbeat, bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunnerLeftovers {
    /// What was removed since agentd started, in numbers.
    #[serde(default)]
    pub reaped: Reaped,
    /// Unit keys of sessions of which something is left that it cannot remove; it tries again every minute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<String>,
    /// Workspaces of sessions that live elsewhere now, the next to go first; at most [`MAX_KEPT_TOLD`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptWorkspace>,
}

/// Most kept workspaces that a heartbeat tells of.
pub const MAX_KEPT_TOLD: usize = 20;
/// Most unit keys that a heartbeat tells of.
pub const MAX_STUCK_TOLD: usize = 20;

impl RunnerLeftovers {
    /// True where there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a runner's reaper has removed, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reaped {
    /// Sessions that nobody knew and of which something was there.
    pub sessions: u64,
    /// Their processes.
    pub processes: u64,
    /// Their units (systemd backend).
    pub units: u64,
    /// Their directories, with the sockets in them.
    pub directories: u64,
    /// Slot users that are free again (systemd backend).
    pub users: u64,
    /// Kept workspaces whose time was up, or whose room was needed.
    pub workspaces: u64,
}

impl Reaped {
    /// Puts another one's numbers to these.
    pub fn add(&mut self, other: &Self) {
        let Self { sessions, processes, units, directories, users, workspaces } = other;
        self.sessions += sessions;
        self.processes += processes;
        self.units += units;
        self.directories += directories;
        self.users += users;
        self.workspaces += workspaces;
    }
}

/// A workspace that was put aside when its session went on elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeptWorkspace {
    /// Where it is on the runner.
    pub path: String,
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
    /// When it is removed, unless room is needed before.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub until: Timestamp,
}
