//! The feed of a conversation: over WebSocket and as server-sent events.

use std::net::SocketAddr;
use std::time::Duration;

use ::http::HeaderValue;
use axum::serve::ListenerExt as _;
use futures::StreamExt as _;
use helix_protocol::api::CreateSession;
use helix_protocol::record::Scope;
use helix_protocol::session::SessionPhase;
use helix_protocol::thread::TurnState;
use helix_server::app::App;
use helix_server::http::sockets;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::harness::{Fleet, SimRunner, eventually, id, within};
use super::http::{Answer, Caller};
use super::threads::{moved, said, text, write};
use super::{admin, command};

const THREADS: &str = "/api/v1/sessions/s/threads";

type Socket = WebSocketStream<TcpStream>;

async fn open(caller: &Caller, query: &str) -> Socket {
    open_socket(caller, &format!("events{query}")).await
}

/// A socket of session `s`.
async fn open_socket(caller: &Caller, path: &str) -> Socket {
    let socket = TcpStream::connect(caller.address).await.expect("connected");
    let address = format!("ws://{}/api/v1/sessions/s/{path}", caller.address);
    let mut request = address.into_client_request().expect("a request");
    let bearer = HeaderValue::from_str(&format!("Bearer {}", caller.token)).expect("a header");
    request.headers_mut().insert(::http::header::AUTHORIZATION, bearer);
    client_async(request, socket).await.expect("upgraded").0
}

/// The next item, or the close code.
async fn next(socket: &mut Socket) -> Result<Value, u16> {
    loop {
        match within("a frame", socket.next()).await {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
            Some(Ok(Message::Close(frame))) => return Err(frame.map_or(1005, |frame| frame.code.into())),
            Some(Ok(_)) => {}
            other => panic!("broke off: {other:?}"),
        }
    }
}

async fn items(socket: &mut Socket, count: usize) -> Vec<(u64, String)> {
    let mut items = Vec::new();
    for _ in 0..count {
        let item = next(socket).await.expect("an item");
        items.push((item["sequence"].as_u64().expect("a sequence"), text(&item["type"])));
    }
    items
}

/// A session with one thread: its ids.
async fn begun(app: &App, caller: &Caller) -> (String, String) {
    let request = CreateSession { input: None, ..command("s", "") };
    app.sessions.create(&admin(), request).await.expect("created");
    let (status, made) = caller.post(THREADS, &json!({"prompt": "x"})).await;
    assert_eq!(status, 201, "{made}");
    (text(&made["id"]), text(&made["turn"]["id"]))
}

async fn served(fleet: &Fleet) -> (App, Caller) {
    let app = fleet.server().await;
    let address: SocketAddr = fleet.serve(&app).await;
    (app, Caller::admin(address))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_is_told_everything_once_in_order_from_where_it_was() {
    let fleet = Fleet::start().await;
    let (app, caller) = served(&fleet).await;
    let (thread, turn) = begun(&app, &caller).await;
    let (_, aside) = caller.post(THREADS, &json!({"prompt": "aside"})).await;
    let aside = text(&aside["id"]);

    let mut all = open(&caller, "?after=0").await;
    let stored = items(&mut all, 4).await;
    let types: Vec<_> = stored.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(types, ["thread_started", "turn_queued", "thread_started", "turn_queued"]);
    let mut fresh = open(&caller, "").await;
    let mut resumed = open(&caller, &format!("?after={}", stored[1].0)).await;
    assert_eq!(items(&mut resumed, 2).await, stored[2..]);
    let mut filtered = open(&caller, &format!("?after=0&thread={aside}")).await;
    assert_eq!(items(&mut filtered, 2).await, stored[2..]);

    // Live, from whichever replica it is written.
    let other = fleet.server().await;
    write(&other, "s", &thread, moved(&turn, TurnState::Running)).await;
    let mut length = 0;
    for piece in 0..300 {
        let piece = format!("piece {piece}");
        write(&app, "s", &thread, said(&turn, "1", length, &piece)).await;
        length += piece.len() as u64;
    }
    let told = items(&mut all, 301).await;
    assert!(told.is_sorted_by(|one, next| one.0 < next.0) && told[0].0 > stored[3].0, "{told:?}");
    for watcher in [&mut fresh, &mut resumed] {
        assert_eq!(items(watcher, 301).await, told);
    }
    // One that comes back in the middle has neither a hole nor a repeat.
    let mut late = open(&caller, &format!("?after={}", told[149].0)).await;
    assert_eq!(items(&mut late, 151).await, told[150..]);
    // Of another thread nothing is told to who asked for one.
    let renamed = caller.call("PATCH", &format!("{THREADS}/{aside}"), &json!({"title": "renamed"})).await;
    assert_eq!(renamed.0, 200);
    assert_eq!(items(&mut filtered, 1).await[0].1, "thread_renamed");

    // The server leaves: come back.
    within("stopped", other.stop()).await;
    app.shutdown.cancel();
    for watcher in [&mut all, &mut fresh, &mut filtered] {
        while let Ok(item) = next(watcher).await {
            assert_eq!(item["type"], "thread_renamed");
        }
    }
    fleet.stop(&[app]).await;
}

/// The next event: its lines by name; `None` at the end.
async fn event(answer: &mut Answer) -> Option<(String, String, Value)> {
    loop {
        let chunk = answer.chunk().await.filter(|chunk| !chunk.is_empty())?;
        let line =
            |name: &str| chunk.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned);
        // Comments keep the connection alive.
        if let Some(data) = line("data:") {
            let data = serde_json::from_str(&data).expect("JSON");
            return Some((line("id:").unwrap_or_default(), line("event:").expect("an event"), data));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_resume_where_the_browser_was() {
    let fleet = Fleet::start().await;
    let (app, caller) = served(&fleet).await;
    let (thread, turn) = begun(&app, &caller).await;
    let path = "/api/v1/sessions/s/events";
    let mut answer = caller.ask("GET", &format!("{path}?after=0"), "", "").await;
    answer.read_head().await;
    assert!(answer.status() == 200 && answer.head.contains("text/event-stream"), "{}", answer.head);
    let (first, name, data) = event(&mut answer).await.expect("an event");
    assert_eq!(
        (name.as_str(), &data["type"], &data["thread"]),
        ("thread_started", &json!("thread_started"), &json!(thread))
    );
    assert_eq!(first, data["sequence"].to_string());
    let (second, name, _) = event(&mut answer).await.expect("an event");
    assert_eq!(name, "turn_queued");
    write(&app, "s", &thread, said(&turn, "1", 0, "two\nlines")).await;
    let (third, name, data) = event(&mut answer).await.expect("an event");
    assert_eq!((name.as_str(), &data["text"]), ("entry", &json!("two\nlines")));

    // What the browser saw last counts, unless the address says otherwise.
    let last = format!("Last-Event-ID: {second}\r\n");
    let mut resumed = caller.ask("GET", path, &last, "").await;
    resumed.read_head().await;
    assert_eq!(event(&mut resumed).await.expect("an event").0, third);
    let mut resumed = caller.ask("GET", &format!("{path}?after={first}"), &last, "").await;
    resumed.read_head().await;
    assert_eq!(event(&mut resumed).await.expect("an event").0, second);
    let answer = caller.call_with("GET", path, "Last-Event-ID: x\r\n", &Value::Null).await;
    assert_eq!((answer.0, &answer.1["code"]), (400, &json!("invalid_request")));

    // A sequence that the stream never gave: a gap, and all there is.
    let mut answer = caller.ask("GET", &format!("{path}?after=1000000"), "", "").await;
    answer.read_head().await;
    let (id, name, data) = event(&mut answer).await.expect("an event");
    assert_eq!((id.as_str(), name.as_str(), data), ("", "gap", json!({"type": "gap", "from": 1_000_001, "to": 1})));
    assert_eq!(event(&mut answer).await.expect("an event").0, first);

    app.shutdown.cancel();
    within("ended", async { while event(&mut answer).await.is_some() {} }).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_ends_with_its_token_and_with_its_session() {
    let fleet = Fleet::start().await;
    let (app, caller) = served(&fleet).await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    let (thread, turn) = begun(&app, &caller).await;
    let epoch = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await.0;
    let link = app.tokens.issue("link", Scope::Desktop(id("s")), Duration::from_mins(5)).await.expect("issued");
    let guest = caller.with_token(&link.secret);
    let mut watched = open(&guest, "").await;
    let mut pulled = guest.ask("GET", "/api/v1/sessions/s/events", "", "").await;
    pulled.read_head().await;
    let mut kept = open(&caller, "").await;
    write(&app, "s", &thread, said(&turn, "1", 0, "one")).await;
    assert_eq!(items(&mut watched, 1).await[0].1, "entry");
    assert_eq!(event(&mut pulled).await.expect("an event").1, "entry");

    let hash = helix_protocol::ids::secret_hash(&link.secret);
    let revision = app.store.tokens.view().get(&hash).expect("stored").revision;
    app.store.tokens.delete(&hash, revision).await.expect("revoked");
    let revoked = tokio::time::Instant::now();
    assert_eq!(next(&mut watched).await, Err(1008));
    assert_eq!(event(&mut pulled).await, None);
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());

    // Removed, and made again under the same id: whoever watched the former one is not told of the new one.
    app.sessions.delete(&admin(), &id("s")).await.expect("deleted");
    let mut gone = runner.seen("s", epoch, 1, SessionPhase::Stopped);
    gone.forgotten = true;
    runner.report(&gone).await;
    assert_eq!(items(&mut kept, 1).await[0].1, "entry");
    // What the end of the session means for its prompts may be told first.
    let end = loop {
        match next(&mut kept).await {
            Ok(item) => assert!(["turn_moved", "sync"].contains(&text(&item["type"]).as_str()), "{item}"),
            Err(end) => break end,
        }
    };
    assert_eq!(end, 1000);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_a_pointer_is_not_told_of_another_session_of_its_id() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let caller = Caller::admin(fleet.serve(&app).await);
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    app.sessions.create(&admin(), command("s", "make")).await.expect("created");
    let epoch = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await.0;
    let mut watched = open_socket(&caller, "pointer").await;
    let moved = json!({"x": 1, "y": 2, "by": "ann", "is_agent": false});
    let told = app.bus.publish(helix_protocol::subject::pointer(&id("s")), &moved);
    told.await;
    assert_eq!(next(&mut watched).await, Ok(moved));

    app.sessions.delete(&admin(), &id("s")).await.expect("deleted");
    let mut gone = runner.seen("s", epoch, 1, SessionPhase::Stopped);
    gone.forgotten = true;
    runner.report(&gone).await;
    assert_eq!(next(&mut watched).await, Err(1000));
    fleet.stop(&[app]).await;
}

/// So long a client may be deaf in a test.
const DEAF: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_to_a_client_that_never_reads_end() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let caller = Caller::admin(listener.local_addr().expect("bound"));
    let router = helix_server::http::router(app.clone());
    let listener = listener.tap_io(|socket| sockets::tune(socket, DEAF));
    let stop = app.shutdown.clone().cancelled_owned();
    tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(stop).into_future());
    let (thread, turn) = begun(&app, &caller).await;
    let deaf = caller.ask("GET", "/api/v1/sessions/s/events?after=0", "", "").await;
    let big = "x".repeat(100_000);
    for _ in 0..300 {
        write(&app, "s", &thread, said(&turn, "1", 0, &big)).await;
    }
    // More than the sockets hold.
    tokio::time::sleep(2 * DEAF).await;
    assert!(within("cut off", deaf.drained()).await.is_err(), "its answer had an end");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_is_told_the_gap_and_let_go() {
    let fleet = Fleet::start().await;
    let (app, caller) = served(&fleet).await;
    let (thread, turn) = begun(&app, &caller).await;
    let mut slow = open(&caller, "?after=0").await;
    let mut pulled = caller.ask("GET", "/api/v1/sessions/s/events?after=0", "", "").await;
    pulled.read_head().await;
    let mut quick = open(&caller, "").await;

    let reading = tokio::spawn(async move {
        let told = items(&mut quick, 300).await;
        (quick, told)
    });
    let big = "x".repeat(100_000);
    for _ in 0..300 {
        write(&app, "s", &thread, said(&turn, "1", 0, &big)).await;
    }
    let (mut quick, told) = within("the quick one has all", reading).await.expect("joined");
    assert_eq!(told.len(), 300);
    // More than the sockets hold, for longer than a moment.
    let more = tokio::time::timeout(Duration::from_millis(1200), next(&mut quick)).await;
    assert!(more.is_err(), "there is no more: {more:?}");
    write(&app, "s", &thread, said(&turn, "1", 0, "the last")).await;

    let (mut seen, mut gap) = (Vec::new(), None);
    let code = loop {
        match next(&mut slow).await {
            Ok(item) if item["type"] == "gap" => gap = Some(item),
            Ok(item) => {
                assert!(gap.is_none(), "after the gap: {}", item["sequence"]);
                seen.push(item["sequence"].as_u64().expect("a sequence"));
            }
            Err(code) => break code,
        }
    };
    assert_eq!(code, 1013);
    assert!(seen.len() < 303 && seen.is_sorted(), "{} items", seen.len());
    let (last, gap) = (*seen.last().expect("some"), gap.expect("a gap"));
    assert_eq!(gap["from"], last + 1);
    assert!(gap["to"].as_u64().expect("a sequence") > last + 100, "{gap}");
    // It comes back and has the rest.
    let mut back = open(&caller, &format!("?after={last}")).await;
    let rest = items(&mut back, 303 - seen.len()).await;
    assert_eq!(rest[0].0, last + 1);

    let mut names = Vec::new();
    let mut text = String::new();
    while let Some(chunk) = pulled.chunk().await.filter(|chunk| !chunk.is_empty()) {
        text.push_str(&chunk);
        while let Some((event, rest)) = text.split_once("\n\n") {
            names.extend(event.lines().find_map(|line| line.strip_prefix("event:")).map(|name| name.trim().to_owned()));
            text = rest.to_owned();
        }
    }
    assert_eq!(names.last().map(String::as_str), Some("gap"));
    assert!(names.len() < 304 && names.iter().filter(|name| *name == "gap").count() == 1, "{}", names.len());
    slow.close(None).await.ok();
    fleet.stop(&[app]).await;
}
