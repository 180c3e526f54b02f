//! A runner: what it offers and how it is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{KindName, SessionId};
use crate::image::Digest;
use crate::reap::RunnerLeftovers;
use crate::resources::{Reserve, Resources, Usage};
use crate::session::Geometry;

/// What agentd tells its service manager, beside the words of sd_notify(3), once it is registered with a server. systemd
/// ignores it; `READY=1` means only that every known session is taken over.
pub const REGISTERED_NOTICE: &str = "X_HELIX_REGISTERED=1";

/// What a runner offers. Sent at registration, kept in `helix_runners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunnerFacts {
    /// The machine's host name.
    pub hostname: String,
    /// Version of agentd.
    pub version: String,
    /// Sessions at once (documents: `CONCURRENCY`).
    pub slots: u32,
    /// Ended sessions after which it drains and restarts; 0 = never (documents: `MAX_TASKS`).
    pub max_tasks: u32,
    /// Kinds that it can run now: everything they need is present.
    pub kinds: Vec<KindName>,
    /// Kinds that it knows but cannot run, each with the reason.
    #[serde(default)]
    pub unavailable_kinds: BTreeMap<KindName, String>,
    /// Kind of a session that names none.
    pub default_kind: KindName,
    /// Desktop size of a session that names none.
    pub default_geometry: Geometry,
    /// `process` or `systemd`.
    pub backend: String,
    /// What separates sessions from each other and from the operator, for people.
    pub isolation: String,
    /// What limits are enforced, or why they are not, for people.
    pub limits: String,
    /// What this machine enforces of a session's limits: `cpu`, `memory`, `memory_high`, `tasks`, `io_weight`.
    #[serde(default)]
    pub enforced: Vec<String>,
    /// What it cannot, each with its reason.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Most that a session may ask for. A session that asks for more is not placed here.
    #[serde(default)]
    pub max_resources: Resources,
    /// What admission may give away in all; absent amounts are not counted.
    #[serde(default)]
    pub reservable: Reserve,
    /// What a session of a kind reserves here where its spec says nothing: the kind's word, else the runner's.
    #[serde(default)]
    pub kind_reserve: BTreeMap<KindName, Reserve>,
    /// Why its sessions cannot be reached by RDP; absent: they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_rdp: Option<String>,
    /// Why its sessions cannot run in images; absent: they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_images: Option<String>,
    /// Fingerprints of the keys whose images it takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_keys: Vec<String>,
    /// Its architecture as Debian says it (`amd64`, `arm64`); empty where it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// Memory of the machine in bytes.
    pub memory_bytes: u64,
    /// Processors of the machine.
    pub cpus: u32,
    /// Operator's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What a runner says every few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Heartbeat {
    /// Sessions that occupy a slot now.
    pub active_tasks: u32,
    /// Slots that it has now.
    pub slots: u32,
    /// True while it takes nothing new (documents' word: offline when also empty).
    pub draining: bool,
    /// What each live session uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub usage: BTreeMap<SessionId, Usage>,
    /// Its images.
    #[serde(default, skip_serializing_if = "RunnerImages::is_empty")]
    pub images: RunnerImages,
    /// Sessions whose desktop somebody looks at right now, by whichever way.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub viewed: BTreeSet<SessionId>,
    /// What belonged to no session, and what is kept of sessions that live elsewhere.
    #[serde(default, skip_serializing_if = "RunnerLeftovers::is_empty")]
    pub leftovers: RunnerLeftovers,
    /// What is wrong with its machine: it takes nothing new as long as there is something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<Degraded>,
    /// What its clock says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// Something that is wrong with a runner's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Degraded {
    /// What.
    pub what: Degradation,
    /// How it is, for people.
    pub detail: String,
}

/// What can be wrong with a machine so that nothing new begins there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Degradation {
    /// Its disk is nearly full, or out of inodes.
    Disk,
    /// It has hardly any memory left, or waits for it all the time.
    Memory,
    /// Its clock and the server's are far apart.
    Clock,
    /// What this program does not know: the other one is newer.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for Degradation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
            Self::Clock => "clock",
            Self::Unknown => "unknown",
        })
    }
}

/// Images of a runner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunnerImages {
    /// Complete ones: a session in one of these starts at once.
    #[serde(default)]
    pub present: Vec<Digest>,
    /// Those on their way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pulls: Vec<ImagePull>,
    /// Those of pools that it could not have ahead; it tries again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<LackingImage>,
}

/// An image on its way to a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImagePull {
    /// Which.
    pub digest: Digest,
    /// Bytes of it that are here, as they are in the image.
    pub bytes: u64,
    /// Bytes of all of it; 0 while that is not known.
    pub total: u64,
}

/// An image of a pool that a runner could not have ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LackingImage {
    /// Which.
    pub digest: Digest,
    /// Why, for people.
    pub reason: String,
}

impl RunnerImages {
    /// True for none at all.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty() && self.pulls.is_empty() && self.lacking.is_empty()
    }
}

impl Heartbeat {
    /// What is wrong with its machine, in words that stay as long as it does; none where all is well.
    pub fn degradations(&self) -> Option<String> {
        let words: Vec<_> = self.degraded.iter().map(|degraded| degraded.what.to_string()).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// The documents' status word of a runner that is heard.
    pub fn status(&self) -> RunnerStatus {
        if self.draining {
            RunnerStatus::Offline
        } else if self.active_tasks >= self.slots {
            RunnerStatus::Busy
        } else {
            RunnerStatus::Available
        }
    }
}

/// The documents' words for a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RunnerStatus {
    /// Takes sessions.
    Available,
    /// All slots taken.
    Busy,
    /// Not heard, draining or revoked.
    Offline,
}

/// How well a runner is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Liveness {
    /// Heartbeats arrive.
    Online,
    /// None for the suspect time (15 s): takes nothing new.
    Suspect,
    /// None for the lost time (30 s): its sessions are `Lost`.
    Lost,
}
