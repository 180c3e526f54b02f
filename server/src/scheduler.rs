//! Pure: snapshot in, placement or refusal-with-reason out. The same snapshot always gives the same answer.

mod filter;
pub mod pass;
pub mod queue;
pub mod room;
mod score;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use helix_protocol::image::Digest;
use helix_protocol::pool::Placement;
use helix_protocol::resources::{Bytes, Cpus, Reserve, Resources};
use helix_protocol::runner::{Liveness, RunnerFacts};
use helix_protocol::{KindName, PoolName, RunnerId};

pub use self::filter::Unfit;

/// Runners named in a refusal; the rest are counted.
const NAMED: usize = 6;

/// A runner as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which.
    pub id: RunnerId,
    /// How it is heard.
    pub liveness: Liveness,
    /// Takes nothing new by the operator's will.
    pub cordoned: bool,
    /// Takes nothing new by its own.
    pub draining: bool,
    /// What is wrong with its machine, in a word: it takes nothing new. No numbers, for they differ with each heartbeat, and why
    /// a session waits is written whenever it differs.
    pub degraded: Option<String>,
    /// It was lost again and again: only where no other can take it.
    pub unsteady: bool,
    /// Slots it has.
    pub slots: u32,
    /// What its sessions hold.
    pub held: Held,
    /// Images that it has.
    pub images: Vec<Digest>,
    /// What it offers; absent until it registered.
    pub facts: Option<Arc<RunnerFacts>>,
}

/// What sessions hold of a runner, used or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Slots.
    pub slots: u32,
    /// Reserved processors, in thousandths.
    pub cpu_milli: u64,
    /// Reserved memory in bytes.
    pub memory_bytes: u64,
}

impl Held {
    /// One more session.
    pub fn add(&mut self, reserve: Reserve) {
        self.slots = self.slots.saturating_add(1);
        self.cpu_milli = self.cpu_milli.saturating_add(reserve.cpu.map_or(0, |Cpus(milli)| u64::from(milli)));
        self.memory_bytes = self.memory_bytes.saturating_add(reserve.memory.map_or(0, |Bytes(bytes)| bytes));
    }

    /// Less by what a session, or several, held.
    pub fn remove(&mut self, other: Self) {
        self.slots = self.slots.saturating_sub(other.slots);
        self.cpu_milli = self.cpu_milli.saturating_sub(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_sub(other.memory_bytes);
    }
}

impl Candidate {
    /// What a session that asks this reserves here.
    pub fn reserve(&self, ask: Ask<'_>) -> Reserve {
        self.facts.as_deref().map_or(ask.reserve, |facts| reserve_on(facts, ask.kind, ask.reserve))
    }

    /// Holds that for it.
    pub fn take(&mut self, ask: Ask<'_>) {
        self.held.add(self.reserve(ask));
    }
}

/// What a session reserves on a runner: its own word, else the runner's for its kind (the default kind where `None`).
pub fn reserve_on(facts: &RunnerFacts, kind: Option<&KindName>, own: Reserve) -> Reserve {
    own.or(facts.kind_reserve.get(kind.unwrap_or(&facts.default_kind)).copied().unwrap_or_default())
}

/// What a session needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask<'a> {
    /// Kind; the runner's default where absent.
    pub kind: Option<&'a KindName>,
    /// Pool whose runners it wants.
    pub pool: Option<&'a PoolName>,
    /// Labels that the pool selects runners by; where nobody made the pool, its runners are those that are labelled for it.
    pub selector: Option<&'a BTreeMap<String, String>>,
    /// How the pool wants its agents placed.
    pub placement: Placement,
    /// The one runner that it may run on.
    pub runner: Option<&'a RunnerId>,
    /// The runner that it left.
    pub left: Option<&'a RunnerId>,
    /// Image that its agent runs in.
    pub image: Option<ImageAsk<'a>>,
    /// Most that it may use.
    pub resources: Resources,
    /// What is kept free for it; the runner's word for its kind where absent.
    pub reserve: Reserve,
}

/// An image that a session needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageAsk<'a> {
    /// Which.
    pub digest: Digest,
    /// For which machines; any where that is not known.
    pub arch: Option<&'a str>,
}

/// Why no runner takes a session now, for people: the shortest true reason first, then each runner's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Whether a runner could take it at any time, had it nothing else to do.
pub fn could_take(candidate: &Candidate, ask: Ask<'_>) -> bool {
    filter::fit(candidate, ask).is_ok()
}

/// What each runner says to a session: those that can take it first, the best one at the top, then the others by id.
pub fn explain<'a>(runners: &'a [Candidate], ask: Ask<'_>) -> Vec<(&'a Candidate, Result<(), Unfit>)> {
    let mut all: Vec<_> = runners.iter().map(|candidate| (candidate, filter::fit(candidate, ask))).collect();
    all.sort_by(|(one, of_one), (other, of_other)| match (of_one, of_other) {
        (Ok(()), Ok(())) if score::better(one, other, ask) => Ordering::Less,
        (Ok(()), Ok(())) => Ordering::Greater,
        _ => of_one.is_err().cmp(&of_other.is_err()).then_with(|| one.id.cmp(&other.id)),
    });
    all
}

/// The best runner's place in `runners`, or why there is none.
pub fn place(runners: &[Candidate], ask: Ask<'_>) -> Result<usize, Refusal> {
    let mut best: Option<usize> = None;
    let mut unfit = Vec::new();
    let named = |candidate: &Candidate| ask.runner.is_none_or(|runner| candidate.id == *runner);
    for (index, candidate) in runners.iter().enumerate().filter(|(_, candidate)| named(candidate)) {
        match filter::fit(candidate, ask) {
            Ok(()) if best.is_none_or(|best| score::better(candidate, &runners[best], ask)) => best = Some(index),
            Ok(()) => {}
            Err(reason) => unfit.push((&candidate.id, reason)),
        }
    }
    best.ok_or_else(|| refuse(&unfit, ask))
}

fn refuse(unfit: &[(&RunnerId, Unfit)], ask: Ask<'_>) -> Refusal {
    let any = |wanted: fn(&Unfit) -> bool| unfit.iter().any(|(_, reason)| wanted(reason));
    let slots = any(|reason| matches!(reason, Unfit::Full { .. }));
    let memory = any(|reason| matches!(reason, Unfit::Memory { .. }) && reason.is_passing());
    let cpu = any(|reason| matches!(reason, Unfit::Cpu { .. }) && reason.is_passing());
    let summary = if unfit.is_empty() {
        ask.runner.map_or_else(|| "no runner is enrolled".to_owned(), |runner| format!("there is no runner {runner}"))
    } else if let Some(short) = shortage(slots, memory, cpu) {
        short.to_owned()
    } else if any(Unfit::is_passing) {
        "no runner takes sessions now".to_owned()
    } else {
        match (ask.kind, ask.pool) {
            (_, Some(pool)) if any(|reason| matches!(reason, Unfit::OtherPool | Unfit::Unlabelled { .. })) => {
                format!("no runner of pool {pool} can take it")
            }
            _ if any(Unfit::is_about_image) => "no runner can run it in its image".to_owned(),
            _ if any(Unfit::is_too_much) => "no runner can give it that much".to_owned(),
            (Some(kind), _) => format!("no runner offers kind {kind}"),
            (None, _) => "no runner can take it".to_owned(),
        }
    };
    if unfit.is_empty() {
        return Refusal(summary);
    }
    let mut reasons: Vec<_> = unfit.iter().take(NAMED).map(|(id, reason)| format!("{id} {reason}")).collect();
    if unfit.len() > NAMED {
        reasons.push(format!("{} more", unfit.len() - NAMED));
    }
    Refusal(format!("{summary} ({})", reasons.join("; ")))
}

/// What the runners that could take it have too little of, if that is why none does.
fn shortage(slots: bool, memory: bool, cpu: bool) -> Option<&'static str> {
    match (slots, memory, cpu) {
        (false, false, false) => None,
        (true, false, false) => Some("all slots taken"),
        (false, true, false) => Some("not enough memory free to reserve"),
        (false, false, true) => Some("not enough processors free to reserve"),
        _ => Some("no runner has enough free"),
    }
}

#[cfg(test)]
mod tests;
