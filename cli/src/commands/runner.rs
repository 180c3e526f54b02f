//! `helixctl runner …`: the machines that run sessions. One file per command.
//!
//! Some commands ask the server, some the machine itself ([`place`]): only the former need a server's address and a token.

mod control;
mod cordon;
mod exec;
mod join;
mod labels;
mod leave;
mod list;
mod logs;
pub mod place;
mod reach;
mod remove;
mod rotate;
pub mod show;
mod stats;
mod until;
mod upgrade;

use std::process::ExitCode;

use clap::Subcommand;
use helix_protocol::RunnerId;

use self::control::Action;
pub use self::list::table;
use self::place::Place;
use crate::args::GlobalArgs;
use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// Attach machines that run sessions, look at them, steer them, and remove them
#[derive(Debug, Subcommand)]
pub enum RunnerCommand {
    /// List every runner
    List(list::ListArgs),
    /// Show one runner: slots, kinds, labels, limits, what separates its sessions
    Show {
        /// Runner id
        id: RunnerId,
    },
    /// Attach this machine to a server: settings, enrolment, a service that is started and heard
    Join(Box<join::JoinArgs>),
    /// Undo a join: end the service, leave the server, remove what the join made
    Leave(leave::LeaveArgs),
    /// Show labels of a runner, set and remove them
    Labels(labels::LabelsArgs),
    /// Let a runner take nothing new
    Cordon {
        /// Runner id
        id: RunnerId,
    },
    /// Let a cordoned runner take sessions again
    Uncordon {
        /// Runner id
        id: RunnerId,
    },
    /// Cordon a runner and wait until its sessions have ended
    Drain(cordon::DrainArgs),
    /// Give a runner a new token of its own; the one of before ends
    Rotate(rotate::RotateArgs),
    /// Start an agentd, of this machine or over SSH
    Start(reach::ReachArgs),
    /// Stop an agentd, of this machine or over SSH; its sessions run on
    Stop(reach::ReachArgs),
    /// Restart an agentd, of this machine or over SSH; its sessions run on
    Restart(reach::ReachArgs),
    /// Show what an agentd and its sessions use, of this machine or over SSH
    Stats(stats::StatsArgs),
    /// Show the log of an agentd, of this machine or over SSH
    Logs(logs::LogsArgs),
    /// Run a command, or a shell, where an agentd runs
    Exec(exec::ExecArgs),
    /// Bring the agentd beside this helixctl to runners over SSH, a few first and no further when too many fail
    Upgrade(Box<upgrade::UpgradeArgs>),
    /// Make a machine no runner any more: drain, uninstall over SSH, revoke its token; its id is free then
    Remove(Box<remove::RemoveArgs>),
}

/// Runs one runner command.
pub async fn run(global: &GlobalArgs, command: RunnerCommand, ui: &Ui) -> Result<ExitCode> {
    let client = || -> Result<Client> { super::client(global) };
    match command {
        RunnerCommand::List(args) => list::run(&client()?, &args, ui).await?,
        RunnerCommand::Show { id } => show::run(&client()?, &id, ui).await?,
        RunnerCommand::Join(args) => join::run(global, *args, ui).await?,
        RunnerCommand::Leave(args) => leave::run(&args, ui).await?,
        RunnerCommand::Labels(args) => labels::run(&client()?, args, ui).await?,
        RunnerCommand::Cordon { id } => cordon::set(&client()?, &id, true, ui).await?,
        RunnerCommand::Uncordon { id } => cordon::set(&client()?, &id, false, ui).await?,
        RunnerCommand::Drain(args) => {
            let view = cordon::drain(&client()?, &args, ui).await?;
            ui.answer(&view, || ui.line(view.id.as_str()))?;
        }
        RunnerCommand::Rotate(args) => rotate::run(&client()?, &args, ui).await?,
        RunnerCommand::Start(reach) => control::run(&reach.service(ui).await?, Action::Start, ui).await?,
        RunnerCommand::Stop(reach) => control::run(&reach.service(ui).await?, Action::Stop, ui).await?,
        RunnerCommand::Restart(reach) => control::run(&reach.service(ui).await?, Action::Restart, ui).await?,
        RunnerCommand::Stats(args) => {
            let services = match args.name.clone() {
                Some(name) => vec![args.way.to(name).service(ui).await?],
                None => Place::Here.services().await?,
            };
            stats::run(&services, &args, ui).await?;
        }
        RunnerCommand::Logs(args) => {
            let code = logs::run(&args.reach.service(ui).await?, &args, ui).await?;
            return Ok(ExitCode::from(code));
        }
        RunnerCommand::Exec(args) => {
            let code = exec::run(&args.reach.place(ui).await?, &args, ui).await?;
            return Ok(ExitCode::from(code));
        }
        RunnerCommand::Upgrade(args) => return Box::pin(upgrade::run(client()?, *args, ui)).await,
        RunnerCommand::Remove(args) => Box::pin(remove::run(&client()?, &args, ui)).await?,
    }
    Ok(ExitCode::SUCCESS)
}
