//! Pure: in which order waiting sessions get runners. What somebody waits for goes before what is kept ready for nobody;
//! then higher priority; then one session of each owner in turn, of whoever has the fewest, so that a thousand sessions
//! of one owner do not keep another's first one waiting.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::hash::BuildHasher;

use helix_protocol::SessionId;
use jiff::Timestamp;

/// A session that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting<'a> {
    /// Which.
    pub id: &'a SessionId,
    /// Whose.
    pub owner: &'a str,
    /// It is kept ready for nobody yet.
    pub is_warm: bool,
    /// Its pool's; 0 without one.
    pub priority: i32,
    /// When it was accepted.
    pub since: Timestamp,
}

/// Most sessions that owners may have running; more of them wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Of everybody who is not named.
    pub everybody: Option<u32>,
    /// By owner: the name of a token.
    pub owners: BTreeMap<String, u32>,
}

impl Quotas {
    /// Most that an owner may have; no limit where absent.
    pub fn of(&self, owner: &str) -> Option<u32> {
        self.owners.get(owner).copied().or(self.everybody)
    }
}

/// Places in `waiting`, the next one first. `running` is how many sessions each owner has now.
pub fn order<'a, S: BuildHasher>(waiting: &[Waiting<'a>], running: &HashMap<&str, u32, S>) -> Vec<usize> {
    let class = |one: &Waiting<'_>| (one.is_warm, Reverse(one.priority));
    let mut sorted: Vec<_> = (0..waiting.len()).collect();
    sorted.sort_unstable_by_key(|&index| (class(&waiting[index]), waiting[index].since, waiting[index].id));
    let mut have: HashMap<&'a str, u32> = HashMap::new();
    let mut ordered = Vec::with_capacity(waiting.len());
    for class in sorted.chunk_by(|&a, &b| class(&waiting[a]) == class(&waiting[b])) {
        let mut queues: HashMap<&'a str, VecDeque<usize>> = HashMap::new();
        for &index in class {
            queues.entry(waiting[index].owner).or_default().push_back(index);
        }
        let mut turns = BinaryHeap::new();
        let turn = |owner: &'a str, have: u32, queue: &VecDeque<usize>| {
            let first = &waiting[*queue.front()?];
            Some(Reverse((have, first.since, first.id, owner)))
        };
        for (owner, queue) in &queues {
            let have = *have.entry(owner).or_insert_with(|| running.get(owner).copied().unwrap_or_default());
            turns.extend(turn(owner, have, queue));
        }
        while let Some(Reverse((had, _, _, owner))) = turns.pop() {
            let Some(queue) = queues.get_mut(owner) else { continue };
            ordered.extend(queue.pop_front());
            let now = had.saturating_add(1);
            have.insert(owner, now);
            turns.extend(turn(owner, now, queue));
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(count: usize) -> Vec<SessionId> {
        (0..count).map(|number| SessionId::parse(format!("s{number:03}")).expect("valid")).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("valid")
    }

    fn one<'a>(id: &'a SessionId, owner: &'a str, since: i64) -> Waiting<'a> {
        Waiting { id, owner, is_warm: false, priority: 0, since: at(since) }
    }

    fn named(waiting: &[Waiting<'_>], running: &HashMap<&str, u32>) -> Vec<String> {
        order(waiting, running).into_iter().map(|index| waiting[index].id.to_string()).collect()
    }

    #[test]
    fn of_one_owner_the_oldest_is_next() {
        let ids = ids(3);
        let waiting = [one(&ids[0], "a", 3), one(&ids[1], "a", 1), one(&ids[2], "a", 2)];
        assert_eq!(named(&waiting, &HashMap::new()), ["s001", "s002", "s000"]);
    }

    #[test]
    fn owners_take_turns_and_who_has_fewest_is_first() {
        let ids = ids(5);
        let waiting = [
            one(&ids[0], "many", 1),
            one(&ids[1], "many", 2),
            one(&ids[2], "many", 3),
            one(&ids[3], "new", 4),
            one(&ids[4], "new", 5),
        ];
        assert_eq!(named(&waiting, &HashMap::new()), ["s000", "s003", "s001", "s004", "s002"]);
        // Who has two already waits until the other has as many.
        let running = HashMap::from([("many", 2)]);
        assert_eq!(named(&waiting, &running), ["s003", "s004", "s000", "s001", "s002"]);
    }

    #[test]
    fn priority_goes_first_and_what_nobody_waits_for_last() {
        let ids = ids(4);
        let waiting = [
            Waiting { is_warm: true, priority: 100, ..one(&ids[0], "pool a", 0) },
            one(&ids[1], "a", 1),
            Waiting { priority: 5, ..one(&ids[2], "a", 2) },
            Waiting { priority: -5, ..one(&ids[3], "b", 0) },
        ];
        assert_eq!(named(&waiting, &HashMap::new()), ["s002", "s001", "s003", "s000"]);
    }

    proptest! {
        #[test]
        fn nobody_is_left_out_and_nobody_is_overtaken_for_ever(
            sessions in proptest::collection::vec((0_usize..4, 0_i64..50), 0..40),
            running in proptest::collection::vec(0_u32..5, 4),
        ) {
            let owners = ["a", "b", "c", "d"];
            let ids = ids(sessions.len());
            let waiting: Vec<_> =
                sessions.iter().zip(&ids).map(|((owner, since), id)| one(id, owners[*owner], *since)).collect();
            let running: HashMap<_, _> = owners.iter().copied().zip(running).collect();
            let ordered = order(&waiting, &running);
            let mut all = ordered.clone();
            all.sort_unstable();
            prop_assert_eq!(all, (0..waiting.len()).collect::<Vec<_>>());
            // Whoever is given a session has no more than each owner who still waits.
            let mut have = running;
            for (place, &index) in ordered.iter().enumerate() {
                let own = have[waiting[index].owner];
                for &later in &ordered[place + 1..] {
                    prop_assert!(own <= have[waiting[later].owner] || waiting[later].owner == waiting[index].owner);
                }
                *have.get_mut(waiting[index].owner).expect("an owner") += 1;
            }
        }
    }
}
