//! Pure: which waiting sessions get which runners now, and why the others wait.

use std::collections::HashMap;

use helix_protocol::PoolName;

use super::queue::{Quotas, Waiting, order};
use super::room::Making;
use super::{Ask, Candidate, Refusal, place};

/// A session that waits, with all that its placing depends on.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// Its place in the queue.
    pub waiting: Waiting<'a>,
    /// What it needs.
    pub ask: Ask<'a>,
    /// Most sessions of its pool.
    pub pool_max: Option<u32>,
    /// Sessions of lower priority that allow it may end for this one.
    pub may_preempt: bool,
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
    /// It may not have a runner now, whatever room there is: its owner, or its pool, has as many as may be.
    Held(String),
    /// No runner takes it now, for these reasons.
    Full(String),
}

/// A verdict for each applicant, as `(its place in applicants, verdict)`, in the order of the queue. What is given away
/// is held of its runner for whoever comes after, and so is room that is being made for somebody.
pub fn pass<'a>(
    applicants: &[Applicant<'a>],
    candidates: &mut [Candidate],
    mut running: Running<'a>,
    quotas: &Quotas,
    making: &Making<'_>,
) -> Vec<(usize, Verdict)> {
    let waiting: Vec<_> = applicants.iter().map(|applicant| applicant.waiting).collect();
    let turns = order(&waiting, &running.by_owner);
    // Slots and what can be reserved only get fewer within a pass: who was refused once is refused for all that ask the same.
    let mut refused: HashMap<Ask<'_>, String> = HashMap::new();
    let mut judge = |applicant: &Applicant<'a>| {
        let Applicant { waiting, ask, pool_max, .. } = *applicant;
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
        let placed = match refused.get(&ask) {
            Some(known) => Err(known.clone()),
            None => place(candidates, ask).map_err(|Refusal(reason)| refused.entry(ask).or_insert(reason).clone()),
        };
        match placed {
            Ok(index) => {
                candidates[index].take(ask);
                if !waiting.is_warm {
                    *running.by_owner.entry(waiting.owner).or_default() += 1;
                }
                if let Some(pool) = ask.pool {
                    *running.by_pool.entry(pool).or_default() += 1;
                }
                Verdict::Place(index)
            }
            Err(reason) => {
                if let Some(&index) = making.reserved.get(waiting.id) {
                    candidates[index].take(ask);
                }
                Verdict::Full(reason)
            }
        }
    };
    turns.into_iter().map(|index| (index, judge(&applicants[index]))).collect()
}

/// Why a session waits whose owner has as many as may be.
pub fn over_quota(owner: &str, most: u32) -> String {
    format!("{owner} has {most} sessions running, which is its quota; end one, or raise it ([quotas] in server.toml)")
}
