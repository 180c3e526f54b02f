//! `helixctl runner exec`: a command on the machine of an agentd.

use clap::Args;

use super::place::Place;
use super::reach::ReachArgs;
use crate::error::{CliError, Kind, Result};
use crate::ui::Ui;

/// What runs where no command is given.
const SHELL: &str = "/bin/bash";

/// Arguments of `runner exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Run it as this user, not as who we are there
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Program and arguments; a shell when left out
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs it with our input and output; the exit code is the command's.
pub async fn run(place: &Place, args: &ExecArgs, ui: &Ui) -> Result<u8> {
    if ui.json {
        return Err(CliError::new(Kind::Usage, "cannot run the command")
            .because("its output is its own, and not JSON")
            .next("leave --json out"));
    }
    let command: Vec<&str> = match args.command.iter().map(String::as_str).collect::<Vec<_>>() {
        none if none.is_empty() => vec![SHELL],
        command => command,
    };
    let mut whole = match &args.user {
        Some(user) => vec!["runuser", "-u", user.as_str(), "--"],
        None => Vec::new(),
    };
    whole.extend(command);
    place.hand_over(&whole).await
}
