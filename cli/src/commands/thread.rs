//! `helixctl thread …`: list, show, rename, cancel, ask again, answer.

mod show;

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use helix_protocol::api::threads::{AnswerQuestion, CancelTurn, RenameThread, ThreadList, ThreadView};
use helix_protocol::thread::AnswerAction;
use helix_protocol::{SessionId, ThreadId, TurnId};
use serde_json::Value;

use crate::client::Client;
use crate::error::Result;
use crate::ui::{Ui, age, plain_table};

/// Look at the conversations of a session, and steer them
#[derive(Debug, Subcommand)]
pub enum ThreadCommand {
    /// List the threads of a session, oldest first
    List {
        /// Session id
        session: SessionId,
    },
    /// Show a thread: its state, what was said last, and what waits for an answer
    Show(show::ShowArgs),
    /// Give a thread another title
    Rename {
        /// Session id
        session: SessionId,
        /// Thread id
        thread: ThreadId,
        /// New title, one line
        title: String,
    },
    /// End the turn that the agent works on, or the next one that waits
    Cancel {
        /// Session id
        session: SessionId,
        /// Thread id
        thread: ThreadId,
        /// Another turn of it
        #[arg(long)]
        turn: Option<TurnId>,
    },
    /// Ask again what a turn asked that came to nothing, or of which nobody knows what became of it
    Resend {
        /// Session id
        session: SessionId,
        /// Thread id
        thread: ThreadId,
        /// Turn id
        turn: TurnId,
    },
    /// Answer a question of the agent's; the first answer counts
    Answer(AnswerArgs),
}

/// Arguments of `thread answer`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("action").args(["accept", "decline", "cancel"]).required(true)))]
pub struct AnswerArgs {
    /// Session id
    session: SessionId,
    /// Thread id
    thread: ThreadId,
    /// Question id, as `thread show` tells it
    question: String,
    /// Yes; with what the question's schema asks for, for example --accept='{"db":"pg"}'
    #[arg(long, value_name = "JSON", num_args = 0..=1, require_equals = true, default_missing_value = "null",
        value_parser = parse_json)]
    accept: Option<Value>,
    /// No
    #[arg(long)]
    decline: bool,
    /// Neither: the question is taken away
    #[arg(long)]
    cancel: bool,
}

fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))
}

impl AnswerArgs {
    fn request(&self) -> AnswerQuestion {
        let action = match (&self.accept, self.decline) {
            (Some(_), _) => AnswerAction::Accept,
            (None, true) => AnswerAction::Decline,
            (None, false) => AnswerAction::Cancel,
        };
        AnswerQuestion { action, content: self.accept.clone().unwrap_or_default() }
    }
}

/// Runs one thread command.
pub async fn run(client: &Client, command: ThreadCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        ThreadCommand::List { session } => {
            let list = client.threads(&session).await?;
            ui.answer(&list, || show_list(ui, &session, &list))?;
        }
        ThreadCommand::Show(args) => show::run(client, args, ui).await?,
        ThreadCommand::Rename { session, thread, title } => {
            let view = client.rename_thread(&session, &thread, &RenameThread { title }).await?;
            ui.answer(&view, || ui.line(view.id.as_str()))?;
        }
        ThreadCommand::Cancel { session, thread, turn } => {
            let turn = client.cancel_turn(&session, &thread, &CancelTurn { turn }).await?;
            ui.answer(&turn, || ui.line(turn.id.as_str()))?;
            if !ui.json && !turn.state.is_final() {
                ui.note(&format!("it is {} until the agent has let go of it", turn.state));
            }
        }
        ThreadCommand::Resend { session, thread, turn } => {
            let turn = client.resend_turn(&session, &thread, &turn).await?;
            ui.answer(&turn, || ui.line(turn.id.as_str()))?;
            if !ui.json {
                ui.note(&format!("{}; watch it: helixctl thread show {session} {thread} --follow", turn.state));
            }
        }
        ThreadCommand::Answer(args) => {
            let request = args.request();
            let question = client.answer_question(&args.session, &args.thread, &args.question, &request).await?;
            ui.answer(&question, || ui.line(&question.id))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show_list(ui: &Ui, session: &SessionId, list: &ThreadList) -> Result<()> {
    ui.table(&COLUMNS, &rows(&list.threads))?;
    if list.threads.is_empty() {
        ui.note(&format!("nothing was said yet: helixctl session chat {session}"));
    } else if list.usage.total_tokens > 0 {
        ui.note(&format!("{} tokens in all", list.usage.total_tokens));
    }
    Ok(())
}

const COLUMNS: [&str; 7] = ["thread", "state", "agent", "turns", "tokens", "quiet for", "title"];

/// Threads as a plain table, for a line in a chat.
pub fn plain(threads: &[ThreadView]) -> String {
    plain_table(&COLUMNS, &rows(threads))
}

fn rows(threads: &[ThreadView]) -> Vec<Vec<String>> {
    threads
        .iter()
        .map(|thread| {
            vec![
                thread.id.to_string(),
                state_words(thread),
                thread.agent.clone().unwrap_or_default(),
                thread.turns.to_string(),
                thread.usage.total_tokens.to_string(),
                age(thread.last_activity_at),
                thread.title.clone().unwrap_or_default(),
            ]
        })
        .collect()
}

/// State of the newest turn, and what it does not say.
fn state_words(thread: &ThreadView) -> String {
    let state = thread.state.map_or_else(|| "new".to_owned(), |state| state.to_string());
    let active = thread.active_turn.is_some() && thread.state.is_some_and(|state| !state.is_active());
    let notes = [
        active.then(|| ", one runs".to_owned()),
        (thread.queued > 1).then(|| format!(", {} wait", thread.queued)),
        (thread.open_questions > 0).then(|| ", asks".to_owned()),
    ];
    std::iter::once(state).chain(notes.into_iter().flatten()).collect()
}
