//! `helixctl token …`: tokens that enrol runners, and those of people. A secret is shown once, when it is made.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use helix_protocol::RunnerId;
use helix_protocol::api::tokens::{CreateToken, NewToken, TokenScope, TokenView};
use serde::Serialize;

use crate::client::Client;
use crate::command_line::parse_duration;
use crate::error::{CliError, Result};
use crate::ui::{Ui, age, span};

/// Make, list and revoke tokens: those that enrol runners, and those of people
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; it is printed this once
    Create(CreateArgs),
    /// List them, without their secrets
    List,
    /// End a token at once, and what it opened
    Revoke {
        /// Its id, or its name where only one has it
        token: String,
    },
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// It enrols runners: one, or with =ID that one alone
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true, required_unless_present = "scope",
        conflicts_with = "scope")]
    #[expect(clippy::option_option, reason = "a flag with a value that may be missing")]
    runner: Option<Option<RunnerId>>,
    /// It enrols any number of runners, until it ends or is revoked
    #[arg(long, requires = "runner")]
    reusable: bool,
    /// It is a person's: what it allows
    #[arg(long, value_name = "SCOPE", requires = "name")]
    scope: Option<PersonScope>,
    /// Whose it is; of one for runners: words for the list
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Its life, such as 15m, 12h or 30d [default: 15m where it is used once, else 30d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    ttl: Option<Duration>,
}

/// What a person may do.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum PersonScope {
    /// Every session and runner
    Operator,
    /// Own sessions
    User,
    /// Look at every session
    Viewer,
}

/// What `revoke` prints with `--json`.
#[derive(Serialize)]
struct Revoked<'a> {
    id: &'a str,
}

/// Runs one token command.
pub async fn run(client: &Client, command: TokenCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        TokenCommand::Create(args) => {
            let made = client.create_token(&request(args)).await?;
            ui.answer(&made, || ui.line(&made.token))?;
            if !ui.json {
                ui.note(&told(&made));
            }
        }
        TokenCommand::List => {
            let list = client.tokens().await?;
            ui.answer(&list, || table(ui, &list.tokens))?;
        }
        TokenCommand::Revoke { token } => {
            let id = find(&client.tokens().await?.tokens, &token)?;
            client.revoke_token(&id).await?;
            ui.answer(&Revoked { id: &id }, || ui.line(&id))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn request(args: CreateArgs) -> CreateToken {
    let CreateArgs { runner, reusable, scope, name, ttl } = args;
    let scope = match scope {
        None => TokenScope::Enrol,
        Some(PersonScope::Operator) => TokenScope::Operator,
        Some(PersonScope::User) => TokenScope::User,
        Some(PersonScope::Viewer) => TokenScope::Viewer,
    };
    CreateToken { scope, name, runner: runner.flatten(), reusable, ttl_seconds: ttl.map(|ttl| ttl.as_secs()) }
}

/// What it is good for, and how it is given away.
fn told(made: &NewToken) -> String {
    let about = &made.about;
    let until = about.expires_at.map_or_else(String::new, |end| format!(" until {end}"));
    if about.scope != TokenScope::Enrol {
        return format!("it is {}'s{until}; they use it as HELIX_TOKEN", about.name);
    }
    let whom = match &about.runner {
        _ if about.reusable => "any number of runners".to_owned(),
        Some(runner) => format!("runner {runner}, once"),
        None => "one runner, once".to_owned(),
    };
    format!("it enrols {whom}{until}; on the machine: helixctl runner join --server URL --token-file FILE")
}

fn table(ui: &Ui, tokens: &[TokenView]) -> Result<()> {
    let row = |token: &TokenView| {
        let uses = match token.scope {
            TokenScope::Enrol if token.used => "used",
            TokenScope::Enrol if !token.reusable => "once",
            _ => "",
        };
        let ends = token.expires_at.map(|end| Duration::try_from(end.duration_since(jiff::Timestamp::now())));
        let ends = match ends {
            None => "never".to_owned(),
            Some(Ok(left)) => format!("in {}", span(left)),
            Some(Err(_)) => "ended".to_owned(),
        };
        let runner = token.runner.as_ref().map(ToString::to_string).unwrap_or_default();
        let scope = format!("{:?}", token.scope).to_lowercase();
        let made = format!("{} ago", age(token.created_at));
        vec![token.id.clone(), token.name.clone(), scope, runner, uses.to_owned(), made, ends]
    };
    ui.table(&["token", "name", "scope", "runner", "use", "made", "ends"], &tokens.iter().map(row).collect::<Vec<_>>())
}

fn find(tokens: &[TokenView], wanted: &str) -> Result<String> {
    if let Some(token) = tokens.iter().find(|token| token.id == wanted) {
        return Ok(token.id.clone());
    }
    let named: Vec<_> = tokens.iter().filter(|token| token.name == wanted).map(|token| token.id.as_str()).collect();
    match named[..] {
        [id] => Ok(id.to_owned()),
        [] => Err(CliError::failed(format!("there is no token {wanted}")).next("helixctl token list")),
        _ => Err(CliError::failed(format!("{wanted} is the name of several tokens"))
            .because(format!("their ids are {}", named.join(", ")))
            .next("helixctl token revoke ID")),
    }
}
