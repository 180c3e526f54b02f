//! What the audit trail shall know of viewers: who came in with a password, and who was sent away.
//!
//! Each is told once in ten seconds at most, per session, way, cause and grant, with the number of those since: a crowd at
//! the door is one line. The link says the notes with its heartbeats until a server has them ([`Told::acknowledge`]). Until
//! then those that follow are only counted, so what waits is bounded, and nothing is left out. In memory, no task of its own:
//! what an agentd was killed with is in its log alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use helix_protocol::viewer::{Entrance, Refusal, ViewerNote, ViewerWay};
use helix_protocol::{GrantId, SessionId};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Between two notes of the same.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// What is told apart by grants, too; beyond that they are counted together.
const TOLD_APART: usize = 4096;
/// In one heartbeat.
const AT_ONCE: usize = 256;

/// All that is to be told. Clones are the same.
#[derive(Debug, Clone)]
pub struct Told {
    inner: Arc<Mutex<Inner>>,
    news: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    number: u64,
    topics: BTreeMap<Topic, Line>,
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Topic {
    session: SessionId,
    way: ViewerWay,
    refused: Option<Refusal>,
    by: Option<String>,
    grant: Option<GrantId>,
}

#[derive(Debug, Default)]
struct Line {
    /// The last one's.
    address: Option<IpAddr>,
    at: Timestamp,
    /// Since the last note.
    count: u32,
    /// When that was made.
    told: Option<Instant>,
    /// It, until it is acknowledged.
    note: Option<ViewerNote>,
}

/// Who came in, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// By the right of whose token.
    pub by: String,
    /// With the password of which grant; none: a ticket's.
    pub grant: Option<GrantId>,
}

impl Default for Told {
    fn default() -> Self {
        // Numbers go on where those of the agentd before ended: it made less than one in a microsecond.
        let number = Timestamp::now().as_microsecond().unsigned_abs();
        Self { inner: Arc::new(Mutex::new(Inner { number, topics: BTreeMap::new() })), news: Arc::default() }
    }
}

impl Told {
    /// Somebody came in with a password.
    pub fn joined(&self, session: &SessionId, way: ViewerWay, address: Option<IpAddr>, joined: Joined) {
        let Joined { by, grant } = joined;
        self.tell(Topic { session: session.clone(), way, refused: None, by: Some(by), grant }, address);
    }

    /// Somebody was sent away; `by` is whose ticket brought him here.
    pub fn refused(
        &self,
        session: &SessionId,
        way: ViewerWay,
        address: Option<IpAddr>,
        by: Option<&str>,
        refused: Refusal,
    ) {
        let by = by.map(str::to_owned);
        self.tell(Topic { session: session.clone(), way, refused: Some(refused), by, grant: None }, address);
    }

    fn tell(&self, mut topic: Topic, address: Option<IpAddr>) {
        let mut inner = self.lock();
        if inner.topics.len() >= TOLD_APART && !inner.topics.contains_key(&topic) {
            (topic.by, topic.grant) = (None, None);
        }
        let line = inner.topics.entry(topic).or_default();
        (line.address, line.at, line.count) = (address, Timestamp::now(), line.count.saturating_add(1));
        if line.is_due() {
            self.news.notify_one();
        }
    }

    /// Notes that no server has acknowledged, those that are due now among them.
    pub fn pending(&self) -> Vec<ViewerNote> {
        let mut inner = self.lock();
        let Inner { number, topics } = &mut *inner;
        topics.retain(|_, line| line.count > 0 || line.note.is_some() || !line.has_rested());
        let mut pending = Vec::new();
        for (topic, line) in topics {
            if pending.len() >= AT_ONCE {
                break;
            }
            if line.is_due() {
                *number += 1;
                line.note = Some(ViewerNote {
                    number: *number,
                    session: topic.session.clone(),
                    entrance: Entrance { way: topic.way, address: line.address, grant: topic.grant.clone() },
                    by: topic.by.clone(),
                    refused: topic.refused,
                    count: std::mem::take(&mut line.count),
                    at: line.at,
                });
                line.told = Some(Instant::now());
            }
            pending.extend(line.note.clone());
        }
        pending
    }

    /// A server has these in the trail: all that were sent, up to this number.
    pub fn acknowledge(&self, sent: &[ViewerNote], up_to: u64) {
        let is_told = |note: &ViewerNote| note.number <= up_to && sent.iter().any(|sent| sent.number == note.number);
        for line in self.lock().topics.values_mut() {
            line.note.take_if(|note| is_told(note));
        }
    }

    /// Completes when something is to be told at once.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn has_rested(&self) -> bool {
        self.told.is_none_or(|told| told.elapsed() >= AT_MOST_EVERY)
    }

    fn is_due(&self) -> bool {
        self.count > 0 && self.note.is_none() && self.has_rested()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    fn desk() -> SessionId {
        SessionId::parse("desk").unwrap()
    }

    fn knock(told: &Told, last: u8) {
        let address = Some(IpAddr::from([10, 0, 0, last]));
        told.refused(&desk(), ViewerWay::DirectVnc, address, None, Refusal::WrongPassword);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_one_note_and_everybody_is_counted() {
        let told = Told::default();
        knock(&told, 1);
        told.news().await;
        let first = told.pending();
        assert_eq!((first.len(), first[0].count), (1, 1));
        for last in 2..=100 {
            knock(&told, last);
        }
        assert_eq!(told.pending(), first, "said again until somebody has it");
        told.acknowledge(&first, first[0].number);
        assert_eq!(told.pending(), [], "not before ten seconds are over");
        tokio::time::advance(AT_MOST_EVERY).await;
        let rest = told.pending();
        let [note] = &rest[..] else { panic!("{rest:?}") };
        assert_eq!((note.count, note.entrance.address), (99, Some(IpAddr::from([10, 0, 0, 100]))));
        assert!(note.number > first[0].number);
        // What comes while it is on its way is in the next one.
        knock(&told, 7);
        tokio::time::advance(AT_MOST_EVERY).await;
        assert_eq!(told.pending(), rest);
        told.acknowledge(&rest, note.number);
        assert_eq!(told.pending()[0].count, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn causes_ways_and_grants_are_told_apart_and_forgotten_when_told() {
        let told = Told::default();
        let join = |grant: &str| {
            let joined = Joined { by: "ann".to_owned(), grant: Some(GrantId::parse(grant).unwrap()) };
            told.joined(&desk(), ViewerWay::DirectRdp, None, joined);
        };
        join("one");
        join("two");
        knock(&told, 1);
        told.refused(&desk(), ViewerWay::Vnc, None, Some("ann"), Refusal::WrongPassword);
        told.refused(&desk(), ViewerWay::DirectVnc, None, None, Refusal::NotRfb);
        let notes = told.pending();
        assert_eq!(notes.len(), 5);
        assert!(notes.iter().all(|note| note.count == 1));
        told.acknowledge(&notes, notes.iter().map(|note| note.number).max().unwrap());
        tokio::time::advance(AT_MOST_EVERY).await;
        assert_eq!(told.pending(), []);
        assert!(told.lock().topics.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_apart_is_bounded() {
        let told = Told::default();
        for number in 0..2 * TOLD_APART {
            let by = number.to_string();
            told.joined(&desk(), ViewerWay::Vnc, None, Joined { by, grant: None });
        }
        assert!(told.lock().topics.len() <= TOLD_APART + 1);
        let mut counted = 0;
        loop {
            let notes = told.pending();
            if notes.is_empty() {
                break;
            }
            counted += notes.iter().map(|note| note.count as usize).sum::<usize>();
            told.acknowledge(&notes, u64::MAX);
        }
        assert_eq!(counted, 2 * TOLD_APART, "nobody is left out");
    }
}
