//! `helixctl status`: server, runners, pools and sessions on one screen. Exit code 0 healthy, 1 degraded, 3 not reachable.

mod leftovers;

use std::process::ExitCode;

use helix_protocol::ErrorCode;
use helix_protocol::api::{FleetStatus, SessionView};
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use serde::Serialize;

use crate::client::Client;
use crate::error::{Kind, Result};
use crate::ui::Ui;

/// Most sessions shown; the counts cover all.
const SHOWN: usize = 20;

/// What `status --json` prints.
#[derive(Serialize)]
struct Status {
    /// Nothing below is wrong.
    healthy: bool,
    /// What is wrong, for people.
    problems: Vec<String>,
    /// What is for people to decide, and makes nothing degraded.
    warnings: Vec<String>,
    /// The server that was asked.
    url: String,
    #[serde(flatten)]
    fleet: FleetStatus,
    /// Sessions that have not ended, newest first, at most [`SHOWN`].
    running: Vec<SessionView>,
}

/// Asks and judges.
pub async fn run(client: &Client, ui: &Ui) -> Result<ExitCode> {
    let fleet = match client.status().await {
        Ok(fleet) => fleet,
        // The server itself answered, and cannot reach its store: degraded, not unreachable.
        Err(mut error) if error.code == Some(ErrorCode::StoreUnavailable) => {
            error.kind = Kind::Failed;
            error.next = Some("look at the bus: log/nats.log in the state directory of `helixctl up`".to_owned());
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let mut filter = vec![("limit", SHOWN.to_string())];
    let live = SessionPhase::ALL.iter().filter(|phase| !phase.is_terminal());
    filter.extend(super::session::list("phase", live.map(ToString::to_string)));
    let running = client.sessions(&filter).await?.sessions;
    let (problems, warnings) = (problems(&fleet), leftovers::warnings(&fleet));
    let (healthy, url) = (problems.is_empty(), client.connection.url.to_string());
    let status = Status { healthy, problems, warnings, url, fleet, running };
    ui.answer(&status, || show(ui, &status))?;
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why the fleet is not healthy.
fn problems(fleet: &FleetStatus) -> Vec<String> {
    let mut problems = Vec::new();
    if !fleet.runners.iter().any(|runner| runner.liveness == Liveness::Online) {
        problems.push("no runner is online: sessions wait".to_owned());
    }
    for runner in fleet.runners.iter().filter(|runner| runner.liveness != Liveness::Online) {
        problems.push(format!("runner {} is {}", runner.id, format!("{:?}", runner.liveness).to_lowercase()));
    }
    for pool in fleet.pools.iter().filter(|pool| pool.ready < pool.spec.min_ready) {
        // On the way there is not wrong.
        if let Some(why) = super::pool::why(pool) {
            problems.push(format!("pool {} has {} of {} ready: {why}", pool.name, pool.ready, pool.spec.min_ready));
        }
    }
    if let Some(scale) = fleet.scale.as_ref().filter(|scale| scale.failures > 0) {
        let why = scale.error.as_deref().unwrap_or("nobody said why");
        problems.push(format!("the scale hook failed {} times in a row: {why}", scale.failures));
    }
    let lost = fleet.sessions.get("Lost").copied().unwrap_or_default();
    if lost > 0 {
        problems.push(format!("{lost} sessions are lost: their runner is not heard"));
    }
    problems
}

fn show(ui: &Ui, status: &Status) -> Result<()> {
    let health = if status.healthy { "healthy" } else { "degraded" };
    ui.line(&format!("server {} {} version {}", status.url, health, status.fleet.version))?;
    for problem in &status.problems {
        ui.line(&format!("  {problem}"))?;
    }
    for warning in &status.warnings {
        ui.line(&format!("  warning: {warning}"))?;
    }
    if let Some(line) = leftovers::line(&status.fleet) {
        ui.line(&format!("  {line}"))?;
    }
    ui.line("")?;
    super::runner::table(ui, &status.fleet.runners)?;
    for runner in &status.fleet.runners {
        for pull in &runner.images.pulls {
            ui.line(&format!("{} fetches image {}", runner.id, super::runner::show::far(pull)))?;
        }
        for lacking in &runner.images.lacking {
            ui.warn(&format!("{} lacks image {}", runner.id, super::runner::show::lack(lacking)));
        }
    }
    ui.line("")?;
    if !status.fleet.pools.is_empty() {
        super::pool::table(ui, &status.fleet.pools)?;
        ui.line("")?;
    }
    let counts: Vec<_> = status.fleet.sessions.iter().map(|(phase, count)| format!("{phase} {count}")).collect();
    if counts.is_empty() {
        return ui.line("no sessions yet: helixctl session create --help");
    }
    ui.line(&format!("sessions: {}", counts.join(", ")))?;
    if status.running.is_empty() { Ok(()) } else { super::session::table(ui, &status.running) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_without_runners_is_degraded() {
        let fleet: FleetStatus = serde_json::from_str(
            r#"{"version":"1","server":"s","runners":[],"sessions":{"Lost":2},"scale":{"number":7,
                "at":"2026-01-01T00:00:00Z","done":false,"failures":2,"error":"/x ended with exit status: 1",
                "retry_at":null,"wanted":{"shortages":[],"idle_runners":[]}}}"#,
        )
        .expect("a status");
        insta::assert_snapshot!(problems(&fleet).join("\n"), @r"
        no runner is online: sessions wait
        the scale hook failed 2 times in a row: /x ended with exit status: 1
        2 sessions are lost: their runner is not heard
        ");
    }
}
