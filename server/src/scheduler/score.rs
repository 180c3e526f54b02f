//! Which of two runners that fit is better.

use helix_protocol::pool::Placement;

use super::Candidate;

/// True when `one` is better: to spread, the smaller share of slots in use, then more free slots; to pack, the larger
/// share, then fewer. Then the smaller id.
pub fn better(one: &Candidate, other: &Candidate, placement: Placement) -> bool {
    let share = |a: &Candidate, b: &Candidate| u64::from(a.held.slots) * u64::from(b.slots);
    let free = |candidate: &Candidate| candidate.slots.saturating_sub(candidate.held.slots);
    let (less, more) = match placement {
        Placement::Spread => (one, other),
        Placement::Pack => (other, one),
    };
    let use_of_one = (share(less, more), free(more)).cmp(&(share(more, less), free(less)));
    use_of_one.then_with(|| one.id.cmp(&other.id)).is_lt()
}
