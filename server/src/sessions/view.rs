//! Pure: what was asked, what was seen and how its runner is heard → how a session is.

use std::collections::BTreeMap;

use helix_protocol::api::{Endpoints, SessionView, SyncStatus};
use helix_protocol::assignment::{Assignment, DesiredSession, Lease};
use helix_protocol::checkpoint::WorkOrder;
use helix_protocol::control::Control;
use helix_protocol::record::SessionRecord;
use helix_protocol::resources::Usage;
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Cause, Desired, DirectPorts, ObservedSession, SessionPhase, SessionSpec, TimelineStep};
use helix_protocol::{RecordingId, SessionId, subject};

use super::room::gives_way_to;
use super::time_limits::ended_by_limit;
use crate::auth::Principal;
use crate::store::view::Content;

/// Everything that is known about one session. At least one of `record` and `observed` is there.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Which.
    pub id: &'a SessionId,
    /// What was asked and decided: of the session that has the desktop.
    pub record: Option<&'a SessionRecord>,
    /// What the runner of the assignment reported (or the runner that runs it unclaimed).
    pub observed: Option<&'a ObservedSession>,
    /// How that runner is heard; `None` = there is no such runner any more.
    pub liveness: Option<Liveness>,
    /// What that runner says that it uses.
    pub usage: Option<Usage>,
    /// Where `id` is another name of the desktop: its own record.
    pub name: Option<&'a SessionRecord>,
}

/// How the agent's sync socket of a session is, at whichever server, as the leases say.
pub fn sync_of(id: &SessionId, leases: &Content<Lease>) -> SyncStatus {
    let open = leases.get(&subject::sync_lease_key(id)).and_then(|entry| entry.value.sync.clone()).unwrap_or_default();
    // Who was let in since was not refused.
    let refused = leases
        .get(&subject::sync_refused_key(id))
        .filter(|entry| open.connected_at.is_none_or(|connected_at| entry.value.renewed_at > connected_at))
        .and_then(|entry| entry.value.sync.as_ref()?.refused.clone());
    SyncStatus { refused, ..open }
}

impl Known<'_> {
    /// The report, if it is about the assignment. A newer epoch than the record's means that the store went back in
    /// time: the runner knows better.
    fn current(&self) -> Option<&ObservedSession> {
        match self.record {
            None => self.observed,
            Some(record) => {
                let assignment = record.assignment.as_ref()?;
                self.observed.filter(|seen| seen.epoch >= assignment.epoch && seen.runner == assignment.runner)
            }
        }
    }

    /// True where this name of the desktop was stopped, whatever becomes of the desktop.
    fn was_let_go(&self) -> bool {
        match self.name {
            Some(name) => name.desired == Desired::Stopped,
            None => self.record.is_some_and(|record| record.let_go.is_some()),
        }
    }

    /// How it is.
    pub fn phase(&self) -> SessionPhase {
        if self.was_let_go() || self.name.is_some() && self.record.is_none() {
            return SessionPhase::Stopped;
        }
        let seen = self.current().map(|seen| seen.phase);
        let Some(record) = self.record else { return alive(seen.unwrap_or(SessionPhase::Lost), self.liveness) };
        let stopping = record.desired == Desired::Stopped;
        match (&record.assignment, seen) {
            (None, _) if stopping => SessionPhase::Stopped,
            (None, _) => SessionPhase::Pending,
            // It has ended there, and begins elsewhere in a moment.
            (Some(_), Some(phase)) if phase.is_terminal() && ends_to_move(record) => SessionPhase::Stopping,
            (Some(_), Some(phase)) if phase.is_terminal() => phase,
            (Some(_), seen) => {
                let running = if stopping { SessionPhase::Stopping } else { seen.unwrap_or(SessionPhase::Assigned) };
                alive(running, self.liveness)
            }
        }
    }

    /// Why it is so.
    pub fn cause(&self) -> Option<Cause> {
        if self.was_let_go() {
            return Some(Cause::new(
                "stopped_by_user",
                "it was stopped; its desktop may go on under another session id",
            ));
        }
        let phase = self.phase();
        if phase == SessionPhase::Lost {
            return Some(lost_cause(self.liveness));
        }
        // Its runner knows only that it was told to.
        let limit = self.record.and_then(ended_by_limit).filter(|_| phase != SessionPhase::Failed);
        if let Some(cause) = limit {
            return Some(cause.clone());
        }
        if let Some(cause) = self.record.and_then(made_room) {
            return Some(cause);
        }
        let seen = self.current().and_then(|seen| seen.cause.clone());
        seen.or_else(|| {
            self.record.filter(|record| record.assignment.is_none()).and_then(|record| record.cause.clone())
        })
    }

    /// The whole answer. `queue_position` counts from 1 while it waits.
    pub fn view(&self, queue_position: Option<u32>, public_url: &str) -> SessionView {
        let (record, seen) = (self.record, self.current());
        let phase = self.phase();
        let unclaimed = seen.and_then(|seen| seen.unclaimed.as_ref());
        // Who asked for it and in which words; the rest is the desktop's.
        let own = self.name.or(record);
        let mut spec = record
            .or(own)
            .map(|record| record.spec.clone())
            .or_else(|| unclaimed.map(|unclaimed| unclaimed.spec.clone()))
            .unwrap_or_default();
        if let Some(name) = self.name {
            spec.input.clone_from(&name.spec.input);
        }
        let assignment = record.and_then(|record| record.assignment.as_ref());
        let live = matches!(phase, SessionPhase::Starting | SessionPhase::Ready | SessionPhase::Stopping);
        let display = seen.and_then(|seen| seen.display.clone()).filter(|_| live);
        let endpoints = match (&display, phase) {
            (Some(_), SessionPhase::Ready) => {
                // A runner's word: nothing but a host becomes part of an address.
                let direct = seen.and_then(|seen| seen.direct.as_ref()).filter(|direct| is_host(&direct.host));
                endpoints(self.id, public_url, direct)
            }
            _ => Endpoints::default(),
        };
        SessionView {
            id: self.id.clone(),
            owner: own.map(|record| record.owner.clone()).unwrap_or_default(),
            phase,
            cause: self.cause(),
            result: seen.and_then(|seen| seen.result.clone()),
            desired: if self.was_let_go() {
                Desired::Stopped
            } else {
                record.or(own).map_or(Desired::Running, |record| record.desired)
            },
            unclaimed: own.is_none(),
            runner: assignment
                .map(|assignment| assignment.runner.clone())
                .or_else(|| seen.filter(|_| own.is_none()).map(|seen| seen.runner.clone())),
            epoch: record.map(|record| record.epoch).or_else(|| seen.map(|seen| seen.epoch)).unwrap_or_default(),
            retries: record.map_or(0, |record| record.assignments.saturating_sub(1)),
            generation: record
                .map(|record| record.generation)
                .or_else(|| seen.map(|seen| seen.generation))
                .unwrap_or_default(),
            kind: seen.map(|seen| seen.kind.clone()).or_else(|| spec.kind.clone()),
            pool: record.and_then(|record| record.pool.clone()),
            labels: own.map(|record| record.labels.clone()).unwrap_or_default(),
            spec,
            queue_position: queue_position.filter(|_| phase == SessionPhase::Pending),
            display,
            pid: seen.and_then(|seen| seen.pid).filter(|_| live),
            workspace: seen.and_then(|seen| seen.workspace.clone()),
            limits: seen.and_then(|seen| seen.limits.clone()),
            usage: self.usage.filter(|_| live && self.liveness == Some(Liveness::Online)),
            frozen: seen.is_some_and(|seen| seen.frozen) && !phase.is_terminal(),
            sync: SyncStatus::default(),
            spec_task: own.and_then(|record| record.spec_task.clone()),
            recording: record.and_then(recording_of),
            endpoints,
            timeline: self.timeline(),
            created_at: self.created_at(),
            idle_since: None,
            expires_at: None,
        }
    }

    fn created_at(&self) -> jiff::Timestamp {
        let received = || self.observed.and_then(|seen| seen.unclaimed.as_ref()).map(|unclaimed| unclaimed.received_at);
        self.name
            .or(self.record)
            .map(|record| record.created_at)
            .or_else(received)
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }

    fn timeline(&self) -> Vec<TimelineStep> {
        let mut timeline = Vec::new();
        let mut moment = |name: &str, at, detail: Option<String>| {
            timeline.push(TimelineStep { step: name.to_owned(), at, duration_ms: None, detail });
        };
        if let Some(record) = self.record {
            moment("accepted", record.created_at, None);
            if let Some(Assignment { runner, assigned_at, .. }) = &record.assignment {
                moment("assigned", *assigned_at, Some(format!("to runner {runner}")));
            }
        }
        timeline.extend(self.current().into_iter().flat_map(|seen| seen.timeline.clone()));
        if let Some(record) = self.record
            && let Some(at) = record.claimed_at
        {
            let detail = record.pool.as_ref().map(|pool| format!("an agent of pool {pool} that was ready"));
            let step = TimelineStep { step: "claimed".to_owned(), at, duration_ms: None, detail };
            // Before whatever came after it: a stop.
            let place = timeline.iter().position(|other| other.at > at).unwrap_or(timeline.len());
            timeline.insert(place, step);
        }
        timeline
    }
}

/// What `by` is shown of it: values of the environment may be secrets, and are only for who may change the session.
pub fn shown_to(by: &Principal, mut view: SessionView) -> SessionView {
    if !by.may_change(&view.id, &view.owner) {
        view.spec.env.values_mut().for_each(String::clear);
    }
    view
}

fn alive(phase: SessionPhase, liveness: Option<Liveness>) -> SessionPhase {
    match liveness {
        Some(Liveness::Online | Liveness::Suspect) => phase,
        _ if phase.is_terminal() => phase,
        Some(Liveness::Lost) | None => SessionPhase::Lost,
    }
}

/// What its desktop is recorded as, once it has a runner.
pub fn recording_of(record: &SessionRecord) -> Option<RecordingId> {
    let assignment = record.assignment.as_ref().filter(|_| record.spec.recording.is_some())?;
    Some(RecordingId::of(&record.id, assignment.epoch))
}

/// Why it ends, where that is for another session.
fn made_room(record: &SessionRecord) -> Option<Cause> {
    let to = gives_way_to(record)?;
    if record.warm.is_some() {
        return Some(Cause::new("gave_way", format!("session {to} has its room now: it was nobody's yet")));
    }
    let ended = record.work.preempted.as_ref().is_some_and(|preempted| preempted.ended);
    let next = if ended {
        format!("its work is in its last checkpoint: helixctl session fork {}", record.id)
    } else if ends_to_move(record) {
        "it goes on once there is room".to_owned()
    } else {
        return None;
    };
    Some(Cause::new("preempted", format!("preempted by session {to}; {next}")))
}

fn lost_cause(liveness: Option<Liveness>) -> Cause {
    match liveness {
        None => Cause::new("runner_removed", "its runner was removed; delete the session, or enrol the runner again"),
        Some(_) => Cause::new("runner_lost", "its runner is not heard; the session goes on when the runner is back"),
    }
}

fn endpoints(id: &SessionId, public_url: &str, direct: Option<&DirectPorts>) -> Endpoints {
    let socket_url = match public_url.split_once("://") {
        Some(("https", rest)) => format!("wss://{rest}"),
        Some((_, rest)) => format!("ws://{rest}"),
        None => public_url.to_owned(),
    };
    Endpoints {
        view: Some(format!("{public_url}/sessions/{id}/view")),
        vnc: Some(format!("{socket_url}/api/v1/sessions/{id}/streams/vnc")),
        rdp: direct.and_then(|direct| Some(format!("rdp://{}", address(&direct.host, direct.rdp?)))),
        direct_vnc: direct.and_then(|direct| Some(format!("vnc://{}", address(&direct.host, direct.vnc?)))),
        direct_page: direct.and_then(|direct| Some(format!("http://{}/vnc.html", address(&direct.host, direct.page?)))),
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':'))
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What a runner reported of a record's assignment, by key.
pub fn observed_of<'a>(record: &SessionRecord, observed: &'a Content<ObservedSession>) -> Option<&'a ObservedSession> {
    let assignment = record.assignment.as_ref()?;
    let seen = observed.get(&subject::runner_session_key(&assignment.runner, &record.id))?;
    (seen.value.epoch >= assignment.epoch).then_some(&*seen.value)
}

/// True once nothing of the session runs any more and nothing will.
pub fn has_ended(record: &SessionRecord, observed: &Content<ObservedSession>) -> bool {
    match record.assignment {
        None => record.desired == Desired::Stopped,
        Some(_) if ends_to_move(record) => false,
        Some(_) => has_ended_there(record, observed),
    }
}

/// True once its runner has said that nothing of it runs there.
pub fn has_ended_there(record: &SessionRecord, observed: &Content<ObservedSession>) -> bool {
    observed_of(record, observed).is_some_and(|seen| seen.phase.is_terminal())
}

/// True for a session of which it is not decided yet whether it gets a desktop of its own: see `spec_tasks`.
pub fn is_unsettled(record: &SessionRecord) -> bool {
    record.spec_task.is_some()
        && record.desktop_of.is_none()
        && record.assignment.is_none()
        && record.desired == Desired::Running
}

/// What the runner of the assignment shall be told. An ended session is told as `stopped`: a runner that lost its
/// disk must not start it a second time.
pub fn desired_of(record: &SessionRecord, ended: bool) -> Option<DesiredSession> {
    let assignment = record.assignment.as_ref()?;
    // What moves ends where it is first.
    let moves = ends_to_move(record);
    let desired = if ended || moves { Desired::Stopped } else { record.desired };
    Some(DesiredSession {
        session: record.id.clone(),
        epoch: assignment.epoch,
        generation: record.generation,
        desired,
        spec: if desired == Desired::Stopped { spec_to_end(&record.spec) } else { record.spec.clone() },
        control: if desired == Desired::Stopped { Control::default() } else { record.control.clone() },
        grants: if desired == Desired::Stopped { 0 } else { record.grants.epoch },
        deleted: record.deleted,
        work: if desired == Desired::Stopped { stop_order(record) } else { start_order(record) },
        access: None,
    })
}

/// It ends where it is, to go on from there.
fn ends_to_move(record: &SessionRecord) -> bool {
    record.desired == Desired::Running && record.work.moving.as_ref().is_some_and(|moving| moving.ends)
}

fn stop_order(record: &SessionRecord) -> WorkOrder {
    // What was preempted is saved whether or not it goes on.
    let moves = ends_to_move(record) || record.work.preempted.as_ref().is_some_and(|preempted| preempted.ended);
    WorkOrder { moves, ..WorkOrder::default() }
}

fn start_order(record: &SessionRecord) -> WorkOrder {
    WorkOrder { asked: record.work.asked, restore: record.work.restore.clone(), ..WorkOrder::default() }
}

/// What an order to end says of the spec: a runner ends a session by what it noted at the start. The rest would go out
/// with every sync until the session is deleted, and with enough of them the set would exceed what NATS carries.
fn spec_to_end(spec: &SessionSpec) -> SessionSpec {
    SessionSpec { input: None, env: BTreeMap::new(), ..spec.clone() }
}

/// Order to end and forget a session that was deleted while its runner could not be heard, or that lives elsewhere: what
/// of its work is in no checkpoint is kept there then.
pub fn desired_of_deleted(seen: &ObservedSession, lives_elsewhere: bool) -> DesiredSession {
    let work = WorkOrder { keep: lives_elsewhere, ..WorkOrder::default() };
    DesiredSession {
        session: seen.session.clone(),
        epoch: seen.epoch,
        generation: seen.generation,
        desired: Desired::Stopped,
        spec: seen.unclaimed.as_ref().map_or_else(SessionSpec::default, |unclaimed| spec_to_end(&unclaimed.spec)),
        control: Control::default(),
        grants: 0,
        deleted: true,
        work,
        access: None,
    }
}

#[cfg(test)]
mod tests;
