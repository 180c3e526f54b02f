//! `helixctl up`: checks what is needed, then supervises, here or in the background.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::filter::LevelFilter;

use crate::args::GlobalArgs;
use crate::error::{CliError, Result};
use crate::provision::signing::SigningKey;
use crate::settings::{process_env, state_dir};
use crate::ui::Ui;
use crate::up::detach::{self, Outcome};
use crate::up::leftovers::{self, Sessions};
use crate::up::lock::{self, Lock, Role, Taken};
use crate::up::record::{UpInfo, UpRecord};
use crate::up::service::{LOG_CHECK, keep_small};
use crate::up::state_dir::StateDir;
use crate::up::supervise::{self, Plan, Signals};
use crate::up::{config, preflight};

/// Arguments of `up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Return when everything is ready; it goes on in the background
    #[arg(long)]
    pub detach: bool,
    /// Address of the server; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Sessions at once; by memory when left out (512 MiB each, from 8 to 1000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(config::MOST_SLOTS)))]
    pub slots: Option<u32>,
    /// This is the background process.
    #[arg(long, hide = true)]
    pub detached_child: bool,
}

/// Supervises until a signal comes; with `--detach` returns when everything is ready.
pub async fn run(global: &GlobalArgs, args: &UpArgs, ui: &Ui) -> Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let dir = state_dir(global, &process_env)?.create()?;
    if args.detached_child {
        return Ok(run_in_background(&dir, args, &mut signals).await);
    }
    if args.detach {
        let progress = ui.progress();
        progress.now("starting nats-server, helix-server and agentd");
        let info = detach::start(&dir, args.listen, args.slots, &mut signals).await;
        drop(progress);
        let info = info?;
        ui.answer(&info, || show(ui, &info, true))?;
        return Ok(ExitCode::SUCCESS);
    }
    log_to_stderr(if global.quiet { LevelFilter::WARN } else { LevelFilter::INFO });
    supervise(&dir, args, &mut signals, |info| ui.answer(info, || show(ui, info, false))).await?;
    Ok(ExitCode::SUCCESS)
}

/// The background process: its outcome goes to whoever started it, its log to standard error.
async fn run_in_background(dir: &StateDir, args: &UpArgs, signals: &mut Signals) -> ExitCode {
    log_to_stderr(LevelFilter::INFO);
    let mut told = false;
    let tell = |info: &UpInfo| {
        told = true;
        detach::tell(&Outcome::Ready(info.clone()))
    };
    let log = dir.log_file("up");
    let outcome = tokio::select! {
        outcome = supervise(dir, args, signals, tell) => outcome,
        never = keep_small(&log, LOG_CHECK) => match never {},
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    tracing::error!("{error}");
    let code = ExitCode::from(error.kind.exit_code());
    if !told {
        let _ = detach::tell(&Outcome::Failed(error));
    }
    code
}

async fn supervise(
    dir: &StateDir,
    args: &UpArgs,
    signals: &mut Signals,
    announce: impl FnOnce(&UpInfo) -> Result<()>,
) -> Result<()> {
    // Held until the end: its release says that nobody supervises.
    let _lock = take_lock(dir)?;
    let programs = preflight::programs(&process_env).await?;
    // A killed supervisor's children give way; the sessions of its agentd run on and are found by the next one.
    // Without a readable record their command lines tell.
    let record = UpRecord::read(dir).unwrap_or_default();
    leftovers::end(leftovers::find(dir, record.as_ref()), Sessions::Keep).await;
    let listen = preflight::free_address(args.listen)?;
    dir.make_secrets()?;
    let slots = args.slots.unwrap_or_else(config::slots_by_memory);
    // Who has no home has no key either.
    let image_signers = SigningKey::default_path(&process_env).ok().map(|path| SigningKey::public_path(&path));
    let plan = Plan { dir: dir.clone(), listen, slots, programs, image_signers };
    supervise::run(&plan, signals, announce).await
}

fn take_lock(dir: &StateDir) -> Result<Lock> {
    let holder = match lock::take(dir, Role::Up)? {
        Taken::Ours(lock) => return Ok(lock),
        Taken::Held(holder) => holder,
    };
    let pid = holder.as_ref().map_or_else(|| "?".to_owned(), |holder| holder.process.pid.to_string());
    let place = dir.root().display();
    let record = UpRecord::read(dir).unwrap_or_default();
    Err(match (holder.map(|holder| holder.role), record) {
        (Some(Role::Up), Some(record)) => CliError::failed("Helix is already up in this state directory")
            .at(place)
            .because(format!("{} is served, supervised by process {pid}", record.info.url))
            .next("helixctl status, helixctl down, or another --state-dir and --listen"),
        _ => CliError::failed("the state directory is in use")
            .at(place)
            .because(format!("another helixctl (process {pid}) starts or ends Helix there"))
            .next("repeat the command in a moment"),
    })
}

fn show(ui: &Ui, info: &UpInfo, detached: bool) -> Result<()> {
    // The password stays in the file: terminals are recorded and shared.
    let nats = info.nats_url.as_deref().and_then(|url| url.rsplit_once('@')).map_or("", |(_, address)| address);
    let pids: Vec<_> = info.pids.iter().map(|(name, pid)| format!("{name} {pid}")).collect();
    super::session::facts(
        ui,
        &[
            ("server", info.url.clone()),
            ("nats", format!("nats://{nats} (nats_url in up.json may read everything)")),
            ("token", info.token_file.display().to_string()),
            ("state", info.state_dir.display().to_string()),
            ("processes", pids.join(", ")),
        ],
    )?;
    ui.note(if detached { "Helix is up; helixctl down ends it" } else { "Helix is up; Ctrl-C ends it" });
    Ok(())
}

fn log_to_stderr(level: LevelFilter) {
    // A closed terminal must not end the supervisor before its children have ended.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false)
        .try_init();
}
