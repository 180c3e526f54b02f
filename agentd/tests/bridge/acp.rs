//! Prompts for an ACP agent, which does what they say.

use serde_json::{Value, json};

use crate::harness::{Socket, Stage, Turn, eventually, within};

pub async fn run(socket: &mut Socket, request: &str, thread: Option<&str>, script: &str) -> Turn {
    socket.chat(request, thread, script).await;
    socket.turn(request).await
}

pub async fn respond(socket: &mut Socket, id: &Value, action: &str, content: Value) {
    let data = json!({"acp_thread_id": "", "elicitation_id": id, "action": action, "content": content});
    socket.send("respond_elicitation", data).await;
}

#[tokio::test]
async fn a_turn_streams_thoughts_plans_and_text() {
    let stage = Stage::acp(&["--mode", "Plan"]).await;
    let (_bridge, mut socket) = stage.ready().await;
    let turn = run(&mut socket, "int_1", None, "think hm\nplan look\nsay one\nsay two").await;
    assert_eq!(turn.events, ["thread_created", "message_added", "message_completed"]);
    let texts: Vec<_> = turn.entries.values().map(|entry| entry.text.as_str()).collect();
    assert_eq!(texts, ["**Thinking**\n\nhm", "**Plan**\n\n- [x] look\n", "onetwo"]);
    assert_eq!(turn.end["usage"]["total_tokens"], 30);
    assert_eq!(turn.end["agent_name"], "test");
    assert_eq!(stage.read("modes.log"), "plan\n");
    let next = run(&mut socket, "int_2", Some(&turn.thread), "say three").await;
    assert_eq!(next.text(), "three");
    assert_eq!(stage.read("prompts.log"), "think hm\nsay three\n");
}

#[tokio::test]
async fn leave_is_asked_for_and_given() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    let path = stage.project().join("sub/f.txt");
    socket.chat("int_1", None, &format!("write {} hello", path.display())).await;
    let mut turn = Turn::default();
    let question = socket.watch(&mut turn, "int_1", "elicitation_requested").await;
    assert_eq!((&question["mode"], &question["status"]), (&json!("permission"), &json!("pending")));
    assert_eq!(question["message"], format!("Write {}", path.display()));
    assert_eq!(question["requested_schema"]["properties"]["option"]["enum"], json!(["yes", "no"]));
    assert_eq!((&question["entry_index"], &question["tool_call_id"]), (&json!("1"), &json!("w1")));
    let id = &question["elicitation_id"];
    assert!(!path.exists());
    respond(&mut socket, &json!("q_none"), "accept", json!(null)).await;
    assert_eq!(socket.until("elicitation_response_ack").await["status"], "not_found");
    respond(&mut socket, id, "accept", json!({"option": "maybe"})).await;
    let ack = socket.until("elicitation_response_ack").await;
    assert_eq!((&ack["status"], &ack["error"]), (&json!("noop"), &json!("content.option must be one of: yes, no")));
    // The question is still there on another connection.
    socket.cut();
    let mut socket = stage.accept().await;
    let mut rest = Turn::default();
    assert_eq!(socket.watch(&mut rest, "int_1", "elicitation_requested").await["elicitation_id"], *id);
    socket.until("agent_ready").await;
    respond(&mut socket, id, "accept", json!({"option": "yes"})).await;
    assert_eq!(socket.until("elicitation_response_ack").await["status"], "accepted");
    let resolved = socket.watch(&mut rest, "int_1", "elicitation_resolved").await;
    assert_eq!((&resolved["elicitation_id"], &resolved["status"]), (id, &json!("accepted")));
    socket.rest(&mut rest, "int_1").await;
    assert_eq!(rest.text(), "written");
    assert_eq!(rest.entries[&1].name, format!("Write {}", path.display()));
    assert_eq!(rest.entries[&1].statuses.last().unwrap(), "Completed");
    assert!(rest.entries[&1].text.contains("```diff\n+hello\n```"), "{}", rest.entries[&1].text);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello");
    respond(&mut socket, id, "accept", json!({"option": "yes"})).await;
    assert_eq!(socket.until("elicitation_response_ack").await["status"], "noop");

    socket.chat("int_2", Some(&turn.thread), &format!("write {} more", path.display())).await;
    let mut declined = Turn::default();
    let id = socket.watch(&mut declined, "int_2", "elicitation_requested").await["elicitation_id"].clone();
    respond(&mut socket, &id, "decline", json!(null)).await;
    socket.rest(&mut declined, "int_2").await;
    assert_eq!((declined.text().as_str(), declined.last()), ("not allowed", "message_completed"));
    assert_eq!(declined.entries.values().next().unwrap().statuses.last().unwrap(), "Rejected");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello");
}

#[tokio::test]
async fn a_form_is_answered_with_its_content() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "form Which database?").await;
    let question = socket.until("elicitation_requested").await;
    assert_eq!((&question["mode"], &question["message"]), (&json!("form"), &json!("Which database?")));
    respond(&mut socket, &question["elicitation_id"], "accept", json!({"db": "pg"})).await;
    let turn = socket.turn("int_1").await;
    assert_eq!(
        serde_json::from_str::<Value>(&turn.text()).unwrap(),
        json!({"action": "accept", "content": {"db": "pg"}})
    );
}

#[tokio::test]
async fn what_may_be_done_unasked_is() {
    let stage = Stage::acp(&["--permissions", "allow"]).await;
    let (_bridge, mut socket) = stage.ready().await;
    let turn = run(&mut socket, "int_1", None, &format!("write {}/f text", stage.project().display())).await;
    assert!(!turn.events.contains(&"elicitation_requested".to_owned()), "{:?}", turn.events);
    assert_eq!(stage.read("f"), "text");
}

#[tokio::test]
async fn files_and_commands_stay_inside_the_project() {
    let stage = Stage::acp(&["--permissions", "allow"]).await;
    std::fs::write(stage.dir().join("secret"), "hidden").unwrap();
    std::os::unix::fs::symlink("../secret", stage.project().join("link")).unwrap();
    let (_bridge, mut socket) = stage.ready().await;
    let project = stage.project();
    let inside = |path: &str| project.join(path).display().to_string();
    for path in ["/etc/passwd".to_owned(), inside("../secret"), inside("link")] {
        let turn = run(&mut socket, &format!("read{path}"), None, &format!("read {path}")).await;
        assert!(turn.text().ends_with("is outside the workspace"), "{path}: {}", turn.text());
        let turn = run(&mut socket, &format!("write{path}"), None, &format!("write {path} gone")).await;
        assert!(turn.text().ends_with("is outside the workspace"), "{path}: {}", turn.text());
    }
    assert_eq!(std::fs::read_to_string(stage.dir().join("secret")).unwrap(), "hidden");
    let turn = run(&mut socket, "run", None, "run pwd; echo $ZED_HELIX_TOKEN; exit 4").await;
    assert_eq!(turn.text(), "exit 4");
    let tool = turn.entries.values().find(|entry| entry.kind == "tool_call").unwrap();
    assert!(tool.text.contains(&format!("```\n{}\n```", project.canonicalize().unwrap().display())), "{}", tool.text);
}

#[tokio::test]
async fn a_turn_is_cancelled_even_where_the_agent_waits() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "say a\nuntil-cancelled").await;
    let mut turn = Turn::default();
    socket.watch(&mut turn, "int_1", "message_added").await;
    socket.send("cancel_current_turn", json!({"request_id": "int_1"})).await;
    socket.rest(&mut turn, "int_1").await;
    assert_eq!(turn.events, ["thread_created", "message_added", "turn_cancelled", "message_completed"]);
    socket.chat("int_2", None, "write f x").await;
    let mut turn = Turn::default();
    let id = socket.watch(&mut turn, "int_2", "elicitation_requested").await["elicitation_id"].clone();
    socket.send("cancel_current_turn", json!({"request_id": "int_2"})).await;
    let resolved = socket.watch(&mut turn, "int_2", "elicitation_resolved").await;
    assert_eq!((&resolved["elicitation_id"], &resolved["status"]), (&id, &json!("cancelled")));
    socket.rest(&mut turn, "int_2").await;
    assert_eq!(turn.last(), "message_completed");
    let tool = turn.entries.values().next().unwrap();
    assert!(["Canceled", "Rejected"].contains(&tool.statuses.last().unwrap().as_str()), "{tool:?}");
    // One that hears nothing is killed; its thread is loaded again.
    let hung = run_until_said(&mut socket, "int_3", "say hung\nhang").await;
    socket.send("cancel_current_turn", json!({"request_id": "int_3"})).await;
    assert_eq!(socket.turn("int_3").await.last(), "message_completed");
    assert_eq!(run(&mut socket, "int_4", Some(&hung), "say again").await.text(), "again");
}

pub async fn run_until_said(socket: &mut Socket, request: &str, script: &str) -> String {
    socket.chat(request, None, script).await;
    let mut turn = Turn::default();
    while turn.text().is_empty() {
        turn.take(&socket.next().await, request);
    }
    turn.thread
}

#[tokio::test]
async fn ends_that_are_none_are_told_as_errors() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    for (reason, word) in [("refusal", "refuses"), ("max_tokens", "hit max tokens")] {
        let turn = run(&mut socket, reason, None, &format!("say x\nstop {reason}")).await;
        assert_eq!(turn.last(), "chat_response_error");
        assert!(turn.end["error"].as_str().unwrap().contains(word), "{}", turn.end);
    }
}

#[tokio::test]
async fn an_agent_that_dies_ends_its_turn_and_is_started_again() {
    for loads in ["load", "resume"] {
        let mut stage = Stage::acp(&[]).await;
        stage.env.push(("AGENT_LOADS".into(), loads.into()));
        let (_bridge, mut socket) = stage.ready().await;
        let turn = run(&mut socket, "int_1", None, "say bye\ndie").await;
        let error = turn.end["error"].as_str().unwrap();
        assert_eq!((turn.text().as_str(), turn.last()), ("bye", "chat_response_error"));
        assert!(
            error.starts_with("agent exited mid-turn: exit status: 7") && error.contains("about to die"),
            "{error}"
        );
        let next = run(&mut socket, "int_2", Some(&turn.thread), "say back").await;
        assert_eq!((next.text().as_str(), next.thread), ("back", turn.thread), "history is not told again");
        assert_eq!(stage.read("prompts.log"), "say bye\nsay back\n");
    }
}

#[tokio::test]
async fn a_thread_that_cannot_be_loaded_is_told_and_begun_anew() {
    let mut stage = Stage::acp(&[]).await;
    stage.env.push(("AGENT_LOADS".into(), "none".into()));
    let (bridge, mut socket) = stage.ready().await;
    let turn = run(&mut socket, "int_1", None, "say one").await;
    bridge.kill().await;
    drop(socket);
    let _bridge = stage.bridge();
    let mut socket = stage.accept().await;
    socket.turn("int_1").await;
    let lost = run(&mut socket, "int_2", Some(&turn.thread), "say two").await;
    assert_eq!(lost.end["error"], "Failed to load thread: Agent does not support session loading");
    assert_eq!(lost.last(), "thread_load_error");
    let anew = run(&mut socket, "int_2", None, "say two").await;
    assert_eq!((anew.text().as_str(), anew.events[0].as_str()), ("two", "thread_created"));
    assert_eq!(stage.read("prompts.log"), "say one\nsay two\n");
    socket.send("open_thread", json!({"acp_thread_id": "gone", "request_id": "o1"})).await;
    assert_eq!(socket.until("thread_load_error").await["request_id"], "o1");
}

#[tokio::test]
async fn a_thread_goes_on_after_the_bridge_was_killed() {
    let stage = Stage::acp(&[]).await;
    let (bridge, mut socket) = stage.ready().await;
    let thread = run_until_said(&mut socket, "int_1", "say begun\nuntil-cancelled").await;
    bridge.kill().await;
    drop(socket);
    let _bridge = stage.bridge();
    let mut socket = stage.accept().await;
    let over = socket.turn("int_1").await;
    assert_eq!((over.text().as_str(), over.last()), ("begun", "chat_response_error"));
    socket.send("open_thread", json!({"acp_thread_id": thread, "request_id": "o"})).await;
    let ready = loop {
        let ready = socket.until("agent_ready").await;
        if !ready["thread_id"].is_null() {
            break ready;
        }
    };
    assert_eq!((&ready["thread_id"], &ready["active_turns"]), (&json!(thread), &json!([])));
    let next = run(&mut socket, "int_2", Some(&thread), "say more").await;
    assert_eq!(next.text(), "more");
    assert!(next.entries.keys().next().unwrap() > over.entries.keys().last().unwrap(), "an index is used twice");
    assert_eq!(stage.read("prompts.log"), "say begun\nsay more\n");
}

#[tokio::test]
async fn an_answer_of_a_megabyte_costs_no_more_than_itself() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    let turn = run(&mut socket, "int_1", None, "big 1048576").await;
    assert_eq!(turn.text().len(), 1_048_576);
    assert!(socket.bytes < 1_300_000, "{} bytes", socket.bytes);
}

#[tokio::test]
async fn an_agent_that_is_missing_or_dies_at_start_says_why() {
    let stage = Stage::new(&["--", "no-such-agent"]).await;
    let mut bridge = stage.bridge();
    assert_eq!(bridge.exit_code().await, Some(78));
    let seen = stage.transcript();
    assert!(seen.contains("no-such-agent ended at its start") && seen.contains("No such file"), "{seen}");

    // In a window, whose own exit status says nothing, as xterm's does.
    let mut stage = Stage::acp(&[]).await;
    stage.env.push(("AGENT_FAULT".into(), "dies".into()));
    let agentd = env!("CARGO_BIN_EXE_agentd");
    let mut command = tokio::process::Command::new(agentd);
    command.args([
        "acp-bridge",
        "window",
        "/bin/sh",
        "-c",
        "setsid -w \"$@\" >/dev/null; exit 0",
        "xterm",
        agentd,
        "acp-bridge",
    ]);
    command.args(&stage.args).env("ZED_HELIX_URL", "127.0.0.1:1").env("HELIX_SESSION_ID", "s").env("HOME", stage.dir());
    command.env("XDG_RUNTIME_DIR", stage.dir()).env("AGENT_FAULT", "dies");
    let output = within("its end", command.output()).await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("exit status: 3") && told.contains("the key is missing"), "{told}");
}

#[tokio::test]
async fn a_key_in_the_environment_opens_the_agent() {
    let mut stage = Stage::acp(&[]).await;
    stage.env.push(("AGENT_FAULT".into(), "wants-key".into()));
    let (bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "say x").await;
    let refused = socket.turn("int_1").await;
    let error = refused.end["error"].as_str().unwrap();
    assert!(error.contains("Authentication required") && error.contains("secret of the session"), "{error}");
    bridge.kill().await;
    drop(socket);
    stage.env.push(("OPENAI_API_KEY".into(), "k".into()));
    let (_bridge, mut socket) = stage.ready().await;
    assert_eq!(run(&mut socket, "int_2", None, "say in").await.text(), "in");
}

#[tokio::test]
async fn threads_work_at_the_same_time() {
    let stage = Stage::acp(&[]).await;
    let (_bridge, mut socket) = stage.ready().await;
    let first = run_until_said(&mut socket, "int_1", "say a\nuntil-cancelled").await;
    let second = run(&mut socket, "int_2", None, "say b").await;
    assert_eq!(second.text(), "b");
    assert_ne!(second.thread, first);
    socket.send("cancel_current_turn", json!({"request_id": "int_1"})).await;
    assert_eq!(socket.turn("int_1").await.last(), "message_completed");
    eventually("both are on the screen", || stage.transcript().contains('b')).await;
}
