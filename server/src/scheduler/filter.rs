//! Which runners can take a session at all.

use helix_protocol::runner::Liveness;

use super::{Ask, Candidate};

/// Runner label that says which pool it serves.
const POOL_LABEL: &str = "pool";

/// Why a runner cannot take a session, as the end of a sentence that begins with its id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Never registered.
    #[error("has not registered")]
    Unregistered,
    /// No heartbeat for a while.
    #[error("is not heard")]
    Silent,
    /// Operator's will.
    #[error("is cordoned")]
    Cordoned,
    /// Its own will.
    #[error("is draining")]
    Draining,
    /// Not in the pool.
    #[error("is not in the pool")]
    OtherPool,
    /// Does not know the kind.
    #[error("does not know the kind")]
    UnknownKind,
    /// Knows the kind but cannot run it.
    #[error("cannot run the kind: {0}")]
    KindUnavailable(String),
    /// No free slot.
    #[error("has {used} of {slots} slots taken")]
    Full {
        /// Slots in use.
        used: u32,
        /// Slots it has.
        slots: u32,
    },
}

impl Unfit {
    /// True for what ends by itself or by an operator's word, without a change of the runner.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unregistered | Self::Silent | Self::Cordoned | Self::Draining | Self::Full { .. })
    }
}

/// Whether a runner can take it. What cannot change soon is said first; a full runner is full of a kind it has.
pub fn fit(candidate: &Candidate, ask: Ask<'_>) -> Result<(), Unfit> {
    let facts = candidate.facts.as_deref().ok_or(Unfit::Unregistered)?;
    if let Some(pool) = ask.pool
        && facts.labels.get(POOL_LABEL).is_none_or(|label| label != pool.as_str())
    {
        return Err(Unfit::OtherPool);
    }
    let kind = ask.kind.unwrap_or(&facts.default_kind);
    if !facts.kinds.contains(kind) {
        let reason = facts.unavailable_kinds.get(kind).cloned();
        return Err(reason.map_or(Unfit::UnknownKind, Unfit::KindUnavailable));
    }
    if candidate.liveness != Liveness::Online {
        return Err(Unfit::Silent);
    }
    if candidate.cordoned {
        return Err(Unfit::Cordoned);
    }
    if candidate.draining {
        return Err(Unfit::Draining);
    }
    if candidate.used >= candidate.slots {
        return Err(Unfit::Full { used: candidate.used, slots: candidate.slots });
    }
    Ok(())
}
