//! `helixctl spec-task …`: pieces of work with one desktop and many threads.

use std::process::ExitCode;

use clap::Subcommand;
use helix_protocol::SpecTaskId;
use helix_protocol::api::threads::{CreateSpecTask, SpecTaskView};

use super::session::create::{CreateArgs, report};
use super::session::facts;
use super::session::wait::Watch;
use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// Create pieces of work that have one desktop and many threads, look at them, and end them
#[derive(Debug, Subcommand)]
pub enum SpecTaskCommand {
    /// Create a desktop for one, with the flags of `session create`; a session with --spec-task is another name of it
    Create(Box<CreateArgs>),
    /// List spec tasks, newest first
    List,
    /// Show one: its session, and its threads with the agent's ids
    Show {
        /// Spec task id
        id: SpecTaskId,
    },
    /// End its desktop, under every session id that it has
    Stop {
        /// Spec task id
        id: SpecTaskId,
    },
}

/// Runs one spec-task command.
pub async fn run(client: &Client, command: SpecTaskCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        SpecTaskCommand::Create(args) => return Box::pin(create(client, *args, ui)).await,
        SpecTaskCommand::List => {
            let list = client.spec_tasks().await?;
            let rows: Vec<_> = list
                .spec_tasks
                .iter()
                .map(|task| {
                    vec![
                        task.spec_task_id.to_string(),
                        task.helix_session_id.to_string(),
                        task.contexts.len().to_string(),
                    ]
                })
                .collect();
            ui.answer(&list, || ui.table(&["spec task", "session", "threads"], &rows))?;
        }
        SpecTaskCommand::Show { id } => {
            let task = client.spec_task(&id).await?;
            ui.answer(&task, || show(ui, &task))?;
        }
        SpecTaskCommand::Stop { id } => {
            let task = client.stop_spec_task(&id).await?;
            ui.answer(&task, || ui.line(id.as_str()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(client: &Client, args: CreateArgs, ui: &Ui) -> Result<ExitCode> {
    let (goal, patience) = args.patience();
    let mut session = args.request()?;
    let request = CreateSpecTask { spec_task_id: session.spec_task.take(), session };
    // Watching begins before the session exists, so that no step of it is missed.
    let watch = if goal.is_some() { Some(Watch::open(client, patience).await?) } else { None };
    let task = client.create_spec_task(&request).await?;
    let session = match (goal, watch) {
        (Some(goal), Some(mut watch)) => Some((watch.until(&task.helix_session_id, goal, ui).await?, goal)),
        _ => None,
    };
    ui.answer(&task, || ui.line(task.spec_task_id.as_str()))?;
    if !ui.json {
        let (task, session) = (&task.spec_task_id, &task.helix_session_id);
        ui.note(&format!("its desktop is session {session}; more work: helixctl session create --spec-task {task}"));
    }
    Ok(session.map_or(ExitCode::SUCCESS, |(session, goal)| report(&session, goal, ui)))
}

fn show(ui: &Ui, task: &SpecTaskView) -> Result<()> {
    facts(
        ui,
        &[
            ("spec task", task.spec_task_id.to_string()),
            ("instance", task.zed_instance_id.clone()),
            ("session", task.helix_session_id.to_string()),
        ],
    )?;
    ui.line("")?;
    let rows: Vec<_> = task
        .contexts
        .iter()
        .map(|context| {
            let newest = context.helix_interaction_id.as_ref().map(ToString::to_string);
            vec![
                context.zed_context_id.to_string(),
                context.work_session_id.to_string(),
                context.zed_thread_id.clone().unwrap_or_default(),
                newest.unwrap_or_default(),
            ]
        })
        .collect();
    ui.table(&["thread", "asked under", "agent's id", "newest turn"], &rows)
}
