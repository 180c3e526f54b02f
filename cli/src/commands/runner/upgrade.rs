//! `helixctl runner upgrade`: the agentd beside helixctl, its units and kinds, for runners that were provisioned.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Args;

use crate::client::Client;
use crate::commands::machines::{MachineArgs, SshArgs};
use crate::commands::provision::{agentd, owner};
use crate::error::Result;
use crate::provision::signing::SigningKey;
use crate::provision::{self, Run, Task, Waves};
use crate::settings::process_env;
use crate::ui::Ui;

const AFTER: &str = "\
Programs, units and kinds change; settings, packages, identity and running sessions stay. Each machine is proved as by
provision, and changes itself back when it does not work. Upgrade the servers first: a server works with agentd of its own
version, of the one before and of the one after. Run again, it goes on where it stopped. The exit code is the worst
machine's. More: docs/fleet.md";

/// Arguments of `runner upgrade`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub struct UpgradeArgs {
    #[command(flatten)]
    machines: MachineArgs,
    /// Machines that come first and alone; one that fails ends it
    #[arg(long, value_name = "N", default_value_t = 1)]
    canary: usize,
    /// Machines of each wave after them, or their share
    #[arg(long, value_name = "N|P%", default_value = "25%")]
    batch: provision::Amount,
    /// Share of the machines that may fail before no other is begun
    #[arg(long, value_name = "P%", default_value = "10%", value_parser = percent)]
    max_failures: u32,
    /// Only look: what stands in the way and what would change
    #[arg(long)]
    check: bool,
    /// Key that signs what is installed [default: ~/.config/helix/provision.key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    ssh: SshArgs,
    /// Machines at once
    #[arg(long, value_name = "N", default_value_t = 20)]
    parallel: usize,
    /// Seconds after which a machine undoes a change that was not confirmed
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(10..=600))]
    confirm_within: u64,
}

/// Upgrades the machines.
pub async fn run(client: Client, args: UpgradeArgs, ui: &Ui) -> Result<ExitCode> {
    let machines = args.machines.some()?;
    let key_file = args.key.map_or_else(|| SigningKey::default_path(&process_env), Ok)?;
    let run = Run {
        // Not asked to be reached, nor written: its settings stay.
        server: String::new(),
        nats: None,
        agentd: agentd()?,
        key: SigningKey::load(&key_file)?,
        ssh: args.ssh.ssh(ui),
        task: Task::Upgrade,
        leave_packages: true,
        confirm_within: args.confirm_within,
        check_only: args.check,
        diff: false,
        owner: owner(),
        claimed: Mutex::default(),
        client,
    };
    let report = if args.check {
        provision::all(run, machines, args.parallel, ui).await?
    } else {
        let waves = Waves { canary: args.canary, batch: args.batch, max_failures: args.max_failures };
        provision::in_waves(run, machines, waves, args.parallel, ui).await?
    };
    ui.answer(&report, || report.print(ui))?;
    Ok(ExitCode::from(report.exit_code()))
}

fn percent(text: &str) -> Result<u32, String> {
    let share = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|share| *share <= 100);
    share.ok_or_else(|| format!("{text:?} is no share from 0% to 100%"))
}
