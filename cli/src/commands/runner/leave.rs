//! `helixctl runner leave`: undoes a join. Nothing of it stays on this machine but programs, slot users, and what is in a
//! directory of workspaces that was named.

use clap::Args;
use serde::Serialize;

use super::join::{Machine, is_joined, require_fit, turn};
use super::place::Place;
use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::settings::{Connection, Secret, base_url};
use crate::ui::Ui;

/// Arguments of `runner leave`.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// Its name here (NAME of agentd@NAME), or its runner's id
    name: String,
    /// End its sessions, too
    #[arg(long)]
    force: bool,
}

/// What it prints with `--json`.
#[derive(Serialize)]
struct Left<'a> {
    name: &'a str,
    runner: &'a str,
    /// The server knows it no more.
    revoked: bool,
    sessions_ended: usize,
}

/// Ends the service and its sessions, leaves the server, removes what a join made.
pub async fn run(args: &LeaveArgs, ui: &Ui) -> Result<()> {
    require_fit().await?;
    let progress = ui.progress();
    let _turn = turn(|| progress.now("waits for a join of this machine")).await?;
    let service = Place::Here.find(&args.name).await?;
    if !is_joined(&service.name) {
        return Err(CliError::failed(format!("agentd {} was not set up by a join", service.name.as_str()))
            .at(service.name.settings())
            .because("its settings are somebody's own, or of helixctl provision")
            .next("helixctl runner remove, or packaging/install.sh uninstall"));
    }
    let machine = Machine::look(&service.name)?;
    let Some(settings) = machine.settings()? else { return Ok(()) };
    let (name, runner) = (service.name.as_str(), settings.runner_id.as_str());
    let sessions = service.sessions().await?.len();
    if sessions > 0 && !args.force {
        return Err(CliError::failed(format!("{sessions} sessions run on {runner}"))
            .at(service.name.unit())
            .because("they would end")
            .next(format!("helixctl runner drain {runner}, and then again; or --force")));
    }
    progress.now("ends agentd");
    service.end().await?;
    // Its token is in what is removed below.
    let revoked = match revoke(&machine, settings.server(), &settings.runner_id).await {
        Ok(()) => true,
        Err(error) => {
            ui.warn(&format!(
                "the server still knows {runner}; helixctl runner remove --server-only {runner}\n{error}"
            ));
            false
        }
    };
    progress.now("ends its sessions");
    let slices = service.sessions().await?;
    if !slices.is_empty() {
        let mut stop = vec!["systemctl", "stop", "--"];
        stop.extend(slices.iter().map(String::as_str));
        let said = service.place.ask(&stop).await?;
        if said.code != 0 {
            return Err(CliError::failed("its sessions do not end").at(slices.join(" ")).because(said.stderr.trim()));
        }
        // Units that were killed are failed ones, which systemd keeps, and the slice with them.
        let units: Vec<_> = slices.iter().map(|slice| format!("{}-*", slice.trim_end_matches(".slice"))).collect();
        let mut forget = vec!["systemctl", "reset-failed", "--"];
        forget.extend(units.iter().map(String::as_str));
        service.place.ask(&forget).await?;
    }
    machine.remove_files(&settings)?;
    machine.remove_state()?;
    service.place.ask(&["systemctl", "daemon-reload"]).await?;
    drop(progress);
    let left = Left { name, runner, revoked, sessions_ended: sessions };
    ui.answer(&left, || ui.line(runner))
}

async fn revoke(machine: &Machine, server: &str, runner: &helix_protocol::RunnerId) -> Result<()> {
    let none = || CliError::new(Kind::Failed, "the runner has no token of its own").at(machine.state_dir());
    let token = machine.own_token().ok_or_else(none)?;
    let url = base_url(server, "api_host of its settings")?;
    let client = Client::new(Connection { url, token: Secret::parse(&token) })?;
    match client.delete_runner(runner, false).await {
        Err(error) if error.code == Some(helix_protocol::ErrorCode::RunnerNotFound) => Ok(()),
        done => done,
    }
}
