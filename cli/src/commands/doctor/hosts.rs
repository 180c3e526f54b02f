//! `helixctl doctor HOST…`: the same report for machines over SSH, and nothing is changed there.
//!
//! A task for each machine, so many at once: connect, ask (one script, [`crate::provision::look`]), judge ([`super::diagnosis`]).
//! The server is asked once, for all of them; where it cannot be, the machines are told of all the same. That a machine is
//! not reached, or refuses us, is a check of its own: each machine's failure is its own.

use std::process::ExitCode;
use std::sync::Arc;

use futures::StreamExt as _;
use helix_protocol::api::status::FleetStatus;
use jiff::Timestamp;
use serde::Serialize;

use super::agents;
use super::diagnosis::{ServerSide, diagnose};
use crate::checks::{Check, Report};
use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::inventory::Machine;
use crate::provision::check::Standard;
use crate::provision::look::{Question, look};
use crate::provision::report::worst;
use crate::provision::signing::SigningKey;
use crate::provision::wanted::Program;
use crate::settings::process_env;
use crate::ssh::Ssh;
use crate::ui::{HostLine, Ui};
use crate::up::programs;

/// Machines at once.
const AT_ONCE: usize = 20;

/// What is the same for all machines.
struct Round {
    ssh: Ssh,
    server: String,
    /// The fleet, or why the server does not tell.
    fleet: Result<FleetStatus, String>,
    /// What provisioning would bring, where it is there.
    agentd: Option<Program>,
    signer: Option<String>,
}

/// What was found of a machine.
#[derive(Serialize)]
struct Told {
    host: String,
    healthy: bool,
    checks: Vec<Check>,
    /// Why it was not looked at.
    #[serde(skip)]
    error: Option<Kind>,
}

#[derive(Serialize)]
struct All {
    healthy: bool,
    hosts: Vec<Told>,
}

/// Looks at all of them; the exit code is the worst machine's.
pub async fn run(ssh: Ssh, machines: Vec<Machine>, client: Result<Client>, ui: &Ui) -> Result<ExitCode> {
    let words = |error: &CliError| {
        error.why.as_ref().map_or_else(|| error.what.clone(), |why| format!("{}: {why}", error.what))
    };
    let (server, fleet) = match client {
        Ok(client) => (client.connection.url.to_string(), client.status().await.map_err(|error| words(&error))),
        Err(error) => (String::new(), Err(words(&error))),
    };
    let content = programs::own("agentd").ok().and_then(|path| std::fs::read(path).ok());
    let key = SigningKey::default_path(&process_env).and_then(|path| SigningKey::load(&path)).ok();
    let round = Arc::new(Round {
        ssh,
        server: server.trim_end_matches('/').to_owned(),
        fleet,
        agentd: content.and_then(|content| Program::new(content.into())),
        signer: key.map(|key| key.public()),
    });
    let lines = ui.hosts();
    let looks = machines.into_iter().map(|machine| {
        let (round, line) = (Arc::clone(&round), lines.line(&machine.host));
        async move { round.host(&machine, &line).await }
    });
    let hosts: Vec<_> = futures::stream::iter(looks).buffered(AT_ONCE).collect().await;
    let kinds = hosts.iter().filter_map(|told| told.error.or((!told.healthy).then_some(Kind::Failed)));
    let code = worst(kinds);
    let all = All { healthy: hosts.iter().all(|told| told.healthy), hosts };
    ui.answer(&all, || {
        all.hosts.iter().try_for_each(|told| {
            ui.line(&format!("{}:", told.host))?;
            ui.line(&Report::from(told.checks.clone()).text())
        })
    })?;
    Ok(ExitCode::from(code))
}

impl Round {
    async fn host(&self, machine: &Machine, line: &HostLine) -> Told {
        let (checks, error) = match self.look(machine, line).await {
            Ok(checks) => (checks, None),
            Err(error) => {
                let kind = error.kind;
                (vec![Check::failed("login", error)], Some(kind))
            }
        };
        let healthy = !checks.iter().any(Check::is_fault);
        line.end(if healthy { "well" } else { "not well" });
        Told { host: machine.host.clone(), healthy, checks, error }
    }

    async fn look(&self, machine: &Machine, line: &HostLine) -> Result<Vec<Check>> {
        line.step("connecting");
        let way = self.ssh.way(machine).await?;
        let connection = self.ssh.connect(&way).await?;
        let mut shell = self.ssh.shell(&connection).await?;
        line.step("looking");
        let asked = Question { reach: &[], more: Some((&agents::programs_of_kinds(), &self.server)) };
        let facts = look(&mut shell, asked).await?;
        let standard = Standard {
            agentd: self.agentd.as_ref(),
            signer: self.signer.as_deref(),
            now: Timestamp::now().as_second(),
            ..Standard::default()
        };
        let server = match &self.fleet {
            Err(why) => ServerSide { silent: Some(why.clone()), ..ServerSide::default() },
            Ok(fleet) => ServerSide {
                silent: None,
                runner: fleet.runners.iter().find(|view| Some(view.id.as_str()) == facts.enrolled.as_deref()).cloned(),
                version: fleet.version.clone(),
                store: fleet.store.clone(),
            },
        };
        let root = if facts.symptoms.by_sudo { "root by sudo" } else { "root" };
        let mut checks = vec![Check::ok("login", format!("{}, {root}", connection.place))];
        checks.extend(diagnose(&machine.host, &facts, standard, &server));
        Ok(checks)
    }
}
