//! `helixctl runner stats`: what an agentd and its sessions use, as their control groups say it.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::place::{Place, Service};
use super::reach::WayArgs;
use crate::error::Result;
use crate::ui::Ui;

/// Between two looks of `--follow`.
const INTERVAL: Duration = Duration::from_secs(2);

/// Arguments of `runner stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// An agentd of this machine, by its name or its runner's id; else a machine, as ssh names it or by its runner's id in the
    /// inventory. All agentds of this machine when left out
    #[arg(value_name = "NAME|[USER@]HOST[:PORT]")]
    pub name: Option<String>,
    #[command(flatten)]
    pub way: WayArgs,
    /// Look again every two seconds, and tell how busy processors were in between
    #[arg(long, short)]
    follow: bool,
}

/// One control group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Usage {
    /// Its unit of systemd.
    unit: String,
    /// What it is: the daemon, or a session.
    session: Option<String>,
    /// `active`, …
    state: String,
    /// Processor time so far.
    cpu_ms: Option<u64>,
    /// Of one processor, since the look before.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<u64>,
    memory_bytes: Option<u64>,
    tasks: Option<u64>,
}

/// An agentd, and its sessions.
#[derive(Debug, Serialize)]
struct Stats {
    name: String,
    daemon: Usage,
    sessions: Vec<Usage>,
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report {
    runners: Vec<Stats>,
}

/// Shows it, once or again and again until nobody reads it.
pub async fn run(services: &[Service], args: &StatsArgs, ui: &Ui) -> Result<()> {
    let mut before: Option<(Instant, BTreeMap<String, u64>)> = None;
    loop {
        let mut report = Report { runners: Vec::new() };
        let now = Instant::now();
        for service in services {
            report.runners.push(look(service).await?);
        }
        if let Some((then, used)) = &before {
            report.usages_mut().for_each(|usage| usage.compare(used, now - *then));
        }
        if !args.follow {
            return ui.answer(&report, || table(ui, &report));
        }
        let read =
            if ui.json { ui.stream_json(&report)? } else { table(ui, &report).and_then(|()| ui.stream_line(""))? };
        if !read {
            return Ok(());
        }
        let used = report.usages().filter_map(|usage| Some((usage.unit.clone(), usage.cpu_ms?))).collect();
        before = Some((now, used));
        // A look is what was asked for; nothing tells when a processor was busy.
        tokio::time::sleep(INTERVAL).await;
    }
}

impl Report {
    fn usages(&self) -> impl Iterator<Item = &Usage> {
        self.runners.iter().flat_map(|runner| std::iter::once(&runner.daemon).chain(&runner.sessions))
    }

    fn usages_mut(&mut self) -> impl Iterator<Item = &mut Usage> {
        self.runners.iter_mut().flat_map(|runner| std::iter::once(&mut runner.daemon).chain(&mut runner.sessions))
    }
}

impl Usage {
    /// From the properties that systemctl shows of a unit.
    fn parse(text: &str) -> Self {
        let mut usage = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "Id" => value.clone_into(&mut usage.unit),
                "ActiveState" => value.clone_into(&mut usage.state),
                // "Helix session ID, slot …", by agentd.
                "Description" => {
                    let session = value.strip_prefix("Helix session ").and_then(|rest| rest.split(", slot ").next());
                    usage.session = session.map(str::to_owned);
                }
                "CPUUsageNSec" => usage.cpu_ms = amount(value).map(|ns| ns / 1_000_000),
                "MemoryCurrent" => usage.memory_bytes = amount(value),
                "TasksCurrent" => usage.tasks = amount(value),
                _ => {}
            }
        }
        usage
    }

    fn compare(&mut self, before: &BTreeMap<String, u64>, passed: Duration) {
        let used = self.cpu_ms.zip(before.get(&self.unit)).map(|(now, before)| now.saturating_sub(*before));
        self.cpu_percent = used.map(|used| used * 100 / u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1));
    }
}

/// None for what the machine does not count: `[not set]`, `infinity`, the largest number.
fn amount(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number != u64::MAX)
}

async fn look(service: &Service) -> Result<Stats> {
    let unit = service.name.unit();
    let daemon = show(&service.place, &[&unit]).await?.pop().unwrap_or_default();
    let slices = service.sessions().await?;
    let slices: Vec<_> = slices.iter().map(String::as_str).collect();
    let sessions = if slices.is_empty() { Vec::new() } else { show(&service.place, &slices).await? };
    Ok(Stats { name: service.name.as_str().to_owned(), daemon: Usage { session: None, ..daemon }, sessions })
}

/// Properties of several units: blocks with an empty line between.
async fn show(place: &Place, units: &[&str]) -> Result<Vec<Usage>> {
    let properties = "Id,Description,ActiveState,CPUUsageNSec,MemoryCurrent,TasksCurrent";
    let mut command = vec!["systemctl", "show", "-p", properties, "--"];
    command.extend(units);
    let said = place.ask(&command).await?;
    Ok(said.stdout.split("\n\n").filter(|block| !block.trim().is_empty()).map(Usage::parse).collect())
}

fn table(ui: &Ui, report: &Report) -> Result<()> {
    let unknown = || "-".to_owned();
    let mut rows = Vec::new();
    for runner in &report.runners {
        for usage in std::iter::once(&runner.daemon).chain(&runner.sessions) {
            rows.push(vec![
                runner.name.clone(),
                usage.session.clone().unwrap_or_else(|| "(agentd)".to_owned()),
                usage.state.clone(),
                usage.cpu_percent.map_or_else(unknown, |percent| format!("{percent} %")),
                usage.cpu_ms.map_or_else(unknown, |ms| format!("{:.1} s", Duration::from_millis(ms).as_secs_f64())),
                usage.memory_bytes.map_or_else(unknown, |bytes| format!("{} MiB", bytes >> 20)),
                usage.tasks.map_or_else(unknown, |tasks| tasks.to_string()),
            ]);
        }
    }
    ui.table(&["runner", "session", "state", "cpu", "cpu time", "memory", "tasks"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_does_not_count_is_unknown() {
        let usage = Usage::parse(
            "Id=helix-s0011.slice\nDescription=Helix session build-7, slot 1, runner r1, state /s\nActiveState=active\n\
             CPUUsageNSec=1500000000\nMemoryCurrent=[not set]\nTasksCurrent=18446744073709551615\n",
        );
        assert_eq!((usage.session.as_deref(), usage.cpu_ms), (Some("build-7"), Some(1500)));
        assert_eq!((usage.memory_bytes, usage.tasks), (None, None));
        let mut later = Usage { cpu_ms: Some(2500), ..usage.clone() };
        later.compare(&[(usage.unit, 1500)].into(), Duration::from_secs(2));
        assert_eq!(later.cpu_percent, Some(50));
    }
}
