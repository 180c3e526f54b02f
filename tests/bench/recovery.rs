//! T12, the two parts without root: `kill -9` of the server until REST answers again, and of NATS until the runner
//! reports again, with every acknowledged session still there.
//!
//! No peer here: supervisord's respawn stands beside agentd's recovery in the host part (`tests/hosts/bench/`). Every
//! round has a fleet of its own, because `helixctl up` waits longer before each further restart within a minute.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use helix_protocol::api::{RunnerList, SessionPage};
use jiff::Timestamp;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::measure::summary;
use crate::product::Product;
use crate::{report, rounds, say};

/// Sessions that are acknowledged before each kill.
const SESSIONS: usize = 4;
/// No recovery may take longer.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two questions.
const STEP: Duration = Duration::from_millis(10);

pub async fn run() -> Result<()> {
    let (mut rest, mut reports, mut ready) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds() {
        let product = Product::start(16, &[])?;
        let mut acknowledged = BTreeSet::new();
        create(&product, &mut acknowledged, &format!("s{round}")).await?;
        let killed = kill(&product, "server")?;
        rest.push(until(killed, || sessions(&product)).await.context("REST after the server's end")?);

        create(&product, &mut acknowledged, &format!("n{round}")).await?;
        let (killed, killed_at) = (kill(&product, "nats")?, Timestamp::now());
        reports.push(until(killed, || heard_since(&product, killed_at)).await.context("the runner after NATS' end")?);
        product.create_ready().await.context("a session after NATS' end")?;
        ready.push(killed.elapsed().as_secs_f64() * 1e3);

        let listed = sessions(&product).await?;
        let lost: Vec<_> = acknowledged.difference(&listed).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        say(&format!("round {round}: REST {:.0} ms, reports {:.0} ms", rest[round], reports[round]));
    }
    report("\n## T12 · recovery from kill -9 (fleet of `helixctl up`, which restarts after 100 ms)");
    report(&format!("- server killed → REST lists sessions: {}", summary(&rest, "ms")));
    report(&format!("- NATS killed → the runner was heard: {}", summary(&reports, "ms")));
    report(&format!("- NATS killed → a session created afterwards is Ready: {}", summary(&ready, "ms")));
    report(&format!("- acknowledged sessions lost: 0 of {}", rounds() * SESSIONS * 2));
    Ok(())
}

/// Creates sessions and notes each whose POST was acknowledged.
async fn create(product: &Product, acknowledged: &mut BTreeSet<String>, prefix: &str) -> Result<()> {
    for number in 0..SESSIONS {
        let id = format!("{prefix}-{number}");
        let body = json!({"id": id, "kind": "command", "input": "true"});
        product.call(Method::POST, "/api/v1/sessions", Some(body)).await?;
        acknowledged.insert(id);
    }
    Ok(())
}

/// `kill -9` of one part; when.
fn kill(product: &Product, part: &str) -> Result<Instant> {
    let pid = i32::try_from(product.pid(part)).ok().and_then(Pid::from_raw).with_context(|| format!("no {part}"))?;
    let now = Instant::now();
    kill_process(pid, Signal::KILL).with_context(|| format!("kill {part}"))?;
    Ok(now)
}

/// Milliseconds from `since` until a `probe` succeeds. A client of a server that is away has no event to wait for, and a
/// question from before the server knew that its bus is gone hangs: one is asked every [`STEP`], beside the others.
async fn until<T, F: Future<Output = Result<T>>>(since: Instant, probe: impl Fn() -> F) -> Result<f64> {
    let mut asked = FuturesUnordered::new();
    let mut step = tokio::time::interval(STEP);
    loop {
        tokio::select! {
            _ = step.tick() => asked.push(probe()),
            Some(answer) = asked.next() => match answer {
                Ok(_) => return Ok(since.elapsed().as_secs_f64() * 1e3),
                Err(error) if since.elapsed() > PATIENCE => return Err(error),
                Err(_) => {}
            }
        }
    }
}

async fn sessions(product: &Product) -> Result<BTreeSet<String>> {
    let page = product.call(Method::GET, "/api/v1/sessions?limit=1000", None).await?;
    let page: SessionPage = serde_json::from_value(page)?;
    Ok(page.sessions.iter().map(|session| session.id.to_string()).collect())
}

/// Fails until the server has heard every runner after `then`.
async fn heard_since(product: &Product, then: Timestamp) -> Result<()> {
    let list: RunnerList = serde_json::from_value(product.call(Method::GET, "/api/v1/runners", None).await?)?;
    let heard = list.runners.iter().all(|runner| runner.last_seen_at.is_some_and(|seen| seen > then));
    ensure!(heard && !list.runners.is_empty(), "not heard yet: {:?}", list.runners);
    Ok(())
}
