//! The latest report of every session, and which of them a server has not acknowledged yet.
//!
//! Session tasks put reports in, [`super`] sends the pending ones until they are acknowledged. Only the latest report
//! of a session counts: it says everything that the ones before said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use helix_protocol::session::{ObservedSession, SessionPhase};
use helix_protocol::{Epoch, SessionId};
use tokio::sync::watch;

/// Shared by sessions, link, reconciler and health. Clones are the same.
#[derive(Debug, Clone)]
pub struct Reports {
    slots: Arc<Mutex<BTreeMap<SessionId, Slot>>>,
    /// Counts changes, so that waiting is level-triggered.
    version: Arc<watch::Sender<u64>>,
}

#[derive(Debug)]
struct Slot {
    observed: ObservedSession,
    pending: bool,
}

impl Default for Reports {
    fn default() -> Self {
        Self { slots: Arc::default(), version: Arc::new(watch::Sender::new(0)) }
    }
}

impl Reports {
    /// Replaces the session's report and makes it pending.
    pub fn put(&self, observed: ObservedSession) {
        self.slots().insert(observed.session.clone(), Slot { observed, pending: true });
        self.bump();
    }

    /// Removes a session that is forgotten everywhere.
    pub fn remove(&self, session: &SessionId) {
        self.slots().remove(session);
        self.bump();
    }

    /// Makes every report pending again: after a reconnect the server may have lost what it acknowledged.
    pub fn repeat_all(&self) {
        self.slots().values_mut().for_each(|slot| slot.pending = true);
        self.bump();
    }

    /// Marks a report as stored. An acknowledgement of an older one changes nothing.
    pub fn acknowledge(&self, session: &SessionId, epoch: Epoch, report: u64) {
        if let Some(slot) = self.slots().get_mut(session)
            && (slot.observed.epoch, slot.observed.report) == (epoch, report)
        {
            slot.pending = false;
        }
        self.bump();
    }

    /// Reports that nobody acknowledged yet.
    pub fn pending(&self) -> Vec<ObservedSession> {
        self.slots().values().filter(|slot| slot.pending).map(|slot| slot.observed.clone()).collect()
    }

    /// Sessions whose last report, that nothing of them is left, is acknowledged.
    pub fn gone(&self) -> Vec<SessionId> {
        let slots = self.slots();
        slots.iter().filter(|(_, slot)| slot.observed.forgotten && !slot.pending).map(|(id, _)| id.clone()).collect()
    }

    /// The latest report of a session.
    pub fn get(&self, session: &SessionId) -> Option<ObservedSession> {
        self.slots().get(session).map(|slot| slot.observed.clone())
    }

    /// Sessions that have not ended.
    pub fn live(&self) -> Vec<SessionId> {
        let slots = self.slots();
        slots.iter().filter(|(_, slot)| !slot.observed.phase.is_terminal()).map(|(id, _)| id.clone()).collect()
    }

    /// Sessions that have not ended: each occupies a slot.
    pub fn active(&self) -> u32 {
        self.slots().values().filter(|slot| !slot.observed.phase.is_terminal()).count() as u32
    }

    /// Number of sessions by phase.
    pub fn phases(&self) -> BTreeMap<String, u32> {
        let mut phases = BTreeMap::new();
        for slot in self.slots().values() {
            let phase: SessionPhase = slot.observed.phase;
            *phases.entry(phase.to_string()).or_insert(0) += 1;
        }
        phases
    }

    /// Changes whenever anything here does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<SessionId, Slot>> {
        // No code panics while it holds the lock; if one did, the map would still be whole.
        self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use helix_protocol::{Generation, KindName, RunnerId};

    use super::*;

    fn observed(report: u64) -> ObservedSession {
        ObservedSession {
            session: SessionId::parse("s").expect("valid id"),
            runner: RunnerId::parse("r").expect("valid id"),
            epoch: Epoch(2),
            generation: Generation(1),
            report,
            phase: SessionPhase::Ready,
            cause: None,
            result: None,
            timeline: Vec::new(),
            kind: KindName::parse("command").expect("valid kind"),
            display: None,
            pid: None,
            workspace: None,
            limits: None,
            control: 0,
            grants: 0,
            direct: None,
            frozen: false,
            forgotten: false,
            work: None,
            unclaimed: None,
        }
    }

    #[test]
    fn only_the_latest_report_is_repeated_and_only_its_own_acknowledgement_ends_that() {
        let reports = Reports::default();
        reports.put(observed(1));
        reports.put(observed(2));
        assert_eq!(reports.pending(), [observed(2)]);
        let id = observed(2).session;
        reports.acknowledge(&id, Epoch(2), 1);
        reports.acknowledge(&id, Epoch(1), 2);
        assert_eq!(reports.pending().len(), 1, "an older acknowledgement ended it");
        reports.acknowledge(&id, Epoch(2), 2);
        assert!(reports.pending().is_empty());
        reports.repeat_all();
        assert_eq!(reports.pending().len(), 1);
        assert_eq!(reports.active(), 1);
    }
}
