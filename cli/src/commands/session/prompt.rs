//! `session prompt`: sends a prompt, and with `--wait` shows the answer as it streams.
//!
//! Exit code with `--wait`: 0 when the turn completed (a command: with exit status 0), 1 when it did not, 5 when it was
//! not over in time.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use helix_protocol::api::SessionView;
use helix_protocol::api::threads::TurnView;
use helix_protocol::thread::MAX_PROMPT_CHARS;
use helix_protocol::{SessionId, ThreadId};
use serde::Serialize;

use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::follow::{Followed, Task, failure, follow, waits_because};
use crate::prompts::{Prompt, Sent, Where, newest, send, this};
use crate::reading::{Interest, Reading};
use crate::stdin;
use crate::ui::{Screen, Ui};

/// Arguments of `session prompt`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").args(["thread", "new_thread"])))]
pub struct PromptArgs {
    /// Session id
    id: SessionId,
    /// What to do; - reads it from standard input
    prompt: String,
    /// Thread to say it in; the session's newest one when left out, or a new one where there is none
    #[arg(long, value_name = "THREAD")]
    thread: Option<ThreadId>,
    /// Say it in a new thread
    #[arg(long, conflicts_with = "thread")]
    new_thread: bool,
    /// Agent of a new thread; without --new-thread the newest thread that it serves is taken
    #[arg(long, conflicts_with = "thread")]
    agent: Option<String>,
    /// End the thread's running turn first, instead of waiting for it
    #[arg(long, conflicts_with = "new_thread")]
    interrupt: bool,
    /// File or directory of the workspace that goes with it; may be repeated
    #[arg(long = "attach", value_name = "PATH")]
    attachments: Vec<String>,
    /// Show the answer as it comes; exit code 1 when the turn does not complete, or its exit status is not 0
    #[arg(long)]
    wait: bool,
    /// Longest wait in seconds; the turn goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// The same key in the same place is the same prompt, however often it is sent; made up when left out
    #[arg(long, value_name = "KEY", requires = "place")]
    idempotency_key: Option<String>,
}

/// What `--json` prints without `--wait`.
#[derive(Serialize)]
struct Accepted {
    session: SessionId,
    turn: TurnView,
}

/// Sends it, and waits if asked to.
pub async fn run(client: &Client, args: PromptArgs, ui: &Ui) -> Result<ExitCode> {
    let text = match args.prompt.as_str() {
        "-" => stdin::text("standard input (prompt -)", MAX_PROMPT_CHARS)?,
        _ => args.prompt,
    };
    let session = client.session(&args.id).await?;
    let to = match args.thread {
        Some(thread) => this(client, &args.id, &thread).await?,
        None if args.new_thread => Where::New { agent: args.agent },
        None => newest(client, &args.id, args.agent.as_deref()).await?,
    };
    let waits = to.is_busy() && !args.interrupt;
    let prompt = Prompt { text, interrupt: args.interrupt, attachments: args.attachments, key: args.idempotency_key };
    let sent = send(client, &args.id, &to, prompt).await?;
    if args.wait {
        let patience = Duration::from_secs(args.timeout);
        return Box::pin(wait(client, &session, &sent, waits, patience, ui)).await;
    }
    let accepted = Accepted { session: args.id, turn: sent.turn };
    ui.answer(&accepted, || ui.line(accepted.turn.id.as_str()))?;
    if !ui.json {
        let (session, turn) = (&accepted.session, &accepted.turn);
        let thread = &turn.thread;
        ui.note(&format!(
            "{} in thread {thread}; watch it: helixctl thread show {session} {thread} --follow",
            turn.state
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn wait(
    client: &Client,
    session: &SessionView,
    sent: &Sent,
    waits: bool,
    patience: Duration,
    ui: &Ui,
) -> Result<ExitCode> {
    let turn = &sent.turn;
    let task = Task { session: &session.id, desktop: &sent.desktop, thread: &turn.thread, turn: &turn.id };
    let mut screen = Screen::new(ui);
    screen.note(&format!("turn {} of thread {}", turn.id, turn.thread))?;
    if let Some(why) = waits_because(session) {
        screen.note(&why)?;
    } else if waits {
        screen.note("it waits for what was asked in this thread before; --interrupt or --new-thread does not")?;
    }
    let followed = tokio::time::timeout(
        patience,
        Box::pin(async {
            let interest = Interest::Turn(turn.id.clone());
            let mut reading = Reading::open(client, task.session, task.thread, sent.after, interest).await?;
            if sent.told_before {
                reading.from_the_beginning();
            }
            Box::pin(follow(client, task, reading, &mut screen)).await
        }),
    )
    .await;
    // Whatever it was: the next line begins on a line of its own.
    screen.end()?;
    let followed = followed.unwrap_or_else(|_elapsed| Err(not_in_time(task, patience)))?;
    if ui.json {
        ui.json(&followed)?;
    }
    judge(&followed, true, &mut screen, ui)
}

/// It is not over, and goes on.
fn not_in_time(task: Task<'_>, patience: Duration) -> CliError {
    let Task { session, thread, turn, .. } = task;
    CliError::new(Kind::TimedOut, format!("turn {turn} was not over in time"))
        .at(format!("session {session}, thread {thread}"))
        .because(format!("{} s are over", patience.as_secs()))
        .next(format!(
            "it goes on: helixctl thread show {session} {thread} --follow; end it: helixctl thread cancel {session} \
             {thread}"
        ))
}

/// Tells people what came of a turn; the exit code says it to programs. What to do next is told while the session is
/// there.
pub fn judge(followed: &Followed, there: bool, screen: &mut Screen, ui: &Ui) -> Result<ExitCode> {
    match failure(&followed.session, &followed.turn) {
        None => {
            let tokens = followed.turn.usage.map(|usage| format!(", {} tokens", usage.total_tokens));
            screen.note(&format!("completed{}", tokens.unwrap_or_default()))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(mut error) => {
            error.next = error.next.filter(|_| there);
            ui.error(&error);
            Ok(ExitCode::FAILURE)
        }
    }
}
