//! Which runners can take a session at all.

use helix_protocol::pool::POOL_LABEL;
use helix_protocol::resources::{Bytes, Cpus};
use helix_protocol::runner::{Liveness, RunnerFacts};

use super::{Ask, Candidate, ImageAsk, reserve_on};

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
    /// The session left it.
    #[error("is the one that it left")]
    Left,
    /// Its own will.
    #[error("is draining")]
    Draining,
    /// Something is wrong with its machine.
    #[error("is degraded: {0}; helixctl runner show says more")]
    Degraded(String),
    /// Not in the pool.
    #[error("is not in the pool")]
    OtherPool,
    /// Has not the label that the pool selects runners by.
    #[error("has not the label {name}={value}")]
    Unlabelled {
        /// Name of the label.
        name: String,
        /// The value that is wanted.
        value: String,
    },
    /// Does not know the kind.
    #[error("does not know the kind")]
    UnknownKind,
    /// Knows the kind but cannot run it.
    #[error("cannot run the kind: {0}")]
    KindUnavailable(String),
    /// It cannot run sessions in images.
    #[error("runs no session in an image: {0}")]
    NoImages(String),
    /// The image is for other machines.
    #[error("is of architecture {own}, and the image is for {image}")]
    OtherArchitecture {
        /// The runner's.
        own: String,
        /// The image's.
        image: String,
    },
    /// A limit is above its maximum.
    #[error("gives a session at most {name} {most}, {asked} is asked: ask for less, or raise its maximum")]
    AboveMaximum {
        /// Name of the limit.
        name: &'static str,
        /// What the session asks for.
        asked: String,
        /// What it gives.
        most: String,
    },
    /// Too little memory is free to be reserved.
    #[error("has {free} of {total} memory free to reserve, {needed} is needed{}", advice(.needed, .total))]
    Memory {
        /// What the session reserves.
        needed: Bytes,
        /// What nobody has reserved.
        free: Bytes,
        /// What it can give away in all.
        total: Bytes,
    },
    /// Too few processors are free to be reserved.
    #[error("has {free} of {total} cpu free to reserve, {needed} is needed{}", advice(.needed, .total))]
    Cpu {
        /// What the session reserves.
        needed: Cpus,
        /// What nobody has reserved.
        free: Cpus,
        /// What it can give away in all.
        total: Cpus,
    },
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
        match self {
            Self::Unregistered
            | Self::Silent
            | Self::Cordoned
            | Self::Left
            | Self::Draining
            | Self::Degraded(_)
            | Self::Full { .. } => true,
            Self::Memory { needed, total, .. } => needed <= total,
            Self::Cpu { needed, total, .. } => needed <= total,
            Self::OtherPool
            | Self::UnknownKind
            | Self::KindUnavailable(_)
            | Self::NoImages(_)
            | Self::OtherArchitecture { .. }
            | Self::Unlabelled { .. }
            | Self::AboveMaximum { .. } => false,
        }
    }

    /// True where it is the image that the runner cannot take.
    pub fn is_about_image(&self) -> bool {
        matches!(self, Self::NoImages(_) | Self::OtherArchitecture { .. })
    }

    /// True where the session asks for more than the runner ever gives.
    pub fn is_too_much(&self) -> bool {
        matches!(self, Self::AboveMaximum { .. } | Self::Memory { .. } | Self::Cpu { .. }) && !self.is_passing()
    }
}

/// What to do where waiting does not help.
fn advice<T: Ord>(needed: &T, total: &T) -> &'static str {
    if needed > total { ": reserve less" } else { "" }
}

/// Whether a runner can take it. What cannot change soon is said first; a full runner is full of a kind it has.
pub fn fit(candidate: &Candidate, ask: Ask<'_>) -> Result<(), Unfit> {
    let facts = candidate.facts.as_deref().ok_or(Unfit::Unregistered)?;
    check_pool(facts, ask)?;
    let kind = ask.kind.unwrap_or(&facts.default_kind);
    if !facts.kinds.contains(kind) {
        match (facts.unavailable_kinds.get(kind), ask.image) {
            (None, _) => return Err(Unfit::UnknownKind),
            // What the machine lacks for it is in the image.
            (Some(_), Some(_)) => {}
            (Some(reason), None) => return Err(Unfit::KindUnavailable(reason.clone())),
        }
    }
    if let Some(image) = ask.image {
        check_image(facts, image)?;
    }
    if let Some((name, asked, most)) = ask.resources.exceeds(&facts.max_resources) {
        return Err(Unfit::AboveMaximum { name, asked, most });
    }
    let short = shortage(candidate, facts, ask);
    if let Some(reason) = short.iter().find(|reason| !reason.is_passing()) {
        return Err(reason.clone());
    }
    if candidate.liveness != Liveness::Online {
        return Err(Unfit::Silent);
    }
    if candidate.cordoned {
        return Err(Unfit::Cordoned);
    }
    if ask.left == Some(&candidate.id) {
        return Err(Unfit::Left);
    }
    if candidate.draining {
        return Err(Unfit::Draining);
    }
    if let Some(reason) = &candidate.degraded {
        return Err(Unfit::Degraded(reason.clone()));
    }
    if candidate.held.slots >= candidate.slots {
        // What is held back for somebody is more than there is.
        return Err(Unfit::Full { used: candidate.held.slots.min(candidate.slots), slots: candidate.slots });
    }
    short.into_iter().next().map_or(Ok(()), Err)
}

/// Whether sessions can run in this image there.
fn check_image(facts: &RunnerFacts, image: ImageAsk<'_>) -> Result<(), Unfit> {
    if let Some(reason) = &facts.no_images {
        return Err(Unfit::NoImages(reason.clone()));
    }
    if facts.arch.is_empty() {
        return Err(Unfit::NoImages("its agentd is too old for images; upgrade it".to_owned()));
    }
    match image.arch {
        Some(arch) if arch != facts.arch => {
            Err(Unfit::OtherArchitecture { own: facts.arch.clone(), image: arch.to_owned() })
        }
        _ => Ok(()),
    }
}

/// A pool that somebody made has the runners that its selector says. One that says nothing of label `pool` leaves those
/// alone that are labelled for another pool.
fn check_pool(facts: &RunnerFacts, ask: Ask<'_>) -> Result<(), Unfit> {
    let Some(pool) = ask.pool else { return Ok(()) };
    let serves = facts.labels.get(POOL_LABEL).map(|label| label == pool.as_str());
    let Some(selector) = ask.selector else {
        return if serves == Some(true) { Ok(()) } else { Err(Unfit::OtherPool) };
    };
    if serves == Some(false) && !selector.contains_key(POOL_LABEL) {
        return Err(Unfit::OtherPool);
    }
    match selector.iter().find(|(name, value)| facts.labels.get(*name) != Some(*value)) {
        Some((name, value)) => Err(Unfit::Unlabelled { name: name.clone(), value: value.clone() }),
        None => Ok(()),
    }
}

/// What is too little to keep free what it reserves. What the runner does not count is never too little.
fn shortage(candidate: &Candidate, facts: &RunnerFacts, ask: Ask<'_>) -> Vec<Unfit> {
    let reserve = reserve_on(facts, ask.kind, ask.reserve);
    let memory = reserve.memory.zip(facts.reservable.memory).and_then(|(needed, total)| {
        let free = Bytes(total.0.saturating_sub(candidate.held.memory_bytes));
        (needed > free).then_some(Unfit::Memory { needed, free, total })
    });
    let cpu = reserve.cpu.zip(facts.reservable.cpu).and_then(|(needed, total)| {
        let held = u32::try_from(candidate.held.cpu_milli).unwrap_or(u32::MAX);
        let free = Cpus(total.0.saturating_sub(held));
        (needed > free).then_some(Unfit::Cpu { needed, free, total })
    });
    memory.into_iter().chain(cpu).collect()
}
