//! `helixctl provision`: the command line of [`crate::provision`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Args;
use helix_protocol::PoolName;

use super::machines::{MachineArgs, SshArgs};
use super::session::create::parse_pair;
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::inventory::Machine;
use crate::provision::signing::SigningKey;
use crate::provision::wanted::Program;
use crate::provision::{self, Run, Task};
use crate::settings::process_env;
use crate::ui::Ui;
use crate::up::programs;

const AFTER: &str = "\
The exit code is the worst host's: 0 when all are as wanted. ssh's own settings (~/.ssh/config) count: names, users,
ports, keys, agents, jump hosts, known_hosts. More: docs/provision.md";

/// Arguments of `provision`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub struct ProvisionArgs {
    #[command(flatten)]
    machines: MachineArgs,
    /// Pool that they serve, where the inventory says nothing
    #[arg(long)]
    pool: Option<PoolName>,
    /// Label of their runners; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Sessions at once on each, where the inventory says nothing [default: 8]
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// Only look: what stands in the way and what would change
    #[arg(long)]
    check: bool,
    /// Show how text files differ
    #[arg(long)]
    diff: bool,
    /// Server as the machines reach it, where that is another address than ours
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// NATS as the machines reach it, where that is another address than the server's settings say
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// Key that signs what is installed [default: ~/.config/helix/provision.key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Install no packages; say which are missing
    #[arg(long)]
    no_packages: bool,
    #[command(flatten)]
    ssh: SshArgs,
    /// Machines at once
    #[arg(long, value_name = "N", default_value_t = 20)]
    parallel: usize,
    /// Seconds after which a machine undoes a change that was not confirmed
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(10..=600))]
    confirm_within: u64,
}

/// Provisions the machines.
pub async fn run(client: Client, args: ProvisionArgs, ui: &Ui) -> Result<ExitCode> {
    let machines = machines(&args)?;
    let key_file = args.key.clone().map_or_else(|| SigningKey::default_path(&process_env), Ok)?;
    let server = args.server.unwrap_or_else(|| client.connection.url.to_string());
    let run = Run {
        server: server.trim_end_matches('/').to_owned(),
        nats: args.nats,
        agentd: agentd()?,
        key: SigningKey::load(&key_file)?,
        ssh: args.ssh.ssh(ui),
        task: Task::Provision,
        leave_packages: args.no_packages,
        confirm_within: args.confirm_within,
        check_only: args.check,
        diff: args.diff,
        owner: owner(),
        claimed: Mutex::default(),
        client,
    };
    let report = provision::all(run, machines, args.parallel, ui).await?;
    ui.answer(&report, || report.print(ui))?;
    Ok(ExitCode::from(report.exit_code()))
}

/// Arguments and inventory together; what an entry says itself is stronger than a flag.
fn machines(args: &ProvisionArgs) -> Result<Vec<Machine>> {
    let mut machines = args.machines.some()?;
    for machine in &mut machines {
        machine.slots = machine.slots.or(args.slots);
        machine.pool = machine.pool.take().or_else(|| args.pool.clone());
        for (name, value) in &args.labels {
            machine.labels.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    Ok(machines)
}

/// What is brought: the agentd beside helixctl.
pub fn agentd() -> Result<Program> {
    let path = programs::own("agentd")?;
    let bad = |why: String| CliError::failed("cannot read agentd").at(path.display()).because(why).next("make build");
    let content = std::fs::read(&path).map_err(|error| bad(error.to_string()))?;
    Program::new(content.into()).ok_or_else(|| bad("it is no program for a 64-bit Linux".to_owned()))
}

/// For whoever meets our lock.
pub fn owner() -> String {
    let user = process_env("USER").or_else(|| process_env("LOGNAME")).unwrap_or_else(|| "somebody".to_owned());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{host} (helixctl, process {})", std::process::id())
}
