//! The editor behind it: turns, loops, cancels, questions, and the seed's dialect.

use super::*;

#[tokio::test]
async fn a_new_thread_is_told_in_the_contracts_order() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    let run = line.first_turn(&peer, "int_1").await;
    assert_eq!((run.message.as_str(), run.request_id.as_str()), ("go", "int_1"));

    let entry = run.says("I look");
    line.is(text(&run, 1, "I look")).await;
    entry.becomes("I look at the router"); // within the throttle: told at its end
    line.is(text(&run, 1, "I look at the router")).await;
    let tool = run.uses("Read file", "Pending", "reading");
    line.is(text(&run, 1, "I look at the router")).await; // earlier entries again
    let called = |status: &str, content: &str| {
        let mut event = text(&run, 2, content);
        event["data"]["entry_type"] = json!("tool_call");
        event["data"]["tool_name"] = json!("Read file");
        event["data"]["tool_status"] = json!(status);
        event
    };
    line.is(called("Pending", "reading")).await;
    tool.is_at("In Progress", "reading on"); // tools are never held back
    tool.is_at("Completed", "read");
    line.is(called("In Progress", "reading on")).await;
    line.is(called("Completed", "read")).await;
    run.completes();
    line.is(text(&run, 1, "I look at the router")).await;
    line.is(called("Completed", "read")).await;
    line.is(completed(&run)).await;
    let effect = &peer.options().ledger.all()[0];
    assert_eq!((effect.end, effect.text.as_str()), (Some(End::Completed), "I look at the router\n\nread"));
    peer.expect(
        &json!({"type": "chat_message", "data": {"message": "go", "request_id": any(), "acp_thread_id": null}}),
    )
    .await
    .unwrap();
    peer.finish().await.unwrap();
}

#[tokio::test]
async fn snapshots_are_throttled_and_the_last_one_is_surely_told() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    let run = line.first_turn(&peer, "int_1").await;
    let begun = Instant::now();
    let entry = run.says("0");
    for number in 1..200 {
        entry.adds(&format!(" {number}"));
    }
    let first = line.next().await;
    assert_eq!(first["data"]["content"], "0");
    let second = line.next().await;
    assert!(second["data"]["content"].as_str().unwrap().ends_with(" 199"), "{second}");
    assert!(begun.elapsed() >= Duration::from_millis(100), "not throttled");
}

#[tokio::test]
async fn follow_ups_wait_for_each_other_and_new_threads_wait_behind_them() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    let one = line.first_turn(&peer, "int_1").await;
    one.completes();
    line.is(completed(&one)).await;

    line.prompt("int_2", Some(&one.thread), "more").await;
    let two = peer.run().await.unwrap();
    line.prompt("int_3", None, "elsewhere").await;
    line.send("query_ui_state", json!({"query_id": "q"})).await; // goes round the loop
    let state = line.next().await;
    assert_eq!((&state["data"]["query_id"], &state["data"]["entry_count"]), (&json!("q"), &json!(2)));
    assert_eq!(state["data"]["thread_id"], two.thread);
    two.completes();
    line.is(completed(&two)).await;
    let three = peer.run().await.unwrap();
    assert_ne!(three.thread, two.thread);
    // Its first turn holds nothing up.
    line.is(ready("zed-agent", &three.thread)).await;
    line.next().await;
    line.prompt("int_4", Some(&one.thread), "meanwhile").await;
    let four = peer.run().await.unwrap();
    assert!(three.is_running() && four.is_running());
}

#[tokio::test]
async fn a_follow_up_cancels_what_runs_in_its_thread() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    let one = line.first_turn(&peer, "int_1").await;
    one.says("half");
    line.next().await;
    line.prompt("int_2", Some(&one.thread), "more").await; // the first turn is detached: the loop is free
    line.is(text(&one, 1, "half")).await;
    line.is(completed(&one)).await;
    one.ended().await.unwrap();
    let two = peer.run().await.unwrap();
    assert_eq!(peer.options().ledger.of("int_1")[0].end, Some(End::Cancelled));

    // While a follow-up runs the loop is taken: the next one waits, but an interrupt cancels at once.
    line.prompt("int_3", Some(&one.thread), "waits").await;
    line.send("query_ui_state", json!({"query_id": "q"})).await;
    assert_eq!(line.next().await["event_type"], "ui_state_response");
    assert!(two.is_running());
    line.send(
        "chat_message",
        json!({"message": "now", "request_id": "int_4", "acp_thread_id": one.thread, "interrupt": true}),
    )
    .await;
    line.is(completed(&two)).await;
    let three = peer.run().await.unwrap();
    assert_eq!(three.request_id, "int_3", "an interrupting prompt keeps its place in the loop");
}

#[tokio::test]
async fn a_cancel_is_by_thread_and_a_noop_where_nothing_runs() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    let cancelled = |request: &str, status: &str| json!({"event_type": "turn_cancelled", "data": {"request_id": request, "status": status}});
    line.send("cancel_current_turn", json!({"request_id": "int_1"})).await;
    line.is(cancelled("int_1", "noop")).await;

    // Of a thread that is being made: noop, and the prompt runs all the same.
    peer.next_thread(Fate::Held);
    line.prompt("int_1", None, "go").await;
    line.send("cancel_current_turn", json!({"request_id": "int_1"})).await;
    line.is(cancelled("int_1", "noop")).await;
    peer.release();
    let one = peer.run().await.unwrap();
    line.next().await;
    line.next().await;
    line.send("cancel_current_turn", json!({"request_id": "int_1"})).await;
    line.is(cancelled("int_1", "cancelled")).await;
    line.is(completed(&one)).await;
    one.ended().await.unwrap();
    assert!(!one.is_running());

    // An old request stops whatever runs in its thread now.
    line.prompt("int_2", Some(&one.thread), "more").await;
    let two = peer.run().await.unwrap();
    line.send("cancel_current_turn", json!({"request_id": "int_1"})).await;
    line.is(cancelled("int_1", "cancelled")).await;
    line.is(completed(&two)).await;
}

#[tokio::test]
async fn people_type_in_the_editor() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    let run = peer.types(None, "by hand");
    line.is(json!({"event_type": "user_created_thread", "data": {"acp_thread_id": run.thread, "title": null}})).await;
    let mut typed = text(&run, 0, "by hand");
    typed["data"]["role"] = json!("user");
    assert_eq!(typed["data"]["request_id"], "");
    line.is(typed).await;
    run.completes();
    line.is(completed(&run)).await;

    let one = line.first_turn(&peer, "int_1").await;
    one.completes();
    line.is(completed(&one)).await;
    let stale = peer.types(Some(&one.thread), "and this");
    assert_eq!(stale.request_id, "int_1");
    assert_eq!(line.next().await["data"]["message_id"], "1");
    stale.completes();
    line.is(completed(&stale)).await;
    line.send("simulate_user_input", json!({"message": "sim", "request_id": "t", "acp_thread_id": one.thread})).await;
    let echo = line.next().await;
    assert_eq!((&echo["data"]["role"], &echo["data"]["content"]), (&json!("user"), &json!("sim")));
    peer.run().await.unwrap();
}

#[tokio::test]
async fn questions_are_answered_once() {
    let host = Host::new().await;
    let peer = Peer::start(host.options());
    let mut line = host.ready().await;
    let run = line.first_turn(&peer, "int_1").await;
    let question = run.asks("el_1", "form", "Which?", &json!({"type": "object"}));
    assert_eq!(line.next().await["event_type"], "elicitation_requested");
    let answer =
        json!({"acp_thread_id": run.thread, "elicitation_id": "el_1", "action": "accept", "content": {"db": "pg"}});
    line.send("respond_elicitation", answer.clone()).await;
    assert_eq!(question.answer().await.unwrap(), answer);
    line.is(json!({"event_type": "elicitation_response_ack", "data": {"elicitation_id": "el_1", "status": "accepted", "error": ""}})).await;
    assert_eq!(line.next().await["data"]["status"], "accepted");
    line.send("respond_elicitation", answer).await;
    assert_eq!(line.next().await["data"]["status"], "noop");
}

#[tokio::test]
async fn the_seeds_dialect_in_its_four_styles() {
    for style in [SeedStyle::Chunks, SeedStyle::Whole, SeedStyle::Messages, SeedStyle::NumberedMessages] {
        let host = Host::new().await;
        let peer = Peer::start(host.options().dialect(Dialect::Seed(style)));
        let mut line = host.accept().await;
        let ping = line.next().await;
        assert_eq!((&ping["event_type"], &ping["session_id"]), (&json!("ping"), &json!("ses_1")));
        assert!(ping["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{ping}");
        line.send("chat_message", json!({"request_id": "r", "context_id": null, "message": "go", "role": "user"}))
            .await;
        let run = peer.run().await.unwrap();
        let created = line.next().await;
        assert_eq!(created["event_type"], "context_created");
        assert_eq!(created["data"], json!({"context_id": run.thread, "title": "New Chat", "thread_id": run.thread}));
        let entry = run.says("Look");
        let first = match style {
            SeedStyle::Whole => None,
            _ => Some(line.next().await),
        };
        entry.becomes("Looking.");
        run.completes();
        let mut rest = Vec::new();
        loop {
            let event = line.next().await;
            let name = event["event_type"].as_str().unwrap().to_owned();
            rest.push((name.clone(), event["data"].clone()));
            if ["chat_response", "chat_response_done"].contains(&name.as_str()) {
                break;
            }
        }
        let message = |id: Value, content: &str| json!({"context_id": run.thread, "message_id": id, "content": content, "role": "assistant"});
        let done = ("chat_response_done".to_owned(), json!({"request_id": "r"}));
        match style {
            SeedStyle::Chunks => {
                assert_eq!(first.unwrap()["data"], json!({"request_id": "r", "chunk": "Look"}));
                let chunk = ("chat_response_chunk".to_owned(), json!({"request_id": "r", "chunk": "ing."}));
                assert_eq!(rest, [chunk, done]);
            }
            SeedStyle::Whole => {
                let whole = ("chat_response".to_owned(), json!({"request_id": "r", "content": "Looking."}));
                assert_eq!(rest, [whole]);
            }
            SeedStyle::Messages | SeedStyle::NumberedMessages => {
                let id = if style == SeedStyle::Messages { json!("m1") } else { json!(1) };
                assert_eq!(first.unwrap()["data"], message(id.clone(), "Look"));
                assert_eq!(rest, [("message_updated".to_owned(), message(id, "Looking.")), done]);
            }
        }
        // Today's words mean nothing to it, and a prompt in them is a fault.
        line.send("cancel_current_turn", json!({"request_id": "r"})).await;
        line.prompt("r2", None, "without a role").await;
        line.send(
            "chat_message",
            json!({"request_id": "r3", "context_id": run.thread, "message": "m", "role": "user"}),
        )
        .await;
        assert_eq!(peer.run().await.unwrap().request_id, "r3");
        assert_eq!(peer.faults().len(), 1, "{:?}", peer.faults());
        assert_eq!(peer.frames().len(), 4);
    }
}
