//! Which agentd a name means: one of this machine, else that of a machine over SSH.

use std::path::PathBuf;

use clap::Args;

use super::place::{Place, Service};
use crate::commands::machines::{self, SshArgs};
use crate::error::{CliError, Kind, Result};
use crate::inventory::Machine;
use crate::ui::Ui;

/// An agentd, wherever it is.
#[derive(Debug, Clone, Args)]
pub struct ReachArgs {
    /// An agentd of this machine, by its name or its runner's id; else a machine, as ssh names it or by its runner's id in the
    /// inventory
    #[arg(value_name = "NAME|[USER@]HOST[:PORT]")]
    name: String,
    #[command(flatten)]
    way: WayArgs,
}

/// The way to an agentd that is elsewhere.
#[derive(Debug, Clone, Args)]
pub struct WayArgs {
    /// File of machines ([[host]] tables): NAME is one of them
    #[arg(long, value_name = "FILE", requires = "name")]
    inventory: Option<PathBuf>,
    /// Which agentd of the machine, where it has several
    #[arg(long, value_name = "NAME", requires = "name")]
    service: Option<String>,
    #[command(flatten)]
    ssh: SshArgs,
}

impl WayArgs {
    /// To the agentd of this name.
    pub fn to(&self, name: String) -> ReachArgs {
        ReachArgs { name, way: self.clone() }
    }
}

impl ReachArgs {
    /// Finds it; connects where it is not on this machine.
    pub async fn service(&self, ui: &Ui) -> Result<Service> {
        if let Some(here) = self.here().await? {
            return Ok(here);
        }
        let (place, machine) = self.machine(ui).await?;
        self.on(&place, &machine).await
    }

    /// The machine alone, whatever its agentd is like.
    pub async fn place(&self, ui: &Ui) -> Result<Place> {
        match self.here().await? {
            Some(here) => Ok(here.place),
            None => self.machine(ui).await.map(|(place, _)| place),
        }
    }

    /// The agentd of this machine, where the name is one's.
    async fn here(&self) -> Result<Option<Service>> {
        if self.way.inventory.is_some() || is_destination(&self.name) {
            return Ok(None);
        }
        match Place::Here.find(&self.name).await {
            Err(error) if error.kind == Kind::Failed => Ok(None),
            found => found.map(Some),
        }
    }

    async fn machine(&self, ui: &Ui) -> Result<(Place, Machine)> {
        let known = self.way.inventory.as_deref().map(machines::read).transpose()?;
        let machine = machines::one(known.as_deref().unwrap_or_default(), &self.name)?;
        let place = Place::over(&machine, self.way.ssh.ssh(ui), ui).await;
        let place = place.map_err(|error| match (&error.why, error.kind) {
            (Some(why), Kind::Unreachable) if known.is_none() && !is_destination(&self.name) => {
                let why = format!("{why}; nor is there an agentd {} on this machine", self.name);
                error.because(why)
            }
            _ => error,
        })?;
        Ok((place, machine))
    }

    /// The one that was asked for, or that of the machine's runner, or the only one.
    async fn on(&self, place: &Place, machine: &Machine) -> Result<Service> {
        let runner = machine.runner.as_ref().map(ToString::to_string);
        if let Some(name) = self.way.service.as_ref().or(runner.as_ref()) {
            return place.find(name).await;
        }
        let services = place.services().await?;
        match services.as_slice() {
            [service] => Ok(service.clone()),
            [] => Err(CliError::failed("there is no agentd")
                .at(place)
                .because("it has no settings of one (/etc/helix/agentd*.toml)")
                .next(format!("helixctl provision {}", self.name))),
            many => {
                let names: Vec<_> = many.iter().map(|service| service.name.as_str()).collect();
                Err(CliError::new(Kind::Usage, "the machine has several agentd")
                    .at(place)
                    .because(names.join(", "))
                    .next(format!("name one: --service {}", names[0])))
            }
        }
    }
}

/// Only ssh names things so: `ops@box`, `box:22`. `agentd@NAME` is an agentd of this machine.
fn is_destination(name: &str) -> bool {
    name.contains(':') || name.contains('@') && !name.starts_with("agentd@")
}
