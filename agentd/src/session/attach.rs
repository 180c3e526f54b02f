//! Getting hold of a session's slice: a new one, or the one that a former agentd left.

use std::collections::BTreeMap;

use helix_protocol::session::SessionResult;
use tokio::sync::mpsc;

use super::plan::{self, Plan};
use super::{Ending, Session};
use crate::supervisor::{Adopted, SliceEvent, Supervisor, UnitName, UnitStatus};

/// A slice that is watched.
#[derive(Debug)]
pub(super) struct Live {
    pub plan: Plan,
    pub events: mpsc::Receiver<SliceEvent>,
    /// Units that have ended and were not started again, with their exit status.
    pub exits: BTreeMap<UnitName, i32>,
}

impl<S: Supervisor> Session<S> {
    /// Opens the session's slice, or adopts it where the ledger knows one.
    pub(super) async fn attach(&self) -> Result<Live, Ending> {
        let plan = self.plan()?;
        let (supervisor, id) = (&self.context.supervisor, self.id());
        let known = self.entry().identity.clone();
        let Some(identity) = known else {
            let identity =
                supervisor.open(&id).await.map_err(|error| Ending::failed("slice_failed", error.to_string()))?;
            let workspace = supervisor.paths(&id).workspace.to_string_lossy().into_owned();
            // Before the first unit: whoever restarts agentd now finds the slice again.
            self.commit(|entry| {
                entry.identity = Some(identity);
                entry.workspace = Some(workspace);
            })
            .await;
            let lost = |error: crate::supervisor::SupervisorError| Ending::failed("slice_failed", error.to_string());
            let events = supervisor.events(&id).await.map_err(lost)?;
            let units = supervisor.units(&id).await.map_err(lost)?;
            return Ok(Live { plan, events, exits: exits(&units) });
        };
        // Subscribed first: what ends after this is told, what ended before is in the answer.
        let events = supervisor.events(&id).await;
        match supervisor.adopt(&id, &identity).await {
            Ok(Adopted::Alive { units, result }) => {
                self.note_result(result);
                tracing::info!(units = units.len(), "session adopted");
                let events = events.map_err(|error| Ending::failed("slice_failed", error.to_string()))?;
                Ok(Live { plan, events, exits: exits(&units) })
            }
            Ok(Adopted::Gone { code, message, result }) => {
                self.note_result(result);
                Err(Ending::failed(code, message))
            }
            Err(error) => Err(Ending::failed("slice_failed", error.to_string())),
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

    fn plan(&self) -> Result<Plan, Ending> {
        let entry = self.entry().clone();
        let context = &self.context;
        let inputs = plan::Inputs {
            session: entry.session(),
            runner: &context.config.runner,
            spec: &entry.desired.spec,
            kind: &entry.kind,
            kinds: &context.kinds,
            paths: &context.supervisor.paths(entry.session()),
            default_geometry: context.config.geometry,
            host: &context.host,
        };
        plan::plan(&inputs).map_err(Ending::from)
    }
}

fn exits(units: &[UnitStatus]) -> BTreeMap<UnitName, i32> {
    units.iter().filter_map(|unit| Some((unit.name, unit.exit_status?))).collect()
}
