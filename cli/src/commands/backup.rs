//! `helixctl backup` and `helixctl restore`: all that NATS keeps of a fleet, in one file, and back.
//!
//! helix-server does it, with what server.toml says; this command finds both and becomes it. So it runs where a server
//! could, and needs neither token nor port.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;

use crate::args::GlobalArgs;
use crate::error::{CliError, Result};
use crate::settings::{self, process_env};
use crate::up::{programs, service};

/// Settings of a server that a package installed.
const SERVER_TOML: &str = "/etc/helix/server.toml";

/// Copy all that NATS keeps of the fleet into one file
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// A file that is not there yet, or a directory, which gets a file with the time in its name
    #[arg(value_name = "FILE|DIR")]
    pub to: PathBuf,
    /// Settings of a server [default: those of `helixctl up` where there are some, else /etc/helix/server.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Put a backup back into NATS; servers answer 503 meanwhile, sessions run on
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `backup` made
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Settings of a server [default: those of `helixctl up` where there are some, else /etc/helix/server.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Replace what the store has; what came since the backup is lost
    #[arg(long)]
    pub force: bool,
}

/// Runs `helixctl backup`. Does not return unless helix-server cannot be started.
pub fn backup(global: &GlobalArgs, args: &BackupArgs) -> Result<ExitCode> {
    become_server("backup", &args.to, args.config.as_deref(), &[], global)
}

/// Runs `helixctl restore`; see [`backup`].
pub fn restore(global: &GlobalArgs, args: &RestoreArgs) -> Result<ExitCode> {
    let force: &[&str] = if args.force { &["--force"] } else { &[] };
    become_server("restore", &args.file, args.config.as_deref(), force, global)
}

fn become_server(
    verb: &str,
    file: &Path,
    config: Option<&Path>,
    more: &[&str],
    global: &GlobalArgs,
) -> Result<ExitCode> {
    let program = programs::own("helix-server")?;
    let ours = settings::state_dir(global, &process_env).map(|dir| dir.server_toml());
    let ours = ours.ok().filter(|path| path.is_file());
    let mut command = match (config, &ours) {
        // What `up` wrote is complete: a variable that is meant for others changes nothing.
        (None, Some(_)) => service::without_settings(&program),
        _ => Command::new(&program),
    };
    let config = config.map(Path::to_owned).or(ours).unwrap_or_else(|| SERVER_TOML.into());
    command.arg(verb).arg("--config").arg(config).args(more);
    command.args(global.json.then_some("--json")).args(global.quiet.then_some("--quiet"));
    let error = command.arg("--").arg(file).exec();
    Err(CliError::failed("cannot start helix-server").at(program.display()).because(error))
}
