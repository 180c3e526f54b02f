//! Bounded waiting for a condition that has no event we could wait for.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep, timeout};

/// Repeats `probe` until it answers `Ok`, at most for `within`; the last refusal is the error's cause.
pub async fn eventually<T, F, Fut>(what: &str, within: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(10);
    let mut last = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout(left, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(refusal)) => last = Some(refusal),
            Err(_) => {}
        }
        if Instant::now() + pause >= deadline {
            let refusal = last.unwrap_or_else(|| anyhow::anyhow!("the probe itself did not answer"));
            return Err(refusal).with_context(|| format!("not within {within:?}: {what}"));
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(150));
    }
}

/// Holds `condition` up for the whole of `during`: the counterpart, for "this must not happen".
pub async fn throughout<F, Fut>(what: &str, during: Duration, mut condition: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let deadline = Instant::now() + during;
    while Instant::now() < deadline {
        condition().await.with_context(|| format!("did not hold: {what}"))?;
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Seconds, written shortly.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
