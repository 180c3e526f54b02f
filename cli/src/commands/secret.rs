//! `helixctl secret …`: values that sessions get by name. A value never stands on a command line: everybody on the
//! machine can read those, and shells write them down.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use helix_protocol::api::threads::SetSecret;
use serde::Serialize;

use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::settings::process_env;
use crate::ui::{Ui, age};
use crate::{command_line, stdin};

/// Most characters of a value.
const MAX_CHARS: usize = 64 * 1024;

/// Store values that sessions get by name, such as model keys
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Store a value: from standard input (a person types it unseen), or from an environment variable
    Set(SetArgs),
    /// List your secrets, without their values
    List,
    /// Remove a secret; sessions that have it keep it until they end
    Delete {
        /// Its name
        name: String,
    },
}

/// Arguments of `secret set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Its name: that of the environment variable which the agent gets
    name: String,
    /// Refused.
    #[arg(hide = true)]
    value: Option<String>,
    /// Take the value of this environment variable of the command itself
    #[arg(long, value_name = "VARIABLE")]
    value_from_env: Option<String>,
}

/// What `set` and `delete` print with `--json`.
#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

/// Runs one secret command.
pub async fn run(client: impl FnOnce() -> Result<Client>, command: SecretCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        SecretCommand::Set(args) => {
            let name = checked(&args)?;
            let value = value(&args, name, ui).await?;
            client()?.set_secret(name, &SetSecret { value }).await?;
            ui.answer(&Named { name }, || ui.line(name))?;
            if !ui.json {
                ui.note(&format!("sessions get it with: helixctl session create --secret {name}"));
            }
        }
        SecretCommand::List => {
            let list = client()?.secrets().await?;
            let rows: Vec<_> = list
                .secrets
                .iter()
                .map(|secret| vec![secret.name.clone(), format!("{} ago", age(secret.stored_at))])
                .collect();
            ui.answer(&list, || ui.table(&["secret", "stored"], &rows))?;
        }
        SecretCommand::Delete { name } => {
            client()?.delete_secret(&name).await?;
            ui.answer(&Named { name: &name }, || ui.line(&name))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The name, if no value stands beside it.
fn checked(args: &SetArgs) -> Result<&str> {
    let name = args.name.split_once('=').map_or(args.name.as_str(), |(name, _)| name);
    if args.value.is_some() || name != args.name {
        return Err(command_line::value_is_seen(name, "helixctl secret set"));
    }
    Ok(name)
}

async fn value(args: &SetArgs, name: &str, ui: &Ui) -> Result<String> {
    let value = match &args.value_from_env {
        Some(variable) => command_line::variable(variable, &process_env)?,
        None if stdin::is_terminal() => {
            let ask = || ui.warn(&format!("type the value of {name} (it is not shown), then Return"));
            stdin::hidden_line(ask).await?
        }
        None => stdin::text("standard input", MAX_CHARS)?,
    };
    // The end of the line is not part of what was typed or echoed.
    let value = value.strip_suffix('\n').map_or(value.as_str(), |value| value.strip_suffix('\r').unwrap_or(value));
    if value.is_empty() {
        return Err(CliError::new(Kind::Usage, format!("there is no value for {name}"))
            .at("standard input")
            .because("it is empty")
            .next(format!("printf %s \"$VALUE\" | helixctl secret set {name}")));
    }
    Ok(value.to_owned())
}
