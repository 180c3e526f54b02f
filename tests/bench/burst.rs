//! T3: fifty cold starts at once, and how regular the runner's heartbeats stay meanwhile.
//!
//! Peer: fifty of the hand-written scripts at once, each until its first full frame.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::future::join_all;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::measure::{quantile, summary};
use crate::peer::Peer;
use crate::product::Product;
use crate::viewer::Viewer;
use crate::{report, say};

const SESSIONS: usize = 50;
/// Shorter than the default, so that many heartbeats fall into the burst.
const HEARTBEAT: Duration = Duration::from_millis(200);

pub async fn run() -> Result<()> {
    let interval = format!("{}ms", HEARTBEAT.as_millis());
    let product = Product::start(SESSIONS as u32 + 10, &[("EXTERNAL_AGENT_HEARTBEAT_INTERVAL", &interval)])?;
    let (over, is_over) = oneshot::channel();
    let beats = tokio::spawn(arrivals(heartbeats(&product.nats_url).await?, is_over));
    let begun = Instant::now();
    let starts = join_all((0..SESSIONS).map(|_| async {
        let view = product.create_ready().await;
        view.map(|_| begun.elapsed().as_secs_f64())
    }))
    .await;
    let ended = Instant::now();
    // An error says that the listener failed, which it tells itself.
    let _ = over.send(());
    let failed = starts.iter().filter(|start| start.is_err()).count();
    let took: Vec<f64> = starts.into_iter().flatten().collect();
    say("burst done");
    let arrivals = beats.await??;
    drop(product);

    let theirs = scripts().await?;
    report("\n## T3 · 50 cold starts at once");
    report(&format!(
        "- helix: all Ready after {:.1} s, {failed} failed; {}",
        quantile(&took, 1.0),
        summary(&took, "s")
    ));
    let jitter: Vec<f64> = arrivals
        .windows(2)
        .filter(|gap| gap[1] > begun && gap[0] < ended)
        .map(|gap| (gap[1] - gap[0]).abs_diff(HEARTBEAT).as_secs_f64() * 1e3)
        .collect();
    report(&format!(
        "- jitter of heartbeats every {interval}, gaps that overlap the burst: {}",
        summary(&jitter, "ms")
    ));
    report(&format!("- 50 scripts: last first frame after {:.1} s; {}", quantile(&theirs, 1.0), summary(&theirs, "s")));
    Ok(())
}

/// The heartbeats as observers see them: through runner, bus and server.
async fn heartbeats(nats_url: &str) -> Result<async_nats::Subscriber> {
    // async-nats does not read credentials from the address.
    let url = reqwest::Url::parse(nats_url)?;
    let (user, password) = (url.username().to_owned(), url.password().unwrap_or_default().to_owned());
    let address = format!("nats://{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(4222));
    let client = async_nats::ConnectOptions::with_user_and_password(user, password).connect(address).await?;
    let beats = client.subscribe(helix_protocol::subject::HEARTBEAT).await?;
    client.flush().await?;
    Ok(beats)
}

/// When each came, up to the first after the burst: it ends the last gap that overlaps it.
async fn arrivals(mut beats: async_nats::Subscriber, mut is_over: oneshot::Receiver<()>) -> Result<Vec<Instant>> {
    let mut arrivals = Vec::new();
    loop {
        beats.next().await.context("subscription ended")?;
        arrivals.push(Instant::now());
        if is_over.try_recv() != Err(TryRecvError::Empty) {
            return Ok(arrivals);
        }
    }
}

async fn scripts() -> Result<Vec<f64>> {
    let begun = Instant::now();
    let mut peers = Vec::new();
    for index in 0..SESSIONS {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        peers.push((Peer::script_desktop(500 + index as u32, port)?, port));
    }
    let frames = join_all(peers.iter().map(|(_, port)| async move {
        loop {
            let first_frame =
                async { Viewer::connect(&format!("ws://127.0.0.1:{port}/websockify")).await?.frame().await };
            // A peer that is asked in the wrong moment may never answer: it is asked anew.
            match tokio::time::timeout(Duration::from_secs(30), first_frame).await {
                Ok(Ok(_)) => return anyhow::Ok(begun.elapsed().as_secs_f64()),
                Ok(Err(error)) if begun.elapsed() > Duration::from_mins(2) => return Err(error),
                Err(elapsed) if begun.elapsed() > Duration::from_mins(2) => return Err(elapsed.into()),
                // The peer has no readiness event: ask again soon.
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }))
    .await;
    Ok(frames.into_iter().flatten().collect())
}
