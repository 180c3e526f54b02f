//! Getting hold of a session's slice: a new one, or the one that a former agentd left.

use std::collections::BTreeMap;
use std::time::Duration;

use helix_protocol::session::SessionResult;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::plan::{self, Plan};
use super::state::State;
use super::{Ending, Exit, RETRY, Session};
use crate::kinds::Restart;
use crate::recorder::shelf::{self, About};
use crate::supervisor::{Adopted, SliceEvent, Supervisor, SupervisorError, UnitName, UnitStatus};

/// A slice that is watched.
#[derive(Debug)]
pub(super) struct Live {
    pub plan: Plan,
    pub events: mpsc::Receiver<SliceEvent>,
    /// Units that have ended and were not started again, with their exit status.
    pub exits: BTreeMap<UnitName, Exit>,
    /// Units that a Ready session has and this one has not: a former agentd died between their end and their start.
    pub missing: Vec<UnitName>,
}

/// How long a session that is starting waits for its slice to be opened, or for one that lives and does not answer.
/// One that is Ready waits on.
const DEADLINE: Duration = Duration::from_mins(1);

impl<S: Supervisor> Session<S> {
    /// Opens the session's slice, or adopts it where the ledger knows one.
    pub(super) async fn attach(&self) -> Result<Live, Ending> {
        if self.entry().forward_port.is_none() {
            // No port could be had before, or an older agentd began the session.
            let port = self.choose_port().map_err(Ending::from)?;
            self.commit_or_later(|entry| entry.forward_port = Some(port)).await;
        }
        let plan = self.plan()?;
        let (supervisor, id) = (&self.context.supervisor, self.id());
        let known = self.entry().identity.clone();
        let Some(identity) = known else {
            self.prepare_recording()?;
            let generation = self.entry().desired.generation;
            let opened = tokio::time::timeout(DEADLINE, supervisor.open(&id, &plan.slice)).await;
            let opened = opened.unwrap_or_else(|_| {
                let reason = format!("not done within {} s", DEADLINE.as_secs());
                Err(SupervisorError::Open { session: id.clone(), reason })
            });
            let identity = opened.map_err(|error| {
                let code =
                    if matches!(error, SupervisorError::NoSlot { .. }) { "no_slot_user" } else { "slice_failed" };
                Ending::failed(code, error.to_string())
            })?;
            let workspace = supervisor.host_paths(&id).workspace.to_string_lossy().into_owned();
            let limits = supervisor.enforcement().limits(plan.slice.resources);
            // Before the first unit: whoever restarts agentd now finds the slice again.
            self.commit(|entry| {
                entry.identity = Some(identity);
                entry.workspace = Some(workspace);
                entry.limits = Some(limits);
                entry.limits_generation = Some(generation);
            })
            .await;
            if plan.recorder.is_some() {
                self.context.uploads.look();
            }
            // An order may have changed the limits meanwhile.
            self.set_limits().await;
            let lost = |error: SupervisorError| Ending::failed("slice_failed", error.to_string());
            let events = supervisor.events(&id).await.map_err(lost)?;
            let units = supervisor.units(&id).await.map_err(lost)?;
            self.outlet.send_replace(true);
            return Ok(Live { plan, events, exits: exits(&units), missing: Vec::new() });
        };
        let begun = Instant::now();
        loop {
            // Subscribed first: what ends after this is told, what ended before is in the answer.
            let events = supervisor.events(&id).await;
            let error = match (supervisor.adopt(&id, &identity).await, events) {
                (Ok(Adopted::Alive { units, result }), Ok(events)) => {
                    self.note_result(result);
                    tracing::info!(units = units.len(), "session adopted");
                    let missing = missing(&plan, &units);
                    self.outlet.send_replace(true);
                    return Ok(Live { plan, events, exits: exits(&units), missing });
                }
                (Ok(Adopted::Gone { code, message, result }), _) => {
                    self.note_result(result);
                    return Err(Ending::failed(code, message));
                }
                (Err(error), _) | (Ok(Adopted::Alive { .. }), Err(error)) => error,
            };
            // Not to answer is no proof of an end. A Ready session is ended by an order or its time-out only.
            let late = self.entry().state == State::Starting && begun.elapsed() >= DEADLINE;
            if late || !matches!(error, SupervisorError::Unreachable { .. }) {
                return Err(Ending::failed("slice_failed", error.to_string()));
            }
            tracing::warn!("session not adopted yet: {error}");
            tokio::time::sleep(RETRY).await;
        }
    }

    pub(super) fn note_result(&self, result: Option<SessionResult>) {
        if let Some(result) = result
            && self.entry().result.as_ref() != Some(&result)
        {
            tracing::info!(exit_status = result.exit_status, "task finished");
            self.change(|entry| entry.result = Some(result));
        }
    }

    /// Makes the place of its recording.
    fn prepare_recording(&self) -> Result<(), Ending> {
        let about = {
            let entry = self.entry();
            let (session, epoch) = (entry.session().clone(), entry.desired.epoch);
            entry.recording.as_ref().map(|_| About { session, epoch })
        };
        let Some(about) = about else { return Ok(()) };
        let made = shelf::prepare(&self.context.config.state_dir, &about);
        let made = made.map_err(|error| {
            let message = format!("the session is to be recorded, and that cannot begin: {error}");
            Ending::failed("recorder_failed", message)
        })?;
        tracing::info!(recording = %made, "the session is recorded");
        Ok(())
    }

    pub(super) fn plan(&self) -> Result<Plan, Ending> {
        let mut entry = self.entry().clone();
        if entry.desired.work.restore.is_some() {
            // What was cloned is in the checkpoint.
            entry.desired.spec.project = None;
        }
        let context = &self.context;
        let spool = entry.recording.as_ref().map(|recording| (recording, context.supervisor.spool(recording)));
        let image = entry.desired.spec.image_digest().map(|digest| self.inside(digest));
        let inputs = plan::Inputs {
            image: image.as_ref(),
            session: entry.session(),
            runner: &context.config.runner,
            spec: &entry.desired.spec,
            kind: &entry.kind,
            kinds: &context.kinds,
            paths: &context.supervisor.paths(entry.session()),
            default_geometry: context.config.geometry,
            host: &context.host,
            running: entry.state == State::Ready,
            default_resources: context.config.default_resources,
            max_resources: context.config.max_resources,
            forward_port: entry.forward_port.unwrap_or_default(),
            access: entry.desired.access.as_ref(),
            epoch: entry.desired.epoch,
            recording: spool.as_ref().map(|(recording, spool)| (*recording, spool.as_path())),
        };
        plan::plan(&inputs).map_err(Ending::from)
    }
}

fn exits(units: &[UnitStatus]) -> BTreeMap<UnitName, Exit> {
    units.iter().filter_map(|unit| Some((unit.name, Exit::of(unit)?))).collect()
}

/// Units that are started again whenever they end, and that nobody has started.
fn missing(plan: &Plan, units: &[UnitStatus]) -> Vec<UnitName> {
    let wanted = [
        (UnitName::Dbus, plan.dbus.is_some()),
        (UnitName::Wm, true),
        (UnitName::Forward, true),
        (UnitName::Recorder, plan.recorder.is_some()),
        (UnitName::App, plan.restart != Restart::No),
    ];
    let started = |name: UnitName| units.iter().any(|unit| unit.name == name);
    wanted.into_iter().filter(|(name, kept)| *kept && !started(*name)).map(|(name, _)| name).collect()
}
