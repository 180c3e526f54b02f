//! The audit trail: every request that matters is in it, with who, what and how it ended; nobody else reads it.

use helix_protocol::link::{Reply, Request};
use helix_protocol::record::Scope;
use helix_protocol::runner::Heartbeat;
use helix_protocol::session::SessionPhase;
use helix_protocol::viewer::{Entrance, Refusal, ViewerNote, ViewerWay};
use serde_json::{Value, json};

use super::harness::{Fleet, SimRunner, eventually, id};
use super::http::Caller;
use super::secrets::user;

async fn lines(root: &Caller, query: &str) -> Vec<String> {
    let (status, page) = root.get(&format!("/api/v1/audit?{query}")).await;
    assert_eq!(status, 200, "{page}");
    let word = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let line = |entry: &Value| {
        let words = ["principal", "action", "target", "result"].map(|key| word(entry, key));
        words.join(" | ")
    };
    page["entries"].as_array().expect("entries").iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_something_or_is_refused_is_in_the_trail() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let root = Caller::admin(fleet.serve(&app).await);
    let ann = user(&app, &root, "ann", Scope::User).await;
    let eve = root.with_token("not-a-token");
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    assert_eq!(
        ann.post("/api/v1/sessions", &json!({"id": "s", "kind": "command", "input": "make it SECRET-INPUT"})).await.0,
        201
    );
    let order = eventually("assigned", async || runner.sync().await.pop()).await;
    runner.report(&runner.seen("s", order.epoch.0, 1, SessionPhase::Ready)).await;

    let (status, prompt) = ann.post("/api/v1/sessions/s/threads", &json!({"prompt": "SECRET-PROMPT"})).await;
    assert!(status < 300, "{prompt}");
    assert_eq!(ann.post("/api/v1/sessions/s/tickets", &json!({"stream": "vnc"})).await.0, 200);
    ann.call("PUT", "/api/v1/secrets/KEY", &json!({"value": "SECRET-VALUE"})).await;
    ann.call("PUT", "/api/v1/sessions/s/control", &json!({"seat": "tab"})).await;
    assert_eq!(ann.get("/api/v1/audit").await.0, 403);
    for _ in 0..20 {
        assert_eq!(eve.get("/api/v1/sessions").await.0, 401);
    }
    // Who hangs up does not keep himself out of it.
    let hung = ann.ask("POST", "/api/v1/sessions?wait=ready", "", r#"{"id": "hung"}"#).await;
    eventually("it stands", async || (ann.get("/api/v1/sessions/hung").await.0 == 200).then_some(())).await;
    drop(hung);
    // A token of one session that looks for others.
    let agent = user(&app, &root, "agent", Scope::Session(id("s"))).await;
    assert_eq!(agent.get("/api/v1/sessions/hung").await.0, 404);
    // What only lists is in nobody's way.
    root.get("/api/v1/sessions").await;

    let wanted = [
        "ann | POST /sessions | s | ok",
        "ann | POST /sessions/{id}/threads | s | ok",
        "ann | POST /sessions/{id}/tickets | s | ok",
        "ann | PUT /secrets/{name} |  | ok",
        "ann | control.taken | s | ok",
        "ann | GET /audit |  | forbidden",
        "? | GET /sessions |  | token_invalid",
        "runner r1 | session.Ready | s | ok",
        "ann | POST /sessions |  | left",
        "agent | GET /sessions/{id} | hung | session_not_found",
    ];
    let trail = eventually("all of it is told", async || {
        let trail = lines(&root, "limit=1000").await;
        wanted.iter().all(|line| trail.contains(&(*line).to_owned())).then_some(trail)
    })
    .await;
    let refused = trail.iter().filter(|line| line.contains("token_invalid")).count();
    assert_eq!(refused, 1, "a flood of refusals is one line: {trail:#?}");
    assert!(!trail.iter().any(|line| line.starts_with("admin | GET /sessions ")), "{trail:#?}");
    let (_, whole) = root.get("/api/v1/audit?limit=1000").await;
    assert!(!whole.to_string().contains("SECRET"), "{whole}");

    // Filters, and going on from a place.
    assert_eq!(
        lines(&root, "refused=true&principal=ann").await,
        ["ann | GET /audit |  | forbidden", "ann | POST /sessions |  | left"]
    );
    assert!(lines(&root, "target=s&principal=ann").await.iter().all(|line| line.contains("| s |")));
    let (_, page) = root.get("/api/v1/audit?after=0&limit=1").await;
    let next = page["next_after"].as_u64().expect("a place");
    assert_eq!(page["entries"][0]["sequence"], json!(next));
    let rest = lines(&root, &format!("after={next}&limit=1000")).await;
    assert_eq!(rest.len() + 1, lines(&root, "after=0&limit=1000").await.len());
    for bad in ["limit=0", "limit=1001", "since=1"] {
        assert_eq!(root.get(&format!("/api/v1/audit?{bad}")).await.0, 400, "{bad}");
    }

    // The end, and who wanted it.
    app.sessions.stop(&super::admin(), &id("s")).await.expect("stopped");
    eventually("the end is told", async || {
        lines(&root, "target=s").await.iter().any(|line| line.contains("session.Stopping")).then_some(())
    })
    .await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_tells_of_its_own_viewers_and_each_note_is_there_once() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let root = Caller::admin(fleet.serve(&app).await);
    let (runner, other) = (SimRunner::enrol(&fleet, &app, "r1").await, SimRunner::enrol(&fleet, &app, "r2").await);
    runner.register(1).await;
    assert_eq!(root.post("/api/v1/sessions", &json!({"id": "s", "kind": "command", "input": "x"})).await.0, 201);
    eventually("assigned", async || runner.sync().await.pop()).await;
    other.register(1).await;
    let entrance = Entrance { way: ViewerWay::DirectVnc, address: "10.0.0.7".parse().ok(), grant: None };
    let note = |number, refused| ViewerNote {
        number,
        session: id("s"),
        entrance: entrance.clone(),
        by: None,
        refused,
        count: 42,
        at: jiff::Timestamp::now(),
    };
    let heartbeat = Box::new(Heartbeat { slots: 1, ..Heartbeat::default() });
    let say = async |by: &SimRunner, viewers: Vec<ViewerNote>| {
        let request = Request::Heartbeat { heartbeat: heartbeat.clone(), viewers };
        match by.request(request).await {
            Some(Reply::HeartbeatAck { viewers }) => viewers,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(say(&runner, Vec::new()).await, None);
    let notes = vec![note(7, Some(Refusal::WrongPassword)), note(8, None)];
    // Its answer was lost: it says them again.
    for _ in 0..2 {
        assert_eq!(say(&runner, notes.clone()).await, Some(8));
    }
    // Another's runner is not believed, and need not say it again.
    assert_eq!(say(&other, vec![note(9, Some(Refusal::NotRfb))]).await, Some(9));
    let trail = lines(&root, "target=s&limit=1000").await;
    let of_viewers: Vec<&String> = trail.iter().filter(|line| line.contains("viewer.")).collect();
    assert_eq!(of_viewers, ["? | viewer.refused | s | wrong_password", "? | viewer.joined | s | ok"]);
    let (_, page) = root.get("/api/v1/audit?refused=true&target=s").await;
    let entry = &page["entries"][0];
    assert_eq!(entry["entrance"], json!({"way": "direct_vnc", "address": "10.0.0.7"}));
    assert_eq!(entry["repeated"], 41);
    fleet.stop(&[app]).await;
}
