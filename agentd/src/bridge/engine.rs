//! The bridge's one loop: commands from the socket, news of the agent and keys of a person in; records of the journal,
//! frames, orders and the transcript out. Nothing is done before the journal says that it is going to be.
//!
//! `engine/turns.rs` moves turns; `engine/telling.rs` tells the server, `engine/entries.rs` what is said, `engine/offers.rs`
//! what can be chosen; `engine/person.rs` is for who sits at the desktop, `engine/beat.rs` shows life.
//! What the server knows is a level, not a queue: each entry remembers how much of it the present connection was told.

mod beat;
mod commands;
mod entries;
mod offers;
mod person;
mod telling;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::agent::{News, Order, OrderSender, Question};
use super::journal::Journal;
use super::outcome::{Delivery, Outcome};
use super::record::{End, Record};
use super::socket::{Connection, SocketEvent};
use super::view::View;

/// Between two frames of one entry.
const THROTTLE: Duration = Duration::from_millis(100);

/// What the engine is made of.
pub struct Parts {
    /// The bridge's memory.
    pub journal: Journal,
    /// To what runs turns.
    pub agent: OrderSender,
    /// What the person sees.
    pub view: View,
    /// Name of the agent.
    pub name: String,
    /// Turns are shell commands.
    pub shell: bool,
    /// Where the first turn's outcome goes.
    pub outcome: Outcome,
    /// Between two signs of life of what says nothing.
    pub beat: Duration,
    /// An agent that says nothing for longer may hang.
    pub patience: Duration,
}

/// The loop and what it knows.
pub struct Engine {
    journal: Journal,
    agent: OrderSender,
    view: View,
    name: String,
    shell: bool,
    outcome: Outcome,
    beat: Duration,
    patience: Duration,
    /// When the agent said something last, by running turn.
    heard: BTreeMap<String, Instant>,
    /// The agent takes prompts.
    ready: bool,
    connection: Option<Connection>,
    /// Turns whose thread is being made or loaded.
    preparing: BTreeSet<String>,
    /// Running turns that a later prompt ends.
    interrupted: BTreeSet<String>,
    /// Index of a turn's entry by the agent's key for it.
    keys: BTreeMap<(String, u32), u64>,
    /// Open questions, oldest first.
    questions: Vec<Question>,
    /// The last `agent_modes` of each thread.
    offers: BTreeMap<String, Value>,
    /// Threads that the server named while the journal may not know them.
    named: BTreeSet<String>,
    /// Turns whose outcome is known to the server once it answers the ping of this number.
    awaited: Vec<(u64, Vec<String>)>,
    pings: u64,
    /// Entries that wait for their time: turn and index.
    pending: BTreeSet<(String, u64)>,
    /// When the first of them is due.
    due: Option<Instant>,
    /// Command names that were complained about.
    complained: BTreeSet<String>,
}

impl Engine {
    /// Ready to run; what a former bridge left is put in order first.
    pub fn new(parts: Parts) -> Self {
        let Parts { journal, agent, view, name, shell, outcome, beat, patience } = parts;
        Self {
            journal,
            agent,
            view,
            name,
            shell,
            outcome,
            beat,
            patience,
            heard: BTreeMap::new(),
            ready: false,
            connection: None,
            preparing: BTreeSet::new(),
            interrupted: BTreeSet::new(),
            keys: BTreeMap::new(),
            questions: Vec::new(),
            offers: BTreeMap::new(),
            named: BTreeSet::new(),
            awaited: Vec::new(),
            pings: 0,
            pending: BTreeSet::new(),
            due: None,
            complained: BTreeSet::new(),
        }
    }

    /// Runs until the agent cannot run at all; answers why.
    pub async fn run(
        mut self,
        mut socket: mpsc::Receiver<SocketEvent>,
        mut news: mpsc::Receiver<News>,
    ) -> anyhow::Result<String> {
        let mut resized = signal(SignalKind::window_change())?;
        let mut beat = tokio::time::interval(self.beat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.recover();
        loop {
            let due = self.due;
            tokio::select! {
                biased;
                event = socket.recv() => match event {
                    Some(event) => self.on_socket(event),
                    None => return Ok("the socket's task is gone".to_owned()),
                },
                Some(delivery) = self.outcome.delivery() => match delivery {
                    Delivery::Kept => self.note(Record::ResultKept),
                    Delivery::Refused(reason) => {
                        self.view.notice(&format!("the result is not recorded yet: {reason}"));
                    }
                },
                bytes = self.view.read() => self.on_keys(&bytes?),
                _ = resized.recv() => self.on_resize(),
                event = news.recv() => match event {
                    Some(News::Fatal(reason)) => return Ok(reason),
                    Some(event) => self.on_news(event),
                    None => return Ok("the agent's task is gone".to_owned()),
                },
                () = until(due) => self.flush_due(),
                _ = beat.tick() => self.beat(),
            }
            self.view.flush()?;
        }
    }

    fn on_socket(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Connected(connection) => {
                self.connection = Some(connection);
                self.greet();
            }
            SocketEvent::Frame(frame) => self.on_command(frame),
            SocketEvent::Nonsense => self.complain("a frame that is no JSON"),
            SocketEvent::Pong(number) => self.on_pong(number),
            SocketEvent::Disconnected => {
                self.connection = None;
                self.awaited.clear();
            }
            SocketEvent::Refused(reason) => self.view.notice(&reason),
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Ready => {
                self.ready = true;
                self.tell_ready(None, None);
                for request in self.journal.state.open() {
                    self.advance(&request);
                }
            }
            News::Prepared { request, thread } => self.start(&request, &thread),
            News::NotPrepared { request, end } => {
                self.preparing.remove(&request);
                self.finish_plainly(&request, end);
            }
            News::Opened { thread, request, agent, error } => self.opened(&thread, request, agent, error),
            News::Change(change) => self.change(change),
            News::Raw { request, bytes } => self.view.raw(&request, &bytes),
            News::Asked(question) => self.asked(question),
            News::Closed { question, status } => self.closed(&question, &status),
            News::Over(over) => self.over(over),
            News::Title { thread, title } => self.titled(thread, title),
            News::Offer { thread, data } => self.offered(&thread, data),
            News::Custom { name, data } => self.tell_custom(name, &data),
            News::Notice(text) => self.view.notice(&text),
            // The loop has it.
            News::Fatal(_) => {}
        }
    }

    fn order(&self, order: Order) {
        // The agent's task ends with us.
        let _ = self.agent.send(order);
    }

    /// Writes a record that must be on disk; false when it is not, which has been complained about.
    fn commit(&mut self, record: Record) -> bool {
        match self.journal.commit(record) {
            Ok(()) => true,
            Err(error) => {
                self.view.notice(&format!("the journal cannot be written: {error}"));
                false
            }
        }
    }

    /// Writes a record that may be lost with the machine.
    fn note(&mut self, record: Record) {
        if let Err(error) = self.journal.note(record.clone()) {
            self.view.notice(&format!("the journal cannot be written: {error}"));
            self.journal.state.apply(record);
        }
    }

    /// Once per thing.
    fn complain(&mut self, what: &str) {
        if self.complained.len() < 100 && self.complained.insert(what.to_owned()) {
            self.view.notice(&format!("the server sent {what}; it is passed over"));
        }
    }

    /// A former bridge may have died at any point: what it gave to the agent is not given again.
    fn recover(&mut self) {
        for request in self.journal.state.open() {
            let Some(turn) = self.journal.state.turn(&request) else { continue };
            match turn.state {
                super::conversation::State::Running => {
                    let error = "agent exited mid-turn: the bridge between it and the server was ended while it worked \
                        on this prompt. What it did until then stays; the prompt is not run again";
                    self.finish_plainly(&request, End::Failed { error: error.to_owned() });
                }
                _ if turn.cancelling => self.finish_plainly(&request, End::Cancelled),
                _ => {}
            }
        }
        if self.journal.state.first.is_some() {
            self.view.notice("the bridge was started anew; the conversation goes on");
        }
        for complaint in std::mem::take(&mut self.journal.complaints) {
            self.view.notice(&complaint);
        }
        self.deliver_result();
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
