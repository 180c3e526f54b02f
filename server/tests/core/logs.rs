//! Log lines over HTTP, dialled back by a runner: at once, followed, and what is left when somebody leaves.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::link::{Dial, LogLine, Stream};
use helix_protocol::session::SessionPhase;
use helix_server::app::App;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::harness::{Fleet, SimRunner, eventually, within};
use super::http::Answer;
use super::{admin, command};

type Socket = WebSocketStream<TcpStream>;

fn line(unit: &str, text: &str) -> LogLine {
    LogLine { unit: unit.to_owned(), text: text.to_owned() }
}

fn frame(lines: &[LogLine]) -> Message {
    Message::Text(serde_json::to_string(lines).expect("JSON").into())
}

async fn send(socket: &mut Socket, lines: &[LogLine]) {
    within("sent", socket.send(frame(lines))).await.expect("taken");
}

/// A session that is ready, its runner, and where HTTP is.
async fn ready(fleet: &Fleet, app: &App) -> (SimRunner, SocketAddr) {
    let mut runner = SimRunner::enrol(fleet, app, "r1").await;
    runner.register(1).await;
    app.sessions.create(&admin(), command("s", "make")).await.expect("created");
    let epoch = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await;
    runner.report(&runner.seen("s", epoch.0, 1, SessionPhase::Ready)).await;
    runner.drain_nudges().await;
    (runner, fleet.serve(app).await)
}

/// A follower whose runner has dialled back.
async fn follow(runner: &mut SimRunner, address: SocketAddr, more: &str) -> (Answer, Dial, Socket) {
    let mut answer = Answer::ask(address, &format!("/api/v1/sessions/s/logs?follow=true{more}")).await;
    let (dial, socket) = within("dialled", runner.dial_back(address)).await;
    answer.read_head().await;
    assert!(answer.head.starts_with("HTTP/1.1 200 "), "{}", answer.head);
    (answer, dial, socket)
}

/// Completes when the server has let go of the runner's socket.
async fn closed(socket: &mut Socket) {
    within("closed", async { while let Some(Ok(_)) = socket.next().await {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_are_asked_of_the_runner_by_unit() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let (mut runner, address) = ready(&fleet, &app).await;

    let answer = Answer::ask(address, "/api/v1/sessions/s/logs?lines=7&unit=app").await;
    let (dial, mut socket) = within("dialled", runner.dial_back(address)).await;
    let expected = (Stream::Logs, Some(7), Some("app".to_owned()), false);
    assert_eq!((dial.stream, dial.lines, dial.unit, dial.follow), expected);
    // Of a runner that does not know units, the others' lines are left out.
    send(&mut socket, &[line("wm", "hidden"), line("app", "one")]).await;
    send(&mut socket, &[line("app", "two")]).await;
    socket.close(None).await.expect("closed");
    let body = within("answered", answer.body()).await;
    let lines = serde_json::json!([{ "unit": "app", "text": "one" }, { "unit": "app", "text": "two" }]);
    assert_eq!(body, serde_json::json!({ "id": "s", "lines": lines }));

    // A runner that cannot read them says why.
    let answer = Answer::ask(address, "/api/v1/sessions/s/logs").await;
    let (_dial, mut socket) = within("dialled", runner.dial_back(address)).await;
    let why = CloseFrame { code: CloseCode::Error, reason: "the disk is gone".into() };
    socket.close(Some(why)).await.expect("closed");
    let problem = within("answered", answer.body()).await;
    assert_eq!((&problem["status"], &problem["code"]), (&503.into(), &"runner_unavailable".into()));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("the disk is gone")), "{problem}");

    // An unknown unit reaches no runner.
    let problem = Answer::ask(address, "/api/v1/sessions/s/logs?unit=window&follow=true").await.body().await;
    assert_eq!((&problem["status"], &problem["code"]), (&400.into(), &"invalid_request".into()));
    insta::assert_snapshot!(
        problem["detail"].as_str().expect("a text"),
        @r#"the query: no unit "window"; units are workspace, dbus, display, wm, forward, recorder, app, tools, rdp"#
    );
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_log_comes_line_by_line_and_ends_with_the_session() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let (mut runner, address) = ready(&fleet, &app).await;
    let (mut answer, dial, mut socket) = follow(&mut runner, address, "&lines=3&unit=app").await;
    assert!(answer.head.to_lowercase().contains("content-type: application/x-ndjson\r\n"), "{}", answer.head);
    assert_eq!((dial.lines, dial.unit, dial.follow), (Some(3), Some("app".to_owned()), true));
    send(&mut socket, &[line("app", "one"), line("app", "two\nlines")]).await;
    let first = answer.chunk().await.expect("what there was");
    assert_eq!(first, "{\"unit\":\"app\",\"text\":\"one\"}\n{\"unit\":\"app\",\"text\":\"two\\nlines\"}\n");
    // Each is there before the next is written.
    for text in ["three", "four"] {
        send(&mut socket, &[line("wm", "hidden"), line("app", text)]).await;
        assert_eq!(answer.chunk().await, Some(format!("{{\"unit\":\"app\",\"text\":\"{text}\"}}\n")));
    }
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await.expect("closed");
    assert_eq!(answer.chunk().await.as_deref(), Some(""), "a whole answer");

    // A stream that breaks off is not the end of the log.
    let (mut answer, _dial, mut socket) = follow(&mut runner, address, "").await;
    send(&mut socket, &[line("app", "one")]).await;
    assert!(answer.chunk().await.is_some());
    drop(socket);
    assert_eq!(answer.chunk().await, None, "as if the log had ended");

    // Nor is the end of this server.
    let (mut answer, _dial, mut socket) = follow(&mut runner, address, "").await;
    app.shutdown.cancel();
    assert_eq!(answer.chunk().await, None, "as if the log had ended");
    closed(&mut socket).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_leaves_leaves_nothing_behind() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let (mut runner, address) = ready(&fleet, &app).await;
    // While lines come, and while none do.
    for lines in [0, 3] {
        let (mut answer, _dial, mut socket) = follow(&mut runner, address, "").await;
        for _ in 0..lines {
            send(&mut socket, &[line("app", "one")]).await;
            assert!(answer.chunk().await.is_some());
        }
        drop(answer);
        closed(&mut socket).await;
    }
    // Before the runner has dialled back: there is nothing to dial any more.
    let answer = Answer::ask(address, "/api/v1/sessions/s/logs?follow=true").await;
    within("nudged", runner.nudge()).await;
    drop(answer);
    eventually("forgotten", async || app.relay.take_dials(&runner.id).is_empty().then_some(())).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_follower_slows_its_runner_and_loses_nothing() {
    /// What the sockets of this machine may hold, and more; far below what is sent.
    const HELD: usize = 64 << 20;
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let (mut runner, address) = ready(&fleet, &app).await;
    let (mut answer, _dial, mut socket) = follow(&mut runner, address, "").await;
    let long = "x".repeat(256 << 10);
    let text = |number: usize| format!("{number} {long}");
    let mut sent = 0;
    // Nobody reads: sooner or later the runner cannot send.
    loop {
        let frame = frame(&[line("app", &text(sent))]);
        sent += 1;
        if timeout(Duration::from_secs(1), socket.send(frame)).await.is_err() {
            break;
        }
        assert!(sent * long.len() < HELD, "{sent} lines are held for a client that reads none");
    }
    // Somebody reads again: all of it comes, in order.
    let finish = async {
        socket.flush().await.expect("taken");
        socket.close(None).await.expect("closed");
    };
    let read = async {
        let mut expected = (0..sent).map(text);
        while let Some(chunk) = answer.chunk().await.filter(|chunk| !chunk.is_empty()) {
            for read in chunk.lines() {
                let read: LogLine = serde_json::from_str(read).expect("a line");
                assert!(expected.next().is_some_and(|expected| expected == read.text), "a line is missing");
            }
        }
        assert_eq!(expected.count(), 0, "lines are missing at the end");
    };
    within("all of it", async { tokio::join!(finish, read) }).await;
    fleet.stop(&[app]).await;
}
