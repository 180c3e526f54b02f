//! Nothing runs twice and nothing is lost: the socket is cut, the bridge is killed.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Socket, Stage, Turn, eventually};

/// What a server does on a new connection for a turn that it gave to the agent: it waits for `agent_ready` and gives it
/// again only where the agent provably has it not.
async fn reconcile(socket: &mut Socket, request: &str, thread: Option<&str>, script: &str) -> Turn {
    let mut turn = Turn::default();
    let mut sent = false;
    loop {
        let frame = socket.next().await;
        if turn.take(&frame, request) {
            return turn;
        }
        if frame["event_type"] == "agent_ready" && !sent {
            sent = true;
            let active = frame["data"]["active_turns"].as_array().unwrap();
            if !active.iter().any(|turn| turn["request_id"] == request) {
                socket.chat(request, thread, script).await;
            }
        }
    }
}

#[tokio::test]
async fn a_cut_socket_loses_nothing() {
    let stage = Stage::shell().await;
    let (_bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "echo one >>ran; echo one; while [ ! -e go ]; do sleep 0.02; done; echo two").await;
    let mut turn = Turn::default();
    while !turn.text().contains("one") {
        turn.take(&socket.next().await, "int_1");
    }
    let thread = turn.thread.clone();
    socket.cut();
    let mut socket = stage.accept().await;
    assert_eq!(socket.next().await["event_type"], "ping");
    let mut again = Turn::default();
    let ready = loop {
        let frame = socket.next().await;
        again.take(&frame, "int_1");
        if frame["event_type"] == "agent_ready" && frame["data"]["thread_id"].is_null() {
            break frame["data"].clone();
        }
    };
    assert_eq!(ready["active_turns"], json!([{"request_id": "int_1", "state": "running", "acp_thread_id": thread}]));
    assert_eq!(again.text(), "one\n", "what runs is told whole");
    // While nobody listens it ends.
    socket.cut();
    std::fs::write(stage.project().join("go"), "").unwrap();
    eventually("the command has ended", || stage.transcript().contains("[exit status 0]")).await;
    let mut socket = stage.accept().await;
    assert_eq!(socket.next().await["event_type"], "ping");
    let turn = socket.turn("int_1").await;
    assert_eq!((turn.text().as_str(), turn.end["exit_status"].as_i64()), ("one\ntwo\n", Some(0)));
    let ready = socket.until("agent_ready").await;
    assert_eq!(ready["active_turns"], json!([]), "the backlog comes before it is ready");
    assert_eq!(stage.read("ran"), "one\n");

    // Asked again: told again, whole, and not run again.
    socket.chat("int_1", Some(&thread), "echo one >>ran").await;
    assert_eq!(socket.turn("int_1").await.text(), "one\ntwo\n");
    // On the next connection only what may not have been taken is told: the last turn of the thread.
    socket.chat("int_2", Some(&thread), "echo three").await;
    socket.turn("int_2").await;
    socket.send("query_ui_state", json!({"query_id": "q"})).await;
    socket.until("ui_state_response").await;
    // The answer to the ping behind the last frame is on its way with this frame or before.
    socket.send("query_ui_state", json!({"query_id": "q2"})).await;
    socket.until("ui_state_response").await;
    socket.cut();
    let mut socket = stage.accept().await;
    let mut told = Vec::new();
    loop {
        let frame = socket.next().await;
        if frame["event_type"] == "agent_ready" && frame["data"]["thread_id"].is_null() {
            break;
        }
        if frame["event_type"] == "message_completed" {
            told.push(frame["data"]["request_id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(told, ["int_2"]);
    assert_eq!(stage.read("ran"), "one\n");
}

#[tokio::test]
async fn a_killed_bridge_does_not_run_its_command_again() {
    let stage = Stage::shell().await;
    let (bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "echo ran >>ran; echo said; sleep 600").await;
    let mut turn = Turn::default();
    while !turn.text().contains("said") {
        turn.take(&socket.next().await, "int_1");
    }
    // A prompt that waits is not lost.
    socket.chat("int_2", Some(&turn.thread), "echo after >>ran").await;
    socket.send("query_ui_state", json!({"query_id": "q"})).await;
    socket.until("ui_state_response").await;
    bridge.kill().await;
    drop(socket);

    let _bridge = stage.bridge();
    let mut socket = stage.accept().await;
    let over = socket.turn("int_1").await;
    assert_eq!(over.last(), "chat_response_error");
    assert!(over.end["error"].as_str().unwrap().starts_with("agent exited mid-turn"), "{}", over.end);
    assert_eq!(over.text(), "said\n", "what it said is kept");
    assert_eq!(socket.turn("int_2").await.last(), "message_completed");
    assert_eq!(stage.read("ran"), "ran\nafter\n");
    socket.chat("int_1", Some(&turn.thread), "echo ran >>ran").await;
    assert_eq!(socket.turn("int_1").await.last(), "chat_response_error", "the outcome is kept");
    assert_eq!(stage.read("ran"), "ran\nafter\n");
}

/// Kills the bridge at ever later moments of a turn; the server does as the contract says.
#[tokio::test]
async fn a_bridge_that_is_killed_anywhere_runs_nothing_twice() {
    let stage = Stage::shell().await;
    let mut thread: Option<String> = None;
    let (mut completed, mut failed) = (0, 0);
    for round in 0..24_u32 {
        let request = format!("int_{round}");
        let script = format!("echo {request} >>ran; sleep 0.03; echo done");
        let (bridge, mut socket) = stage.ready().await;
        socket.chat(&request, thread.as_deref(), &script).await;
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 4)).await; // the moment of the kill
        bridge.kill().await;
        drop(socket);
        let bridge = stage.bridge();
        let mut socket = stage.accept().await;
        let turn = reconcile(&mut socket, &request, thread.as_deref(), &script).await;
        match turn.last() {
            "message_completed" => {
                completed += 1;
                assert_eq!(turn.text(), "done\n", "{request}");
                thread = Some(turn.thread.clone());
            }
            _ => failed += 1,
        }
        let runs = stage.read("ran").lines().filter(|line| *line == request).count();
        assert!(runs <= 1, "{request} ran {runs} times");
        assert!(turn.last() != "message_completed" || runs == 1, "{request} did not run: {turn:?}");
        bridge.kill().await;
    }
    assert!(completed > 0 && failed > 0, "{completed} completed, {failed} failed: no kill hit, or all");
}

/// The same with an agent, whose prompts are counted by the agent itself.
#[tokio::test]
async fn an_agent_gets_no_prompt_twice_whenever_its_bridge_is_killed() {
    let stage = Stage::acp(&[]).await;
    let mut thread: Option<String> = None;
    let (mut completed, mut failed) = (0, 0);
    for round in 0..16_u32 {
        let request = format!("int_{round}");
        let script = format!("say {request}\nwait 40\nsay .");
        let (bridge, mut socket) = stage.ready().await;
        socket.chat(&request, thread.as_deref(), &script).await;
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 7)).await; // the moment of the kill
        bridge.kill().await;
        drop(socket);
        let bridge = stage.bridge();
        let mut socket = stage.accept().await;
        let turn = reconcile(&mut socket, &request, thread.as_deref(), &script).await;
        let prompts = stage.read("prompts.log").lines().filter(|line| *line == format!("say {request}")).count();
        assert!(prompts <= 1, "{request} was given {prompts} times");
        if turn.last() == "message_completed" {
            completed += 1;
            assert_eq!((turn.text(), prompts), (format!("{request}."), 1));
            thread = Some(turn.thread.clone());
        } else {
            failed += 1;
        }
        bridge.kill().await;
    }
    assert!(completed > 0 && failed > 0, "{completed} completed, {failed} failed: no kill hit, or all");
}

/// The session's app is the process around the terminal: what is in the terminal ends with it, and the next bridge goes on.
#[tokio::test]
async fn a_killed_window_takes_its_bridge_along() {
    let stage = Stage::shell().await;
    let inner = stage.command();
    let words = inner.as_std().get_args().map(|word| word.to_str().unwrap().to_owned());
    let script = format!("exec script -qfc '{}' /dev/null", words.collect::<Vec<_>>().join(" "));
    let window = || {
        let mut window = tokio::process::Command::new(env!("CARGO_BIN_EXE_agentd"));
        window.args(["acp-bridge", "window", "/bin/sh", "-c", &script]).current_dir(stage.project());
        window.envs(inner.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
        window.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
    };
    let mut first = window();
    let mut socket = stage.accept().await;
    socket.until("agent_ready").await;
    socket.chat("int_1", None, "echo 1 >>ran; sleep 600").await;
    eventually("it runs", || stage.read("ran") == "1\n").await;
    first.kill().await.unwrap();
    let mut second = window();
    let mut socket = stage.accept().await;
    assert_eq!(socket.turn("int_1").await.last(), "chat_response_error");
    socket.chat("int_2", None, "echo 2 >>ran").await;
    socket.turn("int_2").await;
    assert_eq!(stage.read("ran"), "1\n2\n");
    second.kill().await.unwrap();
}

#[tokio::test]
async fn the_first_outcome_is_given_to_the_guest() {
    let mut stage = Stage::shell().await;
    let root = stage.dir().to_owned();
    stage.args.extend(["--result".to_owned(), root.display().to_string()]);
    let (bridge, mut socket) = stage.ready().await;
    socket.chat("int_1", None, "printf 'a\\n\\033[1mb\\033[0m\\n'; exit 4").await;
    socket.turn("int_1").await;
    // Nobody takes it yet; it is kept over a kill.
    bridge.kill().await;
    drop(socket);
    let guest = tokio::net::UnixListener::bind(root.join("guest.sock")).unwrap();
    let _bridge = stage.bridge();
    let (stream, _) = crate::harness::within("the result", guest.accept()).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader);
    tokio::io::AsyncBufReadExt::read_line(&mut reader, &mut line).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut writer, b"{\"answer\":\"done\"}\n").await.unwrap();
    let request: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&request["op"], &request["result"]["exit_status"]), (&json!("result"), &json!(4)));
    assert_eq!(request["result"]["output_tail"], "a\n\u{1b}[1mb\u{1b}[0m\n");
    assert_eq!(request["result"]["output_truncated"], false);
    drop((reader, writer));
    let mut socket = stage.accept().await;
    socket.turn("int_1").await;
    socket.chat("int_2", None, "exit 5").await;
    socket.turn("int_2").await;
    eventually("the journal knows", || {
        std::fs::read_to_string(root.join(".local/state/helix/bridge/journal")).unwrap().contains("result_kept")
    })
    .await;
}
