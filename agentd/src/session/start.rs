//! From an order to Ready: image → (workspace ∥ D-Bus ∥ display → (window manager ∥ forward ∥ recorder)) → agent. Each step has a deadline, a
//! readiness event and, when it fails, a cause that names step, unit and the unit's last lines.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use helix_protocol::session::{Cause, Display as DisplayInfo};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::attach::Live;
use super::plan::Plan;
use super::state::Event;
use super::{Ending, Exit, Session, begin_step, finish_step};
use crate::display::{Display, Sign};
use crate::kinds::Readiness;
use crate::supervisor::{HostPaths, SliceEvent, Supervisor, UnitName, UnitSpec, UnitStatus};

/// A step of the start: its name in the timeline, its unit, its deadline.
#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    unit: UnitName,
    deadline: Duration,
}

/// Each part of a desktop is up within 0.1 s; a machine that is busy with many starts may need much longer.
const DESKTOP: Duration = Duration::from_secs(30);
const WORKSPACE: Step = Step { name: "workspace", unit: UnitName::Workspace, deadline: Duration::from_mins(5) };
const RESTORE: Step = Step { name: "restore", unit: UnitName::Tools, deadline: Duration::from_mins(30) };
const DISPLAY: Step = Step { name: "display", unit: UnitName::Display, deadline: DESKTOP };
const DBUS: Step = Step { name: "dbus", unit: UnitName::Dbus, deadline: DESKTOP };
const WINDOW_MANAGER: Step = Step { name: "window_manager", unit: UnitName::Wm, deadline: DESKTOP };
const FORWARD: Step = Step { name: "forward", unit: UnitName::Forward, deadline: DESKTOP };
const RECORDER: Step = Step { name: "recorder", unit: UnitName::Recorder, deadline: DESKTOP };
// An editor's first start on a busy machine without a graphics card, or in an emulated one, takes more than a minute.
const AGENT: Step = Step { name: "agent", unit: UnitName::App, deadline: Duration::from_mins(3) };

type Exits = watch::Receiver<BTreeMap<UnitName, Exit>>;

impl<S: Supervisor> Session<S> {
    /// Starts everything that is not started yet.
    pub(super) async fn start(&self) -> Result<Live, Ending> {
        self.have_image().await?;
        let Live { plan, mut events, exits, .. } = self.attach().await?;
        let paths = self.context.supervisor.host_paths(&self.id());

        let (sender, receiver) = watch::channel(exits);
        let done = tokio::select! {
            ending = self.follow(&mut events, &sender) => Err(ending),
            done = self.steps(&plan, &paths, &receiver) => done.map_err(Ending::from),
        };
        done?;
        let ready_at = Timestamp::now();
        self.commit_or_later(|entry| {
            if let Some(state) = entry.state.after(Event::AgentReady) {
                entry.state = state;
                entry.ready_at = Some(ready_at);
                begin_step(entry, "ready");
            }
        })
        .await;
        tracing::info!("session ready");
        let exits = receiver.borrow().clone();
        Ok(Live { plan, events, exits, missing: Vec::new() })
    }

    async fn steps(&self, plan: &Plan, paths: &HostPaths, exits: &Exits) -> Result<(), Cause> {
        let workspace = async {
            self.refill_workspace().await?;
            match &plan.workspace {
                Some(unit) => self.step(WORKSPACE, self.fill_workspace(unit, exits)).await,
                None => Ok(()),
            }
        };
        let dbus = async {
            match &plan.dbus {
                Some(unit) => self.step(DBUS, self.line_of(unit, paths, exits)).await.map(|_: String| ()),
                None => Ok(()),
            }
        };
        let desktop = async {
            let (number, pid) = self.step(DISPLAY, self.open_display(plan, paths, exits)).await?;
            let window_manager = self.step(WINDOW_MANAGER, async {
                let unit = plan.wm(number);
                self.launch(&unit).await?;
                let sign = see(number, paths, pid, Sign::WindowManager);
                self.unless_exited(UnitName::Wm, exits, sign).await?.map_err(|error| display_fault(&error))
            });
            // After the display, whose network it shares where the session has one of its own.
            let forward = self.step(FORWARD, self.line_of(&plan.forward, paths, exits));
            // Before the agent, of whom nothing is to be missed.
            let recorder = async {
                match &plan.recorder {
                    Some(unit) => self.step(RECORDER, self.line_of(unit, paths, exits)).await.map(|_: String| ()),
                    None => Ok(()),
                }
            };
            let ((), _listens, ()) = tokio::try_join!(window_manager, forward, recorder)?;
            Ok((number, pid))
        };
        let ((), (), (number, pid)) = tokio::try_join!(workspace, dbus, desktop)?;
        self.step(AGENT, async {
            let unit = plan.app(number);
            let status = self.launch(&unit).await?;
            self.change(|entry| entry.pid = status.pid);
            match plan.readiness {
                Readiness::Window => {
                    let sign = see(number, paths, pid, Sign::ClientWindow);
                    let seen = self.unless_exited(UnitName::App, exits, sign).await.map_err(|mut cause| {
                        cause.message.push_str(&plan.lacking());
                        cause
                    });
                    seen?.map_err(|error| display_fault(&error))
                }
                Readiness::None => Ok(()),
            }
        })
        .await
    }

    /// With a checkpoint, unless an agentd before this one has done so and gone on.
    async fn refill_workspace(&self) -> Result<(), Cause> {
        let began = async |name| {
            let units = self.context.supervisor.units(&self.id()).await.unwrap_or_default();
            units.iter().any(|unit| unit.name == name)
        };
        if self.entry().desired.work.restore.is_none() || began(UnitName::App).await {
            return Ok(());
        }
        self.step(RESTORE, self.restore_work()).await
    }

    async fn fill_workspace(&self, unit: &UnitSpec, exits: &Exits) -> Result<(), Cause> {
        let status = self.launch(unit).await?;
        let exit = match Exit::of(&status) {
            Some(exit) => exit,
            None => exit_of(exits, UnitName::Workspace).await,
        };
        if exit.code == 0 {
            return Ok(());
        }
        let message = format!("the workspace could not be made ({exit}); see what git says");
        Err(self.cause("workspace_failed", message, UnitName::Workspace).await)
    }

    /// Starts the display; answers its number and main process.
    async fn open_display(&self, plan: &Plan, paths: &HostPaths, exits: &Exits) -> Result<(u32, u32), Cause> {
        let line = self.line_of(&plan.display, paths, exits).await?;
        let number =
            line.parse().map_err(|_| Cause::new("display_failed", format!("the display says {line:?}, no number")))?;
        let info = DisplayInfo { number, geometry: plan.geometry };
        self.change(|entry| entry.display = Some(info));
        // Idempotent: answers the unit as it is now.
        let status = self.launch(&plan.display).await?;
        let pid = status.pid.ok_or_else(|| Cause::new("display_died", "the display ended while it started"))?;
        Ok((number, pid))
    }

    /// Starts a unit and waits for its readiness line.
    async fn line_of(&self, unit: &UnitSpec, paths: &HostPaths, exits: &Exits) -> Result<String, Cause> {
        self.launch(unit).await?;
        let line = self.context.ready.line(&paths.ready, unit.name.as_str());
        let line = self.unless_exited(unit.name, exits, line).await?;
        line.map_err(|error| {
            Cause::new("supervision_failed", format!("cannot wait for {}: {error}", unit.name.as_str()))
        })
    }

    async fn launch(&self, unit: &UnitSpec) -> Result<UnitStatus, Cause> {
        let started = self.context.supervisor.start(&self.id(), unit).await;
        started.map_err(|error| {
            let mut cause = Cause::new("start_failed", error.to_string());
            cause.unit = Some(unit.name.as_str().to_owned());
            cause
        })
    }

    /// Runs a step within its deadline and puts it on the timeline.
    async fn step<T>(&self, step: Step, work: impl Future<Output = Result<T, Cause>>) -> Result<T, Cause> {
        self.change(|entry| begin_step(entry, step.name));
        let result = tokio::select! {
            biased;
            result = work => result,
            () = running_for(step.deadline, self.held.subscribe()) => {
                let message = format!("{} was not ready within {} s", step.name, step.deadline.as_secs());
                Err(self.cause(&format!("{}_timeout", step.name), message, step.unit).await)
            }
        };
        match result {
            Ok(value) => {
                self.change(|entry| finish_step(entry, step.name, None));
                Ok(value)
            }
            Err(mut cause) => {
                cause.step = Some(step.name.to_owned());
                cause.unit.get_or_insert_with(|| step.unit.as_str().to_owned());
                self.change(|entry| finish_step(entry, step.name, Some(cause.message.clone())));
                Err(cause)
            }
        }
    }

    /// The work's answer, or the cause that its unit ended first.
    async fn unless_exited<T>(&self, unit: UnitName, exits: &Exits, work: impl Future<Output = T>) -> Result<T, Cause> {
        let exit = tokio::select! {
            biased;
            done = work => return Ok(done),
            exit = exit_of(exits, unit) => exit,
        };
        let message = format!("{} ended ({exit}) before it was ready", unit.as_str());
        let code = if unit == UnitName::Display { "display_died" } else { "unit_exited" };
        Err(self.cause(exit.code_or(code), message, unit).await)
    }

    /// Takes the slice's events in; ends only when the start cannot go on.
    async fn follow(
        &self,
        events: &mut mpsc::Receiver<SliceEvent>,
        exits: &watch::Sender<BTreeMap<UnitName, Exit>>,
    ) -> Ending {
        loop {
            match events.recv().await {
                Some(SliceEvent::UnitExited(status)) => {
                    let exit = Exit::of(&status).unwrap_or_default();
                    exits.send_modify(|exits| _ = exits.insert(status.name, exit));
                    // Also during the steps of other units; while it starts, its own step says it better.
                    if status.name == UnitName::Display && self.entry().display.is_some() {
                        return self.display_died(exit).await;
                    }
                }
                Some(SliceEvent::UnitReplaced(status)) if status.name == UnitName::Display => {
                    let message = "somebody started the display anew, which ended the desktop";
                    return self.cause("display_died", message, UnitName::Display).await.into();
                }
                Some(SliceEvent::UnitReplaced(_)) => {}
                Some(SliceEvent::OutOfMemory) => self.note_out_of_memory(),
                Some(SliceEvent::TaskFinished(result)) => self.note_result(Some(result)),
                Some(SliceEvent::SliceGone(reason)) => return Ending::failed("slice_gone", reason),
                None => return Ending::failed("supervision_failed", "the session's events ended"),
            }
        }
    }
}

/// Completes when this time has passed, without that during which the session is held still.
async fn running_for(mut left: Duration, mut held: watch::Receiver<Option<bool>>) {
    loop {
        // The sender lives in the session.
        let _ = held.wait_for(|held| *held != Some(true)).await;
        let since = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(left) => return,
            _ = held.wait_for(|held| *held == Some(true)) => left = left.saturating_sub(since.elapsed()),
        }
    }
}

async fn exit_of(exits: &Exits, unit: UnitName) -> Exit {
    let mut exits = exits.clone();
    let exited = exits.wait_for(|exits| exits.contains_key(&unit)).await;
    if let Some(exit) = exited.ok().and_then(|exits| exits.get(&unit).copied()) {
        return exit;
    }
    // The start is over, and with it whoever waits here.
    std::future::pending().await
}

async fn see(number: u32, paths: &HostPaths, pid: u32, sign: Sign) -> io::Result<()> {
    Display::connect(number, paths, pid).await?.wait_for(sign).await
}

fn display_fault(error: &io::Error) -> Cause {
    Cause::new("display_failed", format!("the display does not answer: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_waits_while_the_session_is_held() {
        let held = watch::Sender::new(None);
        let deadline = tokio::spawn(running_for(Duration::from_millis(200), held.subscribe()));
        held.send_replace(Some(true));
        tokio::time::sleep(Duration::from_millis(500)).await; // more than the deadline
        assert!(!deadline.is_finished(), "the time during which it was held counts");
        held.send_replace(Some(false));
        tokio::time::timeout(Duration::from_secs(10), deadline).await.expect("in time").expect("no panic");
    }
}
