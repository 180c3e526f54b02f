//! What bad input gets on the sync socket and on the feed.

use anyhow::{Context, Result, ensure};
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::session::SessionPhase;
use helix_protocol::thread::TurnState;
use helix_tests::eventually::{eventually, secs, throughout};
use helix_tests::http::{Socket, refusal};
use helix_tests::zed_peer::{Dialect, Options, Peer};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::stage::{Talk, chat, small};

const TODAY: Dialect = Dialect::Today;

fn sync(session: &str) -> String {
    format!("/api/v1/external-agents/sync?session_id={session}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_and_shown() -> Result<()> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let other = Talk::begin(cluster.api()?, "other").await?;
    let peer = Peer::start(Options { token: "wrong".to_owned(), ..talk.options() });
    eventually("it is refused again and again", secs(20), || async {
        ensure!(peer.refusals().len() >= 2, "{:?}", peer.refusals());
        Ok(())
    })
    .await?;
    ensure!(peer.refusals().iter().all(|status| *status == 401), "{:?}", peer.refusals());
    let why = eventually("the session shows it", secs(20), || async {
        talk.api.session("s").await?.sync.refused.context("not shown")
    })
    .await?;
    ensure!(!why.is_empty() && !why.contains("wrong\""), "{why}");
    ensure!(!talk.api.session("s").await?.sync.connected, "connected");
    peer.kill();

    // Bound to the session: neither another's nor none.
    for token in [other.token.as_str(), ""] {
        let refused = refusal(talk.api.with_token(token).socket(&sync("s")).await)?;
        ensure!(refused == 401, "{token:?} got {refused}");
    }
    // With the right one it is forgotten.
    let peer = talk.peer(talk.options()).await?;
    eventually("the session shows the socket", secs(20), || async {
        let sync = talk.api.session("s").await?.sync;
        ensure!(sync.connected && sync.refused.is_none() && sync.connected_at.is_some(), "{sync:?}");
        Ok(())
    })
    .await?;
    peer.finish().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_without_a_session_is_refused_before_the_upgrade() -> Result<()> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let own = talk.api.with_token(&talk.token);
    for (path, status) in [("/api/v1/external-agents/sync".to_owned(), 400), (sync(""), 400), (sync("a.b"), 400)] {
        let refused = refusal(own.socket(&path).await)?;
        ensure!(refused == status, "{path}: {refused}");
    }
    // Whether a session exists is nobody's to know without its token.
    let refused = refusal(own.socket(&sync("nobody")).await)?;
    ensure!([401, 404].contains(&refused), "{refused}");
    let plain = own.get(&sync("s")).await?;
    ensure!([400, 426].contains(&plain.status.as_u16()), "no upgrade: {} {}", plain.status, plain.text);
    cluster.shutdown().await
}

async fn closed(socket: &mut Socket) -> Result<Option<u16>> {
    loop {
        match timeout(secs(30), socket.next()).await.context("not closed")? {
            Some(Ok(Message::Close(frame))) => return Ok(frame.map(|frame| frame.code.into())),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Ok(None),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_have_a_largest_size() -> Result<()> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let own = talk.api.with_token(&talk.token);
    let event = |size: usize| json!({"event_type": "big_news", "data": {"blob": "x".repeat(size)}}).to_string();
    // Just below 64 MiB: taken, and kept as much of it as anybody wants to read.
    let mut socket = own.socket(&sync("s")).await?;
    socket.send(Message::text(event((64 << 20) - 1024))).await?;
    let asked = talk.new_thread("one").await?; // so that the feed has something to be read up to
    eventually("the big one is told", secs(60), || async {
        let mut feed = talk.api.socket("/api/v1/sessions/s/events?after=0").await?;
        loop {
            let message = timeout(secs(5), feed.next()).await?.context("the feed ended")??;
            let Message::Text(text) = message else { continue };
            let item: Value = serde_json::from_str(&text)?;
            if item["name"] == "big_news" {
                ensure!(text.len() < 1 << 20, "{} bytes are told", text.len());
                return Ok(());
            }
        }
    })
    .await?;
    // 65 MiB: closed with 1009, and nothing else is harmed.
    let sent = socket.send(Message::text(event(65 << 20))).await;
    let code = closed(&mut socket).await?;
    ensure!(code == Some(1009), "closed with {code:?} ({sent:?})");
    let peer = talk.peer(talk.options()).await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    peer.finish().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_kept_and_the_socket_too() -> Result<()> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    peer.tell_raw("{not JSON");
    peer.tell_raw("[1, 2]");
    peer.tell_raw("\"just text\"");
    peer.tell_raw("{\"event_type\": 7}");
    peer.tell_raw(&format!("{{{}", "[".repeat(200_000)));
    peer.tell_raw(r#"{"event_type": "message_added", "data": "none"}"#);
    peer.tell_raw(r#"{"event_type": "message_added", "data": {"acp_thread_id": 7, "content": null}}"#);
    peer.tell_raw(
        r#"{"event_type": "message_completed", "data": {"acp_thread_id": "elsewhere", "request_id": "no_such"}}"#,
    );
    peer.tell_raw(r#"{"event_type": "agent_ready", "data": {"agent_name": 5, "active_turns": "many"}}"#);
    peer.tell("weather_report", json!({"sky": "blue"}));
    peer.tell("weather_report", json!({"sky": "grey"}));
    run.says("all is well");
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    ensure!(peer.closes().is_empty(), "closed: {:?}", peer.closes());
    ensure!(talk.text(&asked).await? == "all is well", "{}", talk.text(&asked).await?);

    let replay = talk.replay().await?;
    let custom = replay.of("custom");
    let weather: Vec<_> = custom.iter().filter(|item| item["name"] == "weather_report").collect();
    ensure!(weather.len() == 2 && weather[0]["data"] == json!({"sky": "blue"}), "{weather:?}");
    let malformed: u64 = custom
        .iter()
        .filter(|item| item["name"] == "malformed")
        .filter_map(|item| item["data"]["count"].as_u64())
        .sum();
    ensure!(malformed >= 4, "{malformed} of the malformed frames are told: {custom:?}");

    // Binary frames are not for us either.
    let own = talk.api.with_token(&talk.token);
    let mut socket = own.socket(&sync("s")).await?;
    socket.send(Message::binary(vec![0_u8; 1000])).await?;
    socket.send(Message::text(json!({"event_type": "still_here", "data": {}}).to_string())).await?;
    eventually("it is heard after a binary frame", secs(20), || async {
        let late = talk.prompt(&asked.thread, "x").await?;
        talk.cancel(&late).await?;
        let replay = talk.replay().await?;
        ensure!(replay.of("custom").iter().any(|item| item["name"] == "still_here"), "not told");
        Ok(())
    })
    .await?;
    drop(socket);
    cluster.shutdown().await
}

/// A client of the feed that reads nothing is told the gap and let go, and resumes without one.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_let_go() -> Result<()> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    let mut deaf = talk.api.socket("/api/v1/sessions/s/events?after=0").await?;
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    // More than sockets hold: each state of the tool is another text, and is stored before the next.
    let mut reader = talk.api.socket("/api/v1/sessions/s/events?after=0").await?;
    let tool = run.uses("Build", "In Progress", "");
    for number in 0..300 {
        let text = format!("{number}").repeat(100_000);
        tool.is_at("In Progress", &text);
        loop {
            let message = timeout(secs(20), reader.next()).await.context("nothing is stored")?;
            let Message::Text(item) = message.context("the feed ended")?? else { continue };
            let item: Value = serde_json::from_str(&item)?;
            let length = |piece: &str| item["offset"].as_u64().unwrap_or_default() + piece.len() as u64;
            if item["text"].as_str().is_some_and(|piece| length(piece) == text.len() as u64) {
                break;
            }
        }
    }
    drop(reader);
    tool.is_at("Completed", "built");
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    let (mut last, mut gap) = (0, None);
    let code = loop {
        match timeout(secs(60), deaf.next()).await.context("it is not let go")? {
            Some(Ok(Message::Text(text))) => {
                let item: Value = serde_json::from_str(&text)?;
                if item["type"] == "gap" {
                    gap = Some((item["from"].as_u64(), item["to"].as_u64()));
                } else {
                    ensure!(gap.is_none(), "an item after the gap");
                    last = item["sequence"].as_u64().context("no sequence")?;
                }
            }
            Some(Ok(Message::Close(frame))) => break frame.map(|frame| u16::from(frame.code)),
            Some(Ok(_)) => {}
            Some(Err(fault)) => return Err(fault.into()),
            None => break None,
        }
    };
    ensure!(code == Some(1013), "closed with {code:?}, gap {gap:?}, last {last}");
    let (from, to) = gap.context("no gap")?;
    ensure!(from > Some(last) && to >= from, "the gap is {from:?} to {to:?} after {last}");
    // It comes back where it was.
    let mut feed = talk.api.socket(&format!("/api/v1/sessions/s/events?after={last}")).await?;
    loop {
        let message =
            timeout(secs(20), feed.next()).await.context("the feed is silent")?.context("the feed ended")??;
        let Message::Text(text) = message else { continue };
        let item: Value = serde_json::from_str(&text)?;
        ensure!(item["type"] != "gap", "{item}");
        if item["type"] == "turn_moved" && item["state"] == "completed" {
            break;
        }
    }
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_session_takes_no_prompt_and_no_socket() -> Result<()> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    run.says("half");
    talk.is(&asked, TurnState::Running).await?;
    let waits = talk.prompt(&asked.thread, "two").await?;
    talk.api.stop("s").await?;
    talk.api.wait_phase("s", SessionPhase::Stopped, secs(30)).await?;
    // What it had is over, and says why.
    let ended = talk.is(&asked, TurnState::Failed).await?;
    ensure!(ended.cause.is_some_and(|cause| cause.code == "stopped"), "no cause");
    talk.is(&waits, TurnState::Cancelled).await?;
    let refused = talk.api.post("/api/v1/sessions/s/threads", &json!({"prompt": "more"})).await?;
    let problem = refused.problem(409, "session_ended")?;
    ensure!(
        problem.detail.contains("session create") || problem.detail.contains("POST"),
        "no way on: {}",
        problem.detail
    );
    let path = format!("/api/v1/sessions/s/threads/{}/prompts", asked.thread);
    talk.api.post(&path, &json!({"prompt": "more"})).await?.problem(409, "session_ended")?;
    // Its socket is closed, and a new one refused.
    eventually("its agent is let go", secs(20), || async {
        ensure!(!peer.closes().is_empty() && !peer.refusals().is_empty(), "{}", peer.told());
        Ok(())
    })
    .await?;
    ensure!(peer.refusals().iter().all(|status| (400..500).contains(status)), "{:?}", peer.refusals());
    // What was said stays readable.
    ensure!(talk.text(&asked).await? == "half", "{}", talk.text(&asked).await?);
    talk.replay().await?;
    cluster.shutdown().await
}

/// Commands without their fields never reach the editor, which would drop them without a word.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_zed_would_drop_are_refused() -> Result<()> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let path = "/api/v1/external-agents/s/command";
    let query = json!({"type": "query_ui_state", "data": {"query_id": "q"}});
    talk.api.post(path, &query).await?.problem(409, "no_sync_connection")?;
    let peer = talk.peer(talk.options()).await?;
    for bad in [
        json!({"type": "chat_message", "data": {"message": "no request"}}),
        json!({"type": "chat_message", "data": {"request_id": "r"}}),
        json!({"type": "chat_message", "data": {"message": "m", "request_id": "r", "role": "user"}}),
        json!({"type": "", "data": {}}),
        json!({"data": {}}),
        json!([]),
    ] {
        let answer = talk.api.post(path, &bad).await?;
        ensure!(answer.status == 400, "{bad}: {} {}", answer.status, answer.text);
    }
    // Its socket is open; the server says so when it may be used.
    eventually("the command is taken", secs(10), || async {
        talk.api.post(path, &query).await.and_then(|answer| answer.expect(200))
    })
    .await?;
    peer.expect(&query).await?;
    throughout("nothing else arrives", secs(1), || async { peer.nothing_more() }).await?;
    peer.finish().await?;
    cluster.shutdown().await
}
