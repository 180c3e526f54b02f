//! Pure: snapshot in, placement or refusal-with-reason out. The same snapshot always gives the same answer.

mod filter;
mod score;

use std::sync::Arc;

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
    /// Slots it has.
    pub slots: u32,
    /// Slots in use.
    pub used: u32,
    /// What it offers; absent until it registered.
    pub facts: Option<Arc<RunnerFacts>>,
}

/// What a session needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask<'a> {
    /// Kind; the runner's default where absent.
    pub kind: Option<&'a KindName>,
    /// Pool whose runners it wants.
    pub pool: Option<&'a PoolName>,
}

/// Why no runner takes a session now, for people: the shortest true reason first, then each runner's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// The best runner's place in `runners`, or why there is none.
pub fn place(runners: &[Candidate], ask: Ask<'_>) -> Result<usize, Refusal> {
    let mut best: Option<usize> = None;
    let mut unfit = Vec::new();
    for (index, candidate) in runners.iter().enumerate() {
        match filter::fit(candidate, ask) {
            Ok(()) if best.is_none_or(|best| score::better(candidate, &runners[best])) => best = Some(index),
            Ok(()) => {}
            Err(reason) => unfit.push((&candidate.id, reason)),
        }
    }
    best.ok_or_else(|| refuse(&unfit, ask))
}

fn refuse(unfit: &[(&RunnerId, Unfit)], ask: Ask<'_>) -> Refusal {
    let any = |wanted: fn(&Unfit) -> bool| unfit.iter().any(|(_, reason)| wanted(reason));
    let summary = if unfit.is_empty() {
        "no runner is enrolled".to_owned()
    } else if any(|reason| matches!(reason, Unfit::Full { .. })) {
        "all slots taken".to_owned()
    } else if any(Unfit::is_passing) {
        "no runner takes sessions now".to_owned()
    } else {
        match (ask.kind, ask.pool) {
            (_, Some(pool)) if any(|reason| *reason == Unfit::OtherPool) => {
                format!("no runner of pool {pool} can take it")
            }
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

#[cfg(test)]
mod tests;
