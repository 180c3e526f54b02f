//! What goes wrong, and when: pure. One seed, one plan.
//!
//! Two lanes beside each other, one for what happens to hosts and one for what happens to servers and NATS. In each lane one
//! fault is over before the next begins, and each kind comes once before any comes again. While a host is away for
//! longer than the lost-timeout the other lane waits: nobody is called lost while the bus is not well, so without that
//! hardly anything would ever be.

use std::fmt;
use std::time::Duration;

use helix_tests::random::Random;

/// Runners.
pub const HOSTS: usize = 3;
/// Servers.
pub const SERVERS: usize = 2;
/// Members of the bus.
pub const NATS: usize = 3;

/// What goes wrong. The numbers are those of hosts, servers and members of the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of agentd; systemd starts it again.
    KillAgentd(usize),
    /// agentd is restarted in good order.
    RestartAgentd(usize),
    /// A host is cut off from everybody, for less than the lost-timeout.
    Isolate(usize),
    /// The same, for longer.
    Lose(usize),
    /// A host and a server are cut off from each other.
    CutServer(usize, usize),
    /// A host and a member of the bus are.
    CutNats(usize, usize),
    /// A host is drained: its sessions move. It is opened again.
    Drain(usize),
    /// `kill -9` of a server.
    KillServer(usize),
    /// A server is ended in good order.
    RestartServer(usize),
    /// A server stands still: what it knew is old when it goes on.
    FreezeServer(usize),
    /// `kill -9` of a member of the bus.
    KillNats(usize),
    /// A member of the bus stands still.
    FreezeNats(usize),
    /// Two members of the bus hear nothing of each other; the third hears both.
    PartNats(usize, usize),
    /// A member of the bus hears nothing of the others, and clients hear it.
    IsolateNats(usize),
    /// `kill -9` of all members but this one: there is no majority.
    KillMajority(usize),
    /// `kill -9` of all servers and all of the bus.
    KillAll,
}

/// One of them and its time.
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    /// From the beginning.
    pub at: Duration,
    /// Until it is mended; of what mends itself, until the next one may come.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// Both lanes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of hosts.
    pub hosts: Vec<Planned>,
    /// Of servers and NATS.
    pub middle: Vec<Planned>,
}

impl fmt::Display for Planned {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.1} s, for {:.1} s: {:?}", self.at.as_secs_f64(), self.lasts.as_secs_f64(), self.fault)
    }
}

/// The plan of a seed, for so long.
pub fn plan(seed: u64, length: Duration) -> Plan {
    let mut random = Random::seeded(seed);
    let hosts = lane(&mut random, length, &[], host_faults);
    let away: Vec<_> = hosts.iter().filter(|one| matches!(one.fault, Fault::Lose(_))).copied().collect();
    let middle = lane(&mut random, length, &away, middle_faults);
    Plan { hosts, middle }
}

/// One of each kind, with how many milliseconds it lasts: at least, and at most beside.
type Deck = Vec<(Fault, u64, u64)>;

fn host_faults(random: &mut Random) -> Deck {
    let mut host = || random.below(HOSTS as u64) as usize;
    let mut deck = vec![
        (Fault::KillAgentd(host()), 200, 1500),
        (Fault::RestartAgentd(host()), 200, 1500),
        (Fault::Isolate(host()), 2000, 4000),
        (Fault::Lose(host()), 20_000, 6000),
        (Fault::Drain(host()), 8000, 6000),
    ];
    let host = host();
    deck.push((Fault::CutServer(host, random.below(SERVERS as u64) as usize), 4000, 6000));
    deck.push((Fault::CutNats(host, random.below(NATS as u64) as usize), 4000, 6000));
    deck
}

fn middle_faults(random: &mut Random) -> Deck {
    let mut one_of = |count: usize| random.below(count as u64) as usize;
    vec![
        (Fault::KillServer(one_of(SERVERS)), 0, 2500),
        (Fault::RestartServer(one_of(SERVERS)), 0, 2500),
        (Fault::FreezeServer(one_of(SERVERS)), 500, 5000),
        (Fault::KillNats(one_of(NATS)), 0, 3000),
        (Fault::FreezeNats(one_of(NATS)), 500, 4000),
        {
            let one = one_of(NATS);
            (Fault::PartNats(one, (one + 1 + one_of(NATS - 1)) % NATS), 2000, 8000)
        },
        (Fault::IsolateNats(one_of(NATS)), 2000, 8000),
        (Fault::KillMajority(one_of(NATS)), 500, 3000),
        (Fault::KillAll, 0, 1500),
    ]
}

/// Faults one after the other; none that begins or ends within `quiet`.
fn lane(random: &mut Random, length: Duration, quiet: &[Planned], deck: fn(&mut Random) -> Deck) -> Vec<Planned> {
    let mut all = Vec::new();
    let mut cards = Deck::new();
    let mut at = Duration::from_secs(2);
    loop {
        if cards.is_empty() {
            cards = deck(random);
            for end in (1..cards.len()).rev() {
                cards.swap(end, random.below(end as u64 + 1) as usize);
            }
        }
        let Some((fault, least, more)) = cards.pop() else { return all };
        let lasts = Duration::from_millis(least + random.below(more));
        for away in quiet {
            // The bus shall be well again when the host goes.
            let before = away.at.saturating_sub(Duration::from_secs(4));
            if at + lasts > before && at < away.at + away.lasts {
                at = away.at + away.lasts;
            }
        }
        if at + lasts > length {
            return all;
        }
        all.push(Planned { at, lasts, fault });
        at += lasts + Duration::from_millis(500 + random.below(2500));
    }
}
