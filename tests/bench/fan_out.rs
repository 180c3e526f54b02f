//! T11: ten thousand watchers of the event feed on one server: what each costs while nothing happens, and how fast what
//! happens is at all of them. The watchers are in this process, on the same processors; what they do with a frame is to count
//! it, and every fiftieth looks at when it was made.
//!
//! No peer: the documents' own figure is 500 clients within 50 ms.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::measure::{memory_mib, summary};
use crate::product::Product;
use crate::simulated::{KIND, Simulated};
use crate::{report, say};

const WATCHERS: usize = 10_000;
const AT_ONCE: usize = 64;
/// Events of the burst, and of those that come one by one.
const BURST: u64 = 50;
const SINGLE: u64 = 20;
/// One watcher of so many looks at the time.
const LOOKS: usize = 50;
/// Nothing more comes.
const QUIET: Duration = Duration::from_secs(3);

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

struct Seen {
    frames: AtomicU64,
    delays: UnboundedSender<f64>,
}

pub async fn run() -> Result<()> {
    let product = Product::start(1, &[])?;
    // So that somebody knows the kind, and one session at a time has room.
    let _one = Simulated::start(&product, 1, 1).await?;
    let server = [product.pid("server")];
    let before = memory_mib(&server, "Rss");
    let (delays, mut told) = unbounded_channel();
    let seen = Arc::new(Seen { frames: AtomicU64::new(0), delays });
    let begun = Instant::now();
    let sockets: Vec<Socket> = futures::stream::iter(0..WATCHERS)
        .map(|_| product.socket("/api/v1/events", product.token()))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
        .context("a watcher is not let in")?;
    say(&format!("{WATCHERS} watchers after {:.1} s", begun.elapsed().as_secs_f64()));
    let mut tasks = JoinSet::new();
    for (number, socket) in sockets.into_iter().enumerate() {
        tasks.spawn(watch(socket, seen.clone(), number % LOOKS == 0));
    }
    let each = (memory_mib(&server, "Rss") - before) * 1024.0 / WATCHERS as f64;
    report(&format!("\n## T11 · {WATCHERS} watchers of the event feed on one server"));
    report(&format!("- idle, memory of the server per watcher: {each:.1} KiB (RSS {before:.0} MiB without)"));

    // One by one: how long each is on its way to all.
    for number in 0..SINGLE {
        happen(&product, &format!("one-{number}")).await?;
        quiet(&seen).await;
    }
    let mut single = Vec::new();
    while let Ok(delay) = told.try_recv() {
        single.push(delay);
    }
    report(&format!("- an event alone, made to received: {}", summary(&single, "ms")));

    let (frames, begun) = (seen.frames.load(Ordering::Relaxed), Instant::now());
    for number in 0..BURST {
        happen(&product, &format!("burst-{number}")).await?;
    }
    let last = quiet(&seen).await;
    let (frames, took) = (seen.frames.load(Ordering::Relaxed) - frames, last.duration_since(begun).as_secs_f64());
    let mut burst = Vec::new();
    while let Ok(delay) = told.try_recv() {
        burst.push(delay);
    }
    report(&format!(
        "- {BURST} sessions created one after the other: {frames} frames in {took:.1} s, {:.0} a second; made to received: {}",
        frames as f64 / took,
        summary(&burst, "ms")
    ));
    report(&format!(
        "- memory of the server per watcher after that: {:.1} KiB",
        (memory_mib(&server, "Rss") - before) * 1024.0 / WATCHERS as f64
    ));
    ensure!(tasks.len() == WATCHERS && tasks.try_join_next().is_none(), "watchers were sent away");
    Ok(())
}

/// A session, which waits: it has no room. As a client does it: what is refused because the store is busy is asked for again.
async fn happen(product: &Product, id: &str) -> Result<()> {
    let body = json!({"id": id, "kind": KIND});
    while let Err(error) = product.call(Method::POST, "/api/v1/sessions", Some(body.clone())).await {
        ensure!(error.to_string().contains("503"), "{error:#}");
    }
    Ok(())
}

/// Waits until nothing comes any more; when the last frame had come.
async fn quiet(seen: &Seen) -> Instant {
    let (mut last, mut frames) = (Instant::now(), seen.frames.load(Ordering::Relaxed));
    while last.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = seen.frames.load(Ordering::Relaxed);
        if now != frames {
            (last, frames) = (Instant::now(), now);
        }
    }
    last
}

async fn watch(mut socket: Socket, seen: Arc<Seen>, looks: bool) {
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        seen.frames.fetch_add(1, Ordering::Relaxed);
        if looks && let Some(delay) = delay(&text) {
            let _ = seen.delays.send(delay);
        }
    }
}

/// Milliseconds since the event was made.
fn delay(text: &str) -> Option<f64> {
    let event: Value = serde_json::from_str(text).ok()?;
    let at: Timestamp = event["at"].as_str()?.parse().ok()?;
    Some(Timestamp::now().duration_since(at).as_secs_f64() * 1e3)
}
