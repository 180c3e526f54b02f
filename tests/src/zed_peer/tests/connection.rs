//! The socket: how it dials, what a break and a kill lose, and what is a fault of the server's.

use super::*;

#[tokio::test]
async fn it_dials_with_zeds_headers_and_no_others() {
    let host = Host::new().await;
    let mut options = host.options();
    options.address += "/some/prefix";
    let _peer = Peer::start(options);
    let line = host.accept().await;
    assert_eq!(line.path, "/some/prefix/api/v1/external-agents/sync?session_id=ses_1");
    let mut names: Vec<_> = line.headers.keys().map(|name| name.as_str().to_owned()).collect();
    names.sort();
    let all = ["authorization", "connection", "host", "sec-websocket-key", "sec-websocket-version", "upgrade"];
    assert_eq!(names, all);
    assert_eq!(line.headers["host"], "127.0.0.1");
    assert_eq!(line.headers["authorization"], "Bearer secret");
}

#[tokio::test]
async fn before_the_panel_commands_wait_and_cancels_do_not() {
    let host = Host::new().await;
    let peer = Peer::start(host.options().panel(Panel::Waits));
    let mut line = host.accept().await;
    line.next().await;
    line.prompt("int_1", None, "go").await;
    line.send("query_ui_state", json!({"query_id": "q"})).await;
    line.send("cancel_current_turn", json!({"request_id": "int_1"})).await;
    assert_eq!(line.next().await["data"], json!({"request_id": "int_1", "status": "noop"}));
    peer.load_panel();
    line.is(json!({"event_type": "agent_ready", "data": {"agent_name": "zed-agent", "thread_id": null}})).await;
    assert_eq!(line.next().await["event_type"], "ui_state_response");
    assert_eq!(peer.run().await.unwrap().request_id, "int_1");
}

#[tokio::test]
async fn without_an_open_thread_it_says_that_it_is_ready_after_five_seconds() {
    let host = Host::new().await;
    let mut options = host.options().panel(Panel::Waits);
    options.second = Duration::from_millis(40);
    let _peer = Peer::start(options.clone());
    let mut line = host.accept().await;
    let begun = Instant::now();
    line.next().await;
    line.is(json!({"event_type": "agent_ready", "data": {"agent_name": "zed-connection", "thread_id": null}})).await;
    assert!(begun.elapsed() >= options.second * 4, "too early");

    // Any frame of that type holds it back, even a malformed one.
    let other = Host::new().await;
    options.address = other.options().address;
    let peer = Peer::start(options.clone());
    let mut line = other.accept().await;
    line.next().await;
    line.send("open_thread", json!({})).await;
    assert!(timeout(options.second * 8, line.socket.next()).await.is_err(), "it said that it is ready");
    assert_eq!(peer.faults().len(), 1, "{:?}", peer.faults());
}

#[tokio::test]
async fn a_break_loses_one_event_and_the_backlog_comes_after_ping() {
    let host = Host::new().await;
    let mut options = host.options();
    options.second = Duration::from_millis(20);
    let peer = Peer::start(options);
    let mut line = host.ready().await;
    let run = line.first_turn(&peer, "int_1").await;
    peer.stay_away();
    peer.lose_next_event();
    run.says("lost");
    assert!(matches!(line.socket.next().await, None | Some(Err(_))), "no break");
    let again = run.says("two");
    again.becomes("two and more");
    run.completes();
    peer.come_back();
    let mut line = host.accept().await;
    assert_eq!(line.next().await["event_type"], "ping");
    line.is(text(&run, 1, "lost")).await; // with the new entry
    line.is(text(&run, 2, "two")).await;
    line.is(text(&run, 1, "lost")).await; // at the turn's end
    line.is(text(&run, 2, "two and more")).await;
    line.is(completed(&run)).await;
    peer.connected(2).await.unwrap();

    // By name: a terminal frame does not come back.
    line.prompt("int_2", Some(&run.thread), "more").await;
    peer.lose_next("message_completed");
    let two = peer.run().await.unwrap();
    two.says("x");
    line.is(text(&two, 4, "x")).await;
    two.completes();
    line.is(text(&two, 4, "x")).await;
    let mut line = host.accept().await;
    assert_eq!(line.next().await["event_type"], "ping");
    peer.quiet().await.unwrap();
}

#[tokio::test]
async fn it_dials_for_ever_with_growing_pauses_and_does_not_echo_a_close() {
    let host = Host::new().await;
    let mut options = host.options();
    options.second = Duration::from_millis(30);
    let peer = Peer::start(options.clone());
    host.refuse(401).await;
    let begun = Instant::now();
    host.refuse(401).await;
    host.refuse(503).await;
    let mut line = host.accept().await;
    assert!(
        begun.elapsed() >= (options.second * (1 + 2 + 4)).saturating_sub(Duration::from_millis(20)),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(peer.refusals(), [401, 401, 503]);
    line.next().await;
    let close = CloseFrame { code: CloseCode::Again, reason: "go".into() };
    line.socket.send(Message::Close(Some(close))).await.unwrap();
    loop {
        match line.socket.next().await {
            None | Some(Err(_)) => break,
            Some(Ok(Message::Close(_))) => panic!("it echoed the close"),
            Some(Ok(_)) => {}
        }
    }
    host.accept().await;
    assert_eq!(peer.closes(), [Some(1013)]);
}

#[tokio::test]
async fn a_killed_editor_loses_everything_but_its_threads() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    let one = line.first_turn(&peer, "int_1").await;
    one.says("kept on disk");
    one.completes();
    line.prompt("int_2", Some(&one.thread), "more").await;
    let two = peer.run().await.unwrap();
    let options = peer.options().clone();
    peer.kill();
    assert!(!two.is_running());
    two.says("nobody hears this");
    assert_eq!(options.ledger.of("int_2")[0].end, Some(End::Killed));

    let peer = Peer::start(Options { replays_history: true, reports_turns: true, ..options });
    let mut line = host.accept().await;
    assert_eq!(line.next().await["event_type"], "ping");
    let none = json!({"agent_name": "zed-agent", "thread_id": null, "active_turns": []});
    line.is(json!({"event_type": "agent_ready", "data": none})).await;
    line.send("open_thread", json!({"acp_thread_id": one.thread, "request_id": "open_1"})).await;
    for (place, role, content) in [(0, "user", "go"), (1, "assistant", "kept on disk"), (2, "user", "more")] {
        let event = line.next().await;
        let data = &event["data"];
        assert_eq!((data["message_id"].as_str(), data["role"].as_str()), (Some(&*format!("{place}")), Some(role)));
        assert_eq!((&data["content"], &data["request_id"]), (&json!(content), &json!("")));
    }
    assert_eq!(line.next().await["data"]["thread_id"], one.thread);

    // What it never had it cannot load; it says so only where a request asked.
    line.send("open_thread", json!({"acp_thread_id": "th-none", "request_id": "open_2"})).await;
    let error = "Failed to load thread: no thread found with ID: th-none";
    let data = json!({"acp_thread_id": "th-none", "request_id": "open_2", "error": error});
    line.is(json!({"event_type": "thread_load_error", "data": data})).await;
    // A follow-up loads by itself, and the agent may give the thread another id.
    let elsewhere = options_thread(&peer);
    peer.next_load(Fate::Renamed("th-other".to_owned()));
    line.prompt("int_3", Some(&elsewhere), "hello").await;
    let three = peer.run().await.unwrap();
    assert_eq!(three.thread, "th-other");
    loop {
        let event = line.next().await;
        if event["event_type"] == "agent_ready" {
            assert_eq!(event["data"]["thread_id"], "th-other");
            break;
        }
    }
    line.prompt("int_4", Some(&elsewhere), "by its old id").await;
    three.completes();
    assert_eq!(peer.run().await.unwrap().thread, "th-other");
}

fn options_thread(peer: &Peer) -> String {
    peer.options().workspace.new_thread("zed-agent")
}

#[tokio::test]
async fn builds_differ_in_duplicates_and_reports() {
    let host = Host::new().await;
    let old = Peer::start(host.options());
    let mut line = host.ready().await;
    line.prompt("int_1", None, "go").await;
    line.prompt("int_1", None, "go").await;
    old.run().await.unwrap();
    old.run().await.unwrap();
    assert_eq!(old.options().ledger.of("int_1").len(), 2, "an older build runs a repeat twice");
    old.kill();

    let new = Peer::start(host.options().newer());
    let mut line = host.accept().await;
    line.next().await;
    assert_eq!(line.next().await["data"]["active_turns"], json!([]));
    line.prompt("int_1", None, "go").await;
    let run = new.run().await.unwrap();
    let reported = json!([{"request_id": "int_1", "acp_thread_id": run.thread, "state": "running"}]);
    assert_eq!(line.next().await["data"]["active_turns"], reported);
    line.next().await;
    line.prompt("int_1", None, "go").await;
    line.prompt("int_2", None, "go on").await;
    assert_eq!(new.run().await.unwrap().request_id, "int_2", "a newer build drops a repeat");
    // Once it is over it is not known any more.
    run.completes();
    line.prompt("int_1", Some(&run.thread), "go").await;
    assert_eq!(new.run().await.unwrap().request_id, "int_1");
}

#[tokio::test]
async fn what_zed_would_drop_is_a_fault_of_the_server() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    for frame in [
        json!({"type": "chat_message"}),
        json!({"type": "chat_message", "data": {"message": "no request"}}),
        json!({"type": "chat_message", "data": {"request_id": "no message"}}),
        json!({"type": "chat_message", "data": {"message": "m", "request_id": "r", "role": "user"}}),
        json!({"type": "open_thread", "data": {"acp_thread_id": "without a request"}}),
        json!({"type": "surprise", "data": {}}),
        json!({"type": "query_ui_state", "data": {"query_id": "q"}, "session_id": "one key too many"}),
        json!(["not an object"]),
    ] {
        line.socket.send(Message::text(frame.to_string())).await.unwrap();
    }
    line.socket.send(Message::text("{not JSON")).await.unwrap();
    line.socket.send(Message::binary(vec![1])).await.unwrap();
    line.prompt("last", None, "this one is fine").await;
    assert_eq!(peer.run().await.unwrap().request_id, "last");
    assert_eq!(peer.faults().len(), 10, "{:#?}", peer.faults());
    assert!(peer.nothing_more().is_err());
}

#[tokio::test]
async fn an_extra_a_missing_and_a_misordered_frame_fail() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    let query = |id: &str| json!({"type": "query_ui_state", "data": {"query_id": id}});
    for id in ["1", "2", "3", "4"] {
        line.send("query_ui_state", json!({"query_id": id})).await;
    }
    peer.expect(&query("1")).await.unwrap();
    let refused = peer.expect(&query("3")).await.unwrap_err().to_string();
    assert!(refused.contains("expected") && refused.contains("\"2\""), "{refused}");
    peer.expect_all(&[query("4"), query("3")]).await.unwrap();
    peer.nothing_more().unwrap();
    line.send("query_ui_state", json!({"query_id": "5"})).await;
    line.next().await;
    for _ in 0..4 {
        line.next().await;
    }
    assert!(peer.finish().await.unwrap_err().to_string().contains("the server sent more"));
    assert!(matches(&json!({"a": any()}), &json!({"a": "x"})));
    assert!(!matches(&json!({"a": any()}), &json!({"a": ""})) && !matches(&json!({"a": 1}), &json!({"a": 1, "b": 2})));
}
