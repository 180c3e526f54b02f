//! `helixctl pool …`: agents that are kept ready. What people type most (`start-agents`, `stop-agents`, `scale`) is in
//! [`agents`], what a file says in [`apply`].

pub mod agents;
pub mod apply;

use std::process::ExitCode;

use clap::Subcommand;
use helix_protocol::PoolName;
use helix_protocol::api::pools::PoolView;
use jiff::Timestamp;
use serde::Serialize;

use self::apply::FileArgs;
use crate::client::Client;
use crate::error::Result;
use crate::ui::{Ui, age};

/// Look at pools of agents that are kept ready, change them, and remove them
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// List pools: how many agents shall be ready, and how many are
    List,
    /// Show one pool
    Show {
        /// Its name
        name: PoolName,
    },
    /// Make pools be what a file says: shows what would change, and does it with --yes
    Apply(FileArgs),
    /// Remove a pool and its agents that are nobody's
    Delete {
        /// Its name
        name: PoolName,
        /// Stop the sessions that somebody has, too; without it they go on
        #[arg(long)]
        stop: bool,
    },
}

/// What `delete` prints with `--json`.
#[derive(Serialize)]
struct Named<'a> {
    name: &'a PoolName,
}

/// Runs one pool command.
pub async fn run(client: &Client, command: PoolCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        PoolCommand::List => {
            let list = client.pools().await?;
            ui.answer(&list, || table(ui, &list.pools))?;
            if list.pools.is_empty() && !ui.json {
                ui.note("no pools yet: helixctl start-agents --agents 2");
            }
        }
        PoolCommand::Show { name } => {
            let view = client.pool(&name).await?;
            ui.answer(&view, || show(ui, &view))?;
        }
        PoolCommand::Apply(args) => return apply::run(client, &args, ui).await,
        PoolCommand::Delete { name, stop } => {
            client.delete_pool(&name, stop).await?;
            ui.answer(&Named { name: &name }, || ui.line(name.as_str()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The pools as a table; also part of `status`.
pub fn table(ui: &Ui, pools: &[PoolView]) -> Result<()> {
    let rows: Vec<_> = pools
        .iter()
        .map(|pool| {
            vec![
                pool.name.to_string(),
                pool.spec.kind.as_ref().map_or_else(|| "default".to_owned(), ToString::to_string),
                format!("{}/{}", pool.ready, pool.spec.min_ready),
                pool.starting.to_string(),
                pool.pending.to_string(),
                pool.claimed.to_string(),
                pool.queued.to_string(),
                pool.spec.max.map_or_else(|| "-".to_owned(), |max| max.to_string()),
                why(pool).unwrap_or_default(),
            ]
        })
        .collect();
    ui.table(&["pool", "kind", "ready", "starting", "pending", "claimed", "queued", "max", "cause"], &rows)
}

/// Why less are ready than shall be, in one line.
pub fn why(pool: &PoolView) -> Option<String> {
    let cause = pool.cause.as_ref()?;
    let next = pool.retry_at.map(|at| at.duration_since(Timestamp::now()).as_secs().max(0));
    let next = next.map_or_else(String::new, |seconds| format!("; tried again in {seconds} s"));
    Some(format!("{} ({}){next}", cause.message, cause.code))
}

fn show(ui: &Ui, pool: &PoolView) -> Result<()> {
    table(ui, std::slice::from_ref(pool))?;
    ui.line("")?;
    for (name, value) in fields(&pool.spec)? {
        ui.line(&format!("{name} = {value}"))?;
    }
    for line in pool.cause.iter().flat_map(|cause| &cause.log_tail) {
        ui.line(&format!("| {line}"))?;
    }
    ui.line(&format!("version {}, changed by {} {} ago", pool.version, pool.changed_by, age(pool.changed_at)))
}

/// A spec as a list of its fields, each value as JSON.
fn fields(spec: &helix_protocol::pool::PoolSpec) -> Result<Vec<(String, String)>> {
    let json = serde_json::to_value(spec)
        .map_err(|error| crate::error::CliError::failed("cannot encode the pool").because(error))?;
    let object = json.as_object().cloned().unwrap_or_default();
    Ok(object.into_iter().map(|(name, value)| (name, value.to_string())).collect())
}
