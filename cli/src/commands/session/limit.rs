//! `session limit`: changes the limits of a session that may be running.

use clap::{ArgGroup, Args};
use helix_protocol::SessionId;
use helix_protocol::api::AmendSession;
use helix_protocol::resources::Resources;

use super::limits::{LIMITS, ResourceArgs, amounts};
use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// Arguments of `session limit`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("limits").args(LIMITS).required(true).multiple(true)))]
pub struct LimitArgs {
    /// Session id
    id: SessionId,
    #[command(flatten)]
    resources: ResourceArgs,
}

/// Sends them; prints what the session is limited to from now on.
pub async fn run(client: &Client, args: LimitArgs, ui: &Ui) -> Result<()> {
    let resources = Resources::from(args.resources);
    let session = client.amend_session(&args.id, &AmendSession { resources }).await?;
    ui.answer(&session, || ui.line(&amounts(&session.spec.resources)))?;
    if !ui.json {
        ui.note(&format!("what its runner enforces of it: helixctl session show {}", session.id));
    }
    Ok(())
}
