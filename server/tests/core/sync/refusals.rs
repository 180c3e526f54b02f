//! What bad input gets.

use std::time::Duration;

use futures::SinkExt as _;
use helix_protocol::session::SessionPhase;
use helix_protocol::thread::SESSION_THREAD;
use helix_server::threads::log::item_of;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::harness::{ADMIN_TOKEN, SimRunner, within};

/// Events of this name that were kept, of no thread.
async fn kept(app: &App, name: &str) -> Vec<Value> {
    let thread = ThreadId::parse(SESSION_THREAD).expect("valid id");
    let mut follow = app.threads.hub.log().follow(&id("s"), Some(&thread), 0).await.expect("followed");
    let mut found = Vec::new();
    let mut pending = follow.pending;
    while pending > 0 {
        let stored = follow.next().await.expect("stored");
        pending = stored.pending;
        if let Some(ThreadEvent::Custom { name: own, data }) = item_of(&stored).map(|item| item.record.event)
            && own == name
        {
            found.push(data);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_speak_for_an_agent_is_refused_before_the_upgrade_and_it_shows() {
    let (fleet, app, address, token) = one("", None).await;
    let other = session(&app, "other", None).await;
    for (query, token, status) in [
        ("?session_id=s", None, 401),
        ("?session_id=s", Some("wrong"), 401),
        ("?session_id=s", Some(other.as_str()), 401),
        ("", Some(token.as_str()), 400),
        ("?session_id=", Some(token.as_str()), 400),
        ("?session_id=a.b", Some(token.as_str()), 400),
        ("?session_id=none", Some(ADMIN_TOKEN), 404),
    ] {
        let refused = Agent::dial(address, query, token).await.map(|_| ()).expect_err(query);
        assert_eq!(refused, status, "{query} {token:?}");
    }
    let refused =
        eventually("it shows", async || app.sessions.get(&admin(), &id("s")).await.expect("found").sync.refused).await;
    assert!(refused.contains("token") && refused.contains("ZED_HELIX_TOKEN"), "{refused}");
    let fine = app.sessions.get(&admin(), &id("other")).await.expect("found").sync;
    assert_eq!(fine.refused, None);
    assert!(app.sessions.get(&admin(), &id("none")).await.is_err());
    // A person who may change it may speak for it, and a session without a runner takes it.
    Agent::dial(address, "?session_id=s", Some(ADMIN_TOKEN)).await.map(|_| ()).expect("let in");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_session_takes_none_and_what_it_had_to_do_is_over() {
    let (fleet, app, address, first) = one("", Some("make")).await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register_as(1, |facts| facts.kinds.push(helix_protocol::KindName::parse("terminal").expect("valid"))).await;
    let epoch = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await;
    runner.report(&runner.seen("s", epoch.0, 1, SessionPhase::Ready)).await;
    let mut agent = Agent::old(address, &first).await;
    agent.hear("chat_message").await;
    prompt(&app, "thr_b", "int_b", "later", false).await;
    runner.report(&runner.seen("s", epoch.0, 2, SessionPhase::Stopped)).await;
    assert_eq!(agent.closed().await, Some(1008));
    let refused = Agent::dial(address, "?session_id=s", Some(ADMIN_TOKEN)).await.map(|_| ()).expect_err("ended");
    assert_eq!(refused, 409);
    assert_eq!(turn_is(&app, "int_b", TurnState::Cancelled).await.as_deref(), Some("stopped"));
    let all = conversation(&app, "s").await;
    let turn = &all.threads()[0].turns[0];
    assert_eq!(
        (turn.state, turn.cause.as_ref().map(|cause| cause.code.as_str())),
        (TurnState::Failed, Some("stopped"))
    );
    // Deleted, nothing that was said is left.
    app.sessions.delete(&admin(), &id("s")).await.expect("deleted");
    let mut forgotten = runner.seen("s", epoch.0, 3, SessionPhase::Stopped);
    forgotten.forgotten = true;
    runner.report(&forgotten).await;
    eventually("nothing is left", async || {
        app.threads.hub.log().last(&id("s")).await.expect("asked").is_none().then_some(())
    })
    .await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_kept_counted_and_ends_nothing() {
    let (fleet, app, address, token) = one("", None).await;
    let mut agent = Agent::old(address, &token).await;
    for text in ["{", "[]", "null", "{\"event_type\":7}"] {
        agent.raw(text.to_owned()).await;
    }
    agent.socket.send(Message::Binary(vec![0; 9].into())).await.expect("open");
    // Pongs that nobody asked for.
    agent.socket.send(Message::Pong(vec![1].into())).await.expect("open");
    agent.say("thread_created", json!({})).await;
    agent.say("brand_new", json!({ "colour": "blue", "acp_thread_id": "unknown" })).await;
    agent
        .say(
            "message_added",
            json!({ "acp_thread_id": "unknown", "message_id": "1", "role": "assistant", "content": "x" }),
        )
        .await;
    agent.say("big", json!("x".repeat(300 * 1024))).await;
    eventually("all are kept", async || (!kept(&app, "big").await.is_empty()).then_some(())).await;
    let malformed = kept(&app, "malformed").await;
    assert_eq!(malformed.iter().filter_map(|data| data["count"].as_u64()).sum::<u64>(), 5, "{malformed:?}");
    assert_eq!(kept(&app, "brand_new").await, [json!({ "colour": "blue", "acp_thread_id": "unknown" })]);
    assert_eq!(kept(&app, "thread_created").await.len(), 1);
    assert_eq!(kept(&app, "message_added").await.len(), 1);
    let big = kept(&app, "big").await.remove(0);
    let big = big.as_str().expect("a text");
    assert!(big.ends_with('…') && big.len() < 257 * 1024, "{}", big.len());
    // The line is as good as ever.
    prompt(&app, "thr_a", "int_1", "one", false).await;
    agent.hear("chat_message").await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_64_mib_is_read_and_one_of_65_is_not() {
    let (fleet, app, address, token) = one("", None).await;
    prompt(&app, "thr_a", "int_1", "one", false).await;
    let mut agent = Agent::old(address, &token).await;
    agent.make_thread("th_a").await;
    // A little less, for what is around it.
    let text = "x".repeat((64 << 20) - 1000);
    agent.write("th_a", "1", "int_1", &text).await;
    drop(text);
    agent.complete("th_a", "int_1").await;
    turn_is(&app, "int_1", TurnState::Completed).await;
    let length = thread_of(&conversation(&app, "s").await, "thr_a").entry("1").map(|entry| entry.length);
    assert_eq!(length, Some((64 << 20) - 1000));
    let frame = Message::Text("x".repeat(65 << 20).into());
    // The line may break while it is being sent; what was said about it is read all the same.
    let _ = within("sent", agent.socket.send(frame)).await;
    assert_eq!(agent.closed().await, Some(1009));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_reads_nothing_is_cut_off_and_loses_nothing() {
    let (fleet, app, address, token) = one("", None).await;
    let mut agent = Agent::old(address, &token).await;
    eventually("ready", async || app.sessions.get(&admin(), &id("s")).await.ok().filter(|view| view.sync.ready)).await;
    let long = "x".repeat(900_000);
    // Sooner or later nothing more can be sent; commands to an agent that is not there are refused.
    let mut sent = 0;
    let refused = loop {
        let data = json!({ "query_id": format!("q{sent}"), "fill": long });
        match app.threads.sockets.command(&id("s"), "query_ui_state", data).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 2000, "{sent} commands are held for an agent that reads none");
    };
    assert_eq!(refused.code, helix_protocol::ErrorCode::NoSyncConnection);
    assert!(sent >= 100, "{sent}");
    // Said while nobody listened: it waits.
    prompt(&app, "thr_a", "int_1", "one", false).await;
    assert_eq!(agent.closed().await, Some(1013));
    let mut agent = Agent::old(address, &token).await;
    assert_eq!(agent.hear("chat_message").await["request_id"], "int_1");
    tokio::time::timeout(Duration::from_secs(1), agent.hears_nothing()).await.expect("quiet");
    fleet.stop(&[app]).await;
}
