//! `helixctl audit`: who did what, and who was refused; `-f` goes on with what comes.

use std::process::ExitCode;

use clap::Args;
use helix_protocol::api::audit::AuditItem;
use helix_protocol::viewer::Entrance;

use crate::client::Client;
use crate::error::Result;
use crate::feed::Feed;
use crate::ui::Ui;

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// At most so many of what is there
    #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only of this token, `runner ID`, `helix` (what happened by itself) or `?` (nobody was let in)
    #[arg(long)]
    principal: Option<String>,
    /// Only about this session, runner or secret
    #[arg(long)]
    target: Option<String>,
    /// Only what was refused or failed
    #[arg(long)]
    refused: bool,
}

/// Prints the trail, oldest first.
pub async fn run(client: &Client, args: &AuditArgs, ui: &Ui) -> Result<ExitCode> {
    // Before the first reading: what comes after it is announced.
    let mut feed = if args.follow { Some(Feed::open(&client.connection).await?) } else { None };
    let page = client.audit(&query(args, None)).await?;
    if page.truncated && !args.follow {
        ui.note("there are older ones: --limit, or the filters, show more");
    }
    let mut after = page.next_after;
    let mut read = show(ui, &page.entries)?;
    while let Some(feed) = feed.as_mut().filter(|_| read) {
        feed.happened().await?;
        loop {
            let page = client.audit(&query(args, Some(after))).await?;
            read = show(ui, &page.entries)?;
            if page.next_after == after || !read {
                break;
            }
            after = page.next_after;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn query(args: &AuditArgs, after: Option<u64>) -> Vec<(&'static str, String)> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(after.map(|after| ("after", after.to_string())));
    query.extend(args.principal.as_ref().map(|principal| ("principal", principal.clone())));
    query.extend(args.target.as_ref().map(|target| ("target", target.clone())));
    query.extend(args.refused.then(|| ("refused", "true".to_owned())));
    query
}

/// One line each; false when nobody reads any more.
fn show(ui: &Ui, entries: &[AuditItem]) -> Result<bool> {
    for item in entries {
        let goes_on = if ui.json { ui.stream_json(item)? } else { ui.stream_line(&words(item))? };
        if !goes_on {
            return Ok(false);
        }
    }
    Ok(true)
}

fn words(item: &AuditItem) -> String {
    let entry = &item.entry;
    let repeated = if entry.repeated > 0 { format!(" (and {} times before)", entry.repeated) } else { String::new() };
    let target = if entry.target.is_empty() { "-" } else { &entry.target };
    let at = entry.at.strftime("%Y-%m-%d %H:%M:%S");
    let came = entry.entrance.as_ref().map(from).unwrap_or_default();
    format!("{at}  {}  {}  {target}  {}{came}{repeated}", entry.principal, entry.action, entry.result)
}

/// How a viewer came, and with which grant.
fn from(entrance: &Entrance) -> String {
    let address = entrance.address.map(|address| format!(" from {address}")).unwrap_or_default();
    let grant = entrance.grant.as_ref().map(|grant| format!(", grant {grant}")).unwrap_or_default();
    format!("  {}{address}{grant}", entrance.way.words())
}
