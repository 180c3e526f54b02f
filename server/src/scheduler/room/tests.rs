use proptest::prelude::*;

use helix_protocol::runner::RunnerFacts;

use super::super::pass::{Running, pass};
use super::super::queue::{Quotas, Waiting};
use super::super::tests::{ANY, reserve, runner, with};
use super::*;

fn ids(letter: char, count: usize) -> Vec<SessionId> {
    (0..count).map(|number| SessionId::parse(format!("{letter}{number}")).expect("valid")).collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("valid")
}

fn waits(id: &SessionId, gib: u64) -> Applicant<'_> {
    let waiting = Waiting { id, owner: "ann", is_warm: false, priority: 0, since: at(100) };
    Applicant { waiting, ask: Ask { reserve: reserve(gib, 0), ..ANY }, pool_max: None, may_preempt: false }
}

fn agent(id: &SessionId, runner: usize, priority: i32, since: i64, gib: u64) -> Occupant<'_> {
    let mut frees = Held::default();
    frees.add(reserve(gib, 0));
    Occupant { id, runner, frees, is_warm: true, priority, since: at(since) }
}

/// Runners of 8 GiB and `slots`, full of these.
fn fleet(count: usize, slots: u32, occupants: &[Occupant<'_>]) -> Vec<Candidate> {
    let one = |number: usize| {
        let facts = |facts: &mut RunnerFacts| facts.reservable = reserve(8, 64);
        let mut candidate = with(runner(&format!("r{number}"), 0, slots), facts);
        for occupant in occupants.iter().filter(|occupant| occupant.runner == number) {
            add(&mut candidate.held, occupant.frees);
        }
        candidate
    };
    (0..count).map(one).collect()
}

fn add(held: &mut Held, more: Held) {
    held.slots += more.slots;
    held.cpu_milli += more.cpu_milli;
    held.memory_bytes += more.memory_bytes;
}

/// Who gives way to whom, by name.
fn decided(
    applicants: &[Applicant<'_>],
    fleet: &[Candidate],
    making: &Making<'_>,
    occupants: &[Occupant<'_>],
) -> Vec<String> {
    let mut candidates = fleet.to_vec();
    let verdicts = pass(applicants, &mut candidates, Running::default(), &Quotas::default(), making);
    let rooms = make_room(applicants, &verdicts, &candidates, making, occupants);
    let name = |room: &Room| {
        let gone: Vec<_> = room.give_way.iter().map(|&index| occupants[index].id.as_str()).collect();
        format!("{} {}: {}", applicants[room.applicant].waiting.id, candidates[room.runner].id, gone.join(" "))
    };
    rooms.iter().map(name).collect()
}

#[test]
fn the_youngest_agent_of_the_lowest_priority_gives_way_and_to_one_session() {
    let (agents, sessions) = (ids('a', 4), ids('s', 3));
    let occupants = [
        agent(&agents[0], 0, 0, 1, 0),
        agent(&agents[1], 0, -5, 1, 0),
        agent(&agents[2], 1, -5, 2, 0),
        agent(&agents[3], 1, 5, 3, 0),
    ];
    let fleet = fleet(2, 2, &occupants);
    let waiting: Vec<_> = sessions.iter().map(|id| waits(id, 0)).collect();
    let none = Making::default();
    assert_eq!(decided(&waiting, &fleet, &none, &occupants), ["s0 r0: a1", "s1 r1: a2", "s2 r0: a0"]);
    // What is kept for nobody never has others end, and nobody ends where there is room.
    let kept = Applicant { waiting: Waiting { is_warm: true, ..waiting[0].waiting }, ..waiting[0] };
    assert!(decided(&[kept], &fleet, &none, &occupants).is_empty());
    assert!(decided(&waiting[..1], &super::tests::fleet(3, 2, &occupants), &none, &occupants).is_empty());
}

#[test]
fn nobody_ends_in_vain_or_too_many() {
    let (agents, sessions) = (ids('a', 4), ids('s', 2));
    let occupants = [
        agent(&agents[0], 0, 0, 4, 1),
        agent(&agents[1], 0, 0, 3, 1),
        agent(&agents[2], 0, 0, 2, 4),
        agent(&agents[3], 1, 0, 1, 2),
    ];
    let mut fleet = fleet(2, 9, &occupants);
    // Somebody's, which never give way.
    fleet[0].held.memory_bytes += 2 << 30;
    fleet[1].held.memory_bytes += 6 << 30;
    let none = Making::default();
    let asks = |gib| decided(&[waits(&sessions[0], gib)], &fleet, &none, &occupants);
    assert_eq!(asks(1), ["s0 r1: a3"], "either runner; the emptier one is better");
    assert_eq!(asks(4), ["s0 r0: a2"], "the small ones are not in its way");
    assert_eq!(asks(6), ["s0 r0: a0 a1 a2"]);
    assert!(asks(7).is_empty(), "all of them would not be enough");
    fleet[0].cordoned = true;
    assert!(decided(&[waits(&sessions[0], 4)], &fleet, &none, &occupants).is_empty());
}

#[test]
fn room_that_comes_is_counted_and_held_back() {
    let (agents, sessions) = (ids('a', 2), ids('s', 2));
    let occupants = [agent(&agents[0], 0, 0, 1, 4), agent(&agents[1], 0, 0, 2, 4)];
    let fleet = fleet(1, 9, &occupants);
    // Somebody is about to end anyhow: the first waits for that, the second gets what is left.
    let leaving = Making { leaving: vec![(0, occupants[0].frees)], ..Making::default() };
    let both = [waits(&sessions[0], 4), waits(&sessions[1], 4)];
    assert_eq!(decided(&both, &fleet, &leaving, &occupants[1..]), ["s1 r0: a1"]);
    // For whom room is made nobody else ends, and what has ended already is nobody else's.
    let mut half = fleet.clone();
    half[0].held.remove(occupants[0].frees);
    let made = Making { leaving: vec![(0, occupants[1].frees)], reserved: HashMap::from([(&sessions[0], 0)]) };
    let both = [waits(&sessions[0], 8), waits(&sessions[1], 2)];
    let mut candidates = half.clone();
    let verdicts = pass(&both, &mut candidates, Running::default(), &Quotas::default(), &made);
    assert!(verdicts.iter().all(|(_, verdict)| matches!(verdict, Verdict::Full(_))), "{verdicts:?}");
    assert!(decided(&both, &half, &made, &[]).is_empty());
}

#[test]
fn only_what_allows_it_is_preempted_by_higher_priority_and_the_least_of_it() {
    let (names, sessions) = (ids('o', 5), ids('s', 3));
    let had = |index: usize, runner, priority, since, gib| Occupant {
        is_warm: false,
        ..agent(&names[index], runner, priority, since, gib)
    };
    let occupants = [had(0, 0, 0, 1, 2), had(1, 0, -5, 1, 2), had(2, 1, -5, 2, 2), had(3, 1, 3, 9, 2)];
    let fleet = fleet(2, 2, &occupants);
    let none = Making::default();
    let urgent = |id, priority| {
        let waits = waits(id, 1);
        Applicant { waiting: Waiting { priority, ..waits.waiting }, may_preempt: true, ..waits }
    };
    // The lowest priority, the youngest of it; nobody of the same or a higher one; one for each who waits.
    let all = [urgent(&sessions[0], 3), urgent(&sessions[1], 3), urgent(&sessions[2], 3)];
    assert_eq!(decided(&all, &fleet, &none, &occupants), ["s0 r1: o2", "s1 r0: o1", "s2 r0: o0"]);
    assert!(decided(&[urgent(&sessions[0], -5)], &fleet, &none, &occupants).is_empty());
    // Who has preempted somebody, or was preempted, preempts nobody.
    let spent = Applicant { may_preempt: false, ..all[0] };
    assert!(decided(&[spent], &fleet, &none, &occupants).is_empty());
    // Where agents that nobody has are enough, those end, whatever their priority and however many.
    let mut with_agents = occupants.to_vec();
    with_agents[0] = Occupant { is_warm: true, priority: 50, ..with_agents[0] };
    assert_eq!(decided(&all[..1], &fleet, &none, &with_agents), ["s0 r0: o0"]);
}

proptest! {
    /// Whatever there is: who gives way is there once, all of them are needed, and then there is room.
    #[test]
    fn as_little_as_possible_ends(
        agents in prop::collection::vec((0_usize..3, -3_i32..3, 0_i64..9, 0_u64..4), 0..12),
        waiting in prop::collection::vec(0_u64..9, 1..8),
        slots in 1_u32..5,
    ) {
        let (names, sessions) = (ids('a', agents.len()), ids('s', waiting.len()));
        let occupants: Vec<_> = agents.iter().zip(&names)
            .map(|(&(runner, priority, since, gib), id)| agent(id, runner, priority, since, gib)).collect();
        let fleet = fleet(3, slots, &occupants);
        let applicants: Vec<_> = waiting.iter().zip(&sessions).map(|(&gib, id)| waits(id, gib)).collect();
        let mut candidates = fleet;
        let verdicts =
            pass(&applicants, &mut candidates, Running::default(), &Quotas::default(), &Making::default());
        let rooms = make_room(&applicants, &verdicts, &candidates, &Making::default(), &occupants);
        let mut gone = HashSet::new();
        let mut after = candidates.clone();
        for Room { applicant, runner, give_way } in &rooms {
            prop_assert!(!give_way.is_empty());
            for &index in give_way {
                prop_assert!(gone.insert(index) && occupants[index].runner == *runner);
                after[*runner].held.remove(occupants[index].frees);
            }
            let ask = applicants[*applicant].ask;
            prop_assert!(fit(&after[*runner], ask).is_ok());
            for &index in give_way {
                let mut spared = after[*runner].clone();
                add(&mut spared.held, occupants[index].frees);
                prop_assert!(fit(&spared, ask).is_err(), "{} ended for nothing", occupants[index].id);
            }
            after[*runner].take(ask);
        }
        // Where nobody ends, nobody could for anybody: else somebody may wait for what others leave over.
        for (index, verdict) in &verdicts {
            if rooms.is_empty() && matches!(verdict, Verdict::Full(_)) {
                let left: Vec<_> = (0..occupants.len()).filter(|index| !gone.contains(index)).collect();
                for (runner, candidate) in after.iter_mut().enumerate() {
                    let here: Vec<_> = left.iter().copied().filter(|&index| occupants[index].runner == runner).collect();
                    let ask = applicants[*index].ask;
                    let found = enough(candidate, ask, &here, &occupants);
                    prop_assert!(found.is_none(), "{found:?}");
                }
            }
        }
    }
}
