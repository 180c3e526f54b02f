//! The world: clients, faults, the wire between runners and servers, and what must be true at every moment and at the end.

use std::collections::{BTreeMap, BTreeSet};

use helix_protocol::assignment::DesiredSession;
use helix_protocol::pool::{PoolRecord, PoolSpec};
use helix_protocol::record::{RunnerRecord, SessionRecord};
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Desired, ObservedSession, SessionPhase};
use helix_protocol::{PoolName, RunnerId, SessionId};
use helix_server::sessions::view::{has_ended, observed_of};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use crate::machine::Machine;
use crate::server::{Server, Store, held};

pub const LOST: u64 = 3000;
pub const SUSPECT: u64 = 1000;
const TICK: u64 = 200;
pub const HEARTBEAT: u64 = 600;
const SYNC: u64 = 1000;
const LEADER_TTL: u64 = 3000;
/// Faults and clients until then; what begins before ends soon after.
const BUSY: u64 = 14_000;
const END: u64 = 34_000;

/// What happened, of all fleets.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub lost: u32,
    pub restarted: u32,
    pub held: u32,
    pub gave_way: u32,
    pub preempted: u32,
}

impl Seen {
    pub fn add(&mut self, other: Self) {
        let Self { lost, restarted, held, gave_way, preempted } = other;
        self.lost += lost;
        self.restarted += restarted;
        self.held += held;
        self.gave_way += gave_way;
        self.preempted += preempted;
    }
}

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

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn index(&mut self, many: usize) -> usize {
        usize::try_from(self.below(many as u64)).expect("small")
    }
}

/// On its way between a runner and a server.
enum Message {
    Heartbeat { sent_at: u64 },
    Heard { sent_at: u64 },
    Sync { asked_at: u64 },
    Set { asked_at: u64, set: Vec<DesiredSession> },
    Report(Box<ObservedSession>),
    Stored(Box<ObservedSession>),
}

struct Sent {
    due: u64,
    machine: usize,
    /// Of the agentd that asked.
    life: u64,
    message: Message,
}

struct World {
    random: Random,
    now: u64,
    base: Instant,
    store: Store,
    bus_up: bool,
    servers: Vec<Server>,
    machines: Vec<Machine>,
    wire: Vec<Sent>,
    /// Until when each fault lasts, by its name.
    faults: BTreeMap<&'static str, u64>,
    next_heartbeat: Vec<u64>,
    /// When the last desired set was asked for; nothing while none is on its way.
    asked: Vec<Option<u64>>,
    acknowledged: BTreeSet<SessionId>,
    two_led: bool,
    seen: Seen,
}

/// A record as a create writes it.
pub fn session(id: &SessionId, owner: &str, at: Timestamp) -> SessionRecord {
    serde_json::from_value(json!({
        "id": id, "owner": owner, "spec": {}, "request_hash": "", "desired": "running", "generation": 1,
        "epoch": at.as_millisecond(), "created_at": at,
    }))
    .expect("a record")
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut store = Store::default();
        let count = 1 + random.index(3);
        let mut machines = Vec::new();
        for number in 0..count {
            let id = RunnerId::parse(format!("r{number}")).expect("valid");
            let record: RunnerRecord = serde_json::from_value(json!({
                "id": id, "token_hash": "", "liveness": Liveness::Online, "enrolled_at": Timestamp::UNIX_EPOCH,
                "facts": {
                    "hostname": id, "version": "0", "slots": 1 + random.below(3), "max_tasks": 0, "kinds": ["command"],
                    "default_kind": "command", "default_geometry": "800x600", "backend": "process", "isolation": "",
                    "limits": "", "memory_bytes": 0, "cpus": 1,
                },
            }))
            .expect("a runner");
            store.put_runner(record, 0);
            machines.push(Machine::new(id));
        }
        for (name, spec) in [("urgent", json!({"priority": 5})), ("warm", json!({"min_ready": random.below(3)}))] {
            let spec: PoolSpec = serde_json::from_value(spec).expect("a pool");
            let record: PoolRecord = serde_json::from_value(json!({
                "name": name, "spec": spec, "version": 1, "generation": 1, "changed_by": "",
                "changed_at": Timestamp::UNIX_EPOCH, "created_at": Timestamp::UNIX_EPOCH,
            }))
            .expect("a pool");
            store.put_pool(record, 0);
        }
        let servers = (0..2).map(|number| Server { number, connected_since: Some(0), ..Server::default() }).collect();
        Self {
            random,
            now: 0,
            base: Instant::now(),
            store,
            bus_up: true,
            servers,
            wire: Vec::new(),
            faults: BTreeMap::new(),
            next_heartbeat: vec![0; count],
            asked: vec![None; count],
            machines,
            acknowledged: BTreeSet::new(),
            two_led: false,
            seen: Seen::default(),
        }
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_millisecond(i64::try_from(self.now).expect("small")).expect("a time")
    }

    /// Somebody creates, claims or stops.
    fn clients(&mut self) {
        if self.random.one_in(6) && self.bus_up {
            let id = SessionId::parse(format!("s{}", self.acknowledged.len())).expect("valid");
            let mut record = session(&id, "ann", self.at());
            record.pool = self.random.one_in(3).then(|| PoolName::parse("urgent").expect("valid"));
            record.spec.on_lost = self.random.one_in(2).then_some(helix_protocol::resources::OnLost::Restart);
            record.spec.preemptible = self.random.one_in(2).then_some(true);
            self.store.put_session(record, 0);
            self.acknowledged.insert(id);
        }
        let many = self.store.records.sessions.iter().count();
        if many == 0 || !self.random.one_in(8) || !self.bus_up {
            return;
        }
        let place = self.random.index(many);
        let entry = self.store.records.sessions.iter().nth(place).map(|(_, entry)| entry.clone()).expect("there");
        let record = &*entry.value;
        let is_ready =
            observed_of(record, &self.store.records.observed).is_some_and(|seen| seen.phase == SessionPhase::Ready);
        if record.warm.is_none() {
            self.store.put_session(SessionRecord { desired: Desired::Stopped, ..record.clone() }, entry.revision);
        } else if is_ready && record.desired == Desired::Running {
            let taken = SessionRecord { warm: None, owner: "bob".to_owned(), ..record.clone() };
            self.store.put_session(taken, entry.revision);
            self.acknowledged.insert(record.id.clone());
        }
    }

    fn fault(&mut self) {
        const NAMES: [&str; 6] = ["bus", "server", "pause", "link", "agentd", "power"];
        if self.now < BUSY && self.random.one_in(8) {
            let name = NAMES[self.random.index(NAMES.len())];
            let until = self.now + 200 + self.random.below(6000);
            if self.faults.insert(name, until).is_none() {
                self.begin(name, until);
            }
        }
        let over: Vec<_> = self.faults.iter().filter(|(_, until)| self.now >= **until).map(|(name, _)| *name).collect();
        for name in over {
            self.faults.remove(name);
            self.finish(name);
        }
    }

    fn begin(&mut self, name: &str, until: u64) {
        let (server, machine) = (self.random.index(2), self.random.index(self.machines.len()));
        match name {
            "bus" => {
                self.bus_up = false;
                // Also of one that stands still: it finds its connection gone.
                self.servers.iter_mut().for_each(|server| server.connected_since = None);
            }
            // Another process comes, that knows nothing.
            "server" => {
                self.servers[server] = Server { number: server, paused_until: until, ..Server::default() };
            }
            "pause" => self.servers[server].paused_until = until,
            "link" => self.machines[machine].linked = false,
            "agentd" if self.machines[machine].up => self.machines[machine].kill(),
            "power" => {
                self.machines[machine].lose_power(self.now);
                self.asked[machine] = None;
            }
            _ => {}
        }
    }

    fn finish(&mut self, name: &str) {
        match name {
            "bus" => self.bus_up = true,
            "link" => self.machines.iter_mut().for_each(|machine| machine.linked = true),
            "agentd" => {
                for (machine, asked) in self.machines.iter_mut().zip(&mut self.asked).filter(|(machine, _)| !machine.up)
                {
                    machine.start(self.now);
                    *asked = None;
                }
            }
            _ => {}
        }
    }

    /// Messages are late and lost.
    fn is_bad(&self) -> bool {
        self.now < BUSY + LOST
    }

    fn send(&mut self, machine: usize, message: Message) {
        let late = if self.is_bad() && self.random.one_in(6) { 10 } else { 2 };
        let due = self.now + TICK * self.random.below(late);
        let life = self.machines[machine].life;
        self.wire.push(Sent { due, machine, life, message });
    }

    fn runners(&mut self) {
        for index in 0..self.machines.len() {
            self.seen.held += u32::from(self.machines[index].step(self.now));
            if !self.machines[index].up {
                continue;
            }
            if self.now >= self.next_heartbeat[index] {
                self.next_heartbeat[index] = self.now + HEARTBEAT;
                self.send(index, Message::Heartbeat { sent_at: self.now });
            }
            // One after the other; an answer that takes too long is none.
            let waited = self.asked[index].map(|at| self.now - at);
            if waited.is_none_or(|waited| waited >= SYNC)
                && (waited.is_some() || self.machines[index].sync_wanted || self.now.is_multiple_of(SYNC))
            {
                self.machines[index].sync_wanted = false;
                self.asked[index] = Some(self.now);
                self.send(index, Message::Sync { asked_at: self.now });
            }
            let news: Vec<_> = self.machines[index]
                .copies
                .iter()
                .filter(|(_, copy)| copy.is_news())
                .map(|(id, _)| id.clone())
                .collect();
            for id in news {
                let seen = self.machines[index].report(&id);
                self.send(index, Message::Report(Box::new(seen)));
            }
        }
    }

    fn deliver(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.wire).into_iter().partition(|sent| sent.due <= self.now);
        self.wire = later;
        let is_bad = self.is_bad();
        let answers = |server: &Server| server.connected_since.is_some() && server.paused_until <= self.now;
        let served = self.bus_up && self.servers.iter().any(answers);
        for Sent { machine: index, life, message, .. } in due {
            let machine = &mut self.machines[index];
            if !machine.linked || is_bad && self.random.one_in(40) {
                continue;
            }
            let mine = machine.up && machine.life == life;
            match message {
                Message::Heartbeat { sent_at } if served => {
                    self.store.leases.insert(machine.id.clone(), self.now);
                    self.send(index, Message::Heard { sent_at });
                }
                Message::Sync { asked_at } if served => {
                    let set = self.store.desired_set(&machine.id);
                    self.send(index, Message::Set { asked_at, set });
                }
                Message::Report(seen) if served => {
                    self.store.record((*seen).clone());
                    self.send(index, Message::Stored(seen));
                }
                Message::Heard { sent_at } if mine => machine.heard(sent_at),
                Message::Set { asked_at, set } if mine && self.asked[index] == Some(asked_at) => {
                    self.asked[index] = None;
                    machine.synced(asked_at, set, self.now);
                }
                Message::Stored(seen) if mine => machine.acknowledged(&seen),
                _ => {}
            }
        }
    }

    fn serve(&mut self) {
        let now = self.now;
        self.store.leases.retain(|_, renewed| now < *renewed + LOST);
        for index in 0..self.servers.len() {
            if self.servers[index].paused_until > now {
                continue;
            }
            // One that stood still makes its next pass with what it knew.
            let woke = self.servers[index].paused_until != 0;
            // Whoever connects reads everything first.
            let fresh = self.servers[index].connected_since.is_none();
            let behind = !fresh && (woke || self.random.one_in(4));
            let (server, store) = (&mut self.servers[index], &mut self.store);
            if self.bus_up {
                server.connected_since.get_or_insert(now);
            } else {
                server.connected_since = None;
                if now >= server.renewed + LEADER_TTL {
                    server.leads_since = None;
                }
                continue;
            }
            if woke {
                server.paused_until = 0;
                self.two_led |= server.leads_since.is_some() && store.leader.is_some_and(|(leader, _)| leader != index);
            } else {
                let free = store.leader.is_none_or(|(leader, until)| leader == server.number || now >= until);
                if free {
                    (store.leader, server.renewed) = (Some((index, now + LEADER_TTL)), now);
                    server.leads_since.get_or_insert(now);
                } else {
                    server.leads_since = None;
                }
            }
            if !behind {
                server.view = store.records.clone();
                server.learn_leases(store, now);
            }
            // On news, and from time to time.
            if server.leads_since.is_some() && (woke || server.looked_at != store.revision || now.is_multiple_of(SYNC))
            {
                server.looked_at = store.revision;
                server.pass(store, self.base, now, &mut self.seen);
            }
        }
    }

    fn check(&self) {
        let mut live: BTreeMap<&SessionId, &RunnerId> = BTreeMap::new();
        for machine in &self.machines {
            for (id, _) in machine.copies.iter().filter(|(_, copy)| copy.is_live()) {
                if let Some(other) = live.insert(id, &machine.id) {
                    panic!("{id} runs on {other} and on {} at {}", machine.id, self.now);
                }
            }
        }
        let held = held(&self.store.records);
        let above = self.store.records.runners.iter().find(|(id, entry)| {
            let slots = entry.value.facts.as_ref().map_or(0, |facts| facts.slots);
            held.iter().any(|(runner, held)| runner.as_str() == *id && *held > slots)
        });
        assert!(self.two_led || above.is_none(), "{:?} has more sessions than slots", above.map(|(id, _)| id));
        for id in &self.acknowledged {
            assert!(self.store.records.sessions.get(id.as_str()).is_some(), "{id} is gone");
        }
    }

    /// Nothing was wrong for long.
    fn check_end(&self) {
        let records = &self.store.records;
        for (_, entry) in records.sessions.iter() {
            let record = &*entry.value;
            let copies: Vec<_> = self.machines.iter().filter_map(|machine| machine.copies.get(&record.id)).collect();
            let live = copies.iter().filter(|copy| copy.is_live()).count();
            let held = copies.iter().filter(|copy| copy.held).count();
            let ended = has_ended(record, &records.observed);
            let seen = observed_of(record, &records.observed);
            match (&record.assignment, ended) {
                (None, true) => assert_eq!((live, held), (0, 0), "{} was stopped and is there", record.id),
                // What its lost runner holds of it ends once it begins somewhere.
                (None, false) => assert!(live == 0 && record.cause.is_some(), "{} waits, nobody knows why", record.id),
                (Some(_), true) => {
                    assert!(
                        live + held == 0 && seen.is_some_and(|seen| seen.cause.is_some()),
                        "{} has ended: {record:?} {seen:?} {copies:?}",
                        record.id
                    );
                }
                (Some(of), false) => {
                    let is_right = copies.iter().any(|copy| copy.is_live() && copy.epoch == of.epoch);
                    let is_ready = seen.is_some_and(|seen| seen.phase == SessionPhase::Ready);
                    assert!(
                        (live, held) == (1, 0) && is_right && is_ready,
                        "{} has not settled: {record:?} {copies:?}",
                        record.id
                    );
                }
            }
        }
        for machine in &self.machines {
            for (id, copy) in machine.copies.iter().filter(|(_, copy)| copy.is_live()) {
                assert!(records.sessions.get(id.as_str()).is_some(), "{id} is nobody's and runs: {copy:?}");
            }
        }
        assert!(records.runners.iter().all(|(_, entry)| entry.value.liveness != Liveness::Lost));
    }
}

/// Lives through one.
pub fn live(seed: u64) -> Seen {
    let mut world = World::new(seed);
    while world.now < END {
        if world.now < BUSY {
            world.clients();
        }
        world.fault();
        world.runners();
        world.deliver();
        world.serve();
        world.check();
        world.now += TICK;
    }
    world.check_end();
    world.seen
}
