//! Pure: who ends so that a session which somebody waits for has room. Agents that are nobody's yet give way to any such
//! session: they are last in the queue, too. Somebody's session gives way where its spec allows that, to one of higher
//! priority; where agents are enough, none does. A session preempts once, and none that was itself preempted does.
//!
//! As little as possible ends: what is about to be free anyhow is counted first, each agent gives way to one session, and a
//! session for which room is being made is not looked at again (see [`Making`]) until all that gives way to it has ended.
//! Meanwhile [`pass`](super::pass) holds that room back from whoever comes after it in the queue.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use helix_protocol::SessionId;
use jiff::Timestamp;

use super::filter::{Unfit, fit};
use super::pass::{Applicant, Verdict};
use super::{Ask, Candidate, Held, place, score};

/// A session that has a runner and may have to give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupant<'a> {
    /// Which.
    pub id: &'a SessionId,
    /// Its runner's place in the candidates.
    pub runner: usize,
    /// What is free once it has ended.
    pub frees: Held,
    /// It is nobody's yet; else it allows to be preempted.
    pub is_warm: bool,
    /// Its pool's; the lowest gives way first.
    pub priority: i32,
    /// When it was made; the youngest of a priority gives way first.
    pub since: Timestamp,
}

/// What ends already, and for whom.
#[derive(Debug, Clone, Default)]
pub struct Making<'a> {
    /// What will be free: a runner's place in the candidates, and how much of it.
    pub leaving: Vec<(usize, Held)>,
    /// For whom room is made on which runner. It is that session's once it is there.
    pub reserved: HashMap<&'a SessionId, usize>,
}

/// Room for one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Place in the applicants of who gets it.
    pub applicant: usize,
    /// Place in the candidates of the runner.
    pub runner: usize,
    /// Places in the occupants of those who give way.
    pub give_way: Vec<usize>,
}

/// What a choice costs, the dearest first: how many sessions end that somebody has, the highest priority of them and how
/// long the oldest is there; how many agents that nobody has, and the highest priority of those.
type Cost = (usize, i32, Reverse<Option<Timestamp>>, usize, i32);

/// Who gives way to whom. `verdicts` and `candidates` are as [`pass`](super::pass::pass) left them.
pub fn make_room(
    applicants: &[Applicant<'_>],
    verdicts: &[(usize, Verdict)],
    candidates: &[Candidate],
    making: &Making<'_>,
    occupants: &[Occupant<'_>],
) -> Vec<Room> {
    if occupants.is_empty() {
        return Vec::new();
    }
    let mut soon = candidates.to_vec();
    for (runner, held) in &making.leaving {
        soon[*runner].held.remove(*held);
    }
    // Of each runner, in the order in which they give way.
    let mut order: Vec<_> = (0..occupants.len()).collect();
    order.sort_unstable_by_key(|&index| {
        let Occupant { is_warm, priority, since, id, .. } = occupants[index];
        (!is_warm, priority, Reverse(since), id)
    });
    let mut there: HashMap<usize, Vec<usize>> = HashMap::new();
    for index in order {
        there.entry(occupants[index].runner).or_default().push(index);
    }
    let mut rooms = Vec::new();
    // For whom nothing could be done, nothing can be done for the next one that asks the same.
    let mut hopeless: HashSet<(Ask<'_>, Option<i32>)> = HashSet::new();
    for (applicant, verdict) in verdicts {
        let Applicant { waiting, ask, may_preempt, .. } = applicants[*applicant];
        if waiting.is_warm || !matches!(verdict, Verdict::Full(_)) || making.reserved.contains_key(waiting.id) {
            continue;
        }
        // Below which sessions give way to it.
        let below = may_preempt.then_some(waiting.priority);
        if hopeless.contains(&(ask, below)) {
            continue;
        }
        if let Ok(runner) = place(&soon, ask) {
            soon[runner].take(ask);
            continue;
        }
        let Some((runner, give_way)) = cheapest(&mut soon, ask, below, &there, occupants) else {
            hopeless.insert((ask, below));
            continue;
        };
        for &index in &give_way {
            soon[runner].held.remove(occupants[index].frees);
        }
        soon[runner].take(ask);
        there.entry(runner).or_default().retain(|index| !give_way.contains(index));
        rooms.push(Room { applicant: *applicant, runner, give_way });
    }
    rooms
}

/// The runner on which the least ends, and what ends there.
fn cheapest(
    soon: &mut [Candidate],
    ask: Ask<'_>,
    below: Option<i32>,
    there: &HashMap<usize, Vec<usize>>,
    occupants: &[Occupant<'_>],
) -> Option<(usize, Vec<usize>)> {
    let mut best: Option<(Cost, usize, Vec<usize>)> = None;
    for runner in 0..soon.len() {
        let named = ask.runner.is_none_or(|named| soon[runner].id == *named);
        let Some(its) = there.get(&runner).filter(|_| named) else { continue };
        let yields = |one: &Occupant<'_>| one.is_warm || below.is_some_and(|below| one.priority < below);
        let its: Vec<_> = its.iter().copied().filter(|&index| yields(&occupants[index])).collect();
        let Some(give_way) = enough(&mut soon[runner], ask, &its, occupants) else { continue };
        let (warm, had): (Vec<_>, Vec<_>) =
            give_way.iter().map(|&index| occupants[index]).partition(|occupant| occupant.is_warm);
        let highest = |of: &[Occupant<'_>]| of.iter().map(|one| one.priority).max().unwrap_or(i32::MIN);
        let oldest = had.iter().map(|one| one.since).min();
        let cost = (had.len(), highest(&had), Reverse(oldest), warm.len(), highest(&warm));
        let is_better = best.as_ref().is_none_or(|(known, other, _)| {
            cost < *known || cost == *known && score::better(&soon[runner], &soon[*other], ask)
        });
        if is_better {
            best = Some((cost, runner, give_way));
        }
    }
    best.map(|(_, runner, give_way)| (runner, give_way))
}

/// Those of `here` without whom there is room, and nobody too many; `None` where all of them are not enough.
fn enough(runner: &mut Candidate, ask: Ask<'_>, here: &[usize], occupants: &[Occupant<'_>]) -> Option<Vec<usize>> {
    let held = runner.held;
    let mut fits_without = |gone: &[usize]| {
        runner.held = held;
        for &index in gone {
            runner.held.remove(occupants[index].frees);
        }
        let fits = fit(runner, ask);
        runner.held = held;
        fits
    };
    let mut gone = Vec::new();
    let mut here = here.iter().copied();
    loop {
        match fits_without(&gone) {
            Ok(()) => break,
            Err(Unfit::Full { .. }) => {}
            Err(short @ (Unfit::Memory { .. } | Unfit::Cpu { .. })) if short.is_passing() => {}
            Err(_) => return None,
        }
        gone.push(here.next()?);
    }
    // The last one was needed; of the others those stay whom the last ones make needless, the dearest first.
    for place in (0..gone.len().saturating_sub(1)).rev() {
        let mut fewer = gone.clone();
        fewer.remove(place);
        if fits_without(&fewer).is_ok() {
            gone = fewer;
        }
    }
    Some(gone)
}

#[cfg(test)]
mod tests;
