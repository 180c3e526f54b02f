//! Which of two runners that fit is better.

use helix_protocol::pool::Placement;

use super::{Ask, Candidate};

/// True when `one` is better: it is steady; it has the session's image; then, to spread, the smaller share of slots in
/// use and more free slots, to pack, the larger share and fewer; then the smaller id.
pub fn better(one: &Candidate, other: &Candidate, ask: Ask<'_>) -> bool {
    let lacks = |candidate: &Candidate| ask.image.is_some_and(|image| !candidate.images.contains(&image.digest));
    let share = |a: &Candidate, b: &Candidate| u64::from(a.held.slots) * u64::from(b.slots);
    let free = |candidate: &Candidate| candidate.slots.saturating_sub(candidate.held.slots);
    let (less, more) = match ask.placement {
        Placement::Spread => (one, other),
        Placement::Pack => (other, one),
    };
    let use_of_one = (share(less, more), free(more)).cmp(&(share(more, less), free(less)));
    let steady = one.unsteady.cmp(&other.unsteady);
    steady.then(lacks(one).cmp(&lacks(other))).then(use_of_one).then_with(|| one.id.cmp(&other.id)).is_lt()
}
