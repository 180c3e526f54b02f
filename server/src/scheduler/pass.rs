//! Pure: which waiting sessions get which runners now, and why the others wait.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use helix_protocol::PoolName;

use super::queue::{Quotas, Waiting, order};
use super::{Ask, Candidate, Refusal, place, reserve_on};

/// A session that waits, with all that its placing depends on.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// Its place in the queue.
    pub waiting: Waiting<'a>,
    /// What it needs.
    pub ask: Ask<'a>,
    /// Most sessions of its pool.
    pub pool_max: Option<u32>,
}

/// How many sessions have runners.
#[derive(Debug, Clone, Default)]
pub struct Running<'a> {
    /// Of each owner, without what is kept ready.
    pub by_owner: HashMap<&'a str, u32>,
    /// Of each pool.
    pub by_pool: HashMap<&'a PoolName, u32>,
}

/// What becomes of an applicant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It gets the runner at this place of the candidates.
    Place(usize),
    /// It waits for room, for this reason.
    Wait(String),
    /// It may not have a runner now, whatever room there is: its owner, or its pool, has as many as may be.
    Held(String),
}

/// A verdict for each applicant, as `(its place in applicants, verdict)`, in the order of the queue. What is given away
/// is held of its runner for whoever comes after.
pub fn pass<'a>(
    applicants: &[Applicant<'a>],
    candidates: &mut [Candidate],
    mut running: Running<'a>,
    quotas: &Quotas,
) -> Vec<(usize, Verdict)> {
    let waiting: Vec<_> = applicants.iter().map(|applicant| applicant.waiting).collect();
    let turns = order(&waiting, &running.by_owner);
    // Slots and what can be reserved only get fewer within a pass: who was refused once is refused for all that ask the same.
    let mut refused: HashMap<Ask<'_>, String> = HashMap::new();
    let mut judge = |applicant: &Applicant<'a>| {
        let Applicant { waiting, ask, pool_max } = *applicant;
        let of_owner = running.by_owner.get(waiting.owner).copied().unwrap_or_default();
        if let Some(most) = quotas.of(waiting.owner).filter(|most| !waiting.is_warm && of_owner >= *most) {
            return Verdict::Held(over_quota(waiting.owner, most));
        }
        let of_pool = ask.pool.and_then(|pool| running.by_pool.get(pool)).copied().unwrap_or_default();
        if let (Some(pool), Some(max)) = (ask.pool, pool_max.filter(|max| of_pool >= *max)) {
            return Verdict::Held(format!(
                "pool {pool} has {max} agents, which is its most; end one, or raise its max"
            ));
        }
        let vacant = match refused.entry(ask) {
            Entry::Occupied(known) => return Verdict::Wait(known.get().clone()),
            Entry::Vacant(vacant) => vacant,
        };
        match place(candidates, ask) {
            Ok(index) => {
                let chosen = &mut candidates[index];
                let facts = chosen.facts.as_deref();
                chosen.held.add(facts.map_or(ask.reserve, |facts| reserve_on(facts, ask.kind, ask.reserve)));
                if !waiting.is_warm {
                    *running.by_owner.entry(waiting.owner).or_default() += 1;
                }
                if let Some(pool) = ask.pool {
                    *running.by_pool.entry(pool).or_default() += 1;
                }
                Verdict::Place(index)
            }
            Err(Refusal(reason)) => Verdict::Wait(vacant.insert(reason).clone()),
        }
    };
    turns.into_iter().map(|index| (index, judge(&applicants[index]))).collect()
}

/// Why a session waits whose owner has as many as may be.
pub fn over_quota(owner: &str, most: u32) -> String {
    format!("{owner} has {most} sessions running, which is its quota; end one, or raise it ([quotas] in server.toml)")
}
