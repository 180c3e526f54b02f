//! `helixctl provision`: from a login over SSH to a runner that has shown a first frame, and back when it does not work; and
//! `helixctl runner upgrade`, the same with what changes from version to version alone, in waves ([`waves`]).
//!
//! The way of the data: arguments and `fleet.toml` → [`crate::inventory`] → for each host one task ([`host`]), at most so many
//! at once → [`crate::ssh`] → one root shell → `facts.sh` → [`facts`] → [`check`] (everything that stands in the way) and
//! [`plan`] (everything that would change, against [`wanted`]) → packages → an upload of the files and a signed manifest
//! ([`signing`]) → `apply.sh` → a new connection → the runner is heard and a session on it shows a frame ([`verify`]) →
//! [`report`].
//!
//! Pure: `facts`, `symptoms`, `last_words`, `check`, `plan`, `wanted`, `waves`, `diff`, `report`. All that changes a host is short scripts in `host_scripts/`,
//! which run there to their end whatever becomes of the connection.
//!
//! What a failure leaves: before `apply.sh` nothing but a directory for provisioning itself (packages that were installed
//! stay); in it and until the confirmation, the host as it was: `apply.sh` undoes what fails, and a timer that it sets
//! before it changes anything undoes what nobody confirms. What a run left that was killed is undone by the next one
//! before it begins. Each host's failure is its own.

pub mod check;
mod diff;
pub mod facts;
mod host;
pub mod last_words;
pub mod lock;
pub mod look;
mod plan;
pub mod remove;
pub mod report;
pub mod signing;
pub mod symptoms;
pub mod verify;
pub mod wanted;
mod waves;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::Instrument as _;

pub use self::host::{Run, Task};
use self::report::{HostReport, Outcome, RunReport};
pub use self::waves::{Amount, Waves};
use crate::error::{CliError, Kind, Result};
use crate::inventory::Machine;
use crate::ui::{Hosts, Ui};

/// State of provisioning on a host.
pub const STATE: &str = "/var/lib/helix/provision";
/// Sessions at once on a host that nobody said anything of.
pub const DEFAULT_SLOTS: u32 = 8;

/// Provisions all machines, `parallel` at once.
pub async fn all(run: Run, machines: Vec<Machine>, parallel: usize, ui: &Ui) -> Result<RunReport> {
    twice(&machines)?;
    let hosts = some(&Arc::new(run), &machines, parallel, &ui.hosts()).await;
    Ok(RunReport { hosts })
}

/// The same in waves, each after the one before, and not further than too many failures allow.
pub async fn in_waves(run: Run, machines: Vec<Machine>, waves: Waves, parallel: usize, ui: &Ui) -> Result<RunReport> {
    twice(&machines)?;
    let (run, lines) = (Arc::new(run), ui.hosts());
    let mut hosts: Vec<HostReport> = Vec::new();
    for wave in waves.of(machines.len()) {
        if let Some(why) = waves.stop(hosts.len(), hosts.iter().filter(|host| host.error.is_some()).count()) {
            ui.warn(&format!("{why}; {} machines were not begun", machines.len() - hosts.len()));
            break;
        }
        hosts.extend(some(&run, &machines[wave], parallel, &lines).await);
    }
    let rest = machines[hosts.len()..].iter();
    hosts.extend(rest.map(|machine| HostReport { outcome: Outcome::NotBegun, ..HostReport::new(&machine.host) }));
    Ok(RunReport { hosts })
}

/// Visits some machines; the reports are in their order.
async fn some(run: &Arc<Run>, machines: &[Machine], parallel: usize, lines: &Hosts) -> Vec<HostReport> {
    let seats = Arc::new(Semaphore::new(parallel.max(1)));
    let mut tasks = JoinSet::new();
    for (number, machine) in machines.iter().cloned().enumerate() {
        let (run, seats, line) = (Arc::clone(run), Arc::clone(&seats), lines.line(&machine.host));
        let span = tracing::info_span!("host", host = machine.host);
        let visit = async move {
            // The semaphore is never closed.
            let _seat = seats.acquire_owned().await;
            (number, run.host(&machine, &line).await)
        };
        tasks.spawn(visit.instrument(span));
    }
    let mut reports: Vec<Option<HostReport>> = machines.iter().map(|_| None).collect();
    while let Some(ended) = tasks.join_next().await {
        // A task that panicked is missing from the list, and told below.
        if let Ok((number, report)) = ended {
            reports[number] = Some(report);
        }
    }
    let told = |(report, machine): (Option<HostReport>, &Machine)| {
        report.unwrap_or_else(|| HostReport {
            error: Some(CliError::failed("helixctl itself failed for this host").next("run it again, and report this")),
            ..HostReport::new(&machine.host)
        })
    };
    reports.into_iter().zip(machines).map(told).collect()
}

/// A machine that is named twice would wait for itself.
fn twice(machines: &[Machine]) -> Result<()> {
    for (number, machine) in machines.iter().enumerate() {
        let same = |other: &Machine| other.host == machine.host && other.port == machine.port;
        let runner = |other: &Machine| machine.runner.is_some() && other.runner == machine.runner;
        if machines[..number].iter().any(|other| same(other) || runner(other)) {
            return Err(CliError::new(Kind::Usage, format!("{} is named twice", machine.host))
                .because("each machine is one runner, with an id of its own")
                .next("name it once"));
        }
    }
    Ok(())
}
