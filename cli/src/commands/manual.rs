//! `helixctl manual DIR`: its pages, one for each command. For who packs it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use serde::Serialize;

use crate::args::Cli;
use crate::error::{CliError, Result};
use crate::ui::Ui;

/// Arguments of `manual`.
#[derive(Debug, Args)]
pub struct ManualArgs {
    /// Directory that the pages are written to
    pub dir: PathBuf,
}

#[derive(Serialize)]
struct Written {
    dir: String,
}

/// Writes the pages.
pub fn run(args: &ManualArgs, ui: &Ui) -> Result<ExitCode> {
    let place = args.dir.display().to_string();
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(|error| {
        CliError::failed("cannot write the manual").at(&place).because(error).next("name a directory that is there")
    })?;
    ui.answer(&Written { dir: place }, || Ok(()))?;
    Ok(ExitCode::SUCCESS)
}
