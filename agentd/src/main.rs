//! agentd: arguments → settings → logs → run.
//!
//! The processes of sessions (`guest`, `task`, `workspace`) and `reap` are the same program but no daemon: they are
//! dispatched first and start no runtime.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use helix_agentd::config::{Config, RunArgs};
use helix_agentd::session::workspace;
use helix_agentd::supervisor::process::reap_all;
use helix_agentd::{daemon, guest, task, telemetry};
use rustix::fs::Mode;

/// Threads of the runtime: the work is waiting, and every thread costs memory.
const WORKER_THREADS: usize = 2;

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
    /// End everything that a runner left behind, and prove it
    Reap {
        /// State directory of the runner
        #[arg(long, value_name = "DIR")]
        state_dir: PathBuf,
        /// Where its workspaces are, if not in the state directory; empty ones are removed
        #[arg(long, value_name = "DIR")]
        workspace_dir: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    // Whatever is made by agentd and its sessions is private.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let mut args = std::env::args_os().skip(1);
    let word = args.next();
    let result = match word.as_ref().and_then(|word| word.to_str()) {
        Some("guest") => guest::main(args).map(|()| ExitCode::SUCCESS),
        Some("task") => task::main(args).map(|()| ExitCode::SUCCESS),
        Some("workspace") => workspace::main(args),
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
        Cli::Run(args) => {
            // Fails only if one is installed already.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let env = daemon::environment();
            let config = Config::load(&args, &env)?;
            telemetry::init(&config)?;
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(WORKER_THREADS)
                .enable_all()
                .build()?
                .block_on(daemon::run(config, &env))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// For the person or the log that started us; the subscriber may not exist yet.
fn complain(error: &anyhow::Error) {
    let bold = std::io::stderr().is_terminal();
    let label = if bold { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    // Nobody reads it if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{label} {error:#}");
}
