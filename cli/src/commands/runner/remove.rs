//! `helixctl runner remove`.

use clap::Args;
use helix_protocol::RunnerId;
use serde::Serialize;

use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// Arguments of `runner remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Runner id
    id: RunnerId,
    /// Although it is online: its link ends at once, and its sessions are nobody's
    #[arg(long)]
    force: bool,
}

/// What it prints with `--json`.
#[derive(Serialize)]
struct Removed<'a> {
    id: &'a RunnerId,
}

/// Removes one runner.
pub async fn run(client: &Client, args: &RemoveArgs, ui: &Ui) -> Result<()> {
    client.delete_runner(&args.id, args.force).await?;
    ui.answer(&Removed { id: &args.id }, || ui.line(args.id.as_str()))
}
