//! The person at the desktop, who types into the bridge's terminal.

use serde_json::json;

use crate::harness::{Stage, Turn, eventually};

#[tokio::test]
async fn what_is_typed_is_a_turn_or_goes_to_the_command() {
    let stage = Stage::shell().await;
    let (_bridge, mut terminal) = stage.bridge_on_terminal();
    let mut socket = stage.accept().await;
    socket.until("agent_ready").await;
    terminal.shows("$\x1b[0m ").await;
    terminal.type_keys("read x; echo got-$x; stty size; read y\r");
    let created = socket.until("user_created_thread").await;
    let said = socket.until("message_added").await;
    assert_eq!((&said["role"], &said["acp_thread_id"]), (&json!("user"), &created["acp_thread_id"]));
    assert_eq!(said["content"], "read x; echo got-$x; stty size; read y");
    let request = said["request_id"].as_str().unwrap().to_owned();
    terminal.type_keys("word\r");
    terminal.shows("got-word\r\n30 90").await;
    terminal.resize(70);
    terminal.type_keys("\r");
    let mut turn = Turn::default();
    socket.rest(&mut turn, &request).await;
    assert_eq!((turn.last(), turn.end["exit_status"].as_i64()), ("message_completed", Some(0)));
    assert!(turn.text().contains("got-word\n30 90\n"), "{}", turn.text());
    terminal.shows("[exit status 0]").await;
    // It goes on in the thread of the last turn, whoever began it, and the size is the window's.
    terminal.type_keys("stty size\r");
    let said = socket.until("message_added").await;
    assert_eq!(said["acp_thread_id"], created["acp_thread_id"]);
    let turn = socket.turn(said["request_id"].as_str().unwrap()).await;
    assert_eq!(turn.text(), "30 70\n");
    socket.chat("int_1", created["acp_thread_id"].as_str(), "printf '\\033[35mfrom the server\\033[0m'").await;
    socket.turn("int_1").await;
    terminal.shows("$\x1b[0m printf").await;
    terminal.shows("\x1b[35mfrom the server").await;
}

#[tokio::test]
async fn an_agent_is_talked_to_and_answered_at_the_desktop() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut terminal) = stage.bridge_on_terminal();
    let mut socket = stage.accept().await;
    socket.until("agent_ready").await;
    terminal.shows(">\x1b[0m ").await;
    socket.chat("int_1", None, "write f text").await;
    let mut turn = Turn::default();
    socket.watch(&mut turn, "int_1", "elicitation_requested").await;
    terminal.shows("?\x1b[0m Write f").await;
    terminal.shows("1 Allow").await;
    terminal.type_keys("1\r");
    assert_eq!(socket.watch(&mut turn, "int_1", "elicitation_resolved").await["status"], "accepted");
    socket.rest(&mut turn, "int_1").await;
    assert_eq!(stage.read("f"), "text");
    terminal.shows("written").await;

    terminal.type_keys("say hello\x1b[31m\r");
    let said = socket.until("message_added").await;
    assert_eq!((&said["role"], &said["content"]), (&json!("user"), &json!("say hello")));
    socket.turn(said["request_id"].as_str().unwrap()).await;
    terminal.shows("hello").await;
    // Ctrl-C ends what runs.
    socket.chat("int_2", None, "say on and on\nuntil-cancelled").await;
    terminal.shows("on and on").await;
    terminal.type_keys("\x03");
    let turn = socket.turn("int_2").await;
    assert_eq!(turn.last(), "message_completed");
    terminal.shows("[cancelled]").await;
    // An error of a turn that was typed is told where a server takes it: in the thread.
    terminal.type_keys("die\r");
    let said = socket.until("message_added").await;
    assert_eq!(said["content"], "die");
    let turn = socket.turn(said["request_id"].as_str().unwrap()).await;
    assert_eq!(turn.last(), "message_completed");
    assert!(turn.text().contains("agent exited mid-turn"), "{}", turn.text());
    eventually("the error is on the screen", || terminal.seen().contains("[agent exited mid-turn")).await;
}
