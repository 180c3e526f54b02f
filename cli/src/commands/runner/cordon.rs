//! `helixctl runner cordon|uncordon|drain`: a runner that takes nothing new, and one that is empty.

use std::time::Duration;

use clap::Args;
use helix_protocol::RunnerId;
use helix_protocol::api::RunnerView;
use helix_protocol::api::checkpoints::MoveSession;
use helix_protocol::api::runners::AmendRunner;
use helix_protocol::session::SessionPhase;
use tokio::time::Instant;

use super::super::session::work::settled;
use super::until::Watch;
use crate::client::Client;
use crate::command_line::parse_duration;
use crate::error::{CliError, Kind, Result};
use crate::ui::{Ui, span};

/// How long sessions may take to end once they are told to.
const END_WITHIN: Duration = Duration::from_mins(2);

/// Arguments of `runner drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Runner id
    pub id: RunnerId,
    /// How long its sessions may go on
    #[arg(long, visible_alias = "deadline", value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub within: Duration,
    /// Stop those that are left then
    #[arg(long)]
    pub stop: bool,
    /// Move its sessions to other runners at once, with their work
    #[arg(long = "move")]
    pub moves: bool,
}

/// Sets whether a runner takes anything new.
pub async fn set(client: &Client, id: &RunnerId, cordoned: bool, ui: &Ui) -> Result<()> {
    let view = cordon(client, id, cordoned).await?;
    ui.answer(&view, || ui.line(id.as_str()))
}

/// The same without a word.
pub async fn cordon(client: &Client, id: &RunnerId, cordoned: bool) -> Result<RunnerView> {
    let change = AmendRunner { cordoned: Some(cordoned), ..AmendRunner::default() };
    client.amend_runner(id, &change).await
}

/// Cordons, waits until the runner is empty, and where asked ends what is left. It stays cordoned.
pub async fn drain(client: &Client, args: &DrainArgs, ui: &Ui) -> Result<RunnerView> {
    let DrainArgs { id, within, stop, moves } = args;
    let begun = Instant::now();
    let mut watch = Watch::begin(client, id).await?;
    cordon(client, id, true).await?;
    let progress = ui.progress();
    progress.now(&format!("sessions of {id} end"));
    let unmoved = if *moves { move_all(client, id, *within, ui).await? } else { Vec::new() };
    let within = within.saturating_sub(begun.elapsed());
    let is_empty = |view: &RunnerView| view.active_tasks == 0;
    let left = match watch.until(within, is_empty).await? {
        Ok(view) => return Ok(view),
        Err(view) => view.active_tasks,
    };
    if *stop {
        for session in running(client, id).await? {
            client.stop_session(&session).await?;
        }
        if let Ok(view) = watch.until(END_WITHIN, is_empty).await? {
            return Ok(view);
        }
    }
    let why = unmoved.first().map(|why| format!("; not moved: {why}")).unwrap_or_default();
    Err(CliError::new(Kind::TimedOut, format!("{left} sessions of runner {id} go on"))
        .because(format!("after {}; it takes nothing new{why}", span(args.within)))
        .next(format!(
            "helixctl runner drain {id} --within 0s --stop ends them; helixctl runner uncordon {id} opens it again"
        )))
}

/// Moves what can be moved, one after the other, until the time is over. Answers why others stay.
async fn move_all(client: &Client, id: &RunnerId, within: Duration, ui: &Ui) -> Result<Vec<String>> {
    let deadline = Instant::now() + within;
    let mut unmoved = Vec::new();
    for session in running(client, id).await? {
        let left = deadline.saturating_duration_since(Instant::now());
        let moved = match client.move_session(&session, &MoveSession::default()).await {
            Ok(first) => settled(client, &session, first, left, "it did not move").await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = moved {
            ui.warn(&format!("session {session} stays: {error}"));
            unmoved.push(format!("{session}: {error}"));
        }
    }
    Ok(unmoved)
}

/// Every session of it that has not ended.
async fn running(client: &Client, id: &RunnerId) -> Result<Vec<helix_protocol::SessionId>> {
    let live: Vec<_> =
        SessionPhase::ALL.into_iter().filter(|phase| !phase.is_terminal()).map(|phase| phase.to_string()).collect();
    let filter = [("runner", id.to_string()), ("phase", live.join(",")), ("limit", "1000".to_owned())];
    Ok(client.sessions(&filter).await?.sessions.into_iter().map(|session| session.id).collect())
}
