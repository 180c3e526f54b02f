//! Conversations over HTTP: threads, prompts, turns, questions. The agent is nothing but its events in the log.

use std::time::Duration;

use futures::future::join_all;
use helix_protocol::record::Scope;
use helix_protocol::session::SessionPhase;
use helix_protocol::thread::{MAX_PROMPT_CHARS, Role, ThreadEvent, TokenUsage, ToolCall, TurnState};
use helix_protocol::{ErrorCode, ThreadId, TurnId};
use helix_server::app::App;
use serde_json::{Value, json};

use super::harness::{Fleet, SimRunner, eventually, id, within};
use super::http::Caller;
use super::{admin, command};

const THREADS: &str = "/api/v1/sessions/s/threads";

fn terminal(session: &str) -> helix_protocol::api::CreateSession {
    helix_protocol::api::CreateSession { input: None, ..command(session, "") }
}

/// Writes what the owner of the session's sync socket would write.
pub async fn write(app: &App, session: &str, thread: &str, event: ThreadEvent) -> u64 {
    let (session, thread) = (id(session), thread_id(thread));
    let live = app.threads.hub.open(&session).await.expect("followed");
    let expected = live.read(|conversation| conversation.sequence_of(&thread));
    app.threads.hub.log().append(&session, &thread, &event, expected).await.expect("stored")
}

pub fn thread_id(text: &str) -> ThreadId {
    ThreadId::parse(text).expect("valid id")
}

pub fn turn_id(text: &str) -> TurnId {
    TurnId::parse(text).expect("valid id")
}

pub fn moved(turn: &str, state: TurnState) -> ThreadEvent {
    ThreadEvent::TurnMoved { turn: turn_id(turn), state, cause: None, usage: None, exit_status: None }
}

pub fn said(turn: &str, entry: &str, offset: u64, text: &str) -> ThreadEvent {
    ThreadEvent::Entry {
        entry: entry.to_owned(),
        before: None,
        turn: Some(turn_id(turn)),
        role: Role::Assistant,
        tool: None,
        offset,
        text: text.to_owned(),
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

async fn user(app: &App, caller: &Caller, name: &str, scope: Scope) -> Caller {
    let issued = app.tokens.issue(name, scope, Duration::from_mins(5)).await.expect("issued");
    caller.with_token(&issued.secret)
}

#[track_caller]
fn refused(answer: &(u16, Value), status: u16, code: &str) {
    assert_eq!((answer.0, answer.1["code"].as_str()), (status, Some(code)), "{}", answer.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_wait_for_the_desktop_and_the_same_key_is_the_same_prompt() {
    let fleet = Fleet::start().await;
    let (app, other) = (fleet.server().await, fleet.server().await);
    let caller = Caller::admin(fleet.serve(&app).await);
    let elsewhere = Caller::admin(fleet.serve(&other).await);
    app.sessions.create(&admin(), terminal("s")).await.expect("created");

    // No runner is there at all: it is accepted, and durable.
    let body = json!({"prompt": "build it", "agent": "claude", "title": "A build", "idempotency_key": "k"});
    let (status, first) = caller.post(THREADS, &body).await;
    assert_eq!((status, &first["turn"]["state"], &first["queued"]), (201, &json!("queued"), &json!(1)), "{first}");
    assert_eq!((text(&first["id"]).len(), text(&first["turn"]["id"]).len()), (28, 28));
    // Wherever the same is asked again.
    let again = elsewhere.post(THREADS, &body).await;
    assert_eq!((again.0, &again.1["id"], &again.1["turn"]["id"]), (200, &first["id"], &first["turn"]["id"]));
    let different = json!({"prompt": "break it", "agent": "claude", "idempotency_key": "k"});
    refused(&caller.post(THREADS, &different).await, 409, "prompt_exists");
    // At once on two servers, many times: one thread with one turn.
    let body = json!({"prompt": "race"});
    let key = "Idempotency-Key: race\r\n";
    let race = (0..10).map(|index| {
        let caller = if index % 2 == 0 { &caller } else { &elsewhere };
        caller.call_with("POST", THREADS, key, &body)
    });
    let answers = join_all(race).await;
    assert!(answers.iter().all(|(status, _)| [200, 201].contains(status)), "{answers:?}");
    assert!(answers.iter().all(|(_, body)| body["id"] == answers[0].1["id"] && body["turns"] == 1), "{answers:?}");
    let differing = json!({"prompt": "race", "idempotency_key": "other"});
    refused(&caller.call_with("POST", THREADS, key, &differing).await, 400, "invalid_request");

    let thread = format!("{THREADS}/{}", text(&first["id"]));
    let prompts = format!("{thread}/prompts");
    let (status, second) = caller.post(&prompts, &json!({"prompt": "test it", "attachments": ["a/b.txt"]})).await;
    assert_eq!((status, &second["state"], &second["attachments"]), (202, &json!("queued"), &json!(["a/b.txt"])));
    let keyed = json!({"prompt": "ship it", "interrupt": true, "idempotency_key": "p"});
    let answers = join_all((0..6).map(|_| caller.post(&prompts, &keyed))).await;
    assert!(answers.iter().all(|answer| answer.0 == 202 && answer.1["id"] == answers[0].1["id"]), "{answers:?}");
    refused(&caller.post(&prompts, &json!({"prompt": "ship it", "idempotency_key": "p"})).await, 409, "prompt_exists");

    let (_, list) = elsewhere.get(THREADS).await;
    let shown: Vec<_> = list["threads"].as_array().expect("a list").iter().map(|thread| &thread["turns"]).collect();
    assert_eq!(shown, [&json!(3), &json!(1)], "{list}");
    let (status, renamed) = caller.call("PATCH", &thread, &json!({"title": "Another"})).await;
    assert_eq!((status, &renamed["title"]), (200, &json!("Another")));
    // A title that was changed since does not make it another request.
    let body = json!({"prompt": "build it", "agent": "claude", "title": "A build", "idempotency_key": "k"});
    assert_eq!(caller.post(THREADS, &body).await.0, 200);
    // One more server, one more reading of the log: the same.
    let (_, detail) = elsewhere.get(&thread).await;
    let turns: Vec<_> = detail["recent_turns"].as_array().expect("turns").iter().map(|turn| &turn["prompt"]).collect();
    assert_eq!(turns, ["build it", "test it", "ship it"]);
    fleet.stop(&[app, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_prompts_are_refused_by_name() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    app.sessions.create(&admin(), terminal("s")).await.expect("created");
    let (_, made) = caller.post(THREADS, &json!({"prompt": "x"})).await;
    let thread = format!("{THREADS}/{}", text(&made["id"]));
    let long = "ä".repeat(MAX_PROMPT_CHARS + 1);
    for (path, body, status, code) in [
        (THREADS, json!({"prompt": ""}), 400, "invalid_input"),
        (THREADS, json!({"prompt": long}), 400, "invalid_input"),
        (THREADS, json!({"prompt": "x", "role": "user"}), 400, "invalid_request"),
        (THREADS, json!({"prompt": "x", "agent": "a b"}), 400, "invalid_request"),
        (THREADS, json!({"prompt": "x", "attachments": ["../x"]}), 400, "invalid_request"),
        (THREADS, json!({}), 400, "invalid_request"),
        (&format!("{thread}/prompts"), json!({"prompt": " "}), 400, "invalid_input"),
        (&format!("{THREADS}/thr_none/prompts"), json!({"prompt": "x"}), 404, "thread_not_found"),
        (&format!("{THREADS}/_/prompts"), json!({"prompt": "x"}), 404, "thread_not_found"),
        (&format!("{THREADS}/a.b/prompts"), json!({"prompt": "x"}), 400, "invalid_request"),
        (&format!("{thread}/turns/int_none/resend"), Value::Null, 404, "turn_not_found"),
        (&format!("{thread}/cancel"), json!({"turn": "int_none"}), 404, "turn_not_found"),
        (&format!("{thread}/questions/none"), json!({"action": "accept"}), 404, "question_not_found"),
        ("/api/v1/sessions/none/threads", json!({"prompt": "x"}), 404, "session_not_found"),
    ] {
        let answer = caller.post(path, &body).await;
        assert_eq!((answer.0, answer.1["code"].as_str()), (status, Some(code)), "{path}: {}", answer.1);
    }
    for (path, code) in [
        (format!("{THREADS}/thr_none"), "thread_not_found"),
        (format!("{thread}/entries/none"), "entry_not_found"),
        (format!("{thread}/turns/int_none"), "turn_not_found"),
    ] {
        refused(&caller.get(&path).await, 404, code);
    }
    for query in ["limit=0", "limit=501", "cursor=x", "x=1"] {
        refused(&caller.get(&format!("{thread}?{query}")).await, 400, "invalid_request");
    }
    refused(&caller.get(&format!("{thread}/turns/int_x?wait=301")).await, 400, "invalid_request");
    // Larger than any body that is taken: told before it is sent.
    let mut answer = caller.ask("POST", THREADS, "Expect: 100-continue\r\n", "").await;
    answer.read_head().await;
    let huge = format!("{{\"prompt\": \"{}\"}}", "x".repeat(app.config.max_body_bytes));
    let mut answer = caller.ask("POST", THREADS, "", &huge).await;
    answer.read_head().await;
    assert_eq!(answer.status(), 413);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_is_shown_in_pages_and_its_turns_can_be_waited_for() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    app.sessions.create(&admin(), terminal("s")).await.expect("created");
    let (_, made) = caller.post(THREADS, &json!({"prompt": "x"})).await;
    let (thread, turn) = (text(&made["id"]), text(&made["turn"]["id"]));
    let path = format!("{THREADS}/{thread}");

    write(&app, "s", &thread, ThreadEvent::ThreadBound { acp_thread_id: Some("acp-1".to_owned()) }).await;
    write(&app, "s", &thread, moved(&turn, TurnState::Dispatched)).await;
    write(&app, "s", &thread, moved(&turn, TurnState::Running)).await;
    // At once where nothing is waited for, and as it is when the time is over.
    let turn_path = format!("{path}/turns/{turn}");
    let (status, shown) = caller.get(&format!("{turn_path}?wait=1")).await;
    assert_eq!((status, &shown["state"]), (200, &json!("running")));

    let long = "€".repeat(50_000);
    write(&app, "s", &thread, said(&turn, "1", 0, &long)).await;
    write(&app, "s", &thread, said(&turn, "2/a b", 0, "short")).await;
    let tool = ToolCall { name: "grep".to_owned(), status: "Completed".to_owned() };
    let used = ThreadEvent::Entry {
        entry: "3".to_owned(),
        before: None,
        turn: Some(turn_id(&turn)),
        role: Role::Assistant,
        tool: Some(tool),
        offset: 0,
        text: "used".to_owned(),
    };
    write(&app, "s", &thread, used).await;
    write(&app, "s", &thread, said(&turn, "1", 150_000, "the end")).await;

    let (_, page) = caller.get(&format!("{path}?limit=2")).await;
    let entry = &page["entries"][0];
    assert_eq!((&entry["length"], &entry["truncated"]), (&json!(150_007), &json!(true)));
    assert_eq!((&page["acp_thread_id"], &page["next_cursor"]), (&json!("acp-1"), &json!("2")));
    let (_, page) = caller.get(&format!("{path}?cursor=2")).await;
    assert_eq!((&page["entries"][0]["tool"]["name"], &page["next_cursor"]), (&json!("grep"), &Value::Null));
    // The newest ones, with what has no meaning to us at the turn where it came.
    let custom = ThreadEvent::Custom { name: "agent_mood".to_owned(), data: json!({"mood": "good"}) };
    let sequence = write(&app, "s", &thread, custom).await;
    let (_, page) = caller.get(&format!("{path}?last=2")).await;
    let ids: Vec<_> = page["entries"].as_array().expect("entries").iter().map(|entry| text(&entry["id"])).collect();
    assert_eq!((ids, &page["entries_before"]), (vec!["2/a b".to_owned(), "3".to_owned()], &json!(1)), "{page}");
    assert_eq!(page["next_cursor"], Value::Null);
    let told = &page["custom_events"][0];
    assert_eq!(
        (&told["name"], &told["turn"], &told["sequence"]),
        (&json!("agent_mood"), &json!(turn), &json!(sequence))
    );
    assert_eq!(told["data"], json!({"mood": "good"}));
    refused(&caller.get(&format!("{path}?last=2&cursor=1")).await, 400, "invalid_request");
    refused(&caller.get(&format!("{path}?last=501")).await, 400, "invalid_request");
    let (mut whole, mut offset) = (String::new(), 0);
    while offset < 150_007 {
        let (status, piece) = caller.get(&format!("{path}/entries/1?offset={offset}&limit=70000")).await;
        assert_eq!((status, &piece["offset"], &piece["length"]), (200, &json!(offset), &json!(150_007)));
        whole.push_str(piece["text"].as_str().expect("text"));
        offset = whole.len();
    }
    assert_eq!(whole, format!("{long}the end"));
    // Ids of entries are the agent's own words.
    assert_eq!(caller.get(&format!("{path}/entries/2%2Fa%20b")).await.1["text"], "short");

    // Who waits is told as soon as it is over.
    let waiting = {
        let (caller, path) = (caller.clone(), format!("{turn_path}?wait=60"));
        tokio::spawn(async move { caller.get(&path).await })
    };
    let usage = Some(TokenUsage { total_tokens: 7, ..TokenUsage::default() });
    let done = ThreadEvent::TurnMoved {
        turn: turn_id(&turn),
        state: TurnState::Completed,
        cause: None,
        usage,
        exit_status: Some(0),
    };
    write(&app, "s", &thread, done).await;
    let (_, shown) = within("told", waiting).await.expect("joined");
    assert_eq!((&shown["state"], &shown["usage"]["total_tokens"]), (&json!("completed"), &json!(7)), "{shown}");
    assert_eq!(caller.get(THREADS).await.1["usage"]["total_tokens"], 7);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_are_ended_and_asked_again() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    app.sessions.create(&admin(), terminal("s")).await.expect("created");
    let (_, made) = caller.post(THREADS, &json!({"prompt": "one", "attachments": ["f"]})).await;
    let (thread, one) = (text(&made["id"]), text(&made["turn"]["id"]));
    let path = format!("{THREADS}/{thread}");
    let (_, second) = caller.post(&format!("{path}/prompts"), &json!({"prompt": "two"})).await;
    let two = text(&second["id"]);

    // One that waits ends at once; which one is in question where the agent has none: the next.
    let cancel = format!("{path}/cancel");
    let (status, shown) = caller.post(&cancel, &json!({"turn": two})).await;
    assert_eq!((status, &shown["state"], &shown["cause"]["code"]), (200, &json!("cancelled"), &json!("cancelled")));
    refused(&caller.post(&cancel, &json!({"turn": two})).await, 409, "turn_over");
    // One that the agent has goes on until the agent lets go.
    write(&app, "s", &thread, moved(&one, TurnState::Dispatched)).await;
    refused(&caller.post(&format!("{path}/turns/{one}/resend"), &Value::Null).await, 409, "turn_not_over");
    for _ in 0..2 {
        let (status, shown) = caller.post(&cancel, &Value::Null).await;
        assert_eq!((status, &shown["id"], &shown["state"]), (200, &json!(one), &json!("dispatched")));
        assert_eq!(shown["cancel_requested"], true);
    }
    write(&app, "s", &thread, moved(&one, TurnState::Unknown)).await;
    refused(&caller.post(&cancel, &Value::Null).await, 409, "turn_over");

    // Asked again, twice at once: once.
    let resend = format!("{path}/turns/{one}/resend");
    let answers = join_all((0..5).map(|_| caller.post(&resend, &Value::Null))).await;
    assert!(answers.iter().all(|answer| answer.0 == 202 && answer.1["id"] == answers[0].1["id"]), "{answers:?}");
    let again = &answers[0].1;
    assert_eq!(
        (&again["resend_of"], &again["prompt"], &again["attachments"]),
        (&json!(one), &json!("one"), &json!(["f"]))
    );
    assert_eq!(caller.get(&path).await.1["turns"], 3);
    // Its answer was not to be had either: once more.
    let three = text(&again["id"]);
    write(&app, "s", &thread, moved(&three, TurnState::Failed)).await;
    let (status, fourth) = caller.post(&resend, &Value::Null).await;
    assert!(status == 202 && fourth["id"] != json!(three), "{fourth}");
    write(&app, "s", &thread, moved(&text(&fourth["id"]), TurnState::Completed)).await;
    let resend = format!("{path}/turns/{}/resend", text(&fourth["id"]));
    refused(&caller.post(&resend, &Value::Null).await, 409, "turn_over");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_once_whoever_is_first() {
    let fleet = Fleet::start().await;
    let (app, other) = (fleet.server().await, fleet.server().await);
    let callers = [Caller::admin(fleet.serve(&app).await), Caller::admin(fleet.serve(&other).await)];
    app.sessions.create(&admin(), terminal("s")).await.expect("created");
    let (_, made) = callers[0].post(THREADS, &json!({"prompt": "x"})).await;
    let (thread, turn) = (text(&made["id"]), text(&made["turn"]["id"]));
    let asked = |question: &str| ThreadEvent::QuestionAsked {
        question: question.to_owned(),
        turn: Some(turn_id(&turn)),
        mode: "form".to_owned(),
        message: "Which database?".to_owned(),
        schema: json!({"type": "object", "required": ["db"]}),
        entry: None,
    };
    write(&app, "s", &thread, asked("q")).await;
    write(&app, "s", &thread, asked("closed")).await;
    let closed = ThreadEvent::QuestionClosed { question: "closed".to_owned(), status: "expired".to_owned() };
    write(&app, "s", &thread, closed).await;
    let path = format!("{THREADS}/{thread}");
    let (_, detail) = callers[1].get(&path).await;
    assert_eq!((&detail["open_questions"], &detail["questions"][0]["status"]), (&json!(1), &json!("open")), "{detail}");

    let question = format!("{path}/questions/q");
    let answer = json!({"action": "accept", "content": {"db": "pg"}});
    refused(&callers[0].post(&question, &json!({"action": "accept"})).await, 400, "invalid_request");
    refused(
        &callers[0].post(&question, &json!({"action": "decline", "content": {"db": 1}})).await,
        400,
        "invalid_request",
    );
    refused(&callers[0].post(&question, &json!({"action": "perhaps"})).await, 400, "invalid_request");
    refused(&callers[0].post(&format!("{path}/questions/closed"), &answer).await, 409, "question_answered");
    let answers = join_all((0..10).map(|index| callers[index % 2].post(&question, &answer))).await;
    let won: Vec<_> = answers.iter().filter(|answer| answer.0 == 200).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert_eq!((&won[0].1["status"], &won[0].1["answered_by"]), (&json!("answered"), &json!("admin")));
    answers.iter().filter(|answer| answer.0 != 200).for_each(|answer| refused(answer, 409, "question_answered"));
    assert_eq!(callers[1].get(&path).await.1["open_questions"], 0);
    fleet.stop(&[app, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sees_a_session_reads_and_who_drives_it_writes() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let root = Caller::admin(fleet.serve(&app).await);
    let ann = user(&app, &root, "ann", Scope::User).await;
    let bob = user(&app, &root, "bob", Scope::User).await;
    let viewer = user(&app, &root, "eve", Scope::Viewer).await;
    let (status, made) = ann.post("/api/v1/sessions", &json!({"id": "s", "kind": "terminal"})).await;
    assert_eq!(status, 201, "{made}");
    app.sessions.create(&admin(), terminal("foreign")).await.expect("created");
    let desktop = user(&app, &root, "link", Scope::Desktop(id("s"))).await;
    let principal = app.tokens.verify(&ann.token).await.expect("valid");
    let view = app.sessions.get(&principal, &id("s")).await.expect("found");
    let own = root.with_token(&app.sessions.auth_token(&principal, &view).expect("the owner is told"));

    let (_, thread) = ann.post(THREADS, &json!({"prompt": "x"})).await;
    let path = format!("{THREADS}/{}", text(&thread["id"]));
    // Whoever may not see the session learns nothing of it.
    for (method, path) in [
        ("GET", THREADS),
        ("POST", THREADS),
        ("GET", &path),
        ("PATCH", &path),
        ("POST", &format!("{path}/prompts")),
        ("POST", &format!("{path}/cancel")),
        ("GET", &format!("{path}/turns/{}", text(&thread["turn"]["id"]))),
        ("GET", &format!("{path}/entries/1")),
        ("POST", &format!("{path}/questions/1")),
        ("GET", "/api/v1/sessions/s/events"),
    ] {
        let body = match path {
            _ if method == "GET" => Value::Null,
            path if path.ends_with("/cancel") => json!({}),
            path if path.contains("/questions/") => json!({"action": "accept"}),
            _ if method == "PATCH" => json!({"title": "x"}),
            _ => json!({"prompt": "x"}),
        };
        refused(&bob.call(method, path, &body).await, 404, "session_not_found");
        let foreign = path.replace("/s/", "/foreign/");
        for caller in [&desktop, &own] {
            refused(&caller.call(method, &foreign, &body).await, 404, "session_not_found");
        }
        if method != "GET" {
            refused(&viewer.call(method, path, &body).await, 403, "forbidden");
        }
    }
    assert_eq!(viewer.get(&path).await.0, 200);
    for caller in [&desktop, &own, &root] {
        assert_eq!(caller.get(THREADS).await.0, 200);
        let (status, turn) = caller.post(&format!("{path}/prompts"), &json!({"prompt": "go on"})).await;
        assert_eq!(status, 202, "{turn}");
        assert_eq!(caller.post(THREADS, &json!({"prompt": "aside"})).await.0, 201);
    }
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_session_takes_no_prompts_and_a_removed_one_leaves_no_word() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    app.sessions.create(&admin(), terminal("s")).await.expect("created");
    let epoch = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await.0;
    let (_, made) = caller.post(THREADS, &json!({"prompt": "x", "idempotency_key": "k"})).await;
    let (thread, turn) = (text(&made["id"]), text(&made["turn"]["id"]));
    write(&app, "s", &thread, said(&turn, "1", 0, "words")).await;

    app.sessions.stop(&admin(), &id("s")).await.expect("stopping");
    for phase in [SessionPhase::Stopping, SessionPhase::Stopped] {
        let report = if phase == SessionPhase::Stopping { 1 } else { 2 };
        runner.report(&runner.seen("s", epoch, report, phase)).await;
        for (path, body) in [
            (THREADS.to_owned(), json!({"prompt": "x"})),
            (format!("{THREADS}/{thread}/prompts"), json!({"prompt": "x"})),
            (format!("{THREADS}/{thread}/turns/{turn}/resend"), Value::Null),
        ] {
            let answer = caller.post(&path, &body).await;
            refused(&answer, 409, "session_ended");
            assert!(text(&answer.1["detail"]).contains("session create"), "{}", answer.1);
        }
        // What was said can be read.
        assert_eq!(caller.get(&format!("{THREADS}/{thread}")).await.1["entries"][0]["text"], "words");
    }
    // What waited has ended with the session: nobody has to call it off.
    let path = format!("{THREADS}/{thread}/turns/{turn}");
    eventually("called off", async || (caller.get(&path).await.1["state"] == "cancelled").then_some(())).await;

    app.sessions.delete(&admin(), &id("s")).await.expect("deleted");
    let log = app.threads.hub.log();
    assert_ne!(log.last_sequence(&id("s")).await.expect("known"), 0, "purged before it is gone");
    let mut gone = runner.seen("s", epoch, 3, SessionPhase::Stopped);
    gone.forgotten = true;
    runner.report(&gone).await;
    eventually("gone", async || app.sessions.get(&admin(), &id("s")).await.is_err().then_some(())).await;
    assert_eq!(log.last_sequence(&id("s")).await.expect("known"), 0);
    // Made again at once, under the same id: nobody finds what was said before.
    app.sessions.create(&admin(), terminal("s")).await.expect("made again");
    assert_eq!(caller.get(THREADS).await.1["threads"], json!([]));
    let (status, again) = caller.post(THREADS, &json!({"prompt": "x", "idempotency_key": "k"})).await;
    assert_eq!((status, &again["turns"]), (201, &json!(1)));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_store_nothing_is_accepted() {
    let mut fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    app.sessions.create(&admin(), terminal("s")).await.expect("created");
    let (_, made) = caller.post(THREADS, &json!({"prompt": "x"})).await;
    let path = format!("{THREADS}/{}", text(&made["id"]));
    fleet.stop_nats().await;
    for (method, path, body) in [
        ("POST", THREADS, json!({"prompt": "x"})),
        ("POST", &format!("{path}/prompts"), json!({"prompt": "x"})),
        ("GET", THREADS, Value::Null),
        ("GET", &path, Value::Null),
        ("GET", "/api/v1/sessions/s/events?after=0", Value::Null),
    ] {
        refused(&caller.call(method, path, &body).await, 503, "store_unavailable");
    }
    let error = app.threads.hub.open(&id("s")).await.err().expect("down");
    assert_eq!(error.code, ErrorCode::StoreUnavailable);
    fleet.start_nats_emptied();
    eventually("usable again", async || app.bus.healthy().then_some(())).await;
    // Nothing of the emptied store is remembered.
    app.sessions.create(&admin(), terminal("s")).await.expect("made again");
    assert_eq!(caller.get(THREADS).await.1["threads"], json!([]));
    fleet.stop(&[app]).await;
}
