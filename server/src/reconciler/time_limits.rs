//! Sessions whose own time is up are stopped, with the cause.
//!
//! Looked at with every pass, against the views; the answer is when the next one is due, so that one timer serves all.
//! Nothing ends before the bus has been healthy, and this process leading, for one lost-timeout: until then servers and
//! runners may not have been able to say what is used.

use helix_protocol::record::SessionRecord;
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Cause, Desired};
use helix_protocol::{ErrorCode, subject};
use jiff::Timestamp;
use std::sync::PoisonError;
use tokio::time::Instant;

use super::Reconciler;
use crate::error::Result;
use crate::sessions::time_limits::{Judged, judge};
use crate::sessions::view::{has_ended, observed_of};
use crate::store::Versioned;

impl Reconciler {
    /// Stops what has outlived its limits. Answers when to look again.
    pub(super) async fn end_expired(&self, steady_since: Instant) -> Result<Option<Instant>> {
        let now = Instant::now();
        let jump = self.clock.lock().unwrap_or_else(PoisonError::into_inner).look(Timestamp::now(), now);
        if let Some(jump) = jump {
            tracing::warn!("the clock of this machine jumped by {jump:#}; nothing gets older by that");
        }
        let may_end = steady_since + self.config.lost_timeout;
        let (ending, next) = self.judge_sessions(now);
        let next = next.map(|next| next.max(may_end));
        if ending.is_empty() {
            self.forget_uses().await?;
            return Ok(next);
        }
        if now < may_end {
            return Ok(Some(may_end));
        }
        // Another server may have seen a use a moment ago.
        self.store.leases.catch_up().await?;
        for (entry, cause) in self.judge_sessions(now).0 {
            self.end_by_limit(entry, cause).await?;
        }
        Ok(next)
    }

    fn judge_sessions(&self, now: Instant) -> (Vec<(Versioned<SessionRecord>, Cause)>, Option<Instant>) {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        // In this order: see `View::read`.
        let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
        let (runners, leases) = (self.store.runners.view().read(), self.store.leases.view().read());
        let (mut ending, mut next) = (Vec::new(), None::<Instant>);
        for (_, entry) in sessions.iter() {
            let record = &*entry.value;
            let is_limited = record.spec.idle_timeout.is_some() || record.spec.lifetime.is_some();
            let Some(assignment) = record.assignment.as_ref().filter(|_| is_limited) else { continue };
            if has_ended(record, &observed) {
                continue;
            }
            let runner = runners.get(assignment.runner.as_str());
            let heard = runner.is_some_and(|runner| runner.value.liveness == Liveness::Online);
            match judge(record, observed_of(record, &observed), heard, &leases, &clock) {
                Judged::Ends(cause) => ending.push((entry.clone(), cause)),
                Judged::GoesOn(Some(left)) => next = Some(next.map_or(now + left, |next| next.min(now + left))),
                Judged::GoesOn(None) => {}
            }
        }
        (ending, next)
    }

    async fn end_by_limit(&self, entry: Versioned<SessionRecord>, cause: Cause) -> Result<()> {
        let why = cause.message.clone();
        let record = SessionRecord { desired: Desired::Stopped, cause: Some(cause), ..(*entry.value).clone() };
        match self.store.sessions.update(record.id.as_str(), &record, entry.revision).await {
            Ok(revision) => {
                tracing::info!(session.id = %record.id, why, "a time limit stops a session");
                self.sessions.tell(&record, revision).await;
                Ok(())
            }
            // Somebody changed it: the next pass judges what it is now.
            Err(error) if error.code == ErrorCode::Conflict => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what says of sessions that are gone when they were used.
    async fn forget_uses(&self) -> Result<()> {
        let left: Vec<_> = {
            let (sessions, leases) = (self.store.sessions.view().read(), self.store.leases.view().read());
            let uses = leases.with_prefix(subject::USED_KEYS);
            let is_left = |key: &str| sessions.get(&key[subject::USED_KEYS.len()..]).is_none();
            uses.filter(|(key, _)| is_left(key)).map(|(key, entry)| (key.to_owned(), entry.revision)).collect()
        };
        for (key, revision) in left {
            match self.store.leases.delete(&key, revision).await {
                Err(error) if error.code != ErrorCode::Conflict => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
