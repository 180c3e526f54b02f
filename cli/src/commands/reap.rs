//! `helixctl reap`: what belongs to nothing known, in NATS and on runners. Looks at once, or tells the last look.

use std::process::ExitCode;

use clap::Args;
use helix_protocol::api::reap::{Leftovers, LeftoversOfRunner, ReapReport, ReapRequest, ReaperView};
use jiff::Timestamp;

use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// Arguments of `reap`.
#[derive(Debug, Args)]
pub struct ReapArgs {
    /// Only look: remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Show what the last look found, without a new one
    #[arg(long, conflicts_with = "dry_run")]
    last: bool,
}

/// Looks, and prints what was found.
pub async fn run(client: &Client, args: &ReapArgs, ui: &Ui) -> Result<ExitCode> {
    let view =
        if args.last { client.reaped().await? } else { client.reap(ReapRequest { dry_run: args.dry_run }).await? };
    ui.answer(&view, || show(ui, &view))?;
    match &view.last {
        None => ui.note("nobody has looked yet: helixctl reap --dry-run"),
        Some(last) if !last.unproved.is_empty() || !last.foreign.is_empty() => ui.note(
            "unproved and foreign things are left. Look at them with a NATS client, and remove there what nobody needs \
             (docs/reaper.md)",
        ),
        Some(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn show(ui: &Ui, view: &ReaperView) -> Result<()> {
    if let Some(last) = &view.last {
        let rows = rows(last);
        if rows.is_empty() {
            ui.line("nothing is left without an owner")?;
        } else {
            ui.table(&["WHAT", "KIND", "COUNT", "BYTES", "FOR EXAMPLE"], &rows)?;
        }
        if last.more {
            ui.line("there is more than one look takes; the next one goes on")?;
        }
    }
    for line in view.runners.iter().flat_map(of_runner) {
        ui.line(&line)?;
    }
    Ok(())
}

fn rows(report: &ReapReport) -> Vec<Vec<String>> {
    let removed = if report.dry_run { "would go" } else { "removed" };
    let lists = [
        (removed, &report.removed),
        ("waits", &report.waiting),
        ("unproved", &report.unproved),
        ("foreign", &report.foreign),
    ];
    let row = |what: &str, of: &Leftovers| {
        let example = of.examples.first().cloned().unwrap_or_default();
        vec![what.to_owned(), of.kind.word().to_owned(), of.count.to_string(), of.bytes.to_string(), example]
    };
    lists.iter().flat_map(|(what, list)| list.iter().map(|of| row(what, of))).collect()
}

/// What a runner has removed and keeps.
pub fn of_runner(of: &LeftoversOfRunner) -> Vec<String> {
    let (runner, reaped) = (&of.runner, &of.leftovers.reaped);
    let mut lines = Vec::new();
    if reaped.sessions > 0 {
        lines.push(format!(
            "{runner} removed what {} unknown sessions had left: {} units, {} processes, {} directories, {} users",
            reaped.sessions, reaped.units, reaped.processes, reaped.directories, reaped.users
        ));
    }
    if reaped.workspaces > 0 {
        lines.push(format!("{runner} removed {} kept workspaces", reaped.workspaces));
    }
    lines.extend(of.leftovers.stuck.iter().map(|key| {
        format!("{runner} cannot remove what is left of session key {key}; why: helixctl runner logs of its machine")
    }));
    lines.extend(
        of.leftovers
            .kept
            .iter()
            .map(|kept| format!("{runner} keeps {} (since {}, {})", kept.path, kept.since, until(kept.until))),
    );
    lines
}

/// When a kept workspace goes.
pub fn until(until: Timestamp) -> String {
    if until == Timestamp::MAX { "until its room is needed".to_owned() } else { format!("until {until}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_found_is_told() {
        let view: ReaperView = serde_json::from_str(
            r#"{"last":{"at":"2026-01-01T00:00:00Z","server":"s",
                "removed":[{"kind":"conversation","count":2,"bytes":310,"examples":["HELIX_THREADS/threads.a.t","x"]}],
                "waiting":[{"kind":"report","count":1,"bytes":99,"examples":["KV_helix_observed/$KV.helix_observed.r.a"]}],
                "unproved":[],"foreign":[{"kind":"stream","count":1,"bytes":7,"examples":["ORDERS"]}]},
              "runners":[{"runner":"r1","reaped":{"sessions":1,"processes":3,"units":2,"directories":1,"users":1,"workspaces":1},
                "stuck":["0123456789abcdef"],
                "kept":[{"path":"/w/a.kept-1","since":"2026-01-01T00:00:00Z","until":"2026-01-08T00:00:00Z"}]}]}"#,
        )
        .expect("a view");
        let last = view.last.as_ref().expect("a look");
        let rows: Vec<_> = rows(last).iter().map(|row| row.join(" ")).collect();
        assert_eq!(
            rows,
            [
                "removed conversation 2 310 HELIX_THREADS/threads.a.t",
                "waits report 1 99 KV_helix_observed/$KV.helix_observed.r.a",
                "foreign stream 1 7 ORDERS",
            ]
        );
        insta::assert_snapshot!(of_runner(&view.runners[0]).join("\n"), @r"
        r1 removed what 1 unknown sessions had left: 2 units, 3 processes, 1 directories, 1 users
        r1 removed 1 kept workspaces
        r1 cannot remove what is left of session key 0123456789abcdef; why: helixctl runner logs of its machine
        r1 keeps /w/a.kept-1 (since 2026-01-01T00:00:00Z, until 2026-01-08T00:00:00Z)
        ");
    }
}
