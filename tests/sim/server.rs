//! A server: views that may be behind, leadership, and the leader's pass over the pure rules. Every write is
//! revision-checked against the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use helix_protocol::pool::{PoolRecord, Warm};
use helix_protocol::record::{RunnerRecord, SessionRecord};
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Cause, Desired, ObservedSession};
use helix_protocol::{RunnerId, SessionId, subject};
use helix_server::clock::Clock;
use helix_server::pools::plan::{Plan, Snapshot, plan};
use helix_server::pools::standing::member;
use helix_server::runners::liveness::Timing;
use helix_server::runners::occupancy;
use helix_server::scheduler::pass::{Verdict, pass};
use helix_server::scheduler::queue::Quotas;
use helix_server::scheduler::room::make_room;
use helix_server::scheduler::{Ask, Candidate, place};
use helix_server::sessions::fleet::{self, Rules};
use helix_server::sessions::list::waits;
use helix_server::sessions::steps;
use helix_server::sessions::view::{has_ended, observed_of};
use helix_server::sessions::{report, room};
use helix_server::store::view::{Content, Sought, Versioned};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::fleet::{HEARTBEAT, LOST, SUSPECT, Seen, session};

/// The records, as the bus has them or as a server knows them.
#[derive(Clone, Default)]
pub struct Records {
    pub sessions: Content<SessionRecord>,
    pub observed: Content<ObservedSession>,
    pub runners: Content<RunnerRecord>,
    pub pools: Content<PoolRecord>,
}

/// What is on the disks of NATS.
#[derive(Default)]
pub struct Store {
    pub records: Records,
    pub revision: u64,
    /// When each runner's lease was renewed last; it is gone after the lost-timeout.
    pub leases: BTreeMap<RunnerId, u64>,
    /// Who leads, and until when.
    pub leader: Option<(usize, u64)>,
    /// Keys of sessions that the pass under way has written: who writes knows that at once.
    written: Vec<String>,
}

/// Writes a record over the revision that the writer saw, 0 for none.
fn put<T: Sought>(truth: &mut Content<T>, revision: &mut u64, key: &str, value: T, seen: u64) -> bool {
    if truth.get(key).map_or(0, |entry| entry.revision) != seen || seen == 0 && truth.was_deleted(key) {
        return false;
    }
    *revision += 1;
    truth.apply(key, *revision, Some(Versioned::new(value, *revision)))
}

impl Store {
    pub fn put_session(&mut self, record: SessionRecord, seen: u64) -> bool {
        let key = record.id.to_string();
        let done = put(&mut self.records.sessions, &mut self.revision, &key, record, seen);
        self.written.extend(done.then_some(key));
        done
    }

    pub fn put_runner(&mut self, record: RunnerRecord, seen: u64) -> bool {
        let key = record.id.to_string();
        put(&mut self.records.runners, &mut self.revision, &key, record, seen)
    }

    pub fn put_pool(&mut self, record: PoolRecord, seen: u64) -> bool {
        let key = record.name.to_string();
        put(&mut self.records.pools, &mut self.revision, &key, record, seen)
    }

    /// As `Sessions::record` does.
    pub fn record(&mut self, seen: ObservedSession) {
        let key = subject::runner_session_key(&seen.runner, &seen.session);
        let record = self.records.sessions.get(seen.session.as_str()).map(|entry| Arc::clone(&entry.value));
        let is_own = record.is_some_and(|record| !report::is_leftover(&seen.runner, &seen, &record));
        let known = self.records.observed.get(&key);
        if known.is_some_and(|known| !report::is_newer(&seen, &known.value)) {
            return;
        }
        self.revision += 1;
        let entry = (is_own || !seen.forgotten).then(|| Versioned::new(seen, self.revision));
        self.records.observed.apply(&key, self.revision, entry);
    }

    /// As `Sessions::desired_set` does.
    pub fn desired_set(&self, runner: &RunnerId) -> Vec<helix_protocol::assignment::DesiredSession> {
        let Records { sessions, observed, .. } = &self.records;
        let own = sessions.iter().map(|(_, entry)| &*entry.value);
        let own = own.filter(|record| record.assignment.as_ref().is_some_and(|of| of.runner == *runner));
        let mut set: Vec<_> = own
            .filter_map(|record| helix_server::sessions::view::desired_of(record, has_ended(record, observed)))
            .collect();
        for order in report::unwanted(runner, sessions, observed) {
            set.retain(|desired| desired.session != order.session);
            set.push(order);
        }
        set
    }
}

#[derive(Default)]
pub struct Server {
    pub number: usize,
    pub view: Records,
    /// When it learnt each runner's lease, and which renewal that was.
    pub heard: BTreeMap<RunnerId, (u64, u64)>,
    /// Since when the bus is up for it.
    pub connected_since: Option<u64>,
    pub leads_since: Option<u64>,
    pub renewed: u64,
    /// What the store had at its last pass.
    pub looked_at: u64,
    /// Stands still until then.
    pub paused_until: u64,
}

impl Server {
    /// What is new of the leases.
    pub fn learn_leases(&mut self, store: &Store, now: u64) {
        self.heard.retain(|id, _| store.leases.contains_key(id));
        for (id, renewed) in &store.leases {
            let heard = self.heard.entry(id.clone()).or_insert((now, *renewed));
            if heard.1 != *renewed {
                *heard = (now, *renewed);
            }
        }
    }

    fn judge(&self, base: Instant, now: u64) -> Vec<(RunnerRecord, u64)> {
        let since = self.leads_since.max(self.connected_since).unwrap_or(now);
        let at = |ms: u64| base + Duration::from_millis(ms);
        let timing = Timing {
            interval: Duration::from_millis(HEARTBEAT),
            suspect: Duration::from_millis(SUSPECT),
            lost: Duration::from_millis(LOST),
            steady_since: at(since),
        };
        let verdict = |entry: &Versioned<RunnerRecord>| {
            let heard = self.heard.get(&entry.value.id).map(|(seen, _)| at(*seen));
            let (liveness, _) = timing.judge(entry.value.liveness, heard, None, at(now));
            (liveness != entry.value.liveness)
                .then(|| (RunnerRecord { liveness, ..(*entry.value).clone() }, entry.revision))
        };
        self.view.runners.iter().filter_map(|(_, entry)| verdict(entry)).collect()
    }

    /// One pass of the leader's reconciler.
    pub fn pass(&mut self, store: &mut Store, base: Instant, now: u64, seen: &mut Seen) {
        let at = Timestamp::from_millisecond(i64::try_from(now).expect("small")).expect("a time");
        let mut verdicts = self.judge(base, now);
        let known_lost = self.view.runners.iter().any(|(_, entry)| entry.value.liveness == Liveness::Lost);
        if known_lost || verdicts.iter().any(|(record, _)| record.liveness == Liveness::Lost) {
            // Nobody is called lost by a view that may be behind.
            self.learn_leases(store, now);
            verdicts = self.judge(base, now);
        }
        for (record, revision) in verdicts {
            if record.liveness == Liveness::Lost {
                seen.lost += 1;
                let up = self.connected_since.is_some_and(|since| now >= since + LOST);
                assert!(up, "{} is called lost at {now}, and the bus was not up for one lost-timeout", record.id);
                let renewed = store.leases.get(&record.id).copied().unwrap_or_default();
                assert!(now >= renewed + LOST || renewed == 0, "{} was heard at {renewed}, lost at {now}", record.id);
            }
            store.put_runner(record, revision);
        }
        self.view.runners = store.records.runners.clone();
        store.written.clear();
        self.keep_pools(store, at);
        self.move_on(store, seen);
        for key in store.written.drain(..) {
            if let Some(entry) = store.records.sessions.get(&key) {
                self.view.sessions.apply(&key, entry.revision, Some(entry.clone()));
            }
        }
        self.assign(store, at, seen);
        self.remove(store);
    }

    fn keep_pools(&self, store: &mut Store, at: Timestamp) {
        let Records { sessions, observed, runners, pools } = &self.view;
        // No pool of these worlds has limits of time.
        let clock = Clock::default();
        for (_, entry) in pools.iter() {
            let pool = &entry.value;
            let members: Vec<_> =
                pool.members.iter().map(|id| member(pool, id, sessions, observed, runners, (at, &clock))).collect();
            let is_taken = |record: &SessionRecord| {
                record.pool.as_ref() == Some(&pool.name) && record.warm.is_none() && !has_ended(record, observed)
            };
            let taken = sessions.iter().filter(|(_, entry)| is_taken(&entry.value)).count();
            let Plan { keep, make, trouble, gave_way_to } = plan(Snapshot {
                min_ready: pool.spec.min_ready,
                max: pool.spec.max,
                members: &members,
                taken: u32::try_from(taken).expect("few"),
                trouble: pool.trouble.as_ref(),
                gave_way_to: pool.gave_way_to.as_ref(),
                now: at,
            });
            let mut names: BTreeSet<_> = keep.into_iter().collect();
            for number in 0..make {
                names.insert(SessionId::parse(format!("w{}-{number}", store.revision)).expect("valid"));
            }
            let absent: Vec<_> = names.iter().filter(|id| sessions.get(id.as_str()).is_none()).cloned().collect();
            let changed = names != pool.members || trouble != pool.trouble || gave_way_to != pool.gave_way_to;
            let record = PoolRecord { members: names, trouble, gave_way_to, ..(**pool).clone() };
            if changed && !store.put_pool(record, entry.revision) {
                continue;
            }
            for id in absent {
                let record = session(&id, &format!("pool {}", pool.name), at);
                let warm = Some(Warm { generation: pool.generation, gave_way_to: None });
                store.put_session(SessionRecord { warm, pool: Some(pool.name.clone()), ..record }, 0);
            }
        }
        for (_, entry) in sessions.iter() {
            let record = &*entry.value;
            let pool = record.pool.as_ref().and_then(|pool| store.records.pools.get(pool.as_str()));
            let named = pool.is_some_and(|pool| pool.value.members.contains(&record.id));
            if record.warm.is_some() && !record.deleted && !named {
                let ended = SessionRecord { desired: Desired::Stopped, deleted: true, ..record.clone() };
                store.put_session(ended, entry.revision);
            }
        }
    }

    fn is_lost(&self, record: &SessionRecord) -> bool {
        let runner = record.assignment.as_ref().and_then(|of| self.view.runners.get(of.runner.as_str()));
        let is_heard = |id| self.heard.contains_key(id);
        runner.is_some_and(|runner| runner.value.liveness == Liveness::Lost && !is_heard(&runner.value.id))
    }

    fn move_on(&self, store: &mut Store, seen: &mut Seen) {
        let Records { sessions, observed, .. } = &self.view;
        let (rules, candidates) = (self.rules(), self.candidates());
        for (_, entry) in sessions.iter() {
            let record = &*entry.value;
            if let Some(step) = steps::next_of_move(record, sessions, observed) {
                store.put_session(steps::moved_on(record, step), entry.revision);
            } else if steps::has_moved(record, observed, self.is_lost(record)) {
                let moving = record.work.moving.clone().expect("it moves");
                let work = steps::work_after_move(record, &moving, None);
                let cause = Some(Cause::new("queued", "it moves"));
                store.put_session(steps::waits_again(record, work, cause), entry.revision);
            } else if self.is_lost(record) && steps::restarts_when_lost(record, observed) {
                let left = record.assignment.as_ref().map(|of| &of.runner);
                if place(&candidates, Ask { left, ..rules.applicant(record).ask }).is_ok() {
                    let cause = Some(Cause::new("queued", "its runner was lost"));
                    let done =
                        store.put_session(steps::waits_again(record, record.work.clone(), cause), entry.revision);
                    seen.restarted += u32::from(done);
                }
            }
        }
    }

    fn rules(&self) -> Rules {
        let pools = self.view.pools.iter().map(|(_, entry)| (entry.value.name.clone(), entry.value.spec.clone()));
        Rules::of(pools.collect())
    }

    fn candidates(&self) -> Vec<Candidate> {
        let Records { sessions, observed, runners, .. } = &self.view;
        let held = occupancy::count(sessions, observed, runners);
        let candidate = |record: &RunnerRecord| Candidate {
            id: record.id.clone(),
            liveness: record.liveness,
            cordoned: record.cordoned,
            draining: false,
            degraded: None,
            unsteady: false,
            slots: record.facts.as_ref().map_or(0, |facts| facts.slots),
            held: held.get(&record.id).copied().unwrap_or_default(),
            images: Vec::new(),
            facts: record.facts.clone().map(Arc::new),
        };
        runners.iter().map(|(_, entry)| candidate(&entry.value)).collect()
    }

    fn assign(&self, store: &mut Store, at: Timestamp, seen: &mut Seen) {
        let Records { sessions, observed, .. } = &self.view;
        let (rules, mut candidates) = (self.rules(), self.candidates());
        let waiting: Vec<_> = sessions.iter().map(|(_, entry)| entry).filter(|entry| waits(&entry.value)).collect();
        let have_preempted = room::have_preempted(sessions);
        let applicants: Vec<_> =
            waiting.iter().map(|entry| room::applicant(&rules, &entry.value, &have_preempted)).collect();
        let (occupants, making) = room::occupants(&rules, &candidates, sessions, observed);
        let running = fleet::running(sessions, observed);
        let verdicts = pass(&applicants, &mut candidates, running, &Quotas::default(), &making);
        for given in make_room(&applicants, &verdicts, &candidates, &making, &occupants) {
            let to = applicants[given.applicant].waiting;
            for index in given.give_way {
                let entry = sessions.get(occupants[index].id.as_str()).expect("there");
                let (is_warm, allows) = (entry.value.warm.is_some(), entry.value.spec.preemptible == Some(true));
                assert!(is_warm || allows && occupants[index].priority < to.priority, "{} may not end", entry.value.id);
                assert!(is_warm || !have_preempted.contains(to.id), "{} preempts twice", to.id);
                let done = store.put_session(steps::give_way(&entry.value, to.id, at), entry.revision);
                *(if is_warm { &mut seen.gave_way } else { &mut seen.preempted }) += u32::from(done);
            }
        }
        for (index, verdict) in verdicts {
            let entry = waiting[index];
            let record = match verdict {
                Verdict::Place(runner) => steps::assigned(&entry.value, &candidates[runner].id, observed, at),
                Verdict::Held(reason) | Verdict::Full(reason) => {
                    let cause = Some(Cause::new("queued", reason));
                    if entry.value.cause == cause {
                        continue;
                    }
                    SessionRecord { cause, ..(*entry.value).clone() }
                }
            };
            store.put_session(record, entry.revision);
        }
    }

    /// Deleted ones of which nothing is left.
    fn remove(&self, store: &mut Store) {
        let Records { sessions, observed, .. } = &self.view;
        for (key, entry) in sessions.iter().filter(|(_, entry)| entry.value.deleted) {
            let seen = observed_of(&entry.value, observed);
            let is_gone = entry.value.assignment.is_none() || seen.is_some_and(|seen| seen.forgotten);
            if is_gone && store.records.sessions.get(key).is_some_and(|truth| truth.revision == entry.revision) {
                store.revision += 1;
                store.records.sessions.apply(key, store.revision, None);
            }
        }
    }
}

/// How many sessions each runner has by the records.
pub fn held(records: &Records) -> HashMap<RunnerId, u32> {
    let Records { sessions, observed, runners, .. } = records;
    occupancy::count(sessions, observed, runners).into_iter().map(|(id, held)| (id, held.slots)).collect()
}
