//! What a running editor holds in memory, and how the parts of the peer share it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::ledger::{Effect, End};
use super::workspace::KeptEntry;
use super::{Dialect, Fate, Options, PATIENCE, Panel, Run, Workspace, events};

/// The editor: its state, and when it changed.
pub(super) struct Zed {
    pub options: Options,
    state: Mutex<State>,
    version: watch::Sender<u64>,
    run: mpsc::UnboundedSender<Run>,
}

/// What waits to be written.
#[derive(Debug, Clone)]
pub(super) enum Outgoing {
    Event(Value),
    Raw(String),
}

/// A frame of the server.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub connection: u32,
    pub json: Value,
}

/// A prompt on its way through the editor.
#[derive(Debug, Clone)]
pub(super) struct Chat {
    pub message: String,
    pub request_id: String,
    pub thread: Option<String>,
    pub agent: String,
    /// Told back as if a person had typed it.
    pub simulated: bool,
}

/// A thread in memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Thread {
    pub entries: Vec<Entry>,
    pub turn: Option<Turn>,
    /// Of the last prompt; what is typed in the editor carries it on.
    pub last_request: String,
}

/// A running turn.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub key: u64,
    pub request_id: String,
    /// Its first entry.
    pub from: usize,
    /// Its place in the ledger.
    pub effect: usize,
}

/// An entry in memory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub role: &'static str,
    pub content: String,
    pub tool: Option<(String, String)>,
    pub request_id: String,
    /// When it was told last, and with which text.
    pub told: Option<(Instant, String)>,
}

#[derive(Debug)]
pub(super) struct State {
    pub dialect: Dialect,
    pub session: String,
    pub reports_turns: bool,
    pub workspace: Workspace,
    pub ledger: super::Ledger,

    // Socket
    pub outbox: VecDeque<Outgoing>,
    /// What was taken from the outbox last is on its way.
    pub writing: bool,
    pub told: Vec<Value>,
    pub frames: Vec<Frame>,
    pub taken: usize,
    pub faults: Vec<String>,
    pub refusals: Vec<u16>,
    pub closes: Vec<Option<u16>>,
    pub connections: u32,
    pub connected: bool,
    pub away: bool,
    pub breaks: u64,
    pub lose_next: bool,
    pub lose_named: Option<String>,

    // Editor
    pub panel: bool,
    /// Commands that came before the panel.
    pub early: Vec<Value>,
    pub queue: VecDeque<Chat>,
    /// Prompts whose thread is being made or loaded.
    pub underway: Vec<Chat>,
    /// Request → thread; never pruned.
    pub requests: BTreeMap<String, String>,
    pub threads: BTreeMap<String, Thread>,
    /// Requested id → loaded id.
    pub aliases: BTreeMap<String, String>,
    pub shown: Option<String>,
    pub new_threads: VecDeque<Fate>,
    pub loads: VecDeque<Fate>,
    pub held: u64,
    pub released: u64,
    pub questions: BTreeMap<String, Option<Value>>,
    pub keys: u64,
    pub dead: bool,
}

impl Zed {
    pub fn new(options: Options, run: mpsc::UnboundedSender<Run>) -> Arc<Self> {
        let state = State {
            dialect: options.dialect,
            session: options.session.clone(),
            reports_turns: options.reports_turns,
            workspace: options.workspace.clone(),
            ledger: options.ledger.clone(),
            outbox: VecDeque::new(),
            writing: false,
            told: Vec::new(),
            frames: Vec::new(),
            taken: 0,
            faults: Vec::new(),
            refusals: Vec::new(),
            closes: Vec::new(),
            connections: 0,
            connected: false,
            away: false,
            breaks: 0,
            lose_next: false,
            lose_named: None,
            panel: false,
            early: Vec::new(),
            queue: VecDeque::new(),
            underway: Vec::new(),
            requests: BTreeMap::new(),
            threads: BTreeMap::new(),
            aliases: BTreeMap::new(),
            shown: None,
            new_threads: VecDeque::new(),
            loads: VecDeque::new(),
            held: 0,
            released: 0,
            questions: BTreeMap::new(),
            keys: 0,
            dead: false,
        };
        Arc::new(Self { options, state: Mutex::new(state), version: watch::Sender::new(0), run })
    }

    /// The panel at the editor's start.
    pub fn begin(self: &Arc<Self>) {
        match &self.options.panel {
            Panel::Loads => self.load_panel(),
            Panel::Restores(thread) => {
                let thread = thread.clone();
                self.change(|state| {
                    state.load(&thread);
                    state.shown = Some(thread.clone());
                    state.panel = true;
                    state.tell_ready("zed-agent", Some(&thread));
                });
            }
            Panel::Waits => {}
        }
    }

    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.version.send_modify(|version| *version += 1);
        outcome
    }

    /// Waits until `probe` finds what it looks for, for as long as it takes.
    pub async fn until<T>(&self, mut probe: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut version = self.version.subscribe();
        loop {
            version.borrow_and_update();
            if let Some(found) = probe(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner)) {
                return found;
            }
            if version.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The same with a deadline.
    pub async fn when<T>(&self, what: &str, probe: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        let found = timeout(PATIENCE, self.until(probe)).await;
        found.with_context(|| format!("not within {PATIENCE:?}: {what}\n{}", self.look(State::story)))
    }

    /// Hands a prompt that begins to run to the test.
    pub fn hand_over(&self, run: Run) {
        // Nobody takes it where the peer was killed.
        let _ = self.run.send(run);
    }

    pub fn die(&self) {
        self.change(|state| {
            state.dead = true;
            state.connected = false;
            state.ledger.bury(&state.session);
            let running: Vec<_> = state.threads.keys().cloned().collect();
            for id in running {
                if let Some(turn) = state.threads.get_mut(&id).and_then(|thread| thread.turn.take()) {
                    let text = state.text_of(&id, turn.from);
                    state.ledger.end(turn.effect, End::Killed, &text);
                }
            }
        });
    }
}

impl State {
    /// Queues an event for the socket.
    pub fn tell(&mut self, event: &str, data: Value) {
        if self.dead {
            return;
        }
        let frame = events::envelope(self.dialect, &self.session, event, data);
        self.outbox.push_back(Outgoing::Event(frame));
    }

    /// The next to be written. The writer says when it is.
    pub fn take_outgoing(&mut self) -> Option<Outgoing> {
        let next = self.outbox.pop_front()?;
        self.writing = true;
        Some(next)
    }

    pub fn has_said_everything(&self) -> bool {
        self.outbox.is_empty() && !self.writing
    }

    /// `agent_ready`; the seed has no such word.
    pub fn tell_ready(&mut self, agent: &str, thread: Option<&str>) {
        if self.dialect != Dialect::Today {
            return;
        }
        let mut data = json!({"agent_name": agent, "thread_id": thread});
        if self.reports_turns {
            data["active_turns"] = self.active_turns();
        }
        self.tell("agent_ready", data);
    }

    pub fn tell_title(&mut self, thread: &str, title: &str) {
        match self.dialect {
            Dialect::Today => {
                self.tell("thread_title_changed", json!({"acp_thread_id": thread, "title": title}));
            }
            // The first fork wrote `new_title`, its documents `title`.
            Dialect::Seed(super::SeedStyle::NumberedMessages) => {
                self.tell("context_title_changed", json!({"context_id": thread, "new_title": title}));
            }
            Dialect::Seed(_) => self.tell("context_title_changed", json!({"context_id": thread, "title": title})),
        }
    }

    /// A thread that a person opened; answers its id.
    pub fn open_draft(&mut self) -> String {
        let thread = self.workspace.new_thread("zed-agent");
        match self.dialect {
            Dialect::Today => self.tell("user_created_thread", json!({"acp_thread_id": thread, "title": null})),
            Dialect::Seed(_) => {
                self.tell("context_created", json!({"context_id": thread, "title": "New Chat", "thread_id": thread}));
            }
        }
        thread
    }

    /// Every turn that it has, without those that were cancelled.
    fn active_turns(&self) -> Value {
        let queued = self.underway.iter().chain(&self.queue).map(|chat| {
            let mut turn = json!({"request_id": chat.request_id, "state": "queued"});
            if let Some(thread) = &chat.thread {
                turn["acp_thread_id"] = json!(thread);
            }
            turn
        });
        let running = self.threads.iter().filter_map(|(id, thread)| {
            let turn = thread.turn.as_ref()?;
            Some(json!({"request_id": turn.request_id, "acp_thread_id": id, "state": "running"}))
        });
        running.chain(queued).collect()
    }

    /// Whether it knows a request as queued or running.
    pub fn has(&self, request: &str) -> bool {
        let waits = self.underway.iter().chain(&self.queue).any(|chat| chat.request_id == request);
        let runs =
            self.threads.values().any(|thread| thread.turn.as_ref().is_some_and(|turn| turn.request_id == request));
        waits || runs
    }

    pub fn is_busy(&self) -> bool {
        let runs = self.threads.values().any(|thread| thread.turn.is_some());
        runs || !self.queue.is_empty() || !self.underway.is_empty()
    }

    /// The loaded thread that is meant by an id.
    pub fn loaded(&self, id: &str) -> Option<String> {
        let id = self.aliases.get(id).map_or(id, String::as_str);
        self.threads.contains_key(id).then(|| id.to_owned())
    }

    /// Brings a thread from the workspace into memory; false where it is not there.
    pub fn load(&mut self, id: &str) -> bool {
        let Some(kept) = self.workspace.thread(id) else { return false };
        let entry = |entry: KeptEntry| Entry {
            role: entry.role,
            content: entry.content,
            tool: entry.tool,
            request_id: String::new(),
            told: None,
        };
        let entries = kept.entries.into_iter().map(entry).collect();
        self.threads.insert(id.to_owned(), Thread { entries, ..Thread::default() });
        true
    }

    /// Begins a turn: the prompt takes an entry of its own; it is told only where a person typed it.
    pub fn begin_turn(&mut self, id: &str, request: &str, prompt: &str, tell_prompt: bool) -> u64 {
        let effect = self.ledger.begin(Effect {
            session: self.session.clone(),
            thread: id.to_owned(),
            request_id: request.to_owned(),
            prompt: prompt.to_owned(),
            end: None,
            text: String::new(),
            lost: false,
            lost_text: false,
            said_at: None,
            told_at: None,
            buried: false,
        });
        self.keys += 1;
        let key = self.keys;
        let thread = self.threads.entry(id.to_owned()).or_default();
        thread.entries.push(Entry {
            role: "user",
            content: prompt.to_owned(),
            tool: None,
            request_id: request.to_owned(),
            told: None,
        });
        let place = thread.entries.len() - 1;
        request.clone_into(&mut thread.last_request);
        thread.turn = Some(Turn { key, request_id: request.to_owned(), from: place + 1, effect });
        self.shown = Some(id.to_owned());
        self.keep(id, place);
        if tell_prompt {
            self.tell_entry(id, place);
        }
        key
    }

    /// Ends the running turn of a thread: everything is told again in full, then the word that ends it.
    pub fn end_turn(&mut self, id: &str, end: End, last: impl FnOnce(&mut Self, &Turn)) {
        let Some(turn) = self.threads.get_mut(id).and_then(|thread| thread.turn.take()) else { return };
        if end == End::Failed {
            self.tell_pending(id, turn.from);
        } else {
            self.tell_again(id, turn.from);
        }
        let text = self.text_of(id, turn.from);
        self.ledger.end(turn.effect, end, &text);
        self.questions.retain(|_, answer| answer.is_some());
        last(self, &turn);
    }

    /// Cancels the running turn of a thread; `said` comes before its end.
    pub fn cancel(&mut self, id: &str) {
        self.end_turn(id, End::Cancelled, |state, turn| {
            state.tell_completed(id, &turn.request_id, &Value::Null, turn.from);
        });
    }

    /// `message_completed`, or what the seed says instead.
    pub fn tell_completed(&mut self, id: &str, request: &str, usage: &Value, from: usize) {
        if self.dialect != Dialect::Today && request.is_empty() {
            // The seed has words for the end of an answer to a prompt only.
            return;
        }
        match self.dialect {
            Dialect::Today => self.tell("message_completed", events::completed(id, request, usage)),
            Dialect::Seed(super::SeedStyle::Whole) => {
                let content = self.text_of(id, from);
                self.tell("chat_response", json!({"request_id": request, "content": content}));
            }
            Dialect::Seed(_) => self.tell("chat_response_done", json!({"request_id": request})),
        }
    }

    /// What the agent said from an entry on.
    pub fn text_of(&self, id: &str, from: usize) -> String {
        let Some(thread) = self.threads.get(id) else { return String::new() };
        let said = thread.entries.iter().skip(from).filter(|entry| entry.role == "assistant");
        said.map(|entry| entry.content.as_str()).collect::<Vec<_>>().join("\n\n")
    }

    pub fn keep(&self, id: &str, number: usize) {
        let Some(entry) = self.threads.get(id).and_then(|thread| thread.entries.get(number)) else { return };
        let kept = KeptEntry { role: entry.role, content: entry.content.clone(), tool: entry.tool.clone() };
        self.workspace.keep(id, number, kept);
    }

    /// What happened on the socket, for a failure's message.
    pub fn story(&self) -> String {
        let mut story = String::from("frames of the server:\n");
        for (number, frame) in self.frames.iter().enumerate() {
            let mark = if number < self.taken { " " } else { "*" };
            let _ = writeln!(story, "{mark} [{}] {}", frame.connection, shortened(&frame.json.to_string()));
        }
        story += "events of the peer:\n";
        for event in &self.told {
            let _ = writeln!(story, "  {}", shortened(&event.to_string()));
        }
        let _ = write!(
            story,
            "connected {} (number {}), refusals {:?}, closes {:?}, faults {:?}, queue {:?}, underway {:?}, not written {}",
            self.connected,
            self.connections,
            self.refusals,
            self.closes,
            self.faults,
            self.queue,
            self.underway,
            self.outbox.len()
        );
        story
    }
}

fn shortened(text: &str) -> String {
    const MOST: usize = 300;
    if text.len() <= MOST {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", &text[..text.floor_char_boundary(MOST)], text.len())
}
