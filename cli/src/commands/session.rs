//! `helixctl session …`: create, list, show, explain, prompt, chat, limit, stop, delete, logs, open, vnc, rdp, grant, control; its work: checkpoint, restore, fork, move; inside it: cp,
//! exec, shell; its desktop: screenshot, input, clipboard, windows, display, cursor, wait.

mod chat;
mod control;
mod cp;
pub mod create;
mod desktop;
mod exec;
mod explain;
mod grant;
mod limit;
pub mod limits;
mod logs;
mod open;
mod port;
mod program;
pub mod prompt;
mod rdp;
mod shell;
mod view;
mod vnc;
pub mod wait;
pub mod work;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use helix_protocol::session::SessionPhase;
use helix_protocol::{KindName, RunnerId, SessionId};

pub use view::{facts, table};

use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// Create, watch and end sessions
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Create a session; prints its id
    Create(Box<create::CreateArgs>),
    /// List sessions, newest first
    List(ListArgs),
    /// Show one session: phase, cause, limits, usage, result, timeline
    Show {
        /// Session id
        id: SessionId,
    },
    /// Say why a session has its runner, or why it waits: what each runner says to it
    Explain {
        /// Session id
        id: SessionId,
    },
    /// Change the limits of a session, also while it runs
    Limit(limit::LimitArgs),
    /// End a session; its record, workspace and logs stay
    Stop(StopArgs),
    /// End a session and remove its record, workspace and logs
    Delete {
        /// Session id
        id: SessionId,
    },
    /// Talk to a session's agent: its answers stream, its questions are answered in line
    Chat(chat::ChatArgs),
    /// Send a prompt to a session's agent
    Prompt(Box<prompt::PromptArgs>),
    /// Print the last lines that a session's programs wrote, and follow what they write
    Logs(logs::LogsArgs),
    /// Make a link to the session's desktop and open it in the browser
    Open(open::OpenArgs),
    /// Open a local port for a VNC viewer on the session's desktop, and the viewer where there is one
    Vnc(port::PortArgs),
    /// Open a local port for an RDP client on the session's desktop, and the client where there is one
    Rdp(port::PortArgs),
    /// Make a password for VNC and RDP clients of the session's desktop, list them, revoke one
    Grant(grant::GrantArgs),
    /// Show who may type in the session's desktop, take the control, hand it back
    Control(control::ControlArgs),
    /// Take a picture of the desktop
    Screenshot(desktop::ScreenshotArgs),
    /// Type, click and move on the desktop (from the seat in HELIX_SEAT, where somebody holds the control)
    Input(desktop::InputArgs),
    /// Read or set the text in the clipboard
    #[command(subcommand)]
    Clipboard(desktop::ClipboardCommand),
    /// List the windows on the desktop, focus, maximise, restore or close one
    #[command(subcommand)]
    Windows(desktop::WindowsCommand),
    /// Print the size of the screen, or change it
    Display(desktop::DisplayArgs),
    /// Print where the pointer is
    Cursor {
        /// Session id
        id: SessionId,
    },
    /// Wait until the desktop has come to rest, or until it changes
    Wait(desktop::WaitArgs),
    /// Keep the session's work in a checkpoint now; prints its number
    Checkpoint(work::CheckpointArgs),
    /// List the checkpoints of a session's work, newest first
    Checkpoints {
        /// Session id
        id: SessionId,
    },
    /// Have a session begin again from one of its checkpoints
    Restore(work::RestoreArgs),
    /// Make another session that begins from a checkpoint of this one; prints its id
    Fork(work::ForkArgs),
    /// Move a session to another runner, with its work; prints the runner
    Move(work::MoveArgs),
    /// Copy files and directories between this machine and a session's workspace
    Cp(cp::CpArgs),
    /// Run a command in a session; its streams and its exit code are the command's
    Exec(exec::ExecArgs),
    /// Open a terminal of a session; it stays when you leave, with all that runs in it
    Shell(shell::ShellArgs),
}

/// Arguments of `session list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only sessions in this phase; may be repeated
    #[arg(long = "phase", value_name = "PHASE", value_parser = parse_phase)]
    phases: Vec<SessionPhase>,
    /// Only sessions on this runner
    #[arg(long)]
    runner: Option<RunnerId>,
    /// Only sessions of this kind
    #[arg(long)]
    kind: Option<KindName>,
    /// Only sessions of this owner
    #[arg(long)]
    owner: Option<String>,
    /// Only sessions with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = create::parse_pair)]
    labels: Vec<(String, String)>,
    /// At most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Where the former page ended
    #[arg(long)]
    cursor: Option<String>,
}

/// Arguments of `session stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Session id
    id: SessionId,
    /// Return when nothing of it runs any more
    #[arg(long)]
    wait: bool,
    /// Longest wait in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

fn parse_phase(text: &str) -> Result<SessionPhase, String> {
    let found = SessionPhase::ALL.into_iter().find(|phase| phase.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        let names: Vec<_> = SessionPhase::ALL.iter().map(ToString::to_string).collect();
        format!("phases are {}", names.join(", "))
    })
}

/// Runs one session command.
pub async fn run(client: &Client, command: SessionCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        SessionCommand::Create(args) => return Box::pin(create::run(client, *args, ui)).await,
        SessionCommand::List(args) => list_sessions(client, args, ui).await?,
        SessionCommand::Show { id } => {
            let session = client.session(&id).await?;
            if ui.json {
                ui.json(&session)?;
            } else {
                // Without them the session is shown all the same.
                let threads = client.threads(&id).await.ok();
                view::show(ui, &session, threads.as_ref())?;
            }
        }
        SessionCommand::Explain { id } => explain::run(client, &id, ui).await?,
        SessionCommand::Stop(args) => stop(client, args, ui).await?,
        SessionCommand::Delete { id } => {
            let session = client.delete_session(&id).await?;
            ui.answer(&session, || ui.line(id.as_str()))?;
        }
        SessionCommand::Chat(args) => return Box::pin(chat::run(client, args, ui)).await,
        SessionCommand::Prompt(args) => return Box::pin(prompt::run(client, *args, ui)).await,
        SessionCommand::Limit(args) => limit::run(client, args, ui).await?,
        SessionCommand::Logs(args) => logs::run(client, args, ui).await?,
        SessionCommand::Open(args) => open::run(client, args, ui).await?,
        SessionCommand::Vnc(args) => vnc::run(client, args, ui).await?,
        SessionCommand::Rdp(args) => rdp::run(client, args, ui).await?,
        SessionCommand::Grant(args) => grant::run(client, args, ui).await?,
        SessionCommand::Control(args) => control::run(client, args, ui).await?,
        SessionCommand::Screenshot(args) => desktop::screenshot(client, args, ui).await?,
        SessionCommand::Input(args) => desktop::input(client, args, ui).await?,
        SessionCommand::Clipboard(command) => desktop::clipboard(client, command, ui).await?,
        SessionCommand::Windows(command) => desktop::windows(client, command, ui).await?,
        SessionCommand::Display(args) => desktop::display(client, args, ui).await?,
        SessionCommand::Cursor { id } => desktop::cursor(client, &id, ui).await?,
        SessionCommand::Checkpoint(args) => work::checkpoint(client, args, ui).await?,
        SessionCommand::Checkpoints { id } => work::checkpoints(client, &id, ui).await?,
        SessionCommand::Restore(args) => work::restore(client, args, ui).await?,
        SessionCommand::Fork(args) => work::fork(client, args, ui).await?,
        SessionCommand::Move(args) => work::move_on(client, args, ui).await?,
        SessionCommand::Wait(args) => desktop::wait(client, args, ui).await?,
        SessionCommand::Cp(args) => Box::pin(cp::run(client, args, ui)).await?,
        SessionCommand::Exec(args) => return Box::pin(exec::run(client, args, ui)).await,
        SessionCommand::Shell(args) => return Box::pin(shell::run(client, args, ui)).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Several values of one query parameter; none where there are none.
pub fn list(name: &'static str, values: impl Iterator<Item = String>) -> Option<(&'static str, String)> {
    let joined = values.collect::<Vec<_>>().join(",");
    (!joined.is_empty()).then_some((name, joined))
}

async fn list_sessions(client: &Client, args: ListArgs, ui: &Ui) -> Result<()> {
    let mut filter = vec![("limit", args.limit.to_string())];
    filter.extend(list("phase", args.phases.iter().map(ToString::to_string)));
    filter.extend(args.runner.map(|runner| ("runner", runner.to_string())));
    filter.extend(args.kind.map(|kind| ("kind", kind.to_string())));
    filter.extend(args.owner.map(|owner| ("owner", owner)));
    filter.extend(list("label", args.labels.iter().map(|(key, value)| format!("{key}={value}"))));
    filter.extend(args.cursor.map(|cursor| ("cursor", cursor)));
    let page = client.sessions(&filter).await?;
    ui.answer(&page, || {
        table(ui, &page.sessions)?;
        if let Some(cursor) = &page.next_cursor {
            ui.note(&format!("more: add --cursor {cursor}"));
        }
        Ok(())
    })
}

async fn stop(client: &Client, args: StopArgs, ui: &Ui) -> Result<()> {
    let patience = std::time::Duration::from_secs(args.timeout);
    let session = if args.wait {
        let mut watch = wait::Watch::open(client, patience).await?;
        client.stop_session(&args.id).await?;
        watch.until(&args.id, wait::Goal::Ended, ui).await?
    } else {
        client.stop_session(&args.id).await?
    };
    ui.answer(&session, || ui.line(args.id.as_str()))
}
