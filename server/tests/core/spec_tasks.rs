//! Spec tasks: one desktop, many names of it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::SinkExt as _;
use futures::future::join_all;
use helix_protocol::api::CreateSession;
use helix_protocol::record::Scope;
use helix_protocol::session::{Desired, SessionPhase};
use helix_protocol::thread::{ThreadEvent, TurnState};
use helix_protocol::{Epoch, ErrorCode, SpecTaskId};
use helix_server::app::App;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::admin;
use super::harness::{Fleet, SimRunner, eventually, id, within};
use super::http::Caller;
use super::threads::{moved, text, write};

const SESSIONS: &str = "/api/v1/sessions";
const AGENTS: &str = "/api/v1/external-agents";

fn named(session: &str, task: &str, input: &str) -> Value {
    json!({"id": session, "input": input, "spec_task": task})
}

async fn post(caller: &Caller, body: &Value) -> Value {
    let (status, view) = caller.post(SESSIONS, body).await;
    assert_eq!(status, 201, "{view}");
    view
}

async fn phase(app: &App, session: &str) -> SessionPhase {
    app.sessions.get(&admin(), &id(session)).await.expect("found").phase
}

/// The one desktop of the fleet, ready.
async fn ready(runner: &SimRunner, session: &str) -> u64 {
    let order = eventually("assigned", async || runner.sync().await.pop()).await;
    assert_eq!(order.session, id(session));
    let Epoch(epoch) = order.epoch;
    runner.report(&runner.seen(session, epoch, 1, SessionPhase::Ready)).await;
    epoch
}

fn prompts(list: &Value) -> Vec<String> {
    list["threads"].as_array().expect("a list").iter().map(|thread| text(&thread["id"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_session_of_a_task_is_another_name_of_its_desktop() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    let mut runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(4).await;

    post(&caller, &named("one", "task", "begin")).await;
    let epoch = ready(&runner, "one").await;
    let (_, list) = caller.get("/api/v1/sessions/one/threads").await;
    let first = prompts(&list)[0].clone();
    write(&app, "one", &first, ThreadEvent::ThreadBound { acp_thread_id: Some("acp-1".to_owned()) }).await;

    let view = post(&caller, &named("two", "task", "go on")).await;
    assert_eq!(
        (&view["id"], &view["phase"], &view["runner"]),
        (&json!("two"), &json!("Ready"), &json!("r1")),
        "{view}"
    );
    assert_eq!((&view["spec"]["input"], &view["spec_task"]), (&json!("go on"), &json!("task")));
    assert!(text(&view["endpoints"]["view"]).ends_with("/sessions/two/view"), "{view}");
    // The same again is the same; another body is not.
    assert_eq!(caller.post(SESSIONS, &named("two", "task", "go on")).await.0, 200);
    assert_eq!(caller.post(SESSIONS, &named("two", "task", "other")).await.0, 409);
    assert_eq!(caller.post(SESSIONS, &named("two", "else", "go on")).await.0, 409);
    assert_eq!(runner.sync().await.len(), 1, "one desktop");

    // Under both ids there is one conversation.
    let (_, list) = caller.get("/api/v1/sessions/two/threads").await;
    assert_eq!(caller.get("/api/v1/sessions/one/threads").await.1, list);
    let threads = list["threads"].as_array().expect("a list");
    assert_eq!(
        (threads.len(), &threads[0]["work_session"], &threads[1]["work_session"]),
        (2, &Value::Null, &json!("two"))
    );
    assert!(threads.iter().all(|thread| thread["session"] == "one" && thread["turns"] == 1), "{list}");
    let (status, turn) = caller.post("/api/v1/sessions/two/threads", &json!({"prompt": "a third"})).await;
    assert_eq!((status, &turn["work_session"]), (201, &json!("two")), "{turn}");

    // Document 000's words, exactly.
    let (status, task) = caller.get("/api/v1/spec-tasks/task").await;
    assert_eq!(status, 200, "{task}");
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(
        keys(&task),
        ["contexts", "helix_session_id", "spec_task_id", "zed_instance_id"].map(String::from).into()
    );
    let contexts = task["contexts"].as_array().expect("a list");
    assert_eq!(
        keys(&contexts[0]),
        ["helix_interaction_id", "work_session_id", "zed_context_id", "zed_thread_id"].map(String::from).into()
    );
    assert_eq!((&task["spec_task_id"], &task["helix_session_id"]), (&json!("task"), &json!("one")));
    assert_eq!(task["zed_instance_id"], format!("zed_inst_{}", id("one").unit_key()));
    let shown: Vec<_> =
        contexts.iter().map(|context| (&context["zed_thread_id"], &context["work_session_id"])).collect();
    assert_eq!(shown[0], (&json!("acp-1"), &json!("one")));
    assert_eq!(shown[1..], [(&Value::Null, &json!("two")), (&Value::Null, &json!("two"))]);

    // Every route answers under the other name with the same desktop.
    for path in ["", "/timeline", "/threads", "/rdp-connection"] {
        assert_eq!(caller.get(&format!("{SESSIONS}/two{path}")).await.0, 200, "{path}");
    }
    for path in ["", "/rdp", "/stats"] {
        let (status, shown) = caller.get(&format!("{AGENTS}/two{path}")).await;
        assert!(status == 200 && shown["session_id"] == "two", "{path}: {shown}");
    }
    let (_, page) = caller.get(SESSIONS).await;
    let listed: Vec<_> = page["sessions"].as_array().expect("a list").iter().collect();
    assert!(
        listed.len() == 2 && listed.iter().all(|view| view["runner"] == "r1" && view["phase"] == "Ready"),
        "{page}"
    );
    assert_eq!(caller.post(&format!("{SESSIONS}/two/tickets"), &json!({"stream": "vnc"})).await.0, 200);
    assert_eq!(caller.post(&format!("{SESSIONS}/two/links"), &json!({})).await.0, 200);
    let mut answer = caller.ask("GET", &format!("{SESSIONS}/two/events?after=0"), "", "").await;
    answer.read_head().await;
    assert!(answer.status() == 200 && answer.chunk().await.is_some_and(|chunk| chunk.contains("thread_started")));
    runner.drain_nudges().await;
    let asking = caller.ask("GET", &format!("{SESSIONS}/two/logs?lines=1"), "", "").await;
    let (dial, mut socket) = within("dialled", runner.dial_back(caller.address)).await;
    assert_eq!(dial.session, id("one"), "a runner knows the desktop by its own session alone");
    let line = json!([{"unit": "app", "text": "a line"}]).to_string();
    within("sent", socket.send(Message::Text(line.into()))).await.expect("taken");
    socket.close(None).await.expect("closed");
    assert_eq!(asking.body().await, json!({"id": "two", "lines": [{"unit": "app", "text": "a line"}]}));
    let (status, limited) =
        caller.call("PATCH", &format!("{SESSIONS}/two"), &json!({"resources": {"memory": "2GiB"}})).await;
    assert_eq!((status, &limited["id"], &limited["generation"]), (200, &json!("two"), &json!(2)), "{limited}");
    assert_eq!(caller.get(&format!("{SESSIONS}/one")).await.1["spec"]["resources"], limited["spec"]["resources"]);

    // Its own token is for its own paths, and ends with the name.
    let view = app.sessions.get(&admin(), &id("two")).await.expect("found");
    let token = app.sessions.auth_token(&admin(), &view).expect("told to an admin");
    let principal = app.tokens.verify(&token).await.expect("valid");
    assert_eq!(principal.scope, Scope::Session(id("two")));
    assert_eq!(caller.with_token(&token).get("/api/v1/sessions/two/threads").await.0, 200);
    assert_eq!(caller.with_token(&token).get("/api/v1/sessions/one/threads").await.0, 404);
    app.sessions.stop(&admin(), &id("two")).await.expect("stopped");
    within("its token is over", app.tokens.revoked(&principal.token_hash)).await;
    assert_eq!(app.tokens.verify(&token).await.expect_err("over").code, ErrorCode::TokenInvalid);
    assert_eq!((phase(&app, "one").await, phase(&app, "two").await), (SessionPhase::Ready, SessionPhase::Stopped));
    let (status, refused) = caller.post("/api/v1/sessions/two/threads", &json!({"prompt": "x"})).await;
    assert_eq!((status, &refused["code"]), (409, &json!("session_ended")));
    assert!(runner.sync().await.iter().all(|order| order.desired == Desired::Running && order.epoch == Epoch(epoch)));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_make_one_desktop() {
    let fleet = Fleet::start().await;
    let (app, other) = (fleet.server().await, fleet.server().await);
    let callers = [Caller::admin(fleet.serve(&app).await), Caller::admin(fleet.serve(&other).await)];
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(64).await;
    let asked = (0..12).map(|index| {
        let caller = &callers[index % 2];
        let body = named(&format!("s{index}"), "task", &format!("input {index}"));
        async move { caller.post(SESSIONS, &body).await }
    });
    let answers = join_all(asked).await;
    assert!(answers.iter().all(|(status, _)| *status == 201), "{answers:?}");
    let (_, task) = callers[0].get("/api/v1/spec-tasks/task").await;
    let desktop = text(&task["helix_session_id"]);
    ready(&runner, &desktop).await;
    // A session that waits for a runner would be given one by now.
    post(&callers[1], &json!({"id": "last"})).await;
    let orders = eventually("the last has a runner", async || {
        let orders = runner.sync().await;
        orders.iter().any(|order| order.session == id("last")).then_some(orders)
    })
    .await;
    assert_eq!(orders.len(), 2, "{orders:?}");
    for index in 0..12 {
        assert_eq!(phase(&app, &format!("s{index}")).await, SessionPhase::Ready);
    }
    // Every input is there, once.
    let (_, list) = callers[1].get(&format!("{SESSIONS}/{desktop}/threads")).await;
    let mut work: Vec<_> = list["threads"].as_array().expect("a list").iter().map(|one| &one["work_session"]).collect();
    assert!(work.len() == 12 && list["threads"].as_array().is_some_and(|all| all.iter().all(|one| one["turns"] == 1)));
    work.retain(|session| !session.is_null());
    assert_eq!(work.len(), 11);
    fleet.stop(&[app, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_name_ends_for_itself_and_the_desktop_with_the_last() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(4).await;
    post(&caller, &named("one", "task", "begin")).await;
    let epoch = ready(&runner, "one").await;
    for name in ["two", "three"] {
        post(&caller, &named(name, "task", "go on")).await;
    }
    let view = app.sessions.get(&admin(), &id("one")).await.expect("found");
    let agent = app.sessions.auth_token(&admin(), &view).expect("told to an admin");

    // The first name is deleted: the desktop goes on, its agent too, and so do the others.
    let view = app.sessions.delete(&admin(), &id("one")).await.expect("deleted");
    assert_eq!((view.phase, view.desired), (SessionPhase::Stopped, Desired::Stopped));
    app.sessions.stop(&admin(), &id("two")).await.expect("stopped");
    app.tokens.verify(&agent).await.expect("its desktop runs");
    assert_eq!(phase(&app, "three").await, SessionPhase::Ready);
    assert_eq!(caller.post("/api/v1/sessions/three/threads", &json!({"prompt": "x"})).await.0, 201);
    let (status, refused) = caller.post("/api/v1/sessions/one/threads", &json!({"prompt": "x"})).await;
    assert_eq!((status, &refused["code"]), (409, &json!("session_ended")));
    assert!(runner.sync().await.iter().all(|order| order.desired == Desired::Running));
    let again = app.sessions.delete(&admin(), &id("one")).await.expect("the same again");
    assert_eq!(again.phase, SessionPhase::Stopped);

    // With the last name the desktop ends, and what was deleted goes.
    app.sessions.stop(&admin(), &id("three")).await.expect("stopped");
    eventually("told to end", async || {
        runner.sync().await.iter().any(|order| order.deleted && order.desired == Desired::Stopped).then_some(())
    })
    .await;
    let mut gone = runner.seen("one", epoch, 2, SessionPhase::Stopped);
    gone.forgotten = true;
    runner.report(&gone).await;
    eventually("gone", async || app.sessions.get(&admin(), &id("one")).await.is_err().then_some(())).await;
    assert_eq!(app.threads.hub.log().last_sequence(&id("one")).await.expect("known"), 0);
    let (status, refused) = caller.get("/api/v1/spec-tasks/task").await;
    assert_eq!((status, &refused["code"]), (404, &json!("spec_task_not_found")));
    // What is left of the other names has ended, and knows nobody else's desktop: not even one of the same id.
    let bob = app.tokens.issue("bob", Scope::User, Duration::from_mins(5)).await.expect("issued");
    let bob = caller.with_token(&bob.secret);
    post(&bob, &named("one", "task", "private")).await;
    ready(&runner, "one").await;
    for name in ["two", "three"] {
        let view = app.sessions.get(&admin(), &id(name)).await.expect("found");
        assert_eq!((view.phase, view.runner), (SessionPhase::Stopped, None), "{name}");
        assert_eq!(caller.get(&format!("{SESSIONS}/{name}/threads")).await.1["threads"], json!([]));
        app.sessions.delete(&admin(), &id(name)).await.expect("deleted");
        eventually("gone", async || app.sessions.get(&admin(), &id(name)).await.is_err().then_some(())).await;
    }
    assert_eq!(phase(&app, "one").await, SessionPhase::Ready);
    // Who may change everybody's sessions may join everybody's tasks.
    assert_eq!(post(&caller, &named("help", "task", "let me")).await["phase"], "Ready");
    assert_eq!(bob.get("/api/v1/sessions/one/threads").await.1["threads"].as_array().map(Vec::len), Some(2));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_task_ends_its_desktop_and_begins_again_with_another() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(4).await;
    let body = json!({"spec_task_id": "task", "session": {"input": "begin"}});
    let (status, made) = caller.post("/api/v1/spec-tasks", &body).await;
    assert_eq!((status, made["contexts"].as_array().map(Vec::len)), (201, Some(1)), "{made}");
    let (status, again) = caller.post("/api/v1/spec-tasks", &body).await;
    assert_eq!((status, &again), (200, &made));
    let first = text(&made["helix_session_id"]);
    let epoch = ready(&runner, &first).await;
    post(&caller, &named("two", "task", "go on")).await;
    let (status, free) = caller.post("/api/v1/spec-tasks", &json!({"session": {}})).await;
    assert!(status == 201 && text(&free["spec_task_id"]).starts_with("spec_"), "{free}");
    let (_, list) = caller.get("/api/v1/spec-tasks").await;
    let listed: Vec<_> =
        list["spec_tasks"].as_array().expect("a list").iter().map(|task| &task["spec_task_id"]).collect();
    assert_eq!(listed, [&free["spec_task_id"], &json!("task")]);
    for bad in [
        json!({"session": {"spec_task": "x"}, "spec_task_id": "y"}),
        json!({"spec_task_id": "a.b"}),
        json!({"task": "x"}),
    ] {
        assert_eq!(caller.post("/api/v1/spec-tasks", &bad).await.0, 400, "{bad}");
    }

    // Somebody else's task is nobody's to join, see or stop.
    let bob = app.tokens.issue("bob", Scope::User, Duration::from_mins(5)).await.expect("issued");
    let bob = caller.with_token(&bob.secret);
    assert_eq!(bob.post(SESSIONS, &named("theft", "task", "x")).await.0, 403);
    assert_eq!(bob.get(&format!("{SESSIONS}/theft")).await.0, 404);
    assert_eq!(bob.get("/api/v1/spec-tasks/task").await.0, 404);
    assert_eq!(bob.call("DELETE", "/api/v1/spec-tasks/task", &Value::Null).await.0, 404);
    assert_eq!(bob.get("/api/v1/spec-tasks").await.1["spec_tasks"], json!([]));

    let (status, _) = caller.call("DELETE", "/api/v1/spec-tasks/task", &Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(phase(&app, "two").await, SessionPhase::Stopping);
    runner.report(&runner.seen(&first, epoch, 2, SessionPhase::Stopped)).await;
    assert_eq!((phase(&app, &first).await, phase(&app, "two").await), (SessionPhase::Stopped, SessionPhase::Stopped));
    assert_eq!(bob.post(SESSIONS, &named("theft", "task", "x")).await.0, 403, "an ended one is not free");
    // A task whose desktop has ended takes the next session for it.
    post(&caller, &named("three", "task", "again")).await;
    eventually("assigned", async || {
        let orders = runner.sync().await;
        orders.iter().any(|order| order.session == id("three") && order.desired == Desired::Running).then_some(())
    })
    .await;
    let (_, task) = caller.get("/api/v1/spec-tasks/task").await;
    assert_eq!((&task["helix_session_id"], task["contexts"].as_array().map(Vec::len)), (&json!("three"), Some(1)));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_creator_left_unsettled_is_settled() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(4).await;
    let request = |session: &str, input: &str| CreateSession {
        id: Some(id(session)),
        input: Some(input.to_owned()),
        spec_task: Some(SpecTaskId::parse("task").expect("valid id")),
        ..CreateSession::default()
    };
    // The record alone, as if the server had died right after it.
    app.sessions.create(&admin(), request("one", "begin")).await.expect("created");
    let epoch = ready(&runner, "one").await;
    app.sessions.create(&admin(), request("two", "go on")).await.expect("created");
    eventually("another name", async || {
        let view = app.sessions.get(&admin(), &id("two")).await.ok()?;
        (view.phase == SessionPhase::Ready && view.epoch == Epoch(epoch)).then_some(())
    })
    .await;
    let (_, list) = caller.get("/api/v1/sessions/two/threads").await;
    assert_eq!(list["threads"][0]["work_session"], "two", "its input was said before it got the name");
    // Its creator comes back.
    let (status, _) = caller.post(SESSIONS, &json!({"id": "two", "input": "go on", "spec_task": "task"})).await;
    assert_eq!(status, 200);
    let (status, _) = caller.post(SESSIONS, &json!({"id": "one", "input": "begin", "spec_task": "task"})).await;
    assert_eq!(status, 200);
    let (_, list) = caller.get("/api/v1/sessions/one/threads").await;
    let work: Vec<_> = list["threads"].as_array().expect("a list").iter().map(|one| &one["work_session"]).collect();
    assert_eq!(work, [&json!("two"), &Value::Null]);
    assert_eq!(runner.sync().await.len(), 1);

    // Somebody else's is not joined behind anybody's back.
    let bob = helix_server::auth::Principal { name: "bob".to_owned(), scope: Scope::User, token_hash: String::new() };
    app.sessions.create(&bob, request("theft", "steal")).await.expect("created");
    eventually("refused", async || {
        let view = app.sessions.get(&bob, &id("theft")).await.ok()?;
        (view.phase == SessionPhase::Stopped && view.cause?.code == "spec_task_taken").then_some(())
    })
    .await;
    assert_eq!(caller.get("/api/v1/sessions/one/threads").await.1["threads"].as_array().map(Vec::len), Some(2));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_words_join_and_continue() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    let body = |session: &str, more: Value| {
        let mut body = json!({"session_id": session, "input": format!("input of {session}")});
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        body
    };
    let (status, refused) = caller.post(AGENTS, &body("one", json!({"instance_id": "task"}))).await;
    assert_eq!((status, &refused["code"]), (503, &json!("no_runner")));
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    assert_eq!(caller.post(AGENTS, &body("one", json!({"instance_id": "task"}))).await.0, 200);
    ready(&runner, "one").await;
    let (_, list) = caller.get("/api/v1/sessions/one/threads").await;
    let first = prompts(&list)[0].clone();
    write(&app, "one", &first, ThreadEvent::ThreadBound { acp_thread_id: Some("acp/1".to_owned()) }).await;

    // Another session of the instance: no desktop, and the one slot is enough.
    let (status, two) = caller.post(AGENTS, &body("two", json!({"instance_id": "task"}))).await;
    assert_eq!(
        (status, &two["session_id"], &two["status"], &two["runner_id"]),
        (200, &json!("two"), &json!("running"), &json!("r1"))
    );
    let token = text(&two["auth_token"]);
    assert_eq!(app.tokens.verify(&token).await.expect("valid").scope, Scope::Session(id("two")));
    // Going on with a thread: by our id of it, or by the agent's.
    for (session, thread) in [("three", first.as_str()), ("four", "acp/1")] {
        let (status, made) =
            caller.post(AGENTS, &body(session, json!({"instance_id": "task", "thread_id": thread}))).await;
        assert_eq!(status, 200, "{made}");
        let (status, again) =
            caller.post(AGENTS, &body(session, json!({"instance_id": "task", "thread_id": thread}))).await;
        assert_eq!((status, &again["session_id"]), (200, &json!(session)));
    }
    let (_, detail) = caller.get(&format!("/api/v1/sessions/four/threads/{first}")).await;
    let said: Vec<_> = detail["recent_turns"].as_array().expect("turns").iter().map(|turn| &turn["prompt"]).collect();
    assert_eq!(said, ["input of one", "input of three", "input of four"]);
    let unknown = body("five", json!({"instance_id": "task", "thread_id": "nobody's"}));
    let (status, refused) = caller.post(AGENTS, &unknown).await;
    assert_eq!((status, &refused["code"]), (404, &json!("thread_not_found")), "{refused}");
    assert_eq!(caller.get(&format!("{SESSIONS}/five")).await.0, 404, "nothing was made");
    // What is no id stays a label.
    let (status, made) = caller.post(AGENTS, &body("six", json!({"instance_id": "not an id", "thread_id": "t"}))).await;
    assert_eq!((status, &made["status"]), (200, &json!("queued")), "{made}");
    let (_, view) = caller.get(&format!("{SESSIONS}/six")).await;
    assert_eq!((&view["spec_task"], &view["labels"]["instance_id"]), (&Value::Null, &json!("not an id")));
    assert_eq!(runner.sync().await.len(), 1);

    // A turn of the shared conversation goes its way for everybody.
    let turn = text(&detail["recent_turns"][0]["id"]);
    write(&app, "one", &first, moved(&turn, TurnState::Completed)).await;
    let (_, shown) = caller.get(&format!("/api/v1/sessions/two/threads/{first}/turns/{turn}")).await;
    assert_eq!(shown["state"], "completed");
    fleet.stop(&[app]).await;
}
