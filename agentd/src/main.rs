//! agentd: arguments → settings → logs → run.
//!
//! The processes of sessions (`guest`, `in-image`, `acp-bridge`, `workspace`, `forward`, `tools`, `xvfb`, `recorder`, `rdp`) and `reap` are the same program but no daemon: they are
//! dispatched first and start no runtime.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use helix_agentd::config::{Config, RunArgs};
use helix_agentd::daemon::Ended;
use helix_agentd::images::enter;
use helix_agentd::link::enrol::EnrolError;
use helix_agentd::reload::Program;
use helix_agentd::session::workspace;
use helix_agentd::supervisor::process::reap_all;
use helix_agentd::{bridge, daemon, forward, guest, hold, rdp, recorder, telemetry, tools, xvfb};
use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};

/// Threads of the runtime: the work is waiting, and every thread costs memory.
const WORKER_THREADS: usize = 2;
/// Work on files that is under way when agentd ends.
const LAST_WORK: Duration = Duration::from_secs(1);
/// `EX_CONFIG` of sysexits.h: a supervisor that starts it again changes nothing.
const BAD_CONFIG: u8 = 78;
/// `EX_NOPERM`: the server does not enrol this runner.
const REFUSED: u8 = 77;
/// `EX_UNAVAILABLE`: no server answers.
const UNREACHABLE: u8 = 69;

#[derive(Debug, clap::Parser)]
#[command(
    name = "agentd",
    version,
    about = "Runner daemon of Helix: runs sessions on this machine",
    max_term_width = 100
)]
enum Cli {
    /// Run sessions for the servers
    Run(Box<RunArgs>),
    /// Enrol this runner with the token in API_TOKEN, if it is not yet, and end
    Enrol(Box<RunArgs>),
    /// Hold sessions that may start elsewhere, once a server may call this stopped runner lost
    Hold(Box<RunArgs>),
    /// End everything that a runner left behind, and prove it
    Reap {
        /// State directory of the runner
        #[arg(long, value_name = "DIR")]
        state_dir: PathBuf,
        /// Where its workspaces are, if not in the state directory; empty ones are removed
        #[arg(long, value_name = "DIR")]
        workspace_dir: Option<PathBuf>,
    },
    /// Write the manual, a page for each command
    #[command(hide = true)]
    Manual {
        /// Directory that the pages are written to
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    helix_names::without_plugins();
    // Whatever is made by agentd and its sessions is private.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let mut args = std::env::args_os().skip(1);
    let word = args.next();
    let result = match word.as_ref().and_then(|word| word.to_str()) {
        Some("guest") => guest::main(args).map(|()| ExitCode::SUCCESS),
        Some("forward") => forward::unit::main(args).map(|()| ExitCode::SUCCESS),
        Some("tools") => tools::unit::main(args),
        Some("recorder") => recorder::unit::main(args),
        Some("rdp") => rdp::unit::main(args),
        Some("acp-bridge") => bridge::main(args),
        Some("workspace") => workspace::main(args),
        Some(enter::WORD) => enter::main(args),
        Some("xvfb") => xvfb::main(args).map(|()| ExitCode::SUCCESS),
        _ => run(Cli::parse()),
    };
    result.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli {
        Cli::Reap { state_dir, workspace_dir } => {
            reap_all(&state_dir, workspace_dir.as_deref())?;
        }
        Cli::Manual { dir } => {
            clap_mangen::generate_to(Cli::command(), &dir)
                .with_context(|| format!("cannot write to {}", dir.display()))?;
        }
        Cli::Run(args) => return daemon(&args, Job::Run),
        Cli::Enrol(args) => return enrol(&args),
        Cli::Hold(args) => return daemon(&args, Job::Hold),
    }
    Ok(ExitCode::SUCCESS)
}

/// For whoever attaches a machine: makes the runner's own token and tells a server its hash, so that the daemon needs no
/// enrolment token. The exit code says who has to act.
fn enrol(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = match Config::load(args, &daemon::environment()) {
        Ok(config) => config,
        Err(faults) => {
            complain(&faults.into());
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(daemon::enrol(&config)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let code = match error.downcast_ref() {
                Some(EnrolError::Refused { .. } | EnrolError::NoToken) => REFUSED,
                Some(EnrolError::Unreachable { .. }) => UNREACHABLE,
                None => 1,
            };
            complain(&error);
            Ok(ExitCode::from(code))
        }
    }
}

/// What is done with a runner's settings.
#[derive(Debug, Clone, Copy)]
enum Job {
    Run,
    Hold,
}

fn daemon(args: &RunArgs, job: Job) -> anyhow::Result<ExitCode> {
    // Fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let program = Program::this().context("cannot tell where agentd's own program is")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build()?;
    // First of all: a SIGHUP that nobody expects ends a process.
    let hangup = runtime.block_on(async { signal(SignalKind::hangup()) }).context("cannot listen for SIGHUP")?;
    let env = daemon::environment();
    let (config, faults) = Config::load_anyway(args, &env);
    let sound = faults.is_none();
    if let Some(faults) = faults {
        complain(&faults.into());
        if matches!(job, Job::Run) {
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    }
    if args.check_config {
        let what =
            args.config.as_deref().map_or_else(|| "the settings are".into(), |file| format!("{} is", file.display()));
        // A closed pipe is no error of ours.
        let _ = writeln!(std::io::stdout(), "{what} good");
        return Ok(ExitCode::SUCCESS);
    }
    telemetry::init(&config)?;
    let ended = match job {
        Job::Run => runtime.block_on(daemon::run(config, &env, &program, hangup)),
        Job::Hold => runtime.block_on(hold::run(&config, sound)).map(|()| Ended::ForGood),
    };
    runtime.shutdown_timeout(LAST_WORK);
    let ended = match ended {
        Ok(ended) => ended,
        Err(error) => {
            // Through the log and not as output, which may reach the journal behind systemd's word that we ended.
            tracing::error!("{error:#}");
            return Ok(ExitCode::FAILURE);
        }
    };
    match ended {
        Ended::ForGood => Ok(ExitCode::SUCCESS),
        Ended::ToReload => Err(program.execute()).context("cannot execute agentd anew"),
    }
}

/// For the person or the log that started us; the subscriber may not exist yet.
fn complain(error: &anyhow::Error) {
    let bold = std::io::stderr().is_terminal();
    let label = if bold { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    // Nobody reads it if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{label} {error:#}");
}
