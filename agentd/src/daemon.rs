//! `agentd run`: puts the parts together, and takes them apart again.
//!
//! Order: lock → own token → ledger and supervisor → reconciler (takes every known session over, needs no server) →
//! link → READY=1 once registered. It ends on SIGTERM or SIGINT (sessions run on, or are stopped first: `on_exit`),
//! when drained, or when the reconciler fails.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Environment, OnExit};
use crate::health::{self, Health};
use crate::kinds::Kinds;
use crate::ledger::Ledger;
use crate::link::reports::Reports;
use crate::link::{self, Link, LinkStatus, enrol};
use crate::notice::{Notice, notify};
use crate::reconciler::{Inputs, Reconciler};
use crate::session::Context;
use crate::session::plan::Host;
use crate::session::probe::ReadyLines;
use crate::supervisor::process::{ProcessConfig, ProcessSupervisor};
use crate::{dial, drain, inventory};

/// Stopping every session and having that acknowledged, when `on_exit` is stop.
const STOP_DEADLINE: Duration = Duration::from_secs(70);
/// Reports on their way when agentd exits and sessions run on.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);
/// Nudges that wait to be dialled.
const DIALS_WAITING: usize = 64;

/// Runs the runner until it is told to end.
pub async fn run(config: Config, env: &Environment) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let _lock = lock(&config.state_dir)?;
    notes(&config);
    let token = enrol::own_token(&config.state_dir).context("cannot keep this runner's own token")?;
    let program = std::env::current_exe().context("cannot tell where agentd's own program is")?;
    let supervisor = ProcessSupervisor::new(ProcessConfig {
        state_dir: config.state_dir.clone(),
        workspace_dir: config.workspace_dir.clone(),
        program: program.clone(),
    })?;
    let (ledger, entries) = Ledger::open(&config.state_dir)?;
    let host = host(env, program);
    let kinds = Kinds::load(std::slice::from_ref(&config.kinds_dir), &OsString::from(&host.path));
    let reports = Reports::default();
    let (ended, ended_count) = watch::channel(0);
    let facts = inventory::facts(&config, &kinds, &supervisor);
    for (kind, reason) in &facts.unavailable_kinds {
        tracing::warn!(%kind, reason, "kind cannot run here");
    }

    let (desired_sender, desired) = watch::channel(None);
    let (stop_sessions, runner_stops) = watch::channel(false);
    let (draining_sender, draining) = watch::channel(false);
    let (status_sender, status) = watch::channel(LinkStatus::Away("starting".to_owned()));
    let (dials_sender, dials) = mpsc::channel(DIALS_WAITING);

    let context = Arc::new(Context {
        supervisor: supervisor.clone(),
        config: config.clone(),
        kinds,
        host,
        ledger,
        reports: reports.clone(),
        ready: ReadyLines::new().context("cannot use inotify")?,
        ended,
    });
    tracing::info!(sessions = entries.len(), slots = config.slots, "agentd starts");
    let reconciler = Reconciler::new(context, Inputs { desired, runner_stops }, entries);
    let end_link = CancellationToken::new();
    let link = tokio::spawn(link::run(
        Link {
            config: config.clone(),
            token: token.clone(),
            facts,
            reports: reports.clone(),
            desired: desired_sender,
            draining,
            status: status_sender,
            dials: dials_sender,
        },
        end_link.clone(),
    ));
    tokio::spawn(dial::run(supervisor, config.clone(), token, dials));
    tokio::spawn(health::run(Health { config: config.clone(), reports: reports.clone(), status: status.clone() }));
    tokio::spawn(tell(status, reports.clone()));

    let mut reconciling = tokio::spawn(reconciler.run());
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let drained = drain::run(config.max_tasks, ended_count, reports.clone(), draining_sender);
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = drained => Ok(()),
        failed = &mut reconciling => Err(failed.map_or_else(anyhow::Error::from, anyhow::Error::from)),
    };
    notify(Notice::Stopping);
    if result.is_ok() {
        // A second signal does not wait.
        tokio::select! {
            () = wind_down(&config, &stop_sessions, &reports) => {}
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

async fn wind_down(config: &Config, stop_sessions: &watch::Sender<bool>, reports: &Reports) {
    let limit = match config.on_exit {
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
        match config.on_exit {
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

/// READY=1 at the first registration, and a status line for people.
async fn tell(mut link: watch::Receiver<LinkStatus>, reports: Reports) {
    let mut sessions = reports.watch();
    let mut ready = false;
    loop {
        let status = match &*link.borrow_and_update() {
            LinkStatus::Registered => {
                if !std::mem::replace(&mut ready, true) {
                    notify(Notice::Ready);
                }
                format!("registered; {} sessions", reports.active())
            }
            LinkStatus::Away(reason) => format!("{} sessions; no server: {reason}", reports.active()),
        };
        notify(Notice::Status(status));
        tokio::select! {
            changed = link.changed() => if changed.is_err() { return },
            _ = sessions.changed() => {}
        }
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

/// One agentd per state directory: two would fight about its sessions.
fn lock(state_dir: &Path) -> anyhow::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).with_context(|| {
        format!("cannot make state directory {}; choose another with --state-dir", state_dir.display())
    })?;
    let path = state_dir.join("agentd.lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).with_context(|| {
            format!("cannot write {}; choose another --state-dir or run as its owner", path.display())
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another agentd runs with state directory {}; stop it, or give this one its own --state-dir and --runner-id",
            state_dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// What sessions get of agentd's surroundings.
pub fn host(env: &Environment, program: PathBuf) -> Host {
    let get = |name: &str, default: &str| {
        env.get(name).filter(|text| !text.is_empty()).map_or(default, |text| text).to_owned()
    };
    Host {
        path: get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        lang: get("LANG", "C.UTF-8"),
        shell: get("SHELL", "/bin/sh"),
        user: get("USER", &get("LOGNAME", "agent")),
        program,
    }
}

/// The process's environment; variables that are not text are left out, nothing of ours is one.
pub fn environment() -> Environment {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect::<BTreeMap<_, _>>()
}
