//! T2: warm claims from a pool that refills itself: from the POST to the first full 1080p frame at a viewer's WebSocket.
//! No peer: none of the tools beside Helix has a pool. Two hundred claims, five a second, and as many at a rate at which two
//! processors keep up with making desktops; each session is deleted once it was seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::measure::summary;
use crate::product::Product;
use crate::viewer::Viewer;
use crate::{report, say};

const CLAIMS: usize = 200;
const RATES: [f64; 2] = [1.0, 5.0];
const READY: u32 = 10;

pub async fn run() -> Result<()> {
    for rate in RATES {
        at(rate).await?;
    }
    Ok(())
}

/// All of them, so many a second.
async fn at(rate: f64) -> Result<()> {
    let product = Arc::new(Product::start(40, &[])?);
    let pool = json!({"kind": "terminal", "geometry": "1920x1080", "min_ready": READY});
    product.call(Method::PUT, "/api/v1/pools/warm", Some(pool)).await?;
    full(&product).await?;
    let (mut tasks, mut ticks) = (JoinSet::new(), interval(Duration::from_secs_f64(1.0 / rate)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..CLAIMS {
        ticks.tick().await;
        tasks.spawn(claim(product.clone()));
    }
    let (mut claimed, mut seen, mut cold) = (Vec::new(), Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let claim = done.context("a claim panicked")??;
        claimed.push(claim.claimed);
        seen.push(claim.seen);
        cold += usize::from(!claim.was_warm);
    }
    say("claims done");
    report(&format!("\n## T2 · {CLAIMS} warm claims, {rate} a second, pool of {READY} that refills itself"));
    report(&format!("- POST to the first full 1080p frame at a viewer: {}", summary(&seen, "ms")));
    report(&format!("- of it the claim itself, answered as Ready: {}", summary(&claimed, "ms")));
    report(&format!("- claims that found no warm agent: {cold}"));
    Ok(())
}

struct Claim {
    claimed: f64,
    seen: f64,
    was_warm: bool,
}

async fn claim(product: Arc<Product>) -> Result<Claim> {
    let begun = Instant::now();
    let view =
        product.call(Method::POST, "/api/v1/sessions?wait=ready&timeout=60", Some(json!({"pool": "warm"}))).await?;
    let claimed = begun.elapsed().as_secs_f64() * 1e3;
    let view: SessionView = serde_json::from_value(view)?;
    ensure!(view.phase == SessionPhase::Ready, "{view:?}");
    // One that was made for it begins after it was asked for.
    let was_warm = view.timeline.iter().any(|step| step.step == "claimed");
    let ticket = product.ticket(view.id.as_str()).await?;
    Viewer::connect(&ticket.url).await?.frame().await?;
    let seen = begun.elapsed().as_secs_f64() * 1e3;
    product.delete(view.id.as_str()).await?;
    Ok(Claim { claimed, seen, was_warm })
}

/// Waits until the pool has all the agents that it is to have.
async fn full(product: &Product) -> Result<()> {
    let begun = Instant::now();
    loop {
        let pool = product.call(Method::GET, "/api/v1/pools/warm", None).await?;
        if pool["ready"].as_u64() == Some(READY.into()) {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_mins(1), "the pool is not full: {pool}");
        // A pool has no event to wait for.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
