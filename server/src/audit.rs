//! The audit trail: who did what, and who was refused.
//!
//! [`Audit::note`] is called for every request that changes something, shows more than lists, or is refused
//! (`http/audit.rs`), also where its caller hangs up; it puts an entry into stream `EXTERNAL_AGENTS` beside the lifecycle events, without waiting for the
//! disk: what was done is durable by itself, with the name of who asked. [`Audit::page`] reads both back as one row.
//!
//! Refusals, and tickets, are told at most once in ten seconds per principal, action, target and code, with the count of
//! those since: agents with a wrong token dial again for ever. A short task per entry. What runners say of viewers comes by [`viewers`].

mod viewers;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use helix_protocol::api::audit::{AuditItem, AuditPage};
use helix_protocol::audit::AuditEntry;
use helix_protocol::event::{ControlChange, Event, FeedItem, RecordingChange};
use tokio::time::Instant;

use crate::error::Result;
use crate::events::Events;

/// Between two notes of the same refusal.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// Refusals that are told apart; more than that at once is a flood, and the oldest knowledge of it is of no use.
const TOLD_APART: usize = 1024;
/// Events that are looked at for one page.
const LOOKED_AT: u64 = 20_000;

/// Principal of what the control plane does by itself.
const OURSELVES: &str = "helix";
/// Result of what was done.
pub const OK: &str = "ok";

/// The trail. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    events: Events,
    refusals: Arc<Mutex<HashMap<[String; 4], Refused>>>,
}

struct Refused {
    told: Instant,
    since: u32,
}

/// Which entries.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// After this sequence; the newest ones where absent.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: usize,
    /// Only of this principal.
    pub principal: Option<String>,
    /// Only about this target.
    pub target: Option<String>,
    /// Only what was not done.
    pub refused: bool,
}

impl AuditFilter {
    fn wants(&self, entry: &AuditEntry) -> bool {
        self.principal.as_ref().is_none_or(|principal| *principal == entry.principal)
            && self.target.as_ref().is_none_or(|target| *target == entry.target)
            && (!self.refused || entry.result != OK)
    }
}

impl Audit {
    /// A trail in this feed.
    pub fn new(events: Events) -> Self {
        Self { events, refusals: Arc::default() }
    }

    /// Puts an entry into the trail, unless it repeats what was told a moment ago. Nobody waits for it; the process does
    /// at its end.
    pub fn note(&self, mut entry: AuditEntry) {
        // Whoever has the right to it may still ask for one after the other.
        if entry.result != OK || entry.action.ends_with("/tickets") {
            match self.repeated(&entry) {
                Some(repeated) => entry.repeated = repeated,
                None => return,
            }
        }
        let (events, id) = (self.events.clone(), crate::keys::random_id().unwrap_or_default());
        self.events.spawn(async move { events.tell(&Event::Audit { entry }, &format!("audit.{id}")).await });
    }

    /// How often the same was refused since it was told; `None` where it is not to be told now.
    fn repeated(&self, entry: &AuditEntry) -> Option<u32> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= TOLD_APART {
            refusals.clear();
        }
        let AuditEntry { principal, action, target, result, .. } = entry;
        let key = [principal, action, target, result].map(String::clone);
        let known = refusals.entry(key);
        match known {
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(Refused { told: Instant::now(), since: 0 });
                Some(0)
            }
            std::collections::hash_map::Entry::Occupied(mut known) => {
                let known = known.get_mut();
                if known.told.elapsed() < AT_MOST_EVERY {
                    known.since += 1;
                    return None;
                }
                known.told = Instant::now();
                Some(std::mem::take(&mut known.since))
            }
        }
    }

    /// Entries that fit, with what happened by itself among them. Looks at [`LOOKED_AT`] events at most.
    pub async fn page(&self, filter: &AuditFilter) -> Result<AuditPage> {
        let (oldest, newest) = self.events.range().await?;
        let first = filter.after.map_or(newest.saturating_sub(LOOKED_AT), |after| after.min(newest));
        let mut entries = VecDeque::new();
        let mut next_after = newest.max(first);
        let mut stored = self.events.stored_after(first).await?;
        let mut looked_at = 0;
        while let Some(item) = stored.next().await? {
            looked_at += 1;
            let sequence = item.sequence;
            if let Some(item) = audited(item).filter(|item| filter.wants(&item.entry)) {
                entries.push_back(item);
            }
            let full = entries.len() >= filter.limit;
            if filter.after.is_some() && (full || looked_at >= LOOKED_AT) {
                next_after = sequence;
                break;
            }
            if entries.len() > filter.limit {
                entries.pop_front();
            }
        }
        let truncated = filter.after.is_none() && (first >= oldest && first > 0 || entries.len() >= filter.limit);
        Ok(AuditPage { entries: entries.into(), next_after, truncated })
    }
}

/// An event as an entry of the trail; `None` for steps of a start, which nobody decided on.
pub fn audited(item: FeedItem) -> Option<AuditItem> {
    let done = |at, principal: String, action: String, target: String, result: String| AuditEntry {
        at,
        principal,
        action,
        target,
        result,
        repeated: 0,
        entrance: None,
    };
    let entry = match item.event {
        Event::Audit { entry } => entry,
        // The proof of a recording is for who proves it.
        Event::Session { step: Some(_), .. } | Event::Recording { change: RecordingChange::Chunk { .. }, .. } => {
            return None;
        }
        Event::Session { session, runner, phase, cause, at, .. } => {
            let principal = runner.map_or_else(|| OURSELVES.to_owned(), |runner| format!("runner {runner}"));
            let result = cause.map_or_else(|| OK.to_owned(), |cause| cause.code);
            done(at, principal, format!("session.{phase}"), session.to_string(), result)
        }
        Event::SessionDeleted { session, at } => {
            done(at, OURSELVES.to_owned(), "session.Deleted".to_owned(), session.to_string(), OK.to_owned())
        }
        Event::Control { session, by, why, at, .. } => {
            let why = match why {
                ControlChange::Taken => "taken",
                ControlChange::HandedBack => "handed_back",
                ControlChange::Expired => "expired",
            };
            done(at, by, format!("control.{why}"), session.to_string(), OK.to_owned())
        }
        Event::Recording { recording, change: RecordingChange::Deleted { deletion, .. }, at, .. } => {
            let why = if deletion.retention { "recording.expired" } else { "recording.deleted" };
            done(at, deletion.by, why.to_owned(), recording.to_string(), OK.to_owned())
        }
        Event::Runner { runner, liveness, at, .. } => {
            let action = format!("runner.{liveness:?}").to_lowercase();
            done(at, OURSELVES.to_owned(), action, runner.to_string(), OK.to_owned())
        }
    };
    Some(AuditItem { sequence: item.sequence, entry })
}

#[cfg(test)]
mod tests {
    use helix_protocol::SessionId;
    use helix_protocol::session::SessionPhase;
    use jiff::Timestamp;

    use super::*;

    fn session(step: Option<&str>) -> FeedItem {
        let event = Event::Session {
            session: SessionId::parse("s").expect("valid id"),
            runner: None,
            phase: SessionPhase::Starting,
            step: step.map(str::to_owned),
            cause: None,
            result: None,
            at: Timestamp::UNIX_EPOCH,
        };
        FeedItem { sequence: 7, event }
    }

    #[test]
    fn what_happens_by_itself_is_part_of_the_trail_and_steps_are_not() {
        assert_eq!(audited(session(Some("display"))), None);
        let entry = audited(session(None)).expect("an entry").entry;
        assert_eq!(
            (&*entry.principal, &*entry.action, &*entry.target, &*entry.result),
            ("helix", "session.Starting", "s", "ok")
        );
    }
}
