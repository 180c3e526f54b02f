//! `helixctl runner logs`: the journal of an agentd, where it runs.

use clap::Args;

use super::place::Service;
use super::reach::ReachArgs;
use crate::error::Result;
use crate::ui::Ui;

/// Arguments of `runner logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Go on with every new line
    #[arg(long, short)]
    follow: bool,
    /// Last lines to begin with
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    lines: u32,
    /// Only what was written since then, as journalctl reads times: "10 min ago", "2026-01-31 12:00"
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

/// Shows it; the exit code is journalctl's. With `--json` each line is an object of the journal.
pub async fn run(service: &Service, args: &LogsArgs, ui: &Ui) -> Result<u8> {
    let (unit, lines) = (service.name.unit(), args.lines.to_string());
    let output = if ui.json { "json" } else { "short-iso" };
    let mut command = vec!["journalctl", "--no-pager", "--quiet", "-o", output, "-n", &lines, "-u", &unit];
    if let Some(since) = &args.since {
        command.extend(["--since", since]);
    }
    if args.follow {
        command.push("--follow");
    }
    service.place.hand_over(&command).await
}
