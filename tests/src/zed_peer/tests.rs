//! The peer against a WebSocket server of the test's own: that it behaves as the contract says the real Zed does.

use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, http::HeaderMap};

use super::ledger::End;
use super::*;

/// The server's side.
struct Host {
    listener: TcpListener,
}

/// One connection of it.
struct Line {
    socket: WebSocketStream<TcpStream>,
    headers: HeaderMap,
    path: String,
}

impl Host {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn options(&self) -> Options {
        let address = self.listener.local_addr().unwrap().to_string();
        Options { second: Duration::from_secs(60), ..Options::new(&address, "ses_1", "secret") }
    }

    #[expect(clippy::result_large_err, reason = "the library's own type")]
    async fn accept(&self) -> Line {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("nobody dials").unwrap();
        let (mut headers, mut path) = (HeaderMap::new(), String::new());
        let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            headers = request.headers().clone();
            path = request.uri().to_string();
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, look).await.unwrap();
        Line { socket, headers, path }
    }

    /// Refuses one connection with a status.
    async fn refuse(&self, status: u16) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("nobody dials").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    async fn ready(&self) -> Line {
        let mut line = self.accept().await;
        assert_eq!(line.next().await["event_type"], "ping");
        line.is(json!({"event_type": "agent_ready", "data": {"agent_name": "zed-agent", "thread_id": null}})).await;
        line
    }
}

impl Line {
    async fn next(&mut self) -> Value {
        let message = timeout(PATIENCE, self.socket.next()).await.expect("no event").unwrap().unwrap();
        let mut event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        // Times are not compared.
        if let Some(data) = event["data"].as_object_mut().filter(|data| data.contains_key("content")) {
            data.remove("timestamp");
        }
        event
    }

    async fn is(&mut self, expected: Value) {
        assert_eq!(self.next().await, expected);
    }

    async fn send(&mut self, kind: &str, data: Value) {
        self.socket.send(Message::text(json!({"type": kind, "data": data}).to_string())).await.unwrap();
    }

    async fn prompt(&mut self, request: &str, thread: Option<&str>, message: &str) {
        self.send("chat_message", json!({"message": message, "request_id": request, "acp_thread_id": thread})).await;
    }

    /// A prompt in a new thread up to its run.
    async fn first_turn(&mut self, peer: &Peer, request: &str) -> Run {
        self.prompt(request, None, "go").await;
        let run = peer.run().await.unwrap();
        self.is(ready("zed-agent", &run.thread)).await;
        self.is(json!({"event_type": "thread_created", "data": {"acp_thread_id": run.thread, "request_id": request}}))
            .await;
        run
    }
}

fn ready(agent: &str, thread: &str) -> Value {
    json!({"event_type": "agent_ready", "data": {"agent_name": agent, "thread_id": thread}})
}

fn text(run: &Run, place: u32, content: &str) -> Value {
    json!({"event_type": "message_added", "data": {
        "acp_thread_id": run.thread, "message_id": place.to_string(), "role": "assistant", "content": content,
        "request_id": run.request_id, "entry_type": "text", "tool_name": "", "tool_status": ""}})
}

fn completed(run: &Run) -> Value {
    json!({"event_type": "message_completed", "data": {
        "acp_thread_id": run.thread, "message_id": "0", "request_id": run.request_id, "agent_name": "zed", "usage": null}})
}

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
    assert!(begun.elapsed() >= options.second * (1 + 2 + 4) - Duration::from_millis(20), "{:?}", begun.elapsed());
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
