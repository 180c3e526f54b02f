//! Arguments of every command that goes to machines over SSH: which they are, and how to log in.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{CliError, Kind, Result};
use crate::inventory::{self, Machine};
use crate::ssh::Ssh;
use crate::ssh::prompts::Prompts;
use crate::ui::Ui;

/// Which machines.
#[derive(Debug, Clone, Args)]
pub struct MachineArgs {
    /// Machines, as ssh names them; with an inventory also by their runner's id
    #[arg(value_name = "[USER@]HOST[:PORT]")]
    pub hosts: Vec<String>,
    /// File of machines with what differs between them ([[host]] tables); without names, all of it
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
}

/// How to log in.
#[derive(Debug, Clone, Default, Args)]
pub struct SshArgs {
    /// Pin the key of a host that nothing is known of, in known_hosts
    #[arg(long)]
    accept_new_host_key: bool,
    /// ssh's settings, instead of ~/.ssh/config
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
    /// File with the password for sudo; without it a terminal is asked, where sudo wants one
    #[arg(long, value_name = "FILE")]
    sudo_password_file: Option<PathBuf>,
}

impl MachineArgs {
    /// The machines that were named; of an inventory alone all, of none none.
    pub fn machines(&self) -> Result<Vec<Machine>> {
        let known = self.inventory.as_deref().map(read).transpose()?.unwrap_or_default();
        if self.hosts.is_empty() {
            return Ok(known);
        }
        self.hosts.iter().map(|name| one(&known, name)).collect()
    }

    /// The same, and at least one.
    pub fn some(&self) -> Result<Vec<Machine>> {
        let machines = self.machines()?;
        if machines.is_empty() {
            return Err(CliError::new(Kind::Usage, "no machine is named").next("name one, or --inventory FILE"));
        }
        Ok(machines)
    }
}

/// The machine that a name means.
pub fn one(known: &[Machine], name: &str) -> Result<Machine> {
    inventory::find(known, name).map_or_else(
        || {
            Machine::parse(name).map_err(|why| {
                CliError::new(Kind::Usage, "that is no machine")
                    .at(name)
                    .because(why)
                    .next("write [USER@]HOST[:PORT], as for ssh")
            })
        },
        Ok,
    )
}

/// Reads an inventory.
pub fn read(file: &Path) -> Result<Vec<Machine>> {
    let place = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        CliError::new(Kind::Usage, "cannot read the inventory").at(&place).because(error).next("name another file")
    })?;
    inventory::read(&text, &place)
}

impl SshArgs {
    /// What all connections share.
    pub fn ssh(&self, ui: &Ui) -> Ssh {
        Ssh {
            config: self.ssh_config.clone(),
            accept_new: self.accept_new_host_key,
            prompts: Prompts::new(ui, self.sudo_password_file.clone()),
        }
    }
}
