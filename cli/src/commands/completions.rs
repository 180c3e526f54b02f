//! `helixctl completions SHELL`.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use serde::Serialize;

use crate::args::Cli;
use crate::error::Result;
use crate::ui::Ui;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell to complete for, for example: source <(helixctl completions bash)
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Serialize)]
struct Completions {
    shell: String,
    script: String,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, ui: &Ui) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "helixctl", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let answer = Completions { shell: args.shell.to_string(), script };
    ui.answer(&answer, || ui.raw(answer.script.as_bytes()))?;
    Ok(ExitCode::SUCCESS)
}
