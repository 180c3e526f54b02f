//! `session shell`: a terminal of the session in this one.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt as _;
use helix_protocol::SessionId;
use helix_protocol::tools::is_name;

use super::program::{How, Left, carry};
use crate::client::{Client, socket};
use crate::error::{CliError, Kind, Result};
use crate::terminal::{self, Raw};
use crate::ui::Ui;

const WHAT: &str = "cannot open the terminal";
/// Ctrl-].
const DETACH: u8 = 0x1d;

/// Arguments of `session shell`.
#[derive(Debug, Args)]
#[command(after_help = "Ctrl-] leaves the terminal as it is; the same command comes back to it, with what it showed \
    last. `exit` ends it.")]
pub struct ShellArgs {
    /// Session id
    id: SessionId,
    /// Which terminal; made when the session has none of this name
    #[arg(long, default_value = "main", value_parser = parse_name)]
    name: String,
}

fn parse_name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("use 1 to 64 letters, digits, _ and -".to_owned()) }
}

/// Shows it until it ends or is left; the exit code is the shell's.
pub async fn run(client: &Client, args: ShellArgs, ui: &Ui) -> Result<ExitCode> {
    let ShellArgs { id, name } = args;
    let size = std::io::stdin().is_terminal().then(terminal::size).flatten();
    let Some(size) = size.filter(|_| !ui.json) else {
        return Err(CliError::new(Kind::Usage, WHAT)
            .at("standard input")
            .because("it is no terminal, or --json is given")
            .next("for a script: helixctl session exec ID -- COMMAND"));
    };
    let query = [("cols", size.cols.to_string()), ("rows", size.rows.to_string())];
    let path = ["sessions", id.as_str(), "terminals", &name];
    let socket = socket::open(&client.connection, WHAT, &path, &query).await?;
    let how = How {
        what: "the terminal's line broke",
        next: "the terminal itself goes on: repeat the command",
        stdin: true,
        tty: true,
        marked: false,
        detach: Some(DETACH),
    };
    let raw = Raw::begin()?;
    let left = carry(socket.split(), how, ui).await;
    drop(raw);
    match left {
        Ok(Left::Detached) => {
            ui.note(&format!("\nleft; come back: helixctl session shell {id} --name {name}"));
            Ok(ExitCode::SUCCESS)
        }
        Ok(left) => Ok(left.code()),
        Err(error) => Err(error),
    }
}
