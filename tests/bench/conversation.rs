//! Conversations: how soon an answer is seen, many streams at once, and what a long answer costs.
//!
//! The agents are sync sockets that answer at once and as fast as they are told to, so every figure is the product's own.
//! There is no peer: nothing else keeps a conversation in a log on disk and tells it from there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::measure::{cpu_seconds, quantile, summary};
use crate::product::Product;
use crate::report;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Prompts whose way is timed.
const PROMPTS: usize = 200;
/// Sessions that stream at once, each this often, for so long.
const STREAMS: usize = 200;
const CADENCE: Duration = Duration::from_millis(100);
const STREAMING: Duration = Duration::from_secs(15);
/// The long answer, in pieces of this size.
const ANSWER: usize = 1_000_000;
const PIECE: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run() -> Result<()> {
    // One slot: a session needs no desktop for a conversation.
    let product = Product::start(1, &[])?;
    let (first, accepted) = first_entries(&product).await?;
    let (delays, cpu) = streams(&product).await?;
    let (wire, stored) = long_answer(&product).await?;
    report("\n## Conversations");
    report(&format!("- prompt sent → accepted (202, on disk): {}", summary(&accepted, "ms")));
    report(&format!(
        "- prompt accepted → first entry at a feed client, without the agent's own time: {}",
        summary(&first, "ms")
    ));
    report(&format!(
        "- {STREAMS} sessions with {} updates/s each through one server, agent → feed client: {}; server {:.2}, NATS {:.2} of a core",
        1000 / CADENCE.as_millis(),
        summary(&delays, "ms"),
        cpu[0],
        cpu[1]
    ));
    let mega = |bytes: u64| bytes as f64 / 1e6;
    report(&format!(
        "- an answer of {:.1} MB in {} pieces: {:.2} MB on a feed client's wire, {:.2} MB in JetStream",
        ANSWER as f64 / 1e6,
        ANSWER / PIECE,
        mega(wire),
        mega(stored)
    ));
    Ok(())
}

/// An agent's end of a sync socket.
struct Agent {
    socket: Socket,
    session: String,
}

impl Agent {
    /// A new session whose agent this is.
    async fn connect(product: &Product, session: &str) -> Result<Self> {
        let body = json!({"id": session, "kind": "terminal"});
        product.call(Method::POST, "/api/v1/sessions", Some(body)).await?;
        let view = product.call(Method::GET, &format!("/api/v1/external-agents/{session}"), None).await?;
        let token = view["auth_token"].as_str().context("no session token")?.to_owned();
        let path = format!("/api/v1/external-agents/sync?session_id={session}");
        let mut socket = product.socket(&path, &token).await?;
        send(&mut socket, "ping", json!({"timestamp": 0})).await?;
        let ready = json!({"agent_name": "zed-agent", "thread_id": null, "active_turns": []});
        send(&mut socket, "agent_ready", ready).await?;
        Ok(Self { socket, session: session.to_owned() })
    }

    /// The next prompt: its request id, and when it came.
    async fn prompt(&mut self) -> Result<(String, Instant)> {
        loop {
            let frame = text(&mut self.socket).await?;
            if frame["type"] == "chat_message" {
                let request = frame["data"]["request_id"].as_str().context("no request id")?.to_owned();
                return Ok((request, Instant::now()));
            }
        }
    }

    async fn created(&mut self, request: &str) -> Result<()> {
        let data = json!({"acp_thread_id": self.acp(request), "request_id": request});
        send(&mut self.socket, "thread_created", data).await
    }

    /// The answer as it is now.
    async fn say(&mut self, request: &str, content: &str) -> Result<()> {
        let data = json!({
            "acp_thread_id": self.acp(request), "message_id": "1", "role": "assistant", "content": content,
            "request_id": request, "entry_type": "text", "tool_name": "", "tool_status": "", "timestamp": 0,
        });
        send(&mut self.socket, "message_added", data).await
    }

    async fn done(&mut self, request: &str) -> Result<()> {
        let data = json!({
            "acp_thread_id": self.acp(request), "message_id": "0", "request_id": request, "agent_name": "zed",
            "usage": null,
        });
        send(&mut self.socket, "message_completed", data).await
    }

    fn acp(&self, request: &str) -> String {
        format!("{}-{request}", self.session)
    }
}

async fn send(socket: &mut Socket, event: &str, data: Value) -> Result<()> {
    let frame = json!({"event_type": event, "data": data}).to_string();
    Ok(socket.send(Message::text(frame)).await?)
}

/// The next text frame.
async fn text(socket: &mut Socket) -> Result<Value> {
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.context("nothing came")? {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text)?),
            Some(Ok(Message::Close(frame))) => bail!("closed: {frame:?}"),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => bail!("the socket ended"),
        }
    }
}

async fn feed(product: &Product, session: &str) -> Result<Socket> {
    product.socket(&format!("/api/v1/sessions/{session}/events"), product.token()).await
}

/// Starts a thread; its first turn goes to the agent.
async fn ask(product: &Product, session: &str) -> Result<()> {
    let path = format!("/api/v1/sessions/{session}/threads");
    product.call(Method::POST, &path, Some(json!({"prompt": "go on"}))).await.map(drop)
}

/// From the acknowledgement of a prompt to its first entry at a client, less the agent's time; and from the prompt to
/// its acknowledgement. In milliseconds.
async fn first_entries(product: &Product) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut agent = Agent::connect(product, "first").await?;
    let mut client = feed(product, "first").await?;
    let (mut first, mut accepted) = (Vec::new(), Vec::new());
    for _ in 0..PROMPTS {
        let asked = Instant::now();
        let (acknowledged, answered) =
            tokio::join!(async { ask(product, "first").await.map(|()| Instant::now()) }, async {
                let (request, came) = agent.prompt().await?;
                agent.created(&request).await?;
                agent.say(&request, "here").await?;
                let own = came.elapsed();
                anyhow::Ok((request, own, entry(&mut client).await?))
            });
        let (acknowledged, (request, own, (seen, _))) = (acknowledged?, answered?);
        accepted.push(milliseconds(acknowledged - asked));
        first.push(milliseconds(seen.saturating_duration_since(acknowledged).saturating_sub(own)));
        agent.done(&request).await?;
        finished(&mut client).await?;
    }
    Ok((first, accepted))
}

/// Reads until the next entry; when it came, and its piece of text.
async fn entry(client: &mut Socket) -> Result<(Instant, String)> {
    loop {
        let mut item = text(client).await?;
        ensure!(item["type"] != "gap", "the client was too slow: {item}");
        if item["type"] == "entry" {
            let Value::String(piece) = item["text"].take() else { bail!("an entry without text: {item}") };
            return Ok((Instant::now(), piece));
        }
    }
}

async fn finished(client: &mut Socket) -> Result<()> {
    loop {
        let item = text(client).await?;
        if item["type"] == "turn_moved" && item["state"] == "completed" {
            return Ok(());
        }
    }
}

/// Milliseconds from an agent's frame to its piece at a feed client, over all; cores of server and NATS.
async fn streams(product: &Product) -> Result<(Vec<f64>, [f64; 2])> {
    let mut agents = Vec::new();
    for number in 0..STREAMS {
        let session = format!("stream{number}");
        let mut agent = Agent::connect(product, &session).await?;
        let client = feed(product, &session).await?;
        ask(product, &session).await?;
        let (request, _) = agent.prompt().await?;
        agent.created(&request).await?;
        agents.push((agent, client, request));
    }
    let (times, mut delays) = mpsc::unbounded_channel();
    let parts = [product.pid("server"), product.pid("nats")];
    let before = parts.map(|pid| cpu_seconds(&[pid]));
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, (mut agent, mut client, request)) in agents.into_iter().enumerate() {
        let times = times.clone();
        let steps = u32::try_from(STREAMING.as_millis() / CADENCE.as_millis())?;
        let (sent, mut marks) = mpsc::unbounded_channel();
        tasks.spawn(async move {
            // Spread over the cadence, as independent agents are.
            let offset = CADENCE * u32::try_from(number)? / u32::try_from(STREAMS)?;
            let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + offset, CADENCE);
            let mut content = String::new();
            for step in 0..steps {
                tick.tick().await;
                let mark = format!("[{step}]");
                content.push_str(&mark);
                content.push_str("as much as a model says within a tenth of a second or two\n");
                sent.send((mark, Instant::now()))?;
                agent.say(&request, &content).await?;
            }
            agent.done(&request).await?;
            anyhow::Ok(Some(agent))
        });
        tasks.spawn(async move {
            // One piece may bring several steps, when the server was busy with the one before.
            let mut said = String::new();
            while let Some((mark, at)) = marks.recv().await {
                let mut seen = Instant::now();
                while !said.contains(&mark) {
                    let (came, piece) = entry(&mut client).await?;
                    (seen, said) = (came, piece);
                }
                times.send(milliseconds(seen.saturating_duration_since(at)))?;
            }
            Ok(None)
        });
    }
    drop(times);
    let mut all = Vec::new();
    let mut kept = Vec::new();
    while let Some(done) = tasks.join_next().await {
        kept.extend(done??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    while let Some(delay) = delays.recv().await {
        all.push(delay);
    }
    let after = parts.map(|pid| cpu_seconds(&[pid]));
    ensure!(quantile(&all, 0.5).is_finite(), "nothing was measured");
    Ok((all, [(after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds]))
}

/// Bytes of a long answer on a feed client's wire, and in JetStream.
async fn long_answer(product: &Product) -> Result<(u64, u64)> {
    let mut agent = Agent::connect(product, "long").await?;
    let mut client = feed(product, "long").await?;
    ask(product, "long").await?;
    let (request, _) = agent.prompt().await?;
    agent.created(&request).await?;
    let before = product.stream_bytes("HELIX_THREADS").await?;
    let mut wire = 0_u64;
    let mut content = String::with_capacity(ANSWER);
    let line = "text of an answer, in lines as a model writes them, some longer and some shorter\n";
    for number in 0..ANSWER / PIECE {
        let from = content.len();
        while content.len() - from < PIECE {
            let left = PIECE - (content.len() - from);
            content.push_str(&line[..left.min(line.len())]);
        }
        agent.say(&request, &content).await?;
        // Each piece is awaited, so that none is merged with the next: the dearest case.
        let have = u64::try_from(content.len())?;
        loop {
            let frame =
                tokio::time::timeout(PATIENCE, client.next()).await.with_context(|| format!("piece {number}"))?;
            let Message::Text(frame) = frame.context("the feed ended")?? else { continue };
            // Two to four bytes of frame header, no mask.
            wire += frame.len() as u64 + if frame.len() < 126 { 2 } else { 4 };
            let item: Value = serde_json::from_str(&frame)?;
            let reached =
                item["offset"].as_u64().unwrap_or(0) + item["text"].as_str().map_or(0, |text| text.len() as u64);
            if item["type"] == "entry" && reached == have {
                break;
            }
        }
    }
    agent.done(&request).await?;
    finished(&mut client).await?;
    Ok((wire, product.stream_bytes("HELIX_THREADS").await? - before))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
