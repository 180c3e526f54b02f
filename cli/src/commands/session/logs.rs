//! `session logs`: the last lines, or those and every new one as it is written.

use clap::Args;
use clap::builder::PossibleValuesParser;
use helix_protocol::SessionId;
use helix_protocol::link::{LogLine, UNITS};

use crate::client::{Client, LogsRequest};
use crate::error::Result;
use crate::ui::Ui;

/// Arguments of `session logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Session id
    id: SessionId,
    /// Go on with every new line until the session's log ends; Ctrl-C ends it before
    #[arg(long, short)]
    follow: bool,
    /// Only what this unit wrote
    #[arg(long, value_parser = PossibleValuesParser::new(UNITS))]
    unit: Option<String>,
    /// Last lines of each unit
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000))]
    lines: u32,
}

/// Prints them.
pub async fn run(client: &Client, args: LogsArgs, ui: &Ui) -> Result<()> {
    let LogsArgs { id, follow, unit, lines } = args;
    let request = LogsRequest { lines, unit };
    if !follow {
        let logs = client.logs(&id, &request).await?;
        return ui.answer(&logs, || logs.lines.iter().try_for_each(|line| ui.line(&words(line))));
    }
    let mut followed = client.follow_logs(&id, &request).await?;
    while let Some(line) = followed.next().await? {
        let taken = if ui.json { ui.stream_json(&line)? } else { ui.stream_line(&words(&line))? };
        if !taken {
            // Nobody reads any more (`| head`).
            break;
        }
    }
    Ok(())
}

fn words(line: &LogLine) -> String {
    format!("{}: {}", line.unit, line.text)
}
