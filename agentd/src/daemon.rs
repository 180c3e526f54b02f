//! `agentd run`: puts the parts together, and takes them apart again.
//!
//! Order: lock → own token → ledger and supervisor → reconciler (takes every known session over) → READY=1, which needs
//! no server → link. It ends on SIGTERM or SIGINT (sessions run on, or are stopped first: `on_exit`), when drained, when
//! the reconciler fails, or on SIGHUP to begin anew ([`crate::reload`]).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use helix_mesa::Places;
use helix_protocol::runner::RunnerFacts;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Courier;
use crate::config::{Backend, Config, Environment, OnExit};
use crate::fence::{self, Fence};
use crate::forward::host::Servers;
use crate::gate::Gates;
use crate::health::{self, Health};
use crate::images::{Fetcher, Images, enter};
use crate::kinds::{Kinds, Machine};
use crate::ledger::Ledger;
use crate::leftovers::LeftoverBoard;
use crate::link::reports::Reports;
use crate::link::token::OwnToken;
use crate::link::{self, Link, LinkStatus, enrol, rotate};
use crate::notice::{self, Notice, notify, notify_and_wait};
use crate::reconciler::{Inputs, Reconciler};
use crate::recorder::notes::Notes;
use crate::recorder::upload::{self, Uploads};
use crate::reload::{self, Program};
use crate::session::Context;
use crate::session::plan::Host;
use crate::session::probe::ReadyLines;
use crate::supervisor::Supervisor;
use crate::supervisor::process::{ProcessConfig, ProcessSupervisor};
use crate::supervisor::systemd::{SlotUsers, SystemdConfig, SystemdSupervisor};
use crate::tools::host::Board;
use crate::usage::{self, UsageBoard};
use crate::viewers::Viewers;
use crate::{dial, drain, inventory, rdp, state_lock};

/// Exists where systemd is PID 1 (sd_booted(3)).
const SYSTEMD_IS_PID_1: &str = "/run/systemd/system";
/// Stopping every session and having that acknowledged, when `on_exit` is stop.
const STOP_DEADLINE: Duration = Duration::from_secs(70);
/// Reports on their way when agentd exits and sessions run on.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);
/// Nudges that wait to be dialled.
const DIALS_WAITING: usize = 64;

/// What shall happen after the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing.
    ForGood,
    /// The program shall be executed anew, in this very process.
    ToReload,
}

/// Runs the runner until it is told to end. `hangup` is SIGHUP, caught early.
pub async fn run(config: Config, env: &Environment, program: &Program, hangup: Signal) -> anyhow::Result<Ended> {
    let config = Arc::new(config);
    let lock = state_lock::take(&config.state_dir).await?;
    notes(&config);
    let reload = Reload { program: program.clone(), hangup };
    let program = program.path().clone();
    if backend(&config) == Backend::Systemd {
        let supervisor = SystemdSupervisor::new(systemd_config(&config, program.clone()))
            .await
            .context("sessions cannot be run as systemd units")?;
        // Sessions run as users of their own, which are nobody's login.
        let host = Host { user: "agent".to_owned(), is_root: false, ..host(env, program) };
        return serve(config, supervisor, host, reload, lock).await;
    }
    let supervisor = ProcessSupervisor::new(process_config(&config, program.clone()))?;
    serve(config, supervisor, host(env, program), reload, lock).await
}

/// Enrols the runner of these settings.
pub async fn enrol(config: &Config) -> anyhow::Result<()> {
    let dir = &config.state_dir;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| dir.display().to_string())?;
    let token = OwnToken::open(dir).context("cannot keep this runner's own token")?;
    enrol::enrol(config, &token.current()).await?;
    Ok(())
}

/// What SIGHUP needs.
struct Reload {
    program: Program,
    hangup: Signal,
}

/// What `auto` means here.
pub fn backend(config: &Config) -> Backend {
    let systemd = || rustix::process::geteuid().is_root() && Path::new(SYSTEMD_IS_PID_1).exists();
    match config.backend {
        Backend::Auto if systemd() => Backend::Systemd,
        Backend::Auto => Backend::Process,
        chosen => chosen,
    }
}

/// The systemd backend's part of the settings.
pub fn systemd_config(config: &Config, program: PathBuf) -> SystemdConfig {
    SystemdConfig {
        state_dir: config.state_dir.clone(),
        workspace_dir: config.workspace_dir.clone(),
        program,
        runner: config.runner.clone(),
        slot_users: SlotUsers {
            prefix: config.slot_user_prefix.clone(),
            first: config.slot_user_first,
            count: config.slots,
        },
    }
}

/// The process backend's part of the settings.
pub fn process_config(config: &Config, program: PathBuf) -> ProcessConfig {
    ProcessConfig { state_dir: config.state_dir.clone(), workspace_dir: config.workspace_dir.clone(), program }
}

async fn serve<S: Supervisor>(
    config: Arc<Config>,
    supervisor: S,
    host: Host,
    reload: Reload,
    _lock: File,
) -> anyhow::Result<Ended> {
    let token = OwnToken::open(&config.state_dir).context("cannot keep this runner's own token")?;
    let (ledger, entries) = Ledger::open(&config.state_dir)?;
    let path = OsString::from(&host.path);
    let kinds = load_kinds(&config, &path);
    let reports = Reports::default();
    let (ended, ended_count) = watch::channel(0);
    let no_images = if backend(&config) == Backend::Systemd { None } else { enter::unavailable(&host.program) };
    let images = Images::new(
        &config.state_dir,
        Fetcher::new(config.clone(), token.clone()).context("cannot make a client for images")?,
        config.image_signers.clone(),
        config.images_keep,
        no_images.clone(),
    );
    tokio::spawn(images.clone().keep_room());
    let facts = RunnerFacts {
        image_keys: images.keys(),
        no_images,
        no_rdp: rdp::unavailable(&host.program, &path, backend(&config) == Backend::Systemd),
        ..inventory::facts(&config, &kinds, &supervisor)
    };
    if let Some(reason) = &facts.no_rdp {
        tracing::info!(reason, "sessions cannot be reached by RDP");
    }
    for (kind, reason) in &facts.unavailable_kinds {
        tracing::info!(%kind, reason, "kind cannot run here");
    }

    let (desired_sender, desired) = watch::channel(None);
    let (stop_sessions, runner_stops) = watch::channel(false);
    let (draining_sender, draining) = watch::channel(false);
    let (status_sender, status) = watch::channel(LinkStatus::Away("starting".to_owned()));
    let (rotate_sender, rotate_wanted) = watch::channel(None);
    let (dials_sender, dials) = mpsc::channel(DIALS_WAITING);
    let (cut_off_sender, cut_off) = watch::channel(fence::is_silent(&config.state_dir));
    let (fence, usage) = (Fence::new(&config.state_dir), UsageBoard::default());
    let leftovers = LeftoverBoard::default();

    let gates = Gates::default();
    let (tools, notes) = (Board::default(), Notes::default());
    let uploads = Uploads::new(&config.state_dir);
    let live = entries.iter().filter(|entry| !entry.is_ended()).filter_map(|entry| entry.recording.clone()).collect();
    tokio::spawn(upload::run(uploads.clone(), config.clone(), token.clone(), live));
    let viewers = Viewers::new(supervisor.clone(), gates.clone(), notes.clone(), facts.no_rdp.is_none());
    let context = Arc::new(Context {
        supervisor: supervisor.clone(),
        config: config.clone(),
        kinds,
        host,
        ledger,
        reports: reports.clone(),
        ready: ReadyLines::new().context("cannot use inotify")?,
        ended,
        servers: Arc::new(Servers::new(&config.api_hosts)),
        gates: gates.clone(),
        tools: tools.clone(),
        notes: notes.clone(),
        uploads,
        checkpoints: Courier::new(config.clone(), token.clone()),
        images: images.clone(),
        viewers: viewers.clone(),
        leftovers: leftovers.clone(),
    });
    tracing::info!(sessions = entries.len(), slots = config.slots, backend = supervisor.backend(), "agentd starts");
    let reconciler = Reconciler::new(context, Inputs { desired, runner_stops, cut_off }, entries);
    let end_link = CancellationToken::new();
    let link = tokio::spawn(link::run(
        Link {
            config: config.clone(),
            token: token.clone(),
            facts,
            reports: reports.clone(),
            desired: desired_sender,
            rotate: rotate_sender,
            draining,
            status: status_sender,
            fence: fence.clone(),
            usage: usage.clone(),
            leftovers,
            images,
            gates: gates.clone(),
            viewers: viewers.told().clone(),
            dials: dials_sender,
        },
        end_link.clone(),
    ));
    tokio::spawn(rotate::run(config.clone(), token.clone(), rotate_wanted));
    tokio::spawn(usage::run(supervisor.clone(), reports.clone(), usage));
    tokio::spawn(dial::run(supervisor, viewers, tools, config.clone(), token, (gates, notes), dials));
    tokio::spawn(async {
        if let Err(error) = fence::run(fence, cut_off_sender).await {
            tracing::error!("cannot tell when this runner is cut off; sessions run on without being held: {error}");
        }
    });
    tokio::spawn(health::run(Health { config: config.clone(), reports: reports.clone(), status: status.clone() }));
    let (trouble_sender, trouble) = watch::channel(None);
    let hangup_ends = reload::hangup_means_end();
    let mut reconciling = tokio::spawn(reconciler.run());
    notify(Notice::Ready);
    tokio::spawn(notice::keep_told(status, reports.clone(), trouble));

    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let drained = drain::run(config.max_tasks, ended_count, reports.clone(), draining_sender);
    let result = tokio::select! {
        _ = terminate.recv() => Ok(Ended::ForGood),
        _ = interrupt.recv() => Ok(Ended::ForGood),
        () = drained => Ok(Ended::ForGood),
        () = reload::asked(&reload.program, reload.hangup, hangup_ends, trouble_sender) => {
            Ok(if hangup_ends { Ended::ForGood } else { Ended::ToReload })
        }
        failed = &mut reconciling => Err(failed.map_or_else(anyhow::Error::from, anyhow::Error::from)),
    };
    let on_exit = match result {
        Ok(Ended::ToReload) => OnExit::Keep,
        _ => config.on_exit,
    };
    match result {
        Ok(Ended::ToReload) => notify_and_wait(Notice::Reloading),
        _ => notify(Notice::Stopping),
    }
    if result.is_ok() {
        // A second signal does not wait.
        tokio::select! {
            () = wind_down(on_exit, &stop_sessions, &reports) => {}
            _ = terminate.recv() => tracing::warn!("second signal: not waiting for reports"),
            _ = interrupt.recv() => tracing::warn!("second signal: not waiting for reports"),
        }
    }
    end_link.cancel();
    reconciling.abort();
    link.await.context("the link's task failed")?;
    tracing::info!("agentd ends");
    result
}

/// What can run on this machine.
fn load_kinds(config: &Config, path: &OsStr) -> Kinds {
    // Sessions of systemd see no home directories.
    let places = Places::new(&|name| std::env::var(name).ok(), backend(config) == Backend::Process);
    let vulkan_icd = config.vulkan_icd.clone().or_else(|| places.find());
    let zed = config.zed_binary.as_deref();
    let machine = Machine { path, zed, vulkan_icd: vulkan_icd.as_deref(), vulkan_places: &places };
    Kinds::load(std::slice::from_ref(&config.kinds_dir), &machine)
}

async fn wind_down(on_exit: OnExit, stop_sessions: &watch::Sender<bool>, reports: &Reports) {
    let limit = match on_exit {
        OnExit::Keep => {
            tracing::info!(sessions = reports.active(), "ending; sessions run on");
            FLUSH_DEADLINE
        }
        OnExit::Stop => {
            tracing::info!(sessions = reports.active(), "ending; stopping sessions first");
            stop_sessions.send_replace(true);
            STOP_DEADLINE
        }
    };
    let settled = async {
        match on_exit {
            OnExit::Keep => drain::acknowledged(reports).await,
            OnExit::Stop => {
                drain::stopped(reports).await;
                // Without a server nobody acknowledges; the next start reports again.
                let _ = tokio::time::timeout(FLUSH_DEADLINE, drain::acknowledged(reports)).await;
            }
        }
    };
    if tokio::time::timeout(limit, settled).await.is_err() {
        tracing::warn!("ending although not everything is reported; the next start reports again");
    }
}

fn notes(config: &Config) {
    if !config.unused.is_empty() {
        tracing::info!(
            settings = config.unused.join(", "),
            "set but not used: desktops are reached through tickets only"
        );
    }
    let plain = |host: &&String| host.starts_with("http:") && !is_loopback(host);
    if let Some(host) = config.api_hosts.iter().find(plain) {
        tracing::warn!(host, "tokens travel unencrypted to this server; use https off this machine");
    }
}

fn is_loopback(origin: &str) -> bool {
    ["http://localhost", "http://127.", "http://[::1]"].iter().any(|prefix| origin.starts_with(prefix))
}

/// What sessions get of agentd's surroundings.
pub fn host(env: &Environment, program: PathBuf) -> Host {
    let get = |name: &str, default: &str| {
        env.get(name).filter(|text| !text.is_empty()).map_or(default, |text| text).to_owned()
    };
    Host {
        path: get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        lang: get("LANG", "C.UTF-8"),
        shell: get("SHELL", if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }),
        user: get("USER", &get("LOGNAME", "agent")),
        program,
        is_root: rustix::process::geteuid().is_root(),
    }
}

/// The process's environment; variables that are not text are left out, nothing of ours is one.
pub fn environment() -> Environment {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect::<BTreeMap<_, _>>()
}
