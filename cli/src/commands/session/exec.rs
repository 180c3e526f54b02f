//! `session exec`: a command in a session, as if it ran here.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt as _;
use helix_protocol::SessionId;
use helix_protocol::tools::{Command, ExecRequest, TerminalSize};

use super::create::parse_pair;
use super::program::{How, Left, carry, say};
use crate::client::{Client, socket};
use crate::error::{CliError, Kind, Result, chain};
use crate::terminal::{self, Raw};
use crate::ui::Ui;

const WHAT: &str = "cannot run the command";

/// Arguments of `session exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Session id
    id: SessionId,
    /// Give it a terminal: this one, where there is one
    #[arg(long, short)]
    tty: bool,
    /// Directory of the workspace where it runs; the workspace itself when left out
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// More environment; may be repeated
    #[arg(long = "env", short, value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// Give it no standard input, so that it takes none of a script's
    #[arg(long, short, conflicts_with = "tty")]
    no_stdin: bool,
    /// It goes on when this command is ended
    #[arg(long)]
    detach: bool,
    /// Program and arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs it; the exit code is the command's, 128 + signal where it was killed.
pub async fn run(client: &Client, args: ExecArgs, ui: &Ui) -> Result<ExitCode> {
    let ExecArgs { id, tty, cwd, env, no_stdin, detach, command } = args;
    if ui.json {
        return Err(CliError::new(Kind::Usage, WHAT)
            .because("its output is its own, and not JSON")
            .next("leave --json out, or POST /api/v1/sessions/ID/exec"));
    }
    let has_terminal = std::io::stdin().is_terminal();
    let size = tty.then(|| terminal::size().unwrap_or(TerminalSize::DEFAULT));
    let request = ExecRequest {
        command: Command::Program(command),
        cwd,
        env: env.into_iter().collect(),
        terminal: size,
        stdin: !no_stdin,
        detach,
    };
    let socket = socket::open(&client.connection, WHAT, &["sessions", id.as_str(), "exec"], &[]).await?;
    let (mut to, from) = socket.split();
    let said = say(&mut to, &request).await;
    said.map_err(|error| CliError::new(Kind::Unreachable, WHAT).because(chain(&error)).next("helixctl status"))?;
    let how = How {
        what: WHAT,
        next: "helixctl session show ID; the command was ended with the line, unless it was started with --detach",
        stdin: !no_stdin,
        tty,
        marked: true,
        detach: None,
    };
    let raw = if tty && has_terminal { Some(Raw::begin()?) } else { None };
    let left = carry((to, from), how, ui).await;
    drop(raw);
    left.map(|left: Left| left.code())
}
