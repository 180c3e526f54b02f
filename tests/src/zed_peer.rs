//! The agent's end of the sync socket, played by the rules of the real Zed fork.
//!
//! Written from the contract alone: raw JSON, no type and no line of `server/` or of `protocol/src/sync.rs`, so that
//! a mistake there is not repeated here. A [`Peer`] dials, says `ping`, tells its backlog, takes commands and hands
//! each prompt that begins to run to the test as a [`Run`], which the test lets speak, use tools and end. What the
//! editor does by itself (throttled snapshots, full re-send at a turn's end, the one sequential chat loop, implicit
//! cancels, lazy loading, reconnecting for ever) the peer does by itself.
//!
//! Every frame of the server is recorded. [`Peer::expect`] takes the next one and compares it exactly;
//! [`Peer::finish`] fails if one is left, or if one came that the real Zed would have dropped.
//!
//! Tasks: one per peer for the socket (`wire`), one for the chat loop (`commands`), short ones for new threads and for
//! trailing snapshots. They share [`state::State`] under a lock and a version counter that says when it changed.
//! [`Peer::kill`] ends them all at once: queue, backlog and running turns are gone, as with `kill -9`; what the
//! editor keeps on disk is the [`Workspace`] that the next peer may be given.

pub mod cable;
mod commands;
mod events;
mod judge;
pub mod ledger;
mod run;
mod state;
mod stream;
mod wire;
pub mod workspace;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use judge::{any, matches};
pub use ledger::Ledger;
pub use run::{Entry, Question, Run};
pub use workspace::Workspace;

use self::state::Zed;

/// How long a frame, a run or an event may take to come on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Which words the peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Today's fork.
    Today,
    /// Document 000 and the first fork of September 2025.
    Seed(SeedStyle),
}

/// How a peer of the seed's dialect tells its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedStyle {
    /// `chat_response_chunk` (additions) and `chat_response_done`.
    Chunks,
    /// One `chat_response`.
    Whole,
    /// `message_added`, `message_updated` with ids like `m1`, then `chat_response_done`.
    Messages,
    /// The same with ids that are numbers, as the first fork sent them.
    NumberedMessages,
}

/// When the agent panel is there. Before it, commands wait, and a cancel is a noop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Panel {
    /// At once, with nothing to restore: `agent_ready` as `zed-agent` without a thread.
    Loads,
    /// At once, and shows a thread of the workspace again.
    Restores(String),
    /// When the test says so ([`Peer::load_panel`]).
    Waits,
}

/// What becomes of the next new thread or load, where it shall not simply succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nothing happens and no event says so.
    Silent,
    /// It takes until [`Peer::release`].
    Held,
    /// `thread_load_error` with this text (of loads).
    Fails(String),
    /// The agent gives the thread this id instead (of loads).
    Renamed(String),
}

/// What a peer is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// `ZED_HELIX_URL`: `host:port[/prefix]`, no scheme.
    pub address: String,
    /// `HELIX_SESSION_ID`.
    pub session: String,
    /// `ZED_HELIX_TOKEN`; empty sends none.
    pub token: String,
    /// Its words.
    pub dialect: Dialect,
    /// A newer build: every `agent_ready` lists `active_turns`.
    pub reports_turns: bool,
    /// A newer build: a prompt whose request is queued or running is dropped, not run again.
    pub drops_duplicates: bool,
    /// Loading a thread tells its history again.
    pub replays_history: bool,
    /// When the panel is there.
    pub panel: Panel,
    /// How long a second lasts: for the pauses before it dials again and the fallback after five of them.
    pub second: Duration,
    /// Least time between two snapshots of an entry.
    pub throttle: Duration,
    /// Where its threads are kept.
    pub workspace: Workspace,
    /// Where its runs are written down.
    pub ledger: Ledger,
}

impl Options {
    /// Today's dialect, an older build, a panel that loads at once, and short seconds.
    pub fn new(address: &str, session: &str, token: &str) -> Self {
        Self {
            address: address.to_owned(),
            session: session.to_owned(),
            token: token.to_owned(),
            dialect: Dialect::Today,
            reports_turns: false,
            drops_duplicates: false,
            replays_history: false,
            panel: Panel::Loads,
            second: Duration::from_millis(100),
            throttle: Duration::from_millis(100),
            workspace: Workspace::default(),
            ledger: Ledger::default(),
        }
    }

    /// A newer build: reports its turns and drops duplicates of them.
    #[must_use]
    pub fn newer(mut self) -> Self {
        self.reports_turns = true;
        self.drops_duplicates = true;
        self
    }

    /// In these words.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// With such a panel.
    #[must_use]
    pub fn panel(mut self, panel: Panel) -> Self {
        self.panel = panel;
        self
    }

    /// With threads that an earlier peer kept.
    #[must_use]
    pub fn workspace(mut self, workspace: &Workspace) -> Self {
        self.workspace = workspace.clone();
        self
    }

    /// Writes its runs down here.
    #[must_use]
    pub fn ledger(mut self, ledger: &Ledger) -> Self {
        self.ledger = ledger.clone();
        self
    }
}

/// A running peer. Dropping it is `kill -9`.
pub struct Peer {
    zed: Arc<Zed>,
    runs: Arc<Mutex<mpsc::UnboundedReceiver<Run>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Peer {
    /// Starts it: it dials at once and for ever.
    pub fn start(options: Options) -> Self {
        let (run, runs) = mpsc::unbounded_channel();
        let zed = Zed::new(options, run);
        zed.begin();
        let tasks = vec![
            tokio::spawn(wire::dial_for_ever(Arc::clone(&zed))),
            tokio::spawn(commands::chat_loop(Arc::clone(&zed))),
        ];
        Self { zed, runs: Arc::new(Mutex::new(runs)), tasks }
    }

    /// What it is like.
    pub fn options(&self) -> &Options {
        &self.zed.options
    }

    /// The next prompt that begins to run.
    pub async fn run(&self) -> Result<Run> {
        let next = async { self.runs.lock().await.recv().await };
        let run = timeout(PATIENCE, next).await.with_context(|| format!("no prompt began to run\n{}", self.told()))?;
        run.context("the peer was killed")
    }

    /// Every prompt that begins to run, for whoever answers them all; ends when the peer is dead and its runs are taken.
    pub fn runs(&self) -> Arc<Mutex<mpsc::UnboundedReceiver<Run>>> {
        Arc::clone(&self.runs)
    }

    /// True while a prompt waits in the chat loop or runs.
    pub fn is_busy(&self) -> bool {
        self.zed.look(state::State::is_busy)
    }

    // What the test lets happen.

    /// The agent panel is there now.
    pub fn load_panel(&self) {
        self.zed.load_panel();
    }

    /// What becomes of the next new thread.
    pub fn next_thread(&self, fate: Fate) {
        self.zed.change(|state| state.new_threads.push_back(fate));
    }

    /// What becomes of the next load of a thread, by `open_thread` or for a follow-up.
    pub fn next_load(&self, fate: Fate) {
        self.zed.change(|state| state.loads.push_back(fate));
    }

    /// Ends the wait of what is [`Fate::Held`].
    pub fn release(&self) {
        self.zed.change(|state| state.released += 1);
    }

    /// A person types a prompt, in a thread or in a new one; answers the turn that begins.
    pub fn types(&self, thread: Option<&str>, prompt: &str) -> Run {
        commands::typed(&self.zed, thread, prompt)
    }

    /// A person opens an empty draft, which older builds tell at once (a phantom: nothing need ever follow).
    pub fn opens_draft(&self) -> String {
        self.zed.change(state::State::open_draft)
    }

    /// The title of a thread changes in the editor.
    pub fn renames(&self, thread: &str, title: &str) {
        self.zed.change(|state| state.tell_title(thread, title));
    }

    /// Tells any event.
    pub fn tell(&self, event: &str, data: Value) {
        self.zed.change(|state| state.tell(event, data));
    }

    /// Sends any text in the place of an event.
    pub fn tell_raw(&self, text: &str) {
        self.zed.change(|state| state.outbox.push_back(state::Outgoing::Raw(text.to_owned())));
    }

    // The socket.

    /// The connection breaks; nothing is lost.
    pub fn break_connection(&self) {
        self.zed.change(|state| state.breaks += 1);
    }

    /// The connection breaks while the next event is being written: that event is lost, and only that one.
    pub fn lose_next_event(&self) {
        self.zed.change(|state| state.lose_next = true);
    }

    /// The connection breaks while the next event of this name is being written.
    pub fn lose_next(&self, event: &str) {
        self.zed.change(|state| state.lose_named = Some(event.to_owned()));
    }

    /// Takes the two above back.
    pub fn lose_nothing_more(&self) {
        self.zed.change(|state| {
            state.lose_next = false;
            state.lose_named = None;
        });
    }

    /// Stays away after the next break, until [`Peer::come_back`].
    pub fn stay_away(&self) {
        self.zed.change(|state| state.away = true);
    }

    /// Dials again.
    pub fn come_back(&self) {
        self.zed.change(|state| state.away = false);
    }

    /// Waits until it has been connected so many times, counted from its start, and is so now.
    pub async fn connected(&self, times: u32) -> Result<()> {
        let what = format!("connection number {times}");
        self.zed.when(&what, |state| (state.connected && state.connections >= times).then_some(())).await
    }

    /// HTTP statuses with which it was refused so far.
    pub fn refusals(&self) -> Vec<u16> {
        self.zed.look(|state| state.refusals.clone())
    }

    /// How its connections ended: the code of the server's Close, or `None` where there was none.
    pub fn closes(&self) -> Vec<Option<u16>> {
        self.zed.look(|state| state.closes.clone())
    }

    /// Events that were written so far, in order.
    pub fn events(&self) -> Vec<Value> {
        self.zed.look(|state| state.told.clone())
    }

    /// Waits until everything that it has to say is written.
    pub async fn quiet(&self) -> Result<()> {
        let quiet = |state: &mut state::State| (state.connected && state.has_said_everything()).then_some(());
        self.zed.when("everything is written", quiet).await
    }

    /// `kill -9`: what it had not written, its queue and its running turns are gone.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.zed.die();
    }
}
