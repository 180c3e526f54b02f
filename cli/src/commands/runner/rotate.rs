//! `helixctl runner rotate`: a new token of the runner's own.

use std::time::Duration;

use clap::Args;
use helix_protocol::RunnerId;

use super::until::Watch;
use crate::client::Client;
use crate::command_line::parse_duration;
use crate::error::{CliError, Kind, Result};
use crate::ui::{Ui, span};

/// Arguments of `runner rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Runner id
    id: RunnerId,
    /// How long to wait until it has the new token
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    within: Duration,
}

/// Asks for a new token, and waits until the runner has it.
pub async fn run(client: &Client, args: &RotateArgs, ui: &Ui) -> Result<()> {
    let id = &args.id;
    let mut watch = Watch::begin(client, id).await?;
    let before = client.rotate_runner(id).await?;
    let progress = ui.progress();
    progress.now(&format!("{id} makes a new token"));
    let done = watch.until(args.within, |view| !view.rotating && view.token_since > before.token_since).await?;
    drop(progress);
    let view = done.map_err(|view| {
        CliError::new(Kind::TimedOut, format!("runner {id} has no new token yet"))
            .because(format!("after {}; it is {:?}", span(args.within), view.liveness).to_lowercase())
            .next(
                "the wish stands: the runner does it once it is connected, and its token of before is good until then. Or \
                 end it: helixctl runner remove --server-only",
            )
    })?;
    ui.answer(&view, || ui.line(id.as_str()))?;
    if !ui.json {
        ui.note("it has a new token; the one of before is good for nothing");
    }
    Ok(())
}
