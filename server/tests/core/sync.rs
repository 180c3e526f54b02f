//! The sync socket against a raw WebSocket client that speaks the contract's JSON, and nothing of this crate.

#[path = "sync/agent.rs"]
mod agent;
#[path = "sync/refusals.rs"]
mod refusals;
#[path = "sync/replicas.rs"]
mod replicas;
#[path = "sync/turns.rs"]
mod turns;

use std::net::SocketAddr;

use helix_protocol::thread::{Origin, ThreadEvent, TurnState};
use helix_protocol::{ThreadId, TurnId};
use helix_server::app::App;
use helix_server::threads::model::{Conversation, Thread};

use super::harness::{Fleet, eventually, id};
use super::{admin, command};
use agent::Agent;

/// A session that waits for a runner: its agent may connect all the same.
async fn session(app: &App, name: &str, input: Option<&str>) -> String {
    let mut request = command(name, "");
    request.input = input.map(str::to_owned);
    request.kind = helix_protocol::KindName::parse("terminal").ok();
    let view = app.sessions.create(&admin(), request).await.expect("created").view;
    app.sessions.auth_token(&admin(), &view).expect("told to an admin")
}

/// A fleet with one server and one session with its agent's token.
async fn one(settings: &str, input: Option<&str>) -> (Fleet, App, SocketAddr, String) {
    let fleet = Fleet::start().await;
    let app = fleet.server_with_threads(settings).await;
    let address = fleet.serve(&app).await;
    let token = session(&app, "s", input).await;
    (fleet, app, address, token)
}

async fn conversation(app: &App, session: &str) -> Conversation {
    app.threads.hub.log().read(&id(session), None).await.expect("read")
}

/// Appends whatever the rest of the server would, as the newest word on a thread.
async fn append(app: &App, session: &str, thread: &ThreadId, event: ThreadEvent) {
    eventually("appended", async || {
        let expected = conversation(app, session).await.sequence_of(thread);
        app.threads.hub.log().append(&id(session), thread, &event, expected).await.ok()
    })
    .await;
}

/// A prompt as the API accepts it; a thread that is new is started.
async fn prompt(app: &App, thread: &str, turn: &str, text: &str, interrupt: bool) {
    let thread = ThreadId::parse(thread).expect("valid id");
    if conversation(app, "s").await.thread(&thread).is_none() {
        let started =
            ThreadEvent::ThreadStarted { origin: Origin::Api, by: None, agent: None, title: None, work_session: None };
        append(app, "s", &thread, started).await;
    }
    let queued = ThreadEvent::TurnQueued {
        turn: turn_id(turn),
        origin: Origin::Api,
        by: None,
        prompt: text.to_owned(),
        interrupt,
        attachments: Vec::new(),
        resend_of: None,
    };
    append(app, "s", &thread, queued).await;
}

fn turn_id(turn: &str) -> TurnId {
    TurnId::parse(turn).expect("valid id")
}

fn thread_of<'a>(conversation: &'a Conversation, thread: &str) -> &'a Thread {
    conversation.thread(&ThreadId::parse(thread).expect("valid id")).expect("there")
}

/// Waits until a turn is so, and answers its cause's code.
async fn turn_is(app: &App, turn: &str, state: TurnState) -> Option<String> {
    eventually(&format!("{turn} is {state}"), async || {
        let conversation = conversation(app, "s").await;
        let (_, turn) = conversation.turn(&turn_id(turn))?;
        (turn.state == state).then(|| turn.cause.as_ref().map(|cause| cause.code.clone()))
    })
    .await
}

/// The text of an entry.
async fn text(app: &App, thread: &str, entry: &str) -> Option<String> {
    thread_of(&conversation(app, "s").await, thread).entry(entry).and_then(|entry| entry.text.clone())
}
