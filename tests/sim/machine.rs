//! A runner: what agentd does with its orders, and what it says. Whether sessions are held is decided by agentd's own rule.

use std::collections::BTreeMap;

use helix_agentd::fence::{Hold, hold_at};
use helix_protocol::assignment::DesiredSession;
use helix_protocol::checkpoint::WorkSeen;
use helix_protocol::resources::OnLost;
use helix_protocol::session::{Cause, Desired, ObservedSession, SessionPhase};
use helix_protocol::{Epoch, RunnerId, SessionId};
use serde_json::json;

use crate::fleet::LOST;

/// One session on this machine.
#[derive(Debug, Clone)]
pub struct Copy {
    pub epoch: Epoch,
    pub phase: SessionPhase,
    /// When the phase ends by itself.
    until: u64,
    pub held: bool,
    restarts: bool,
    asked: u64,
    deleted: bool,
    report: u64,
    pub acked: u64,
}

impl Copy {
    /// Its processes run.
    pub fn is_live(&self) -> bool {
        !self.phase.is_terminal() && !self.held
    }

    pub fn is_news(&self) -> bool {
        self.report > self.acked
    }

    fn is(&mut self, phase: SessionPhase, until: u64) {
        (self.phase, self.until) = (phase, until);
        self.report += 1;
    }

    fn end(&mut self, now: u64) {
        // What is held dies without another step.
        let phase = if self.held { SessionPhase::Stopped } else { SessionPhase::Stopping };
        self.held = false;
        self.is(phase, now + 300);
    }
}

pub struct Machine {
    pub id: RunnerId,
    pub copies: BTreeMap<SessionId, Copy>,
    /// agentd is there.
    pub up: bool,
    /// Servers can be reached.
    pub linked: bool,
    /// Counts agentd's lives: no answer reaches the next one.
    pub life: u64,
    /// When the last heartbeat was sent that was acknowledged: on disk.
    contact: Option<u64>,
    hold: Hold,
    desired: Option<Vec<DesiredSession>>,
    pub sync_wanted: bool,
}

impl Machine {
    pub fn new(id: RunnerId) -> Self {
        let hold = Hold::default();
        let (copies, contact, desired) = (BTreeMap::new(), None, None);
        Self { id, copies, up: true, linked: true, life: 0, contact, hold, desired, sync_wanted: true }
    }

    fn is_silent(&self, now: u64) -> bool {
        self.contact.is_some_and(|at| now >= hold_at(at, LOST))
    }

    pub fn heard(&mut self, sent_at: u64) {
        self.contact = self.contact.max(Some(sent_at));
    }

    pub fn synced(&mut self, asked_at: u64, set: Vec<DesiredSession>, now: u64) {
        self.desired = Some(set);
        self.hold.synced(asked_at);
        self.step(now);
    }

    pub fn kill(&mut self) {
        (self.up, self.desired, self.life) = (false, None, self.life + 1);
    }

    pub fn start(&mut self, now: u64) {
        (self.up, self.sync_wanted, self.hold) = (true, true, Hold::new(self.is_silent(now)));
        self.copies.values_mut().for_each(|copy| copy.report += 1);
    }

    /// All processes are gone; the disk is not.
    pub fn lose_power(&mut self, now: u64) {
        self.kill();
        self.contact = None;
        for copy in self.copies.values_mut().filter(|copy| !copy.phase.is_terminal()) {
            copy.held = false;
            copy.is(SessionPhase::Failed, now);
        }
        self.start(now);
    }

    /// Time has passed. Returns whether sessions are held from now on.
    pub fn step(&mut self, now: u64) -> bool {
        let silent = self.is_silent(now);
        // Without agentd, who stands in for it holds and takes nothing back.
        let was_held = self.hold.is_held();
        if self.contact.is_some() && (self.up || silent) {
            let change = self.hold.look(silent, now);
            self.sync_wanted |= change == Some(helix_agentd::fence::Change::Back);
        }
        let held = self.hold.is_held();
        if held {
            // What ends already goes on to do so.
            let is_held =
                |copy: &Copy| copy.restarts && matches!(copy.phase, SessionPhase::Starting | SessionPhase::Ready);
            self.copies.values_mut().for_each(|copy| copy.held |= is_held(copy));
        }
        if self.up {
            for order in self.desired.clone().unwrap_or_default() {
                self.obey(&order, held, now);
            }
        }
        for copy in self.copies.values_mut().filter(|copy| !copy.held && copy.until <= now) {
            match copy.phase {
                SessionPhase::Starting => copy.is(SessionPhase::Ready, u64::MAX),
                SessionPhase::Stopping => copy.is(SessionPhase::Stopped, u64::MAX),
                _ => {}
            }
        }
        held && !was_held
    }

    fn obey(&mut self, order: &DesiredSession, held: bool, now: u64) {
        let runs = order.desired == Desired::Running;
        let restarts = order.spec.on_lost == Some(OnLost::Restart);
        let fresh = |report| Copy {
            epoch: order.epoch,
            phase: if runs { SessionPhase::Starting } else { SessionPhase::Stopped },
            until: now + 400,
            held: held && restarts && runs,
            restarts,
            asked: 0,
            deleted: order.deleted,
            report,
            acked: 0,
        };
        let Some(copy) = self.copies.get_mut(&order.session) else {
            self.copies.insert(order.session.clone(), fresh(1));
            return;
        };
        if order.epoch < copy.epoch {
            return;
        }
        let is_over = copy.phase.is_terminal();
        match (runs, is_over) {
            (true, true) if order.epoch > copy.epoch => {
                // Reports of one life never count against the next: its epoch is newer.
                *copy = fresh(1);
            }
            (true, false) if order.epoch > copy.epoch => copy.end(now),
            (true, false) => {
                copy.held = held && restarts;
                if copy.phase == SessionPhase::Ready && !copy.held && copy.asked < order.work.asked {
                    copy.asked = order.work.asked;
                    copy.report += 1;
                }
            }
            (false, false) => {
                copy.epoch = order.epoch;
                if copy.phase != SessionPhase::Stopping {
                    copy.end(now);
                }
                copy.deleted |= order.deleted;
            }
            (false, true) if order.deleted && !copy.deleted || order.epoch > copy.epoch => {
                (copy.deleted, copy.epoch) = (copy.deleted || order.deleted, order.epoch);
                copy.report += 1;
            }
            _ => {}
        }
    }

    /// What is said of a session now.
    pub fn report(&self, id: &SessionId) -> ObservedSession {
        let copy = &self.copies[id];
        let is_over = copy.phase.is_terminal();
        let mut seen: ObservedSession = serde_json::from_value(json!({
            "session": id, "runner": self.id, "epoch": copy.epoch, "generation": 1, "report": copy.report,
            "phase": copy.phase, "timeline": [], "kind": "command", "forgotten": copy.deleted && is_over,
        }))
        .expect("a report");
        seen.cause = is_over.then(|| Cause::new("ended", "for a reason"));
        seen.work = Some(WorkSeen { asked: copy.asked, ..WorkSeen::default() });
        seen
    }

    pub fn acknowledged(&mut self, seen: &ObservedSession) {
        let Some(copy) = self.copies.get_mut(&seen.session).filter(|copy| copy.epoch == seen.epoch) else { return };
        copy.acked = copy.acked.max(seen.report);
        if seen.forgotten {
            self.copies.remove(&seen.session);
            self.desired.iter_mut().for_each(|set| set.retain(|order| order.session != seen.session));
        }
    }
}
