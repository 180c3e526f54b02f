//! Modes and models: what is offered, what is chosen, and when it is told.

use serde_json::{Value, json};

use crate::harness::{Socket, Stage};

#[tokio::test]
async fn mode_and_model_of_a_thread_are_changed() {
    let stage = Stage::acp(&["--mode", "Plan"]).await;
    let (_bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "say a").await;
    // A thread is told before what it offers: the server would not know whose it is.
    let mut events = Vec::new();
    let offered = loop {
        let frame = socket.next().await;
        events.push(frame["event_type"].as_str().unwrap().to_owned());
        if events.last().unwrap() == "agent_modes" {
            break frame["data"].clone();
        }
    };
    assert_eq!(events, ["agent_ready", "thread_created", "agent_modes"]);
    assert_eq!(
        (&offered["modes"]["currentModeId"], &offered["models"]["currentModelId"]),
        (&json!("plan"), &json!("small"))
    );
    assert_eq!(offered["modes"]["availableModes"][0]["name"], "Plan");
    let thread = socket.turn("int_1").await.thread;
    assert_eq!(offered["acp_thread_id"], thread);

    socket.send("set_session_model", json!({"acp_thread_id": thread, "model_id": "Large"})).await;
    let now = socket.until("agent_modes").await;
    assert_eq!((&now["acp_thread_id"], &now["models"]["currentModelId"]), (&json!(thread), &json!("large")));
    assert_eq!(stage.read("models.log"), "large\n");
    socket.send("set_session_mode", json!({"acp_thread_id": thread, "mode_id": "plan"})).await;
    assert_eq!(socket.until("agent_modes").await["models"]["currentModelId"], "large");
    assert_eq!(stage.read("modes.log"), "plan\nplan\n");

    let refused = async |socket: &mut Socket, kind: &str, data: Value| {
        socket.send(kind, data).await;
        let refused = socket.until("agent_modes_refused").await;
        refused["error"].as_str().unwrap().to_owned()
    };
    let data = json!({"acp_thread_id": thread, "mode_id": "wild"});
    let error = refused(&mut socket, "set_session_mode", data).await;
    assert_eq!(error, "the agent refuses: Invalid params: no mode wild");
    let error = refused(&mut socket, "set_session_mode", json!({"acp_thread_id": "gone", "mode_id": "plan"})).await;
    assert!(error.contains("Resource not found: gone"), "{error}");
    let error = refused(&mut socket, "set_session_model", json!({"acp_thread_id": thread})).await;
    assert!(error.contains("model_id are wanted"), "{error}");
    assert!(stage.transcript().contains("the mode \"wild\" cannot be set"), "{}", stage.transcript());
}

#[tokio::test]
async fn what_is_offered_is_told_to_every_connection_behind_its_thread() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    // The agent changes its mode by itself.
    socket.chat("int_1", None, "mode plan\nsay a").await;
    assert_eq!(socket.until("agent_mode_changed").await["mode"], "plan");
    assert_eq!(socket.until("agent_modes").await["modes"]["currentModeId"], "plan");
    let thread = socket.turn("int_1").await.thread;
    socket.cut();
    let mut socket = stage.accept().await;
    assert_eq!(socket.until("thread_created").await["acp_thread_id"], thread);
    let offered = socket.until("agent_modes").await;
    assert_eq!((&offered["acp_thread_id"], &offered["modes"]["currentModeId"]), (&json!(thread), &json!("plan")));
}
