//! `session checkpoint|checkpoints|restore|fork|move`: a session's work, kept and gone on with.

use std::time::Duration;

use clap::Args;
use helix_protocol::api::checkpoints::{ForkSession, MoveSession, RestoreSession, WorkView};
use helix_protocol::checkpoint::Checkpoint;
use helix_protocol::{RunnerId, SessionId};
use tokio::time::Instant;

use crate::client::Client;
use crate::command_line::parse_duration;
use crate::error::{CliError, Kind, Result};
use crate::ui::{Ui, age, span};

/// Arguments of `session checkpoint`.
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// Session id
    id: SessionId,
    /// Longest wait; it goes on after that
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_duration)]
    within: Duration,
}

/// Arguments of `session restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Session id
    id: SessionId,
    /// Number of the checkpoint; the newest when left out
    #[arg(long, value_name = "N")]
    checkpoint: Option<u32>,
    /// Longest wait until it is ready again; it goes on after that
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_duration)]
    within: Duration,
}

/// Arguments of `session fork`.
#[derive(Debug, Args)]
pub struct ForkArgs {
    /// Session id
    id: SessionId,
    /// Number of the checkpoint; the newest when left out
    #[arg(long, value_name = "N")]
    checkpoint: Option<u32>,
    /// Id of the new session; made up when left out
    #[arg(long = "as", value_name = "ID")]
    new: Option<SessionId>,
}

/// Arguments of `session move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// Session id
    id: SessionId,
    /// To this runner; the scheduler chooses another one when left out
    #[arg(long, value_name = "RUNNER")]
    to: Option<RunnerId>,
    /// Longest wait until it is ready there; it goes on after that
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_duration)]
    within: Duration,
}

/// Makes a checkpoint; prints its number.
pub async fn checkpoint(client: &Client, args: CheckpointArgs, ui: &Ui) -> Result<()> {
    let first = client.make_checkpoint(&args.id).await?;
    let view = settled(client, &args.id, first, args.within, "no checkpoint was made").await?;
    ui.answer(&view, || ui.line(&view.last.map_or_else(|| "-".to_owned(), |number| number.to_string())))
}

/// Lists them.
pub async fn checkpoints(client: &Client, id: &SessionId, ui: &Ui) -> Result<()> {
    let list = client.checkpoints(id).await?;
    ui.answer(&list, || {
        let row = |checkpoint: &Checkpoint| {
            vec![
                checkpoint.number.to_string(),
                format!("{:?}", checkpoint.reason).to_lowercase(),
                checkpoint.runner.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                checkpoint.entries.to_string(),
                size(checkpoint.bytes),
                size(checkpoint.sent_bytes),
                checkpoint.left_out_count.to_string(),
                age(checkpoint.at),
            ]
        };
        let rows: Vec<_> = list.checkpoints.iter().map(row).collect();
        ui.table(&["number", "reason", "runner", "files", "size", "sent", "left out", "age"], &rows)
    })
}

/// Goes back to one.
pub async fn restore(client: &Client, args: RestoreArgs, ui: &Ui) -> Result<()> {
    let request = RestoreSession { checkpoint: args.checkpoint };
    let first = client.restore_session(&args.id, &request).await?;
    let view = settled(client, &args.id, first, args.within, "the session did not go back").await?;
    ui.answer(&view, || ui.line(args.id.as_str()))
}

/// Makes another session; prints its id.
pub async fn fork(client: &Client, args: ForkArgs, ui: &Ui) -> Result<()> {
    let request = ForkSession { id: args.new, checkpoint: args.checkpoint };
    let view = client.fork_session(&args.id, &request).await?;
    ui.answer(&view, || ui.line(view.id.as_str()))
}

/// Moves it; prints the runner that has it then.
pub async fn move_on(client: &Client, args: MoveArgs, ui: &Ui) -> Result<()> {
    let first = client.move_session(&args.id, &MoveSession { to: args.to }).await?;
    let view = settled(client, &args.id, first, args.within, "the session did not move").await?;
    ui.answer(&view, || ui.line(view.runner.as_ref().map_or("-", RunnerId::as_str)))
}

/// Waits until nothing is under way any more; an error where it did not come about.
pub async fn settled(
    client: &Client,
    id: &SessionId,
    first: WorkView,
    within: Duration,
    missed: &str,
) -> Result<WorkView> {
    let (deadline, mut view) = (Instant::now() + within, first);
    while view.busy {
        if Instant::now() >= deadline {
            return Err(CliError::new(Kind::TimedOut, format!("session {id}: not done in time"))
                .because(format!("{} are over; the session is {}", span(within), view.phase))
                .next(format!("it goes on: helixctl session show {id}")));
        }
        // Each answer waits by itself.
        view = client.work(id).await?;
    }
    match view.error.as_ref().filter(|_| !view.phase.is_terminal()) {
        Some(error) => Err(CliError::failed(format!("session {id}: {missed}"))
            .because(error.clone())
            .next(format!("it is {}: helixctl session checkpoints {id} lists what there is", view.phase))),
        None if view.phase.is_terminal() => Err(CliError::failed(format!("session {id} is {}", view.phase)).next(
            format!("helixctl session show {id} says why; helixctl session fork {id} begins another one from its work"),
        )),
        None => Ok(view),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}
