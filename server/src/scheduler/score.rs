//! Which of two runners that fit is better.

use super::{Ask, Candidate};

/// True when `one` is better: it has the session's image, then the smaller share of slots in use, then more free slots, then the
/// smaller id.
pub fn better(one: &Candidate, other: &Candidate, ask: Ask<'_>) -> bool {
    let lacks = |candidate: &Candidate| ask.image.is_some_and(|image| !candidate.images.contains(&image.digest));
    let share = |a: &Candidate, b: &Candidate| u64::from(a.held.slots) * u64::from(b.slots);
    let free = |candidate: &Candidate| candidate.slots.saturating_sub(candidate.held.slots);
    let rank = |a: &Candidate, b: &Candidate| (lacks(a), share(a, b), free(b));
    (rank(one, other), &one.id) < (rank(other, one), &other.id)
}
