//! `session grant`: passwords with which VNC and RDP clients come to a session's desktop at ports of its runner, or through
//! the documents' routes.

use clap::Args;
use helix_protocol::api::grants::CreateGrant;
use helix_protocol::control::Role;
use helix_protocol::{GrantId, Seat, SessionId};

use crate::client::Client;
use crate::error::Result;
use crate::ui::{Ui, age};

/// Arguments of `session grant`.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// Session id
    id: SessionId,
    /// Seconds until it ends by itself, 60 to 604800; 12 hours when left out
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(60..=604_800))]
    ttl: Option<u64>,
    /// Who comes with it only looks
    #[arg(long)]
    view_only: bool,
    /// From where, a word of your own: who holds the control types from his seat alone
    #[arg(long)]
    seat: Option<Seat>,
    /// List the session's grants, without their passwords
    #[arg(long, conflicts_with_all = ["ttl", "view_only", "seat", "revoke"])]
    list: bool,
    /// End this grant, and every connection that came with it
    #[arg(long, value_name = "GRANT", conflicts_with_all = ["ttl", "view_only", "seat"])]
    revoke: Option<GrantId>,
}

/// Makes, lists or revokes.
pub async fn run(client: &Client, args: GrantArgs, ui: &Ui) -> Result<()> {
    let GrantArgs { id, ttl, view_only, seat, list, revoke } = args;
    if list {
        let grants = client.grants(&id).await?;
        let rows: Vec<_> = grants
            .grants
            .iter()
            .map(|grant| {
                let seat = grant.seat.as_ref().map(ToString::to_string).unwrap_or_default();
                let made = format!("{} ago", age(grant.made_at));
                vec![
                    grant.id.to_string(),
                    grant.by.clone(),
                    word(grant.role).to_owned(),
                    seat,
                    made,
                    grant.expires_at.to_string(),
                ]
            })
            .collect();
        return ui.answer(&grants, || ui.table(&["grant", "by", "role", "seat", "made", "ends"], &rows));
    }
    if let Some(grant) = revoke {
        let revoked = client.revoke_grant(&id, &grant).await?;
        ui.answer(&revoked, || ui.line(grant.as_str()))?;
        if !revoked.enforced {
            ui.warn(&format!(
                "the session's runner has not said yet that it knows: until it is heard, the password lets in, and what came \
                 with it stays open; helixctl session show {id} says how it is heard"
            ));
        }
        return Ok(());
    }
    let made = client.make_grant(&id, &CreateGrant { ttl_seconds: ttl, view_only, seat }).await?;
    ui.answer(&made, || ui.line(&format!("user {} password {}", made.username, made.password)))?;
    if !ui.json {
        ui.note(&format!(
            "{} until {}; to end it: helixctl session grant {id} --revoke {}",
            word(made.role),
            made.expires_at,
            made.id
        ));
    }
    if !made.enforced {
        ui.warn("the session's runner has not said yet that it knows: helixctl session show says how it is heard");
    }
    Ok(())
}

fn word(role: Role) -> &'static str {
    match role {
        Role::View => "view",
        Role::Control => "control",
    }
}
