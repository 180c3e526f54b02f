//! Pure: when a session's own time limits end it.
//!
//! Idle time counts from the last use ([`crate::uses`]), the lifetime from when the session got its runner, or was taken
//! from its pool where that was later. Agents that are nobody's have no time of their own: their pool replaces them.

use std::time::Duration;

use helix_protocol::api::SessionView;
use helix_protocol::assignment::Lease;
use helix_protocol::record::SessionRecord;
use helix_protocol::session::{Cause, Desired, ObservedSession, SessionPhase};
use helix_protocol::subject;
use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;
use crate::store::view::Content;

/// Code of the cause of a session that nobody used for too long.
pub const IDLE: &str = "idle_timeout";
/// Code of the cause of a session that ran for long enough.
pub const OUTLIVED: &str = "lifetime";

/// What becomes of a session now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It goes on, at least for so long; for ever where absent.
    GoesOn(Option<Duration>),
    /// It is stopped.
    Ends(Cause),
}

/// Since when its time counts, for a session that somebody has and that runs.
pub fn began(record: &SessionRecord) -> Option<Timestamp> {
    let runs = record.warm.is_none()
        && record.desired == Desired::Running
        && !record.deleted
        && record.desktop_of.is_none()
        && record.work.moving.is_none();
    let assigned = record.assignment.as_ref().filter(|_| runs)?.assigned_at;
    Some(record.claimed_at.map_or(assigned, |claimed| claimed.max(assigned)))
}

/// When it was used last, where that limits it: its desktop has to be up.
pub fn idle_since(record: &SessionRecord, phase: SessionPhase, leases: &Content<Lease>) -> Option<Timestamp> {
    record.spec.idle_timeout?;
    let began = began(record).filter(|_| phase == SessionPhase::Ready)?;
    let used = leases.get(&subject::used_key(&record.id)).map(|entry| entry.value.renewed_at);
    Some(used.map_or(began, |used| used.max(began)))
}

/// Judges a session that has not ended. `heard`: its runner is, so that it is known who looks at it.
pub fn judge(
    record: &SessionRecord,
    seen: Option<&ObservedSession>,
    heard: bool,
    leases: &Content<Lease>,
    clock: &Clock,
) -> Judged {
    let left = |limit: Duration, since| limit.checked_sub(clock.age(since)).filter(|left| !left.is_zero());
    let mut next: Option<Duration> = None;
    if let Some((limit, began)) = record.spec.lifetime.zip(began(record)) {
        match left(limit.duration(), began) {
            Some(left) => next = Some(left),
            None => return Judged::Ends(Cause::new(OUTLIVED, format!("it ran for {limit}, its lifetime"))),
        }
    }
    let idle = seen.filter(|_| heard).and_then(|seen| idle_since(record, seen.phase, leases));
    if let Some((limit, since)) = record.spec.idle_timeout.zip(idle) {
        match left(limit.duration(), since) {
            Some(left) => next = Some(next.map_or(left, |next| next.min(left))),
            None => return Judged::Ends(Cause::new(IDLE, format!("idle for {limit}"))),
        }
    }
    Judged::GoesOn(next)
}

/// True where a time limit, and nobody, ended it.
pub fn ended_by_limit(record: &SessionRecord) -> Option<&Cause> {
    let cause = record.cause.as_ref().filter(|_| record.desired == Desired::Stopped && record.assignment.is_some());
    cause.filter(|cause| cause.code == IDLE || cause.code == OUTLIVED)
}

/// Fills in what people are shown before it happens.
pub fn show(view: &mut SessionView, record: &SessionRecord, leases: &Content<Lease>) {
    let after = |since: Timestamp, limit: Duration| {
        since.saturating_add(SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX)).ok()
    };
    view.idle_since = idle_since(record, view.phase, leases);
    let idle = view.idle_since.zip(record.spec.idle_timeout).and_then(|(since, limit)| after(since, limit.duration()));
    let life = began(record).filter(|_| !view.phase.is_terminal()).zip(record.spec.lifetime);
    let life = life.and_then(|(since, limit)| after(since, limit.duration()));
    view.expires_at = [idle, life].into_iter().flatten().min();
}

#[cfg(test)]
mod tests;
