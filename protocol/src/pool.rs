//! Pools: agents that are kept ready, and what makes them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{KindName, PoolName, SessionId};
use crate::image::ImageRef;
use crate::recording::RecordingChoice;
use crate::resources::{Network, OnLost, Reserve, Resources};
use crate::session::{Cause, DisplayServer, Geometry};
use crate::time_limit::TimeLimit;

/// The pool that is meant where none is named.
pub const DEFAULT_POOL: &str = "default";
/// Runner label that says which pool it serves.
pub const POOL_LABEL: &str = "pool";
/// Most agents of a pool.
pub const MAX_AGENTS: u32 = 10_000;
/// Least and most of [`PoolSpec::priority`].
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;
/// Sessions that may wait for a pool which says nothing of it.
pub const DEFAULT_QUEUE: u32 = 100;

/// What a pool is: its agents, how many are kept ready, and where. Its sessions inherit what they do not say themselves.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PoolSpec {
    /// What runs in its agents; the runner's default kind where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<KindName>,
    /// Desktop size; the runner's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<Geometry>,
    /// What draws the desktops; the kind's word where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_server: Option<DisplayServer>,
    /// Image that its agents run in: the one that the reference names when an agent is made; the runner's own system where
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// Agents that are kept ready and belong to nobody yet.
    #[serde(default)]
    pub min_ready: u32,
    /// Most agents in all, those that somebody has included; as many as the runners take where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// Most sessions that wait for the pool; one more is refused. 100 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// Its waiting sessions go before those of lower priority, -100 to 100; sessions without a pool have 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// Labels that a runner must have. Without label `pool` among them, a runner that has this label for another pool is
    /// none of this one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// How agents are placed on runners.
    #[serde(default, skip_serializing_if = "Placement::is_spread")]
    pub placement: Placement,
    /// Labels of its sessions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Extra environment of its agents.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Most that an agent may use; the kind's and the runner's defaults where absent.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// What is kept free for an agent; the kind's and the runner's defaults where absent.
    #[serde(default, skip_serializing_if = "Reserve::is_empty")]
    pub reserve: Reserve,
    /// `host` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What becomes of a session while its runner cannot be heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_lost: Option<OnLost>,
    /// It may be ended for a session of higher priority, after a checkpoint; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptible: Option<bool>,
    /// Whether desktops are recorded, from the agent's start on: `true`, `false`, or `{"keep": "7d"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingChoice>,
    /// `false`: no direct ports, although the runner offers them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    /// A session of it that nobody used for so long is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<TimeLimit>,
    /// An agent that was kept ready for so long is replaced; a session of it that has run for so long is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<TimeLimit>,
}

/// Not `env`: values may be secrets.
impl std::fmt::Debug for PoolSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolSpec")
            .field("kind", &self.kind)
            .field("min_ready", &self.min_ready)
            .field("max", &self.max)
            .field("selector", &self.selector)
            .finish_non_exhaustive()
    }
}

impl PoolSpec {
    /// True where agents of the other spec are agents of this one: nothing but numbers and places differ.
    pub fn makes_the_same_agents(&self, other: &Self) -> bool {
        let Self { min_ready, max, queue, priority, placement, idle_timeout, lifetime, .. } = *self;
        let counts = Self { min_ready, max, queue, priority, placement, idle_timeout, lifetime, ..other.clone() };
        *self == counts
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// How agents are placed on the runners that fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Placement {
    /// On the runner that has the smallest share of its slots in use.
    #[default]
    Spread,
    /// On the one that has the largest, so that others stay empty.
    Pack,
}

impl Placement {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
    fn is_spread(&self) -> bool {
        *self == Self::Spread
    }
}

/// `helix_pools/<pool>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Same as the key.
    pub name: PoolName,
    /// What it is.
    pub spec: PoolSpec,
    /// Counter of its changes by people.
    pub version: u64,
    /// Counter of those changes that make other agents: agents of an older one are replaced.
    pub generation: u64,
    /// Who changed it last: the name of a token.
    pub changed_by: String,
    /// When.
    pub changed_at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// The agents that are kept for nobody yet, and no others: written before they are made.
    #[serde(default)]
    pub members: BTreeSet<SessionId>,
    /// Why agents do not get ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// The session that agents ended for last, until as many are ready again as shall be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_way_to: Option<SessionId>,
}

/// Agents of a pool ended before anybody had them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Trouble {
    /// In a row.
    pub failures: u32,
    /// Why the last one did.
    pub cause: Cause,
    /// The next one is made then.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub retry_at: Timestamp,
}

/// Of a session's record: it is an agent of a pool, and nobody's yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warm {
    /// Generation of the pool that it was made of.
    pub generation: u64,
    /// It ends so that this session has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_way_to: Option<SessionId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_places_make_no_other_agents() {
        let spec: PoolSpec = serde_json::from_str(r#"{"kind": "terminal", "min_ready": 2}"#).expect("a spec");
        let more = PoolSpec {
            min_ready: 5,
            max: Some(9),
            queue: Some(1),
            priority: 3,
            placement: Placement::Pack,
            ..spec.clone()
        };
        assert!(spec.makes_the_same_agents(&more));
        let recorded = PoolSpec { recording: Some(RecordingChoice::Plain(true)), ..spec.clone() };
        let elsewhere = PoolSpec { selector: [("a".to_owned(), "b".to_owned())].into(), ..spec.clone() };
        assert!(!spec.makes_the_same_agents(&recorded) && !spec.makes_the_same_agents(&elsewhere));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(serde_json::from_str::<PoolSpec>(r#"{"min_redy": 2}"#).is_err());
    }
}
