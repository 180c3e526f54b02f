//! What a runner's reaper has removed, as part of the audit trail.

use helix_protocol::RunnerId;
use helix_protocol::audit::AuditEntry;
use helix_protocol::event::Event;
use helix_protocol::reap::Reaped;
use helix_protocol::subject;
use jiff::Timestamp;

use super::Runners;
use crate::audit::OK;

impl Runners {
    /// Tells it, once: when its numbers are higher than those that it said before.
    pub(super) async fn tell_reaped(&self, id: &RunnerId, now: &Reaped) {
        let known = self.inner.store.leases.view().get(&subject::runner_lease_key(id));
        let before = known.and_then(|lease| lease.value.heartbeat.as_ref().map(|beat| beat.leftovers.reaped));
        let Some(target) = told(before.unwrap_or_default(), now) else { return };
        let principal = format!("runner {id}");
        let (action, result) = ("reap".to_owned(), OK.to_owned());
        let entry = AuditEntry { at: Timestamp::now(), principal, action, target, result, repeated: 0, entrance: None };
        // Two servers that hear the same are told apart by nothing: it is the same.
        let event = format!("reaped.{id}.{}.{}", now.sessions, now.workspaces);
        self.inner.events.tell(&Event::Audit { entry }, &event).await;
    }
}

/// What is new, for people. An agentd that was started anew counts from nothing.
fn told(before: Reaped, now: &Reaped) -> Option<String> {
    let new = |before: u64, now: u64| if now < before { now } else { now - before };
    let (sessions, workspaces) = (new(before.sessions, now.sessions), new(before.workspaces, now.workspaces));
    let parts = [(sessions, "leftover sessions"), (workspaces, "kept workspaces")];
    let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{what}: {count}"));
    let text = parts.collect::<Vec<_>>().join(", ");
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told() {
        let reaped = |sessions, workspaces| Reaped { sessions, workspaces, ..Reaped::default() };
        assert_eq!(told(reaped(0, 0), &reaped(0, 0)), None);
        assert_eq!(told(reaped(2, 1), &reaped(2, 1)), None);
        assert_eq!(told(reaped(2, 1), &reaped(3, 1)).as_deref(), Some("leftover sessions: 1"));
        assert_eq!(told(reaped(5, 0), &reaped(2, 1)).as_deref(), Some("leftover sessions: 2, kept workspaces: 1"));
    }
}
