//! T3: fifty cold starts at once, and how regular the runner's heartbeats stay meanwhile.
//!
//! Peer: fifty of the hand-written scripts at once, each until its first full frame.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::future::join_all;

use crate::measure::{quantile, summary};
use crate::peer::Peer;
use crate::product::Product;
use crate::viewer::Viewer;
use crate::{report, say};

const SESSIONS: usize = 50;

pub async fn run() -> Result<()> {
    let product = Product::start(SESSIONS as u32 + 10, &[])?;
    let beats = tokio::spawn(heartbeats(product.nats_url.clone()));
    let begun = Instant::now();
    let starts = join_all((0..SESSIONS).map(|_| async {
        let view = product.create_ready().await;
        view.map(|_| begun.elapsed().as_secs_f64())
    }))
    .await;
    // Two more beats, so that the last of the burst is seen.
    let failed = starts.iter().filter(|start| start.is_err()).count();
    let took: Vec<f64> = starts.into_iter().flatten().collect();
    say("burst done");
    let gaps = beats.await??;
    drop(product);

    let theirs = scripts().await?;
    report("\n## T3 · 50 cold starts at once");
    report(&format!(
        "- helix: all Ready after {:.1} s, {failed} failed; {}",
        quantile(&took, 1.0),
        summary(&took, "s")
    ));
    let jitter: Vec<f64> = gaps.iter().map(|gap| (gap - 5000.0).abs()).collect();
    report(&format!("- heartbeat jitter during and after the burst: {}", summary(&jitter, "ms")));
    report(&format!("- 50 scripts: last first frame after {:.1} s; {}", quantile(&theirs, 1.0), summary(&theirs, "s")));
    Ok(())
}

/// Milliseconds between heartbeats for half a minute.
async fn heartbeats(nats_url: String) -> Result<Vec<f64>> {
    // async-nats does not read credentials from the address.
    let url = reqwest::Url::parse(&nats_url)?;
    let (user, password) = (url.username().to_owned(), url.password().unwrap_or_default().to_owned());
    let address = format!("nats://{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(4222));
    let client = async_nats::ConnectOptions::with_user_and_password(user, password).connect(address).await?;
    let mut beats = client.subscribe(helix_protocol::subject::HEARTBEAT).await?;
    let mut gaps = Vec::new();
    let mut last: Option<Instant> = None;
    let end = tokio::time::sleep(Duration::from_secs(31));
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return Ok(gaps),
            beat = beats.next() => {
                beat.context("subscription ended")?;
                if let Some(last) = last.replace(Instant::now()) {
                    gaps.push(last.elapsed().as_secs_f64() * 1e3);
                }
            }
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
            match Viewer::connect(&format!("ws://127.0.0.1:{port}/websockify")).await {
                Ok(mut viewer) => {
                    viewer.frame().await?;
                    return anyhow::Ok(begun.elapsed().as_secs_f64());
                }
                Err(error) if begun.elapsed() > Duration::from_mins(2) => return Err(error),
                // The peer has no readiness event: ask again soon.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }))
    .await;
    Ok(frames.into_iter().flatten().collect())
}
