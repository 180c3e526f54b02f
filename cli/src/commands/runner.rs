//! `helixctl runner list|show|remove`.

use std::process::ExitCode;

use clap::Subcommand;
use helix_protocol::RunnerId;
use helix_protocol::api::RunnerView;
use serde::Serialize;

use super::session::limits;
use crate::client::Client;
use crate::error::Result;
use crate::ui::{Ui, age};

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

/// What `remove` prints with `--json`.
#[derive(Serialize)]
struct Removed<'a> {
    id: &'a RunnerId,
}

/// Runs one runner command.
pub async fn run(client: &Client, command: RunnerCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        RunnerCommand::List => {
            let list = client.runners().await?;
            ui.answer(&list, || table(ui, &list.runners))?;
        }
        RunnerCommand::Show { id } => {
            let runner = client.runner(&id).await?;
            ui.answer(&runner, || show(ui, &runner))?;
        }
        RunnerCommand::Remove { id } => {
            client.delete_runner(&id).await?;
            ui.answer(&Removed { id: &id }, || ui.line(id.as_str()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The runners as a table; also part of `status`.
pub fn table(ui: &Ui, runners: &[RunnerView]) -> Result<()> {
    let rows: Vec<_> = runners
        .iter()
        .map(|runner| {
            vec![
                runner.id.to_string(),
                status_word(runner),
                format!("{}/{}", runner.active_tasks, runner.slots),
                runner.facts.as_ref().map_or_else(String::new, kinds),
                runner.last_seen_at.map_or_else(|| "never".to_owned(), |seen| format!("{} ago", age(seen))),
            ]
        })
        .collect();
    ui.table(&["runner", "status", "slots used", "kinds", "heard"], &rows)
}

fn kinds(facts: &helix_protocol::runner::RunnerFacts) -> String {
    facts.kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The documents' word, and what it does not say.
fn status_word(runner: &RunnerView) -> String {
    let mut words = vec![format!("{:?}", runner.status).to_lowercase()];
    if runner.liveness != helix_protocol::runner::Liveness::Online {
        words.push(format!("{:?}", runner.liveness).to_lowercase());
    }
    if runner.draining {
        words.push("draining".to_owned());
    }
    if runner.cordoned {
        words.push("cordoned".to_owned());
    }
    words.join(",")
}

fn show(ui: &Ui, runner: &RunnerView) -> Result<()> {
    let mut rows = vec![
        ("runner", runner.id.to_string()),
        ("status", status_word(runner)),
        ("slots used", format!("{} of {}", runner.active_tasks, runner.slots)),
        ("enrolled", runner.enrolled_at.to_string()),
        ("heard", runner.last_seen_at.map_or_else(|| "never".to_owned(), |seen| seen.to_string())),
    ];
    if let Some(facts) = &runner.facts {
        rows.extend([
            ("host", facts.hostname.clone()),
            ("version", facts.version.clone()),
            ("kinds", kinds(facts)),
            ("default kind", facts.default_kind.to_string()),
            ("geometry", facts.default_geometry.to_string()),
            ("backend", facts.backend.clone()),
            ("isolation", facts.isolation.clone()),
            ("limits", facts.limits.clone()),
            ("enforced", limits::names(&facts.enforced)),
            ("most per session", limits::amounts(&facts.max_resources)),
            ("reservable", limits::reserved(&facts.reservable)),
            ("memory", format!("{} MiB", facts.memory_bytes / (1 << 20))),
            ("processors", facts.cpus.to_string()),
        ]);
        for reason in &facts.missing {
            rows.push(("not enforced", reason.clone()));
        }
        for (kind, reserve) in &facts.kind_reserve {
            rows.push(("reserved", format!("{kind}: {}", limits::reserved(reserve))));
        }
        for (kind, reason) in &facts.unavailable_kinds {
            rows.push(("unavailable", format!("{kind}: {reason}")));
        }
        if let Some(reason) = &facts.no_rdp {
            rows.push(("unavailable", format!("RDP: {reason}")));
        }
        for (name, value) in &facts.labels {
            rows.push(("label", format!("{name}={value}")));
        }
    }
    super::session::facts(ui, &rows)
}
