//! `agentd acp-bridge`: a session's agent without an editor.
//!
//! It is the app of a session, in a terminal on its desktop: on one side the sync socket to the server, in the words of
//! the Zed fork; on the other an ACP agent on stdio, or a shell (kind `command`), whose every command is a turn. What it
//! was asked and what came of it is in a journal on disk, so that no prompt runs twice, whoever dies.
//!
//! One thread, these tasks: `socket` (dials, carries frames), `acp` or `shell` (runs turns, one more task per turn),
//! `outcome` (the first turn's result to the guest) and the [`engine`] loop, which alone decides. They are joined by
//! channels of events and orders; each ends when the engine does. When the agent cannot run at all, the reason is left
//! for `agentd acp-bridge window`, which is the session's app and ends with it: the session's cause shows it.
//!
//! Forms of the command, told apart by the first word: `window PROGRAM…` shows the bridge in a terminal ([`window`]);
//! `shell SCRIPT` and `exec PROGRAM…` are its children before they become what they run; anything else is the bridge.

mod acp;
mod agent;
mod conversation;
mod engine;
mod journal;
mod options;
mod outcome;
mod record;
mod shell;
mod socket;
pub(crate) mod terminal;
mod view;
mod window;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::sync::mpsc;

use self::engine::{Engine, Parts};
use self::journal::Journal;
use self::options::Options;
use self::outcome::Outcome;
use self::socket::Target;
use self::view::View;

/// Events that wait for the engine; whoever has more waits.
const QUEUE: usize = 256;

/// Runs `agentd acp-bridge`. `args` are the arguments after that word.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let mut args = args.peekable();
    match args.peek().and_then(|word| word.to_str()) {
        Some("shell") => shell::become_shell(args.skip(1)).map(|()| ExitCode::SUCCESS),
        Some("exec") => acp::become_agent(args.skip(1)).map(|()| ExitCode::SUCCESS),
        Some("window") => window::main(args.skip(1)),
        _ => {
            let options = Options::parse_from(std::iter::once(OsString::from("agentd acp-bridge")).chain(args));
            // Fails only if one is installed already.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ended = runtime.block_on(run(options));
            runtime.shutdown_background();
            let reason = match ended {
                Ok(reason) => reason,
                Err(error) => format!("{error:#}"),
            };
            Ok(window::give_up(&reason))
        }
    }
}

/// Runs until it cannot go on; answers why.
async fn run(options: Options) -> anyhow::Result<String> {
    let target = Target::from_env(|name| std::env::var(name).ok()).map_err(anyhow::Error::msg)?;
    let dir = options.state_dir()?;
    let journal = Journal::wait_and_open(&dir).await?;
    let view = View::open(options.shell)?;
    let name = options.name().to_owned();
    let (orders, inbox) = mpsc::unbounded_channel();
    let (news, from_agent) = mpsc::channel(QUEUE);
    if options.shell {
        let scripts = dir.join("scripts");
        // Of commands that a former bridge ran.
        let _ = std::fs::remove_dir_all(&scripts);
        std::fs::create_dir_all(&scripts).with_context(|| format!("cannot make {}", scripts.display()))?;
        tokio::spawn(shell::run(scripts, view.size(), inbox, news));
    } else {
        tokio::spawn(acp::run(options.agent()?, inbox, news));
    }
    let (events, from_socket) = mpsc::channel(QUEUE);
    tokio::spawn(socket::run(target, events));
    let outcome = Outcome::new(options.result.as_deref().filter(|root| !root.as_os_str().is_empty()));
    let (beat, patience) = (Duration::from_secs(options.beat), Duration::from_secs(options.patience));
    let parts = Parts { journal, agent: orders, view, name, shell: options.shell, outcome, beat, patience };
    Engine::new(parts).run(from_socket, from_agent).await
}
