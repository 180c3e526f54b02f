//! What the editor does with a frame, and its one chat loop.
//!
//! Follow-ups are awaited to the end of their turn, so everything behind them waits; the first turn of a new thread is
//! not. Loading, cancelling, interrupting and asking for the view go round the loop.

use std::sync::Arc;

use serde_json::{Value, json};

use super::state::{Chat, State, Zed};
use super::{Dialect, Fate, Run};

/// A text frame of the server.
pub(super) fn take(zed: &Arc<Zed>, text: &str) {
    let parsed = serde_json::from_str::<Value>(text);
    zed.change(|state| {
        let json = match parsed {
            Ok(json) => json,
            Err(fault) => {
                state.faults.push(format!("not JSON ({fault}): {text}"));
                return;
            }
        };
        state.frames.push(super::state::Frame { connection: state.connections, json: json.clone() });
        if let Err(fault) = well_formed(state.dialect, &json) {
            state.faults.push(format!("{fault}: {json}"));
            return;
        }
        obey(zed, state, &json);
    });
}

/// What the editor would drop without a word, or what the contract forbids.
fn well_formed(dialect: Dialect, frame: &Value) -> Result<(), String> {
    let object = frame.as_object().ok_or("not an object")?;
    if object.len() != 2 || !object.contains_key("type") || !object.contains_key("data") {
        return Err("a frame has exactly `type` and `data`".to_owned());
    }
    let kind = frame["type"].as_str().ok_or("`type` is no text")?;
    let data = frame["data"].as_object().ok_or("`data` is no object")?;
    let text = |name: &str| data.get(name).is_some_and(Value::is_string);
    let missing = |names: &[&str]| names.iter().find(|name| !text(name)).map(|name| format!("no `{name}`"));
    if let Dialect::Seed(_) = dialect {
        // Other commands mean nothing to it and are dropped; whether one may come is for the test to say.
        if kind != "chat_message" {
            return Ok(());
        }
        if data.get("role").and_then(Value::as_str) != Some("user") {
            return Err("the seed's chat_message has role `user`".to_owned());
        }
        return missing(&["message", "request_id"]).map_or(Ok(()), Err);
    }
    let needed: &[&str] = match kind {
        "chat_message" | "simulate_user_input" => &["message", "request_id"],
        // Without its request a failure is silent, so the contract wants it always.
        "open_thread" => &["acp_thread_id", "request_id"],
        "cancel_current_turn" => &["request_id"],
        "query_ui_state" => &["query_id"],
        "respond_elicitation" => &["acp_thread_id", "elicitation_id", "action"],
        _ => return Err("an unknown command".to_owned()),
    };
    if data.contains_key("role") {
        return Err("a message with a `role` is dropped by Zed".to_owned());
    }
    missing(needed).map_or(Ok(()), Err)
}

impl Zed {
    /// The panel is there: what waited for it is done now.
    pub fn load_panel(self: &Arc<Self>) {
        self.change(|state| {
            state.panel = true;
            state.tell_ready("zed-agent", None);
            for frame in std::mem::take(&mut state.early) {
                obey(self, state, &frame);
            }
        });
    }
}

fn obey(zed: &Arc<Zed>, state: &mut State, frame: &Value) {
    let data = &frame["data"];
    let kind = frame["type"].as_str().unwrap_or_default();
    if state.dialect != Dialect::Today && kind != "chat_message" {
        return;
    }
    if kind == "cancel_current_turn" {
        return cancel(state, data["request_id"].as_str().unwrap_or("unknown"));
    }
    if !state.panel {
        state.early.push(frame.clone());
        return;
    }
    match kind {
        "chat_message" | "simulate_user_input" => chat(zed, state, kind == "simulate_user_input", data),
        "open_thread" => open(zed, state, data),
        "query_ui_state" => view(state, data["query_id"].as_str().unwrap_or("unknown")),
        "respond_elicitation" => answer(state, data),
        _ => {}
    }
}

fn chat(zed: &Zed, state: &mut State, simulated: bool, data: &Value) {
    let named = |name: &str| data[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let chat = Chat {
        message: named("message").unwrap_or_default(),
        request_id: named("request_id").unwrap_or_default(),
        thread: named("acp_thread_id").or_else(|| named("context_id")),
        agent: named("agent_name").unwrap_or_else(|| "zed-agent".to_owned()),
        simulated,
    };
    if zed.options.drops_duplicates && state.has(&chat.request_id) {
        return;
    }
    if data["interrupt"] == true
        && let Some(thread) = chat.thread.as_deref().and_then(|id| state.loaded(id))
    {
        state.cancel(&thread);
    }
    state.queue.push_back(chat);
}

/// By thread, looked up from the request, whatever runs there now.
fn cancel(state: &mut State, request: &str) {
    let thread = state.requests.get(request).cloned().filter(|_| state.panel);
    let running = thread.filter(|id| state.threads.get(id).is_some_and(|thread| thread.turn.is_some()));
    let status = if running.is_some() { "cancelled" } else { "noop" };
    state.tell("turn_cancelled", json!({"request_id": request, "status": status}));
    if let Some(thread) = running {
        state.cancel(&thread);
    }
}

fn view(state: &mut State, query: &str) {
    let entries = state.shown.as_ref().and_then(|id| state.threads.get(id)).map_or(0, |thread| thread.entries.len());
    let data = json!({
        "query_id": query,
        "active_view": if state.shown.is_some() { "agent_thread" } else { "uninitialized" },
        "thread_id": state.shown,
        "entry_count": entries,
        "mcp_servers": {"desktop": "running"},
        "active_model": "claude-opus-4",
    });
    state.tell("ui_state_response", data);
}

fn answer(state: &mut State, data: &Value) {
    let id = data["elicitation_id"].as_str().unwrap_or_default();
    let Some(question) = state.questions.get_mut(id) else {
        let ack = json!({"elicitation_id": id, "status": "not_found", "error": "no such question"});
        return state.tell("elicitation_response_ack", ack);
    };
    if question.is_some() {
        return state.tell("elicitation_response_ack", json!({"elicitation_id": id, "status": "noop", "error": ""}));
    }
    *question = Some(data.clone());
    let status = match data["action"].as_str() {
        Some("accept") => "accepted",
        Some("decline") => "declined",
        _ => "cancelled",
    };
    state.tell("elicitation_response_ack", json!({"elicitation_id": id, "status": "accepted", "error": ""}));
    let resolved = json!({
        "acp_thread_id": data["acp_thread_id"], "elicitation_id": id, "status": status, "content": data["content"],
        "timestamp": super::events::now(),
    });
    state.tell("elicitation_resolved", resolved);
}

/// `open_thread`: loads, shows, and says so.
fn open(zed: &Zed, state: &mut State, data: &Value) {
    let id = data["acp_thread_id"].as_str().unwrap_or_default();
    let agent = data["agent_name"].as_str().unwrap_or("zed-agent");
    match load(zed, state, id) {
        Load::Done(thread) => {
            state.shown = Some(thread.clone());
            state.tell_ready(agent, Some(&thread));
        }
        Load::Failed(error) => {
            if let Some(request) = data["request_id"].as_str() {
                let error = format!("Failed to load thread: {error}");
                state.tell("thread_load_error", json!({"acp_thread_id": id, "request_id": request, "error": error}));
            }
        }
        Load::Silent => {}
    }
}

enum Load {
    Done(String),
    Failed(String),
    Silent,
}

/// Brings a thread into memory, under the id that its agent gives it now.
fn load(zed: &Zed, state: &mut State, id: &str) -> Load {
    if let Some(thread) = state.loaded(id) {
        return Load::Done(thread);
    }
    let mut thread = id.to_owned();
    match state.loads.pop_front() {
        Some(Fate::Fails(error)) => return Load::Failed(error),
        Some(Fate::Silent) => return Load::Silent,
        Some(Fate::Renamed(to)) => {
            state.workspace.rename(id, &to);
            state.aliases.insert(id.to_owned(), to.clone());
            thread = to;
        }
        Some(Fate::Held) | None => {}
    }
    if !state.load(&thread) {
        return Load::Failed(format!("no thread found with ID: {id}"));
    }
    if zed.options.replays_history {
        let count = state.threads.get(&thread).map_or(0, |thread| thread.entries.len());
        for place in 0..count {
            state.tell_entry(&thread, place);
        }
    }
    Load::Done(thread)
}

/// Takes prompts one after the other, for as long as the editor lives.
pub(super) async fn chat_loop(zed: Arc<Zed>) {
    loop {
        let next = |state: &mut State| {
            let chat = state.queue.pop_front()?;
            state.underway.push(chat.clone());
            Some(chat)
        };
        let chat = zed.until(next).await;
        match chat.thread.clone() {
            None => new_thread(&zed, chat),
            Some(thread) => {
                if let Some(run) = follow_up(&zed, &chat, &thread) {
                    zed.hand_over(run.clone());
                    run.end_of_it().await;
                }
            }
        }
    }
}

/// Makes a thread and begins its first turn, beside the loop.
fn new_thread(zed: &Arc<Zed>, chat: Chat) {
    let fate = zed.change(|state| state.new_threads.pop_front());
    match fate {
        Some(Fate::Silent) => zed.change(|state| state.forget_underway(&chat.request_id)),
        Some(_) => {
            let turn = zed.change(|state| {
                state.held += 1;
                state.held
            });
            let zed = Arc::clone(zed);
            tokio::spawn(async move {
                zed.until(|state| (state.released >= turn || state.dead).then_some(())).await;
                make_thread(&zed, &chat);
            });
        }
        None => make_thread(zed, &chat),
    }
}

fn make_thread(zed: &Arc<Zed>, chat: &Chat) {
    let run = zed.change(|state| {
        if state.dead {
            return None;
        }
        let thread = state.workspace.new_thread(&chat.agent);
        state.requests.insert(chat.request_id.clone(), thread.clone());
        state.threads.insert(thread.clone(), super::state::Thread::default());
        state.forget_underway(&chat.request_id);
        if state.dialect == Dialect::Today {
            // As running already: the report says what is true once it is read.
            let key = state.begin_turn(&thread, &chat.request_id, &chat.message, false);
            state.tell_ready(&chat.agent, Some(&thread));
            let created = json!({"acp_thread_id": thread, "request_id": chat.request_id});
            state.tell("thread_created", created);
            if chat.simulated {
                state.tell_entry(&thread, 0);
            }
            return Some(run_of(zed, state, chat, &thread, key));
        }
        state.tell("context_created", json!({"context_id": thread, "title": "New Chat", "thread_id": thread}));
        let key = state.begin_turn(&thread, &chat.request_id, &chat.message, false);
        Some(run_of(zed, state, chat, &thread, key))
    });
    if let Some(run) = run {
        zed.hand_over(run);
    }
}

/// Begins a turn in a thread that is there, loading it first where needed. A turn that runs in it is cancelled.
fn follow_up(zed: &Arc<Zed>, chat: &Chat, id: &str) -> Option<Run> {
    zed.change(|state| {
        let was_loaded = state.loaded(id).is_some();
        let loaded = load(zed, state, id);
        state.forget_underway(&chat.request_id);
        let thread = match loaded {
            Load::Done(thread) => thread,
            Load::Failed(error) => {
                let error = format!("Failed to load thread: {error}");
                let data = json!({"acp_thread_id": id, "request_id": chat.request_id, "error": error});
                state.tell("thread_load_error", data);
                return None;
            }
            Load::Silent => return None,
        };
        if was_loaded {
            state.cancel(&thread);
        } else {
            state.tell_ready(&chat.agent, Some(&thread));
        }
        state.requests.insert(chat.request_id.clone(), thread.clone());
        let key = state.begin_turn(&thread, &chat.request_id, &chat.message, chat.simulated);
        Some(run_of(zed, state, chat, &thread, key))
    })
}

/// A person types a prompt.
pub(super) fn typed(zed: &Arc<Zed>, thread: Option<&str>, prompt: &str) -> Run {
    zed.change(|state| {
        let known = thread.map(|id| {
            if state.loaded(id).is_none() {
                state.load(id);
            }
            state.loaded(id).unwrap_or_else(|| id.to_owned())
        });
        let thread = known.unwrap_or_else(|| state.open_draft());
        state.cancel(&thread);
        // Stale, or empty where the server never sent a prompt to this thread.
        let stale = state.threads.get(&thread).map(|thread| thread.last_request.clone()).unwrap_or_default();
        let request = if state.dialect == Dialect::Today { stale } else { String::new() };
        let key = state.begin_turn(&thread, &request, prompt, true);
        let chat = Chat {
            message: prompt.to_owned(),
            request_id: request,
            thread: Some(thread.clone()),
            agent: String::new(),
            simulated: false,
        };
        run_of(zed, state, &chat, &thread, key)
    })
}

fn run_of(zed: &Arc<Zed>, state: &State, chat: &Chat, thread: &str, key: u64) -> Run {
    let from = state.threads.get(thread).map_or(0, |thread| thread.entries.len());
    Run {
        request_id: chat.request_id.clone(),
        thread: thread.to_owned(),
        message: chat.message.clone(),
        zed: Arc::clone(zed),
        key,
        from,
    }
}

impl State {
    fn forget_underway(&mut self, request: &str) {
        if let Some(place) = self.underway.iter().position(|chat| chat.request_id == request) {
            self.underway.remove(place);
        }
    }
}
