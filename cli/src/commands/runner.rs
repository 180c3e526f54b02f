//! `helixctl runner …`: the machines that run sessions. One file per command.
//!
//! Some commands ask the server, some the machine itself ([`place`]): only the former need a server's address and a token.

mod list;
pub mod place;
mod remove;
mod show;

use std::process::ExitCode;

use clap::Subcommand;
use helix_protocol::RunnerId;

pub use self::list::table;
use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// Look at the machines that run sessions, and remove them
#[derive(Debug, Subcommand)]
pub enum RunnerCommand {
    /// List every runner
    List,
    /// Show one runner: slots, kinds, limits, what separates its sessions
    Show {
        /// Runner id
        id: RunnerId,
    },
    /// Remove a runner that is not online, and revoke its token; its id is free then
    Remove {
        /// Runner id
        id: RunnerId,
    },
}

/// Runs one runner command.
pub async fn run(client: impl Fn() -> Result<Client>, command: RunnerCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        RunnerCommand::List => list::run(&client()?, ui).await?,
        RunnerCommand::Show { id } => show::run(&client()?, &id, ui).await?,
        RunnerCommand::Remove { id } => remove::run(&client()?, &id, ui).await?,
    }
    Ok(ExitCode::SUCCESS)
}
