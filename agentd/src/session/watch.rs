//! While a session is Ready: its display's end is its end, window manager and bus are started again, and what the
//! agent's end means is its kind's to say.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::attach::Live;
use super::plan::Plan;
use super::{Ending, Exit, Session};
use crate::kinds::{OnExit, Restart};
use crate::supervisor::{SliceEvent, Supervisor, UnitName};

/// Of a unit that shall go away before it is started again: it has ended already.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// A unit that ran this long starts a new row of pauses.
const STEADY: Duration = Duration::from_mins(1);
/// What dies with its display may be reaped before it; so long is the display's end waited for.
const LAST_OF_DISPLAY: Duration = Duration::from_millis(500);

/// Starts of a unit in this watch.
#[derive(Debug)]
struct Restarts {
    in_a_row: u32,
    since: Instant,
    /// When it is started again.
    due: Option<Instant>,
}

/// What the end of a unit means for its session.
enum Meaning {
    Ending(Ending),
    /// The agent ended with an error, of which the display may be the cause.
    AgentFailed,
}

impl Default for Restarts {
    fn default() -> Self {
        Self { in_a_row: 0, since: Instant::now(), due: None }
    }
}

impl<S: Supervisor> Session<S> {
    /// Watches until the session cannot go on. `live` is None after a restart of agentd.
    pub(super) async fn watch(&self, live: Option<Live>) -> Ending {
        let live = match live {
            Some(live) => Ok(live),
            None => self.attach().await,
        };
        let Live { plan, mut events, exits, missing } = match live {
            Ok(live) => live,
            Err(ending) => return ending,
        };
        let mut restarts = BTreeMap::new();
        for unit in missing {
            tracing::warn!(unit = unit.as_str(), "unit is missing, will be started again");
            restarts.insert(unit, Restarts { due: Some(Instant::now()), ..Restarts::default() });
        }
        // The agent's end with an error, told when its display turns out not to be the cause.
        let mut failed: Option<(Instant, Exit)> = None;
        for (unit, exit) in exits {
            match self.exited(&plan, &mut restarts, unit, exit).await {
                Some(Meaning::Ending(ending)) => return ending,
                Some(Meaning::AgentFailed) => failed = Some((Instant::now() + LAST_OF_DISPLAY, exit)),
                None => {}
            }
        }
        loop {
            let due =
                restarts.iter().filter_map(|(unit, state): (&UnitName, &Restarts)| Some((state.due?, *unit))).min();
            let event = tokio::select! {
                event = events.recv() => event,
                unit = next(due) => {
                    self.start_again(&plan, &mut restarts, unit).await;
                    continue;
                }
                exit = after(failed) => return self.agent_failed(&plan, exit).await,
            };
            match event {
                Some(SliceEvent::UnitExited(status)) => {
                    let exit = Exit::of(&status).unwrap_or_default();
                    match self.exited(&plan, &mut restarts, status.name, exit).await {
                        Some(Meaning::Ending(ending)) => return ending,
                        Some(Meaning::AgentFailed) => failed = Some((Instant::now() + LAST_OF_DISPLAY, exit)),
                        None => {}
                    }
                }
                Some(SliceEvent::UnitReplaced(status)) => match status.name {
                    UnitName::Display => {
                        let message = "somebody started the display anew, which ended the desktop";
                        return self.cause("display_died", message, UnitName::Display).await.into();
                    }
                    unit => {
                        tracing::warn!(unit = unit.as_str(), "somebody started a unit anew");
                        if unit == UnitName::App {
                            self.change(|entry| entry.pid = status.pid);
                        }
                    }
                },
                Some(SliceEvent::OutOfMemory) => self.note_out_of_memory(),
                Some(SliceEvent::TaskFinished(result)) => self.note_result(Some(result)),
                Some(SliceEvent::SliceGone(reason)) => return Ending::failed("slice_gone", reason),
                None => return Ending::failed("supervision_failed", "the session's events ended"),
            }
        }
    }

    /// What the end of a unit means.
    async fn exited(
        &self,
        plan: &Plan,
        restarts: &mut BTreeMap<UnitName, Restarts>,
        unit: UnitName,
        exit: Exit,
    ) -> Option<Meaning> {
        let policy = match unit {
            UnitName::Workspace => return None,
            UnitName::Rdp => {
                tracing::info!(%exit, "the unit for RDP clients ended; it is started again for the next one");
                return None;
            }
            UnitName::Tools => {
                tracing::warn!(%exit, "the tools ended; they are started again when somebody wants something");
                return None;
            }
            UnitName::Display => return Some(Meaning::Ending(self.display_died(exit).await)),
            UnitName::Dbus | UnitName::Wm | UnitName::Forward | UnitName::Recorder => Restart::Always,
            UnitName::App => plan.restart,
        };
        let fixed = plan.restart_pause.filter(|_| unit == UnitName::App);
        let state = restarts.entry(unit).or_default();
        if state.since.elapsed() >= STEADY {
            state.in_a_row = 0;
        }
        if let Some(pause) = policy.delay(exit.code, state.in_a_row) {
            let pause = fixed.unwrap_or(pause);
            tracing::warn!(
                unit = unit.as_str(),
                %exit,
                pause_ms = pause.as_millis() as u64,
                "unit ended, will be started again"
            );
            state.in_a_row += 1;
            state.due = Some(Instant::now() + pause);
            return None;
        }
        if self.entry().pid.is_some() {
            self.change(|entry| entry.pid = None);
        }
        if plan.on_exit == OnExit::Keep {
            return None;
        }
        // What dies with its display is told about in any order: the display is the cause.
        if let Some(exit) = self.display_exit().await {
            return Some(Meaning::Ending(self.display_died(exit).await));
        }
        if exit.code == 0 {
            return Some(Meaning::Ending(Ending::stopped("agent_exited", "the agent ended by itself")));
        }
        Some(Meaning::AgentFailed)
    }

    async fn agent_failed(&self, plan: &Plan, exit: Exit) -> Ending {
        let message = format!("the agent ended ({exit}){}", plan.lacking());
        self.cause(exit.code_or("agent_exited"), message, UnitName::App).await.into()
    }

    /// Status of the display, if it has ended.
    async fn display_exit(&self) -> Option<Exit> {
        let units = self.context.supervisor.units(&self.id()).await.ok()?;
        Exit::of(units.iter().find(|unit| unit.name == UnitName::Display)?)
    }

    async fn start_again(&self, plan: &Plan, restarts: &mut BTreeMap<UnitName, Restarts>, unit: UnitName) {
        let state = restarts.entry(unit).or_default();
        (state.due, state.since) = (None, Instant::now());
        let display = self.entry().display.as_ref().map(|display| display.number);
        let spec = match (unit, display) {
            (UnitName::Dbus, _) => plan.dbus.clone(),
            (UnitName::Forward, _) => Some(plan.forward.clone()),
            (UnitName::Recorder, _) => plan.recorder.clone(),
            (UnitName::Wm, Some(number)) => Some(plan.wm(number)),
            // As the session is now: its secrets may be others than at its beginning.
            (UnitName::App, Some(number)) => Some(self.plan().as_ref().unwrap_or(plan).app(number)),
            (UnitName::Workspace | UnitName::Display | UnitName::Tools | UnitName::Rdp, _)
            | (UnitName::Wm | UnitName::App, None) => None,
        };
        let Some(spec) = spec else { return };
        let (supervisor, id) = (&self.context.supervisor, self.id());
        let again = async {
            // A unit must be forgotten before it can be started anew.
            supervisor.stop(&id, unit, STOP_GRACE).await?;
            supervisor.start(&id, &spec).await
        };
        match again.await {
            Ok(status) if unit == UnitName::App => self.change(|entry| entry.pid = status.pid),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(unit = unit.as_str(), "unit cannot be started again: {error}");
                let pause = Restart::Always.delay(1, state.in_a_row).unwrap_or(STEADY);
                state.in_a_row += 1;
                state.due = Some(Instant::now() + pause);
            }
        }
    }
}

async fn next(due: Option<(Instant, UnitName)>) -> UnitName {
    match due {
        Some((at, unit)) => {
            tokio::time::sleep_until(at).await;
            unit
        }
        None => std::future::pending().await,
    }
}

/// Waits for the moment that comes with `failed`, without one for ever.
async fn after(failed: Option<(Instant, Exit)>) -> Exit {
    match failed {
        Some((due, exit)) => {
            tokio::time::sleep_until(due).await;
            exit
        }
        None => std::future::pending().await,
    }
}
