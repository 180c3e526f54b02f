//! What is vouched for while nothing is said, and agents that are broken or hostile.

use std::time::Duration;

use serde_json::json;

use crate::acp::{respond, run, run_until_said};
use crate::harness::{Stage, Turn, within};

#[tokio::test]
async fn an_agent_that_thinks_is_vouched_for_and_one_that_hangs_is_not() {
    let stage = Stage::acp(&["--beat", "1", "--patience", "4"]).await;
    let (_bridge, mut socket) = stage.ready().await;
    let thread = run_until_said(&mut socket, "int_1", "say hm\nuntil-cancelled").await;
    for _ in 0..2 {
        let ready = socket.until("agent_ready").await;
        assert_eq!(
            ready["active_turns"],
            json!([{"request_id": "int_1", "state": "running", "acp_thread_id": thread}])
        );
        assert_eq!(ready["thread_id"], json!(null));
    }
    let silent = async {
        loop {
            let frame = tokio::time::timeout(Duration::from_secs(3), socket.next()).await;
            if frame.is_err() {
                return;
            }
        }
    };
    within("silence", silent).await;
    socket.send("cancel_current_turn", json!({"request_id": "int_1"})).await;
    assert_eq!(socket.turn("int_1").await.last(), "message_completed");
}

#[tokio::test]
async fn a_turn_that_hangs_is_not_vouched_for_by_another_one() {
    let stage = Stage::acp(&["--beat", "1", "--patience", "2"]).await;
    let (_bridge, mut socket) = stage.ready().await;
    run_until_said(&mut socket, "int_1", "say hm\nhang").await;
    socket.chat("int_2", None, "form Which database?").await;
    let listed = async {
        loop {
            let mut turns = socket.until("agent_ready").await["active_turns"].clone();
            if turns.as_array().is_some_and(|turns| turns.len() == 2) && turns[0]["vouched"] == json!(false) {
                return turns[1].take();
            }
        }
    };
    let works = within("the end of patience", listed).await;
    assert_eq!((&works["request_id"], works.get("vouched")), (&json!("int_2"), None));
}

#[tokio::test]
async fn open_questions_are_vouched_for() {
    let stage = Stage::acp(&["--beat", "1", "--patience", "0"]).await;
    let (_bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "form Which database?").await;
    let question = socket.until("elicitation_requested").await;
    let id = &question["elicitation_id"];
    for _ in 0..2 {
        let ready = socket.until("agent_ready").await;
        assert_eq!(ready["active_turns"][0]["request_id"], "int_1", "who waits for a person works");
        let open = socket.until("elicitation_resync").await;
        assert_eq!((&open["acp_thread_id"], &open["elicitation_ids"]), (&question["acp_thread_id"], &json!([id])));
    }
    respond(&mut socket, id, "accept", json!({"db": {"deep": 1}})).await;
    let ack = socket.until("elicitation_response_ack").await;
    assert_eq!(ack["status"], "noop");
    assert!(ack["error"].as_str().unwrap().starts_with("content must be"), "{ack}");
    respond(&mut socket, id, "accept", json!({"db": "pg", "tables": ["a"], "size": 3})).await;
    let turn = socket.turn("int_1").await;
    assert!(turn.text().contains(r#""tables":["a"]"#), "{}", turn.text());
    socket.chat("int_2", Some(&turn.thread), "say a\nwait 2500").await;
    loop {
        let frame = socket.next().await;
        assert_ne!(frame["event_type"], "elicitation_resync");
        if frame["event_type"] == "message_completed" {
            break;
        }
    }
}

#[tokio::test]
async fn an_agent_that_obeys_no_cancel_takes_its_other_turns_along_and_says_so() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    run_until_said(&mut socket, "int_1", "say a\nuntil-cancelled").await;
    run_until_said(&mut socket, "int_2", "say b\nhang").await;
    socket.send("cancel_current_turn", json!({"request_id": "int_2"})).await;
    let (mut other, mut cancelled) = (Turn::default(), Turn::default());
    let (mut other_over, mut cancelled_over) = (false, false);
    while !other_over || !cancelled_over {
        let frame = socket.next().await;
        other_over |= other.take(&frame, "int_1");
        cancelled_over |= cancelled.take(&frame, "int_2");
    }
    assert_eq!((cancelled.last(), other.last()), ("message_completed", "chat_response_error"));
    let error = other.end["error"].as_str().unwrap();
    assert_eq!(
        error,
        "agent exited mid-turn: it did not end the cancelled turn of another thread within 10 s and was killed"
    );
}

#[tokio::test]
async fn what_is_no_message_is_passed_over() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    let turn = run(&mut socket, "int_1", None, "say before\nnoise\nsay after").await;
    assert_eq!((turn.text().as_str(), turn.last()), ("before-32601 -32602 falseafter", "message_completed"));
}

#[tokio::test]
async fn terminals_are_bounded() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    let turn = run(&mut socket, "int_1", None, "terminals").await;
    assert_eq!(turn.text(), "64 made, then 64 terminals are open: release one first");
    // One that is released makes room.
    let turn = run(&mut socket, "int_2", None, "run echo hi").await;
    assert!(turn.text().contains("release one first"), "{}", turn.text());
}

#[tokio::test]
async fn no_frame_is_larger_than_servers_take() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "title 100000\nhuge 10000000").await;
    let mut turn = Turn::default();
    let mut largest = 0;
    loop {
        let before = socket.bytes;
        let frame = socket.next().await;
        largest = largest.max(socket.bytes - before);
        if turn.take(&frame, "int_1") {
            break;
        }
    }
    assert!(largest < 5 << 20, "{largest} bytes");
    assert_eq!(turn.text().len(), 10_000_000);
    assert_eq!(turn.entries.values().next().unwrap().name.len(), 500);
}
