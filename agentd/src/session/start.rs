//! From an order to Ready: (workspace ∥ D-Bus ∥ display → window manager) → agent. Each step has a deadline, a
//! readiness event and, when it fails, a cause that names step, unit and the unit's last lines.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use helix_protocol::session::{Cause, Display as DisplayInfo};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::attach::Live;
use super::plan::Plan;
use super::state::Event;
use super::{Ending, Session, begin_step, finish_step};
use crate::display::{self, Display, Sign};
use crate::kinds::Readiness;
use crate::supervisor::{SessionPaths, SliceEvent, Supervisor, UnitName, UnitSpec, UnitStatus};

/// A step of the start: its name in the timeline, its unit, its deadline.
#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    unit: UnitName,
    deadline: Duration,
}

const WORKSPACE: Step = Step { name: "workspace", unit: UnitName::Workspace, deadline: Duration::from_mins(5) };
const DISPLAY: Step = Step { name: "display", unit: UnitName::Display, deadline: Duration::from_secs(10) };
const DBUS: Step = Step { name: "dbus", unit: UnitName::Dbus, deadline: Duration::from_secs(10) };
const WINDOW_MANAGER: Step = Step { name: "window_manager", unit: UnitName::Wm, deadline: Duration::from_secs(10) };
const AGENT: Step = Step { name: "agent", unit: UnitName::App, deadline: Duration::from_mins(1) };

type Exits = watch::Receiver<BTreeMap<UnitName, i32>>;

impl<S: Supervisor> Session<S> {
    /// Starts everything that is not started yet.
    pub(super) async fn start(&self) -> Result<Live, Ending> {
        let Live { plan, mut events, exits, .. } = self.attach().await?;
        let paths = self.context.supervisor.paths(&self.id());
        write_files(&paths, &plan).map_err(|error| Ending::failed("files_failed", error.to_string()))?;

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

    async fn steps(&self, plan: &Plan, paths: &SessionPaths, exits: &Exits) -> Result<(), Cause> {
        let workspace = async {
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
            self.step(WINDOW_MANAGER, async {
                let unit = plan.wm(number);
                self.launch(&unit).await?;
                let sign = see(number, paths, pid, Sign::WindowManager);
                self.unless_exited(UnitName::Wm, exits, sign).await?.map_err(|error| display_fault(&error))
            })
            .await?;
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
                    self.unless_exited(UnitName::App, exits, sign).await?.map_err(|error| display_fault(&error))
                }
                Readiness::None => Ok(()),
            }
        })
        .await
    }

    async fn fill_workspace(&self, unit: &UnitSpec, exits: &Exits) -> Result<(), Cause> {
        let status = self.launch(unit).await?;
        let code = match status.exit_status {
            Some(code) => code,
            None => exit_of(exits, UnitName::Workspace).await,
        };
        match code {
            0 => Ok(()),
            code => {
                let message = format!("the workspace could not be made (status {code}); see what git says");
                Err(self.cause("workspace_failed", message, UnitName::Workspace).await)
            }
        }
    }

    /// Starts the display; answers its number and main process.
    async fn open_display(&self, plan: &Plan, paths: &SessionPaths, exits: &Exits) -> Result<(u32, u32), Cause> {
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
    async fn line_of(&self, unit: &UnitSpec, paths: &SessionPaths, exits: &Exits) -> Result<String, Cause> {
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
        let result = if let Ok(result) = tokio::time::timeout(step.deadline, work).await {
            result
        } else {
            let message = format!("{} was not ready within {} s", step.name, step.deadline.as_secs());
            Err(self.cause(&format!("{}_timeout", step.name), message, step.unit).await)
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
        let code = tokio::select! {
            biased;
            done = work => return Ok(done),
            code = exit_of(exits, unit) => code,
        };
        let message = format!("{} ended (status {code}) before it was ready", unit.as_str());
        let code = if unit == UnitName::Display { "display_died" } else { "unit_exited" };
        Err(self.cause(code, message, unit).await)
    }

    /// Takes the slice's events in; ends only when the start cannot go on.
    async fn follow(
        &self,
        events: &mut mpsc::Receiver<SliceEvent>,
        exits: &watch::Sender<BTreeMap<UnitName, i32>>,
    ) -> Ending {
        loop {
            match events.recv().await {
                Some(SliceEvent::UnitExited(status)) => {
                    let code = status.exit_status.unwrap_or_default();
                    exits.send_modify(|exits| _ = exits.insert(status.name, code));
                    // Also during the steps of other units; while it starts, its own step says it better.
                    if status.name == UnitName::Display && self.entry().display.is_some() {
                        let message = format!("the display ended (status {code})");
                        return self.cause("display_died", message, UnitName::Display).await.into();
                    }
                }
                Some(SliceEvent::TaskFinished(result)) => self.note_result(Some(result)),
                Some(SliceEvent::SliceGone(reason)) => return Ending::failed("guest_died", reason),
                None => return Ending::failed("supervision_failed", "the session's events ended"),
            }
        }
    }
}

async fn exit_of(exits: &Exits, unit: UnitName) -> i32 {
    let mut exits = exits.clone();
    let exited = exits.wait_for(|exits| exits.contains_key(&unit)).await;
    if let Some(code) = exited.ok().and_then(|exits| exits.get(&unit).copied()) {
        return code;
    }
    // The start is over, and with it whoever waits here.
    std::future::pending().await
}

async fn see(number: u32, paths: &SessionPaths, pid: u32, sign: Sign) -> io::Result<()> {
    Display::connect(number, &paths.xauthority, pid).await?.wait_for(sign).await
}

fn display_fault(error: &io::Error) -> Cause {
    Cause::new("display_failed", format!("the display does not answer: {error}"))
}

/// Writes the plan's files and the X cookie, each once: a display that runs knows the first cookie. No unit of the
/// session has run when they are written first, so no path in its directories can lead elsewhere yet.
fn write_files(paths: &SessionPaths, plan: &Plan) -> io::Result<()> {
    if !paths.xauthority.exists() {
        write_file(&paths.xauthority, 0o600, &display::new_authority()?)?;
    }
    for file in plan.files.iter().filter(|file| !file.path.exists()) {
        write_file(&file.path, file.mode, file.content.as_bytes())?;
    }
    Ok(())
}

fn write_file(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let name = |error: io::Error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()));
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(name)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary).map_err(name)?;
    file.write_all(content).map_err(name)?;
    fs::rename(&temporary, path).map_err(name)
}
