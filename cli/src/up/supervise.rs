//! The supervisor: starts the three services in order, tells where they are, waits for a signal, ends them in the
//! reverse order, and proves that nothing is left.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::config;
use super::leftovers::{self, AGENTD_GRACE, GRACE};
use super::nats;
use super::preflight::Programs;
use super::process::{Process, boot_id};
use super::record::{UpInfo, UpRecord};
use super::service::{Handle, OnSpawn, Readiness, Ready, Spec, scrubbed};
use super::state_dir::StateDir;
use crate::error::{CliError, Kind, Result};

const READY_WITHIN: Duration = Duration::from_secs(30);
/// It re-adopts sessions, then registers.
const AGENTD_READY_WITHIN: Duration = Duration::from_mins(1);
const REAP_WITHIN: Duration = Duration::from_mins(1);

/// What to supervise.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where everything is.
    pub dir: StateDir,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// Sessions at once.
    pub slots: u32,
    /// The programs.
    pub programs: Programs,
    /// Whose images sessions may run in.
    pub image_signers: Option<PathBuf>,
}

/// The signals that end a supervisor: Ctrl-C, `down`, and a terminal that is closed.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    pub fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).map_err(|error| CliError::failed("cannot catch signals").because(error));
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// Keeps `up.json` true. Written by the services' tasks, one at a time.
#[derive(Clone)]
struct Recorder {
    dir: StateDir,
    record: Arc<Mutex<UpRecord>>,
}

impl Recorder {
    fn new(plan: &Plan) -> Result<Self> {
        let info = UpInfo {
            url: config::base_url(plan.listen),
            token_file: plan.dir.admin_token(),
            nats_url: None,
            pids: [].into(),
            state_dir: plan.dir.root().to_owned(),
        };
        let mut record =
            UpRecord { info, ready: false, started_at: Timestamp::now(), boot_id: boot_id(), start_times: [].into() };
        if let Some(process) = Process::current() {
            record.note("up", process);
        }
        record.write(&plan.dir)?;
        Ok(Self { dir: plan.dir.clone(), record: Arc::new(Mutex::new(record)) })
    }

    fn change(&self, change: impl FnOnce(&mut UpRecord)) -> Result<UpInfo> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        record.write(&self.dir)?;
        Ok(record.info.clone())
    }

    fn on_spawn(&self) -> OnSpawn {
        let recorder = self.clone();
        Arc::new(move |name, pid| {
            // A child that has ended already is noticed by its task.
            let Some(process) = Process::of(pid) else { return };
            if let Err(error) = recorder.change(|record| record.note(name, process)) {
                warn!(%error, "cannot record a child; it would still be found by its command line");
            }
        })
    }
}

/// Runs until a signal comes or a first start fails. `announce` is called once everything is ready.
pub async fn run(plan: &Plan, signals: &mut Signals, announce: impl FnOnce(&UpInfo) -> Result<()>) -> Result<()> {
    let recorder = Recorder::new(plan)?;
    let mut running = Vec::new();
    let outcome = tokio::select! {
        started = start(plan, &recorder, &mut running) => match started.and_then(|info| announce(&info)) {
            Ok(()) => {
                let name = signals.next().await;
                info!(signal = name, "ending");
                Ok(())
            }
            Err(error) => Err(error),
        },
        name = signals.next() => Err(CliError::failed("ended before it was ready").because(format!("{name} came"))),
    };
    // The one that was started last depends on the others.
    while let Some(service) = running.pop() {
        service.end().await;
    }
    let reaped = reap(&plan.dir, &plan.programs.agentd).await;
    let _ = std::fs::remove_file(plan.dir.record());
    outcome.and(reaped)
}

/// Starts one after the other. Every handle is in `running` before it is waited for, so nothing that was started is
/// lost when this is cancelled.
async fn start(plan: &Plan, recorder: &Recorder, running: &mut Vec<Handle>) -> Result<UpInfo> {
    let dir = &plan.dir;
    let spec = |name: &'static str| Spec {
        name,
        program: match name {
            "nats" => plan.programs.nats.clone(),
            "server" => plan.programs.server.clone(),
            _ => plan.programs.agentd.clone(),
        },
        args: leftovers::arguments(dir, name),
        log: dir.log_file(name),
        readiness: Readiness::Notify(dir.notify_socket(name)),
        ready_within: READY_WITHIN,
        grace: GRACE,
    };

    config::write_server(dir, plan.listen, None)?;
    nats::write_conf(dir, &plan.programs.server, None).await?;
    let nats = Spec { readiness: Readiness::PortsFile(dir.nats()), ..spec("nats") };
    let ready = begin(nats, recorder, running).await?;
    let port = ready.port.ok_or_else(|| CliError::failed("nats-server told no port").at(dir.nats().display()))?;
    // From now on this port: a restarted nats-server must be where the others look for it.
    config::write_server(dir, plan.listen, Some(port))?;
    nats::write_conf(dir, &plan.programs.server, Some(port)).await?;
    config::write_agentd(dir, plan.listen, port, plan.slots, plan.image_signers.clone())?;
    let observer = nats::observer_url(dir, port)?;
    recorder.change(|record| record.info.nats_url = Some(observer))?;

    begin(spec("server"), recorder, running).await?;
    let agentd = Spec {
        readiness: Readiness::Registered(dir.notify_socket("agentd")),
        ready_within: AGENTD_READY_WITHIN,
        grace: AGENTD_GRACE,
        ..spec("agentd")
    };
    begin(agentd, recorder, running).await?;
    recorder.change(|record| record.ready = true)
}

async fn begin(spec: Spec, recorder: &Recorder, running: &mut Vec<Handle>) -> Result<Ready> {
    running.push(Handle::start(spec, recorder.on_spawn()));
    match running.last_mut() {
        Some(handle) => handle.ready().await,
        None => unreachable!("invariant: it was pushed just now"),
    }
}

/// Lets agentd end everything that a runner of this directory left, and prove it.
pub async fn reap(dir: &StateDir, agentd: &std::path::Path) -> Result<()> {
    let failed = |kind: Kind, why: String| {
        CliError::new(kind, "cannot prove that nothing is left")
            .at(dir.root().display())
            .because(why)
            .next(format!("helixctl down --state-dir {}", dir.root().display()))
    };
    let mut command = scrubbed(agentd);
    command.arg("reap").arg("--state-dir").arg(dir.agentd()).arg("--workspace-dir").arg(dir.workspaces());
    command.kill_on_drop(true);
    let output = tokio::time::timeout(REAP_WITHIN, command.output())
        .await
        .map_err(|_| failed(Kind::TimedOut, format!("agentd reap took more than {} s", REAP_WITHIN.as_secs())))?
        .map_err(|error| failed(Kind::Failed, error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(Kind::Failed, format!("agentd reap ended with {}\n{}", output.status, said.trim())))
}
