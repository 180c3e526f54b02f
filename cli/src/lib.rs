//! helixctl: the command line of Helix.
//!
//! [`args`] is the clap tree; [`settings`] turns flags, environment, config file and state directory into one
//! [`settings::Connection`]; each noun of [`commands`] is a file that talks to a server through [`client`] (requests)
//! and [`feed`] (events); [`replay`] shows recordings. [`provision`] makes runners of machines over [`ssh`]. [`up`] is the one-machine mode: it supervises nats-server, helix-server and agentd.
//! Everything printed goes through [`ui`] (data on standard output, the rest on standard error), and every failure is
//! an [`error::CliError`], whose kind is the exit code; [`usage`] makes one of what clap says about an argument.

pub mod args;
pub mod checks;
pub mod client;
pub mod command_line;
pub mod commands;
pub mod error;
pub mod feed;
pub mod follow;
pub mod images;
pub mod inventory;
pub mod prompts;
pub mod provision;
pub mod reading;
pub mod replay;
pub mod settings;
pub mod signals;
pub mod ssh;
pub mod stdin;
pub mod terminal;
pub mod transcript;
pub mod ui;
pub mod up;
mod usage;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::error::{CliError, Kind};
use crate::ui::Ui;

/// Runs one command line and answers with its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(help_or_usage) => {
            if let Some(error) = usage::told(&help_or_usage, &args) {
                Ui::new(false, false).error(&error);
                return ExitCode::from(error.kind.exit_code());
            }
            // Help and version are not errors: clap prints them on standard output and its exit code is 0.
            let _ = help_or_usage.print();
            return ExitCode::from(u8::try_from(help_or_usage.exit_code()).unwrap_or(Kind::Usage.exit_code()));
        }
    };
    // An Err says that a provider is installed already, which is all that is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ui = Ui::new(cli.global.json, cli.global.quiet);
    match start(cli, &ui) {
        Ok(code) => code,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn start(cli: Cli, ui: &Ui) -> Result<ExitCode, CliError> {
    // A detached `up` leaves its terminal's session before any thread exists.
    if cli.is_detached_child() {
        up::detach::leave_terminal()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::failed("cannot start the async runtime").because(error))?;
    runtime.block_on(commands::dispatch(cli, ui))
}
