//! `helixctl runner remove`: a machine is no runner any more. Drained, uninstalled, revoked; from any half of that, too.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use helix_protocol::RunnerId;
use helix_protocol::api::RunnerView;
use helix_protocol::runner::Liveness;
use serde::Serialize;

use super::cordon::{DrainArgs, cordon, drain};
use crate::client::Client;
use crate::command_line::parse_duration;
use crate::commands::machines::{self, SshArgs};
use crate::commands::provision::owner;
use crate::error::{CliError, Kind, Result};
use crate::provision::facts::Facts;
use crate::provision::look::{Question, look};
use crate::provision::remove::{Removed, remove};
use crate::provision::{lock, verify};
use crate::ssh::Shell;
use crate::ui::Ui;

/// What sessions a machine has, whatever the server knows.
const SLICES: &str =
    "systemctl list-units --plain --no-legend --full --type=slice --state=active 'helix-s*' | cut -d ' ' -f 1";
const SHORT: Duration = Duration::from_secs(30);

const AFTER: &str = "\
Programs, units, users, settings and state go; packages stay, and what is yours in /etc/helix. Run again, it goes on where
it stopped. Of a machine that is gone for good: --server-only. More: docs/fleet.md";

/// Arguments of `runner remove`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub struct RemoveArgs {
    /// A machine, as ssh names it or by its runner's id in the inventory; with --server-only the runner's id
    #[arg(value_name = "[USER@]HOST[:PORT]|ID")]
    name: String,
    /// Forget the runner and revoke its token; its machine is gone, or somebody else's matter
    #[arg(long, conflicts_with_all = ["inventory", "timeout"])]
    server_only: bool,
    /// Stop its sessions; with --server-only: although it is online, and its sessions are nobody's then
    #[arg(long)]
    force: bool,
    /// How long its sessions may go on
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
    /// File of machines ([[host]] tables)
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    #[command(flatten)]
    ssh: SshArgs,
}

/// What it prints with `--json`.
#[derive(Serialize)]
struct Told {
    /// The runner that the server forgot; none where it knew none.
    id: Option<RunnerId>,
    #[serde(flatten)]
    machine: Removed,
}

/// Removes one runner.
pub async fn run(client: &Client, args: &RemoveArgs, ui: &Ui) -> Result<()> {
    let told = if args.server_only {
        let id = RunnerId::parse(&args.name).map_err(|error| {
            CliError::new(Kind::Usage, "that is no runner's id")
                .at(&args.name)
                .because(error)
                .next("helixctl runner list")
        })?;
        client.delete_runner(&id, args.force).await?;
        Told { id: Some(id), machine: Removed::default() }
    } else {
        // On the heap: it is large, and the other way needs none of it.
        Box::pin(machine(client, args, ui)).await?
    };
    ui.answer(&told, || {
        let machine = &told.machine;
        machine.kept.iter().for_each(|kept| ui.note(&format!("stays: {kept}")));
        if !args.server_only {
            ui.note(&format!("{} things are gone from the machine; packages of desktops stay", machine.gone.len()));
        }
        ui.line(told.id.as_ref().map_or("the server knew no runner of it", RunnerId::as_str))
    })
}

async fn machine(client: &Client, args: &RemoveArgs, ui: &Ui) -> Result<Told> {
    let known = args.inventory.as_deref().map(machines::read).transpose()?.unwrap_or_default();
    let machine = machines::one(&known, &args.name)?;
    let ssh = args.ssh.ssh(ui);
    let progress = ui.progress();
    progress.now("connecting");
    let gone = |error: CliError| match error.kind {
        Kind::Unreachable => error.next("if it is gone for good: helixctl runner remove --server-only ID"),
        _ => error,
    };
    let connection = ssh.connect(&ssh.way(&machine).await?).await.map_err(gone)?;
    let mut shell = ssh.shell(&connection).await?;
    progress.now("waiting for the machine");
    lock::take(&mut shell, &owner()).await?;
    let facts = look(&mut shell, Question::default()).await?;
    let view = runner(client, &facts, machine.runner.as_ref()).await?;
    progress.now("waiting for its sessions");
    empty(client, args, view.as_ref(), &mut shell, ui).await?;
    progress.now("removing");
    let removed = remove(&mut shell).await.map_err(|error| error.at(&connection.place))?;
    drop(progress);
    // Last: until here it can be run again and finds whose machine it is.
    if let Some(view) = &view {
        match client.delete_runner(&view.id, true).await {
            Err(error) if error.code == Some(helix_protocol::ErrorCode::RunnerNotFound) => {}
            other => other?,
        }
    }
    Ok(Told { id: view.map(|view| view.id), machine: removed })
}

/// The machine's runner, as the server knows it. One that the machine does not say it is must have been heard from it.
async fn runner(client: &Client, facts: &Facts, named: Option<&RunnerId>) -> Result<Option<RunnerView>> {
    let odd =
        |error: helix_protocol::ids::IdError| CliError::failed("the machine's runner has an odd id").because(error);
    if let Some(id) = &facts.enrolled {
        return verify::known(client, &RunnerId::parse(id).map_err(odd)?).await;
    }
    let id = named.cloned().or_else(|| RunnerId::from_hostname("", &facts.hostname).ok());
    let Some(id) = id else { return Ok(None) };
    let view = verify::known(client, &id).await?;
    Ok(view.filter(|view| {
        let its = view.facts.as_ref().is_some_and(|its| its.hostname == facts.hostname);
        its && view.liveness != Liveness::Online
    }))
}

/// No session runs there any more, or that is no reason to wait.
async fn empty(
    client: &Client,
    args: &RemoveArgs,
    view: Option<&RunnerView>,
    shell: &mut Shell,
    ui: &Ui,
) -> Result<()> {
    if let Some(view) = view.filter(|view| view.liveness == Liveness::Online) {
        let within = if args.force { Duration::ZERO } else { args.timeout };
        let drained =
            drain(client, &DrainArgs { id: view.id.clone(), within, stop: args.force, moves: false }, ui).await;
        return match drained {
            Ok(_) => Ok(()),
            // The script on the machine ends what is left.
            Err(_) if args.force => Ok(()),
            Err(error) => {
                // As it was before: it takes sessions again, if it did.
                if !view.cordoned {
                    cordon(client, &view.id, false).await?;
                }
                Err(error.next(format!("helixctl runner remove {} --force ends them", args.name)))
            }
        };
    }
    let said = shell.run(&[], SLICES, SHORT).await?.stdout;
    let sessions = said.lines().filter(|line| !line.trim().is_empty()).count();
    if sessions == 0 || args.force {
        return Ok(());
    }
    Err(CliError::failed(format!("{sessions} sessions run on the machine, and the server does not hear its runner"))
        .because("nobody can tell when they end")
        .next(format!("helixctl runner remove {} --force ends them", args.name)))
}
