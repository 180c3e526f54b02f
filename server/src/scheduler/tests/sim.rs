//! The scheduler for many hours in a moment: sessions come and end, runners fall silent and come back, are cordoned and
//! uncordoned, and after every pass it is looked at whether anything was given away twice, kept back without need, or given
//! to somebody above a quota. At the end nobody comes any more, and everybody who can be placed at all must be.
//! `HELIX_SIM_SEEDS` says how many worlds; a seed that fails is named, and belongs into [`KNOWN`].

use std::collections::{BTreeMap, HashMap};

use helix_protocol::SessionId;
use jiff::Timestamp;

use super::*;
use crate::scheduler::pass::{Applicant, Running, Verdict, pass};
use crate::scheduler::queue::{Quotas, Waiting};
use crate::scheduler::room::Making;

/// Worlds of every test run.
const SEEDS: u64 = 1000;
/// Passes of a world while sessions come.
const BUSY: i64 = 15;
/// Seeds that failed once.
const KNOWN: [u64; 0] = [];
const OWNERS: [&str; 4] = ["ann", "bob", "cy", "dora"];

/// SplitMix64: one number after the other of a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }

    fn small(&mut self, most: u32) -> u32 {
        u32::try_from(self.below(u64::from(most))).expect("small")
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

struct Session {
    id: SessionId,
    owner: &'static str,
    since: Timestamp,
    is_warm: bool,
    /// Of the world's pool, and its priority.
    in_pool: bool,
    reserve: Reserve,
    /// The runner that it has.
    runner: Option<usize>,
    ended: bool,
}

struct World {
    random: Random,
    runners: Vec<Candidate>,
    sessions: Vec<Session>,
    quotas: Quotas,
    pool: PoolName,
    selector: BTreeMap<String, String>,
    pool_max: Option<u32>,
    priority: i32,
    placement: Placement,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let runners = (0..=random.below(5))
            .map(|number| {
                let fleet = with(runner(&format!("r{number}"), 0, 1 + random.small(6)), |facts| {
                    if !random.one_in(3) {
                        facts.reservable = reserve(2 + random.below(6), 1 + random.small(4));
                    }
                    // A few of them are no pool's.
                    if random.one_in(3) {
                        facts.labels.clear();
                    }
                });
                Candidate { held: Held::default(), ..fleet }
            })
            .collect();
        let owners = OWNERS.iter().filter(|_| random.one_in(3)).map(|owner| (*owner).to_owned()).collect::<Vec<_>>();
        let quotas = Quotas {
            everybody: random.one_in(2).then(|| 1 + random.small(5)),
            owners: owners.into_iter().map(|owner| (owner, random.small(4))).collect(),
        };
        Self {
            runners,
            sessions: Vec::new(),
            quotas,
            pool: PoolName::parse("ci").expect("valid"),
            selector: BTreeMap::from([("pool".to_owned(), "ci".to_owned())]),
            pool_max: random.one_in(2).then(|| 1 + random.small(6)),
            priority: i32::try_from(random.below(3)).expect("small") - 1,
            placement: if random.one_in(2) { Placement::Pack } else { Placement::Spread },
            random,
        }
    }

    fn come(&mut self, now: i64) {
        for _ in 0..self.random.below(4) {
            let number = self.sessions.len();
            let is_warm = self.random.one_in(6);
            let reserve = match self.random.below(3) {
                0 => Reserve::default(),
                1 => reserve(1 + self.random.below(3), 1),
                _ => reserve(1, 1 + self.random.small(3)),
            };
            self.sessions.push(Session {
                id: SessionId::parse(format!("s{number}")).expect("valid"),
                owner: if is_warm { "pool ci" } else { OWNERS[usize::try_from(self.random.below(4)).expect("small")] },
                since: Timestamp::from_second(now).expect("valid"),
                is_warm,
                in_pool: is_warm || self.random.one_in(2),
                reserve,
                runner: None,
                ended: false,
            });
        }
    }

    /// Ends one in so many of those that run.
    fn end(&mut self, one_in: u64) {
        for session in self.sessions.iter_mut().filter(|session| session.runner.is_some() && !session.ended) {
            session.ended = self.random.one_in(one_in);
        }
    }

    fn shake(&mut self) {
        for runner in &mut self.runners {
            if self.random.one_in(8) {
                runner.cordoned = !runner.cordoned;
            }
            if self.random.one_in(8) {
                runner.liveness = if self.random.one_in(2) { Liveness::Suspect } else { Liveness::Online };
            }
        }
    }

    /// What sessions hold, counted anew: not what the pass says.
    fn held(&self, runner: usize) -> Held {
        let mut held = Held::default();
        let mine = |session: &&Session| session.runner == Some(runner) && !session.ended;
        for session in self.sessions.iter().filter(mine) {
            let facts = self.runners[runner].facts.as_deref().expect("registered");
            held.add(reserve_on(facts, None, session.reserve));
        }
        held
    }

    fn applicant<'a>(&'a self, session: &'a Session) -> Applicant<'a> {
        let ask = Ask {
            pool: session.in_pool.then_some(&self.pool),
            selector: session.in_pool.then_some(&self.selector),
            placement: self.placement,
            reserve: session.reserve,
            ..ANY
        };
        let waiting = Waiting {
            id: &session.id,
            owner: session.owner,
            is_warm: session.is_warm,
            priority: if session.in_pool { self.priority } else { 0 },
            since: session.since,
        };
        Applicant { waiting, ask, pool_max: self.pool_max.filter(|_| session.in_pool), may_preempt: false }
    }

    fn running(&self) -> Running<'_> {
        let mut running = Running::default();
        for session in self.sessions.iter().filter(|session| session.runner.is_some() && !session.ended) {
            if !session.is_warm {
                *running.by_owner.entry(session.owner).or_default() += 1;
            }
            if session.in_pool {
                *running.by_pool.entry(&self.pool).or_default() += 1;
            }
        }
        running
    }

    /// One pass, and what must be true of it.
    fn pass(&mut self) {
        let mut candidates: Vec<_> = (0..self.runners.len())
            .map(|index| Candidate { held: self.held(index), ..self.runners[index].clone() })
            .collect();
        let waiting: Vec<_> = (0..self.sessions.len()).filter(|&index| self.sessions[index].runner.is_none()).collect();
        let applicants: Vec<_> = waiting.iter().map(|&index| self.applicant(&self.sessions[index])).collect();
        let verdicts = pass(&applicants, &mut candidates.clone(), self.running(), &self.quotas, &Making::default());
        let again = pass(&applicants, &mut candidates, self.running(), &self.quotas, &Making::default());
        assert_eq!(verdicts, again, "the same snapshot gives another answer");
        assert_eq!(verdicts.len(), applicants.len(), "one verdict for each");
        let mut kept_back = Vec::new();
        let mut placed = HashMap::new();
        for (index, verdict) in verdicts {
            match verdict {
                Verdict::Place(runner) => {
                    let Candidate { liveness, cordoned, .. } = self.runners[runner];
                    assert!(liveness == Liveness::Online && !cordoned, "a runner that takes nothing got a session");
                    assert_eq!(placed.insert(index, runner), None, "placed twice");
                }
                Verdict::Held(reason) | Verdict::Full(reason) => kept_back.push((index, reason)),
            }
        }
        for (index, reason) in kept_back {
            let is_limit = reason.contains("quota") || reason.contains("its most");
            let fits = explain(&candidates, applicants[index].ask).iter().any(|(_, fit)| fit.is_ok());
            assert!(is_limit || !fits, "{} waits although there is room: {reason}", applicants[index].waiting.id);
        }
        let placed: Vec<_> = placed.into_iter().map(|(index, runner)| (waiting[index], runner)).collect();
        for (session, runner) in placed {
            self.sessions[session].runner = Some(runner);
        }
        self.check();
    }

    fn check(&self) {
        for (index, runner) in self.runners.iter().enumerate() {
            let held = self.held(index);
            let facts = runner.facts.as_deref().expect("registered");
            assert!(held.slots <= runner.slots, "{} has more sessions than slots", runner.id);
            let memory = facts.reservable.memory.map_or(u64::MAX, |Bytes(bytes)| bytes);
            let cpu = facts.reservable.cpu.map_or(u64::MAX, |Cpus(milli)| u64::from(milli));
            assert!(held.memory_bytes <= memory && held.cpu_milli <= cpu, "{} gave away more than it has", runner.id);
        }
        let running = self.running();
        for (owner, count) in &running.by_owner {
            assert!(self.quotas.of(owner).is_none_or(|most| *count <= most), "{owner} is above its quota");
        }
        let of_pool = running.by_pool.get(&self.pool).copied().unwrap_or_default();
        assert!(self.pool_max.is_none_or(|max| of_pool <= max), "the pool is above its most");
    }

    /// True where an empty fleet would take it.
    fn can_be_placed(&self, session: &Session) -> bool {
        let empty: Vec<_> =
            self.runners.iter().map(|runner| Candidate { held: Held::default(), ..runner.clone() }).collect();
        (session.is_warm || self.quotas.of(session.owner) != Some(0))
            && place(&empty, self.applicant(session).ask).is_ok()
    }
}

fn live(seed: u64) {
    let mut world = World::new(seed);
    for now in 0..BUSY {
        world.come(now);
        world.shake();
        world.pass();
        world.end(4);
    }
    for runner in &mut world.runners {
        (runner.liveness, runner.cordoned) = (Liveness::Online, false);
    }
    // Nobody comes any more: as many rounds as there are sessions are enough where each round at least one goes on.
    for _ in 0..=world.sessions.len() {
        world.pass();
        world.end(1);
        if world.sessions.iter().all(|session| session.runner.is_some()) {
            break;
        }
    }
    let starved: Vec<_> =
        world.sessions.iter().filter(|session| session.runner.is_none() && world.can_be_placed(session)).collect();
    assert!(starved.is_empty(), "{:?} never got a runner", starved.iter().map(|one| &one.id).collect::<Vec<_>>());
}

#[test]
fn nothing_is_given_away_twice_and_nobody_waits_for_ever() {
    let seeds = std::env::var("HELIX_SIM_SEEDS").ok().map_or(SEEDS, |text| text.parse().expect("a number"));
    let began = std::time::Instant::now();
    for seed in KNOWN.into_iter().chain(0..seeds) {
        let lived = std::panic::catch_unwind(|| live(seed));
        assert!(lived.is_ok(), "seed {seed} fails; it belongs into KNOWN");
    }
    println!("{seeds} worlds in {:?}", began.elapsed());
}
