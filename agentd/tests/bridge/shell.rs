//! Prompts as shell commands.

use serde_json::json;

use crate::harness::{Stage, eventually};

#[tokio::test]
async fn a_command_streams_its_output_and_tells_its_exit_status() {
    let stage = Stage::shell().await;
    let (_bridge, mut socket) = stage.ready().await;
    socket
        .chat("int_1", None, "echo \"$0\" >arg; printf '\\033[31mred\\033[0m\\n'; test -t 1 && echo tty; exit 3")
        .await;
    let turn = socket.turn("int_1").await;
    assert_eq!(turn.events, ["thread_created", "message_added", "message_completed"]);
    assert_eq!((turn.text().as_str(), turn.end["exit_status"].as_i64()), ("red\ntty\n", Some(3)));
    assert_eq!(turn.end["message_id"], "0");
    assert_eq!(turn.entries.keys().copied().collect::<Vec<_>>(), [1], "the prompt itself is entry 0");
    assert!(stage.read("arg").ends_with(".sh\n"), "{}", stage.read("arg"));

    // The thread goes on, and numbers with it. What the bridge alone needs is not in the environment.
    socket.chat("int_2", Some(&turn.thread), "cat arg | wc -l; env | grep -c ZED_HELIX_TOKEN").await;
    let next = socket.turn("int_2").await;
    assert_eq!((next.thread.as_str(), next.text().as_str()), (turn.thread.as_str(), "1\n0\n"));
    assert_eq!(next.entries.keys().copied().collect::<Vec<_>>(), [3]);
    assert_eq!(next.events, ["message_added", "message_completed"]);
    let seen = stage.transcript();
    assert!(seen.contains("\x1b[31mred\x1b[0m") && seen.contains("[exit status 3]"), "{seen}");
}

#[tokio::test]
async fn a_command_is_cancelled_with_what_it_wrote() {
    let stage = Stage::shell().await;
    let (_bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "echo begun; sleep 600; echo never").await;
    let mut turn = crate::harness::Turn::default();
    while !turn.text().contains("begun") {
        turn.take(&socket.next().await, "int_1");
    }
    socket.send("cancel_current_turn", json!({"request_id": "int_1"})).await;
    socket.rest(&mut turn, "int_1").await;
    assert_eq!(turn.events, ["thread_created", "message_added", "turn_cancelled", "message_completed"]);
    assert_eq!((turn.text().as_str(), turn.end["exit_status"].as_i64()), ("begun\n", Some(143)));

    // What does not want to end is made to.
    socket.chat("int_2", Some(&turn.thread), "trap '' TERM; echo deaf; while :; do sleep 1; done").await;
    let mut deaf = crate::harness::Turn::default();
    while !deaf.text().contains("deaf") {
        deaf.take(&socket.next().await, "int_2");
    }
    socket.send("cancel_current_turn", json!({"request_id": "int_2"})).await;
    socket.rest(&mut deaf, "int_2").await;
    assert_eq!(deaf.end["exit_status"], 137);

    // Unknown and over are nothing to cancel; what is over is told again.
    socket.send("cancel_current_turn", json!({"request_id": "int_9"})).await;
    assert_eq!(socket.until("turn_cancelled").await, json!({"request_id": "int_9", "status": "noop"}));
    socket.send("cancel_current_turn", json!({"request_id": "int_2"})).await;
    assert_eq!(socket.until("turn_cancelled").await["status"], "noop");
    assert_eq!(socket.turn("int_2").await.end["exit_status"], 137);
}

#[tokio::test]
async fn follow_ups_wait_and_interrupts_do_not() {
    let stage = Stage::shell().await;
    let (_bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "echo 1 >>ran; sleep 600").await;
    let thread = socket.until("thread_created").await["acp_thread_id"].as_str().unwrap().to_owned();
    eventually("the first command runs", || stage.read("ran") == "1\n").await;
    socket.chat("int_2", Some(&thread), "echo 2 >>ran").await;
    socket.chat("int_3", Some(&thread), "echo 3 >>ran").await;
    // A second copy is the same prompt.
    socket.chat("int_3", Some(&thread), "echo 3 >>ran").await;
    socket.send("cancel_current_turn", json!({"request_id": "int_2"})).await;
    let waiting = socket.turn("int_2").await;
    assert_eq!(waiting.events, ["turn_cancelled", "message_completed"]);
    socket.send("open_thread", json!({"acp_thread_id": thread, "request_id": "o"})).await;
    let active = socket.until("agent_ready").await["active_turns"].clone();
    assert_eq!(
        active,
        json!([{"request_id": "int_1", "state": "running", "acp_thread_id": thread},
        {"request_id": "int_3", "state": "queued", "acp_thread_id": thread}])
    );
    let interrupt =
        json!({"message": "echo 4 >>ran", "request_id": "int_4", "acp_thread_id": thread, "interrupt": true});
    socket.send("chat_message", interrupt).await;
    let first = socket.turn("int_1").await;
    assert_eq!(first.events, ["message_completed"], "an interrupt is no cancel");
    socket.turn("int_4").await;
    assert_eq!(stage.read("ran"), "1\n3\n4\n");

    // Another thread does not wait.
    socket.chat("int_5", Some(&thread), "sleep 600").await;
    socket.chat("int_6", None, "echo other").await;
    assert_eq!(socket.turn("int_6").await.text(), "other\n");
}

#[tokio::test]
async fn other_commands_and_nonsense_are_taken_calmly() {
    let stage = Stage::shell().await;
    let (_bridge, mut socket) = stage.ready().await;
    socket.send_text("not JSON").await;
    socket.send_text("[1]").await;
    socket.send("make_coffee", json!({})).await;
    socket.send("chat_message", json!({"message": "echo no id"})).await;
    socket.send("query_ui_state", json!({"query_id": "q1"})).await;
    let answer = socket.next().await;
    assert_eq!(answer["event_type"], "ui_state_response");
    assert_eq!(answer["data"]["query_id"], "q1");
    assert_eq!((&answer["data"]["active_view"], &answer["data"]["thread_id"]), (&json!("headless"), &json!(null)));
    socket.chat("int_1", Some("sh_unknown"), "echo lost >>ran").await;
    let turn = socket.turn("int_1").await;
    assert_eq!(turn.end["error"], "Failed to load thread: Resource not found: sh_unknown");
    // The same id as a new thread: it has not run.
    socket.chat("int_1", None, "echo found >>ran").await;
    assert_eq!(socket.turn("int_1").await.last(), "message_completed");
    assert_eq!(stage.read("ran"), "found\n");
    socket.send("open_thread", json!({"acp_thread_id": "sh_unknown", "request_id": "open_1"})).await;
    assert_eq!(socket.until("thread_load_error").await["request_id"], "open_1");
    let other = json!({"message": "true", "request_id": "int_2", "agent_name": "codex"});
    socket.send("chat_message", other).await;
    assert!(socket.turn("int_2").await.end["error"].as_str().unwrap().contains("has no agent"));

    let typed = json!({"message": "echo typed", "request_id": "int_3", "acp_thread_id": null});
    socket.send("simulate_user_input", typed).await;
    let turn = socket.turn("int_3").await;
    let roles: Vec<_> = turn.entries.values().map(|entry| (entry.user, entry.text.as_str())).collect();
    assert_eq!(roles, [(true, "echo typed"), (false, "typed\n")]);
}

#[tokio::test]
async fn a_long_output_costs_no_more_than_itself() {
    let stage = Stage::shell().await;
    let (_bridge, mut socket) = stage.ready().await;
    let script =
        "i=0; while [ $i -lt 64 ]; do head -c 16384 /dev/zero | tr '\\0' x; echo; sleep 0.02; i=$((i+1)); done";
    socket.chat("int_1", None, script).await;
    let turn = socket.turn("int_1").await;
    assert_eq!(turn.text().len(), 64 * 16_385);
    assert!(socket.bytes < 1_300_000, "{} bytes for 1 MB", socket.bytes);

    socket.chat("int_2", Some(&turn.thread), "head -c 6000000 /dev/zero | tr '\\0' y; echo end").await;
    let turn = socket.turn("int_2").await;
    let text = turn.text();
    assert!(text.len() <= 4 * 1024 * 1024 + 100 && text.ends_with("end\n"), "{} bytes", text.len());
    assert!(text.contains("… output truncated"));
}

#[tokio::test]
async fn a_command_that_says_nothing_shows_that_it_lives() {
    let mut stage = Stage::shell().await;
    stage.args.extend(["--beat".to_owned(), "1".to_owned()]);
    let (_bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "while [ ! -e go ]; do sleep 0.05; done").await;
    socket.until("thread_created").await;
    for _ in 0..2 {
        let ready = socket.until("agent_ready").await;
        assert_eq!((&ready["thread_id"], &ready["active_turns"][0]["state"]), (&json!(null), &json!("running")));
    }
    std::fs::write(stage.project().join("go"), "").unwrap();
    socket.turn("int_1").await;
}

#[tokio::test]
async fn a_refusal_is_shown_once_and_dialled_again() {
    let stage = Stage::shell().await;
    let _bridge = stage.bridge();
    for _ in 0..3 {
        stage.refuse("HTTP/1.1 401 Unauthorized\r\ncontent-length: 5\r\n\r\nnope!").await;
    }
    let mut socket = stage.accept().await;
    assert_eq!(socket.next().await["event_type"], "ping");
    let seen = stage.transcript();
    assert_eq!(seen.matches("401 Unauthorized nope!").count(), 1, "{seen}");
}
