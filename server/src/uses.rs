//! Who uses which session, as far as sessions with an idle time-out go.
//!
//! A session is in use while somebody looks at its desktop, has a terminal or a command of it open or a prompt is being
//! worked on, and at every call on its desktop, files, commands and conversation. Each server notes what it sees of
//! that: the routes ([`crate::http`]), the runners' heartbeats ([`crate::link`]), the owners of conversations
//! ([`crate::threads`]). The latest time of all is the key `used.<session>` in `helix_leases`, by which the leader judges.
//!
//! One task per process writes: at once what comes after a pause, and else at most every tenth of the time-out. While
//! the bus is away it waits; nothing is lost but with the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use helix_protocol::assignment::Lease;
use helix_protocol::{ErrorCode, SessionId, subject};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::store::Store;

/// Between two writes for one session, at most and at least.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Before writes that failed are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a write is tried again after another server was faster.
const MAX_TRIES: usize = 5;

/// What this process sees being used. Cheap to clone.
#[derive(Clone)]
pub struct Uses {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    server_id: Arc<str>,
    seen: Mutex<HashMap<SessionId, Seen>>,
    wake: Notify,
}

/// One session.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// How many use it now.
    open: u32,
    /// When it was used last.
    last: Timestamp,
    /// Between two writes.
    pause: Duration,
    /// Time that was written last, and when.
    written: Option<(Timestamp, Instant)>,
}

impl Seen {
    /// When it is to be written; `None`: what is there is true.
    fn due(&self, now: Instant) -> Option<Instant> {
        match self.written {
            None => Some(now),
            Some((time, at)) => (self.open > 0 || self.last > time).then_some(at + self.pause),
        }
    }
}

/// A session is in use until this is dropped.
#[must_use]
pub struct InUse(Option<(Uses, SessionId)>);

impl Drop for InUse {
    fn drop(&mut self) {
        let Some((uses, session)) = self.0.take() else { return };
        if let Some(seen) = uses.seen().get_mut(&session) {
            seen.open = seen.open.saturating_sub(1);
            seen.last = Timestamp::now();
        }
        uses.inner.wake.notify_one();
    }
}

impl Uses {
    /// Nothing is used yet.
    pub fn new(store: Store, server_id: Arc<str>) -> Self {
        Self { inner: Arc::new(Inner { store, server_id, seen: Mutex::default(), wake: Notify::new() }) }
    }

    /// Somebody begins to use a session, under whichever name of its desktop.
    pub fn begin(&self, session: &SessionId) -> InUse {
        let Some((session, pause)) = self.limited(session) else { return InUse(None) };
        {
            let (mut all, last) = (self.seen(), Timestamp::now());
            let seen = all.entry(session.clone()).or_insert(Seen { open: 0, last, pause, written: None });
            seen.open += 1;
            seen.last = last;
        }
        self.inner.wake.notify_one();
        InUse(Some((self.clone(), session)))
    }

    /// A session is used at this moment.
    pub fn note(&self, session: &SessionId) {
        drop(self.begin(session));
    }

    /// The same, durable when this returns.
    pub async fn mark(&self, session: &SessionId) -> Result<()> {
        match self.limited(session) {
            Some((session, _)) => self.write(&session, Timestamp::now()).await,
            None => Ok(()),
        }
    }

    /// Writes what is due until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let next = self.write_due().await;
            // All arms are cancel safe: a token, a permit that stays, and a timer.
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.wake.notified() => {}
                () = tokio::time::sleep_until(next.unwrap_or_else(|| Instant::now() + LONGEST_PAUSE)) => {}
            }
        }
    }

    /// Answers when something is due next.
    async fn write_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let due: Vec<_> = {
            let mut all = self.seen();
            // What nobody uses and what is written is forgotten once it would be written at once again.
            all.retain(|_, seen| seen.due(now).is_some() || seen.written.is_some_and(|(_, at)| at + seen.pause > now));
            for seen in all.values_mut().filter(|seen| seen.open > 0) {
                seen.last = Timestamp::now();
            }
            let is_due = |seen: &Seen| seen.due(now).is_some_and(|due| due <= now);
            all.iter().filter(|(_, seen)| is_due(seen)).map(|(session, seen)| (session.clone(), seen.last)).collect()
        };
        for (session, last) in due {
            if let Err(error) = self.write(&session, last).await {
                tracing::debug!(session.id = %session, "that it is used is not noted yet: {error}");
                return Some(Instant::now() + RETRY);
            }
            if let Some(seen) = self.seen().get_mut(&session) {
                seen.written = Some((last, Instant::now()));
            }
        }
        let now = Instant::now();
        self.seen().values().filter_map(|seen| seen.due(now)).min()
    }

    /// The latest time stays, whoever writes it.
    async fn write(&self, session: &SessionId, at: Timestamp) -> Result<()> {
        let (leases, key) = (&self.inner.store.leases, subject::used_key(session));
        let server = self.inner.server_id.to_string();
        let lease = Lease { server, renewed_at: at, heartbeat: None, sync: None, scale: None };
        for _ in 0..MAX_TRIES {
            let lookup = leases.get(&key).await?;
            let revision = lookup.revision();
            if lookup.found().is_some_and(|entry| entry.value.renewed_at >= at) {
                return Ok(());
            }
            match leases.update(&key, &lease, revision).await {
                Err(error) if error.code == ErrorCode::Conflict => {}
                done => return done.map(|_| ()),
            }
        }
        // Others use it as well, and say so.
        Ok(())
    }

    /// The session that has the desktop, and the pause between writes, where an idle time-out is to be judged.
    fn limited(&self, session: &SessionId) -> Option<(SessionId, Duration)> {
        let sessions = self.inner.store.sessions.view().read();
        let own = &sessions.get(session.as_str())?.value;
        let record = match &own.desktop_of {
            Some(desktop) => &sessions.get(desktop.as_str())?.value,
            None => own,
        };
        let pause = record.spec.idle_timeout?.duration() / 10;
        Some((record.id.clone(), pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)))
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<SessionId, Seen>> {
        self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_use_after_a_pause_is_written_at_once_and_others_in_their_time() {
        let now = Instant::now();
        let time = |second| Timestamp::from_second(second).expect("a time");
        let pause = Duration::from_secs(3);
        let seen = |open, last, written| Seen { open, last: time(last), pause, written };
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds));
        let written = |second, seconds_ago| Some((time(second), ago(seconds_ago).unwrap_or(now)));
        assert_eq!(seen(0, 5, None).due(now), Some(now), "never written");
        assert_eq!(seen(0, 5, written(5, 1)).due(now), None, "it is there");
        assert_eq!(seen(0, 6, written(5, 1)).due(now), Some(now + Duration::from_secs(2)));
        assert!(seen(0, 60, written(5, 50)).due(now).is_some_and(|due| due <= now), "after a pause");
        assert!(seen(1, 5, written(5, 4)).due(now).is_some_and(|due| due <= now), "somebody is there still");
    }
}
