//! `helixctl runner remove`.

use helix_protocol::RunnerId;
use serde::Serialize;

use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// What it prints with `--json`.
#[derive(Serialize)]
struct Removed<'a> {
    id: &'a RunnerId,
}

/// Removes one runner.
pub async fn run(client: &Client, id: &RunnerId, ui: &Ui) -> Result<()> {
    client.delete_runner(id).await?;
    ui.answer(&Removed { id }, || ui.line(id.as_str()))
}
