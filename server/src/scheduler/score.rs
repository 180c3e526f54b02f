//! Which of two runners that fit is better.

use super::Candidate;

/// True when `one` is better: the smaller share of slots in use, then more free slots, then the smaller id.
pub fn better(one: &Candidate, other: &Candidate) -> bool {
    let share = |a: &Candidate, b: &Candidate| u64::from(a.held.slots) * u64::from(b.slots);
    let free = |candidate: &Candidate| candidate.slots.saturating_sub(candidate.held.slots);
    (share(one, other), free(other), &one.id) < (share(other, one), free(one), &other.id)
}
