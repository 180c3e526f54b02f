//! T10: one server and one NATS with as many runners and sessions as they are to hold. Runners are simulated
//! ([`crate::simulated`]) and share the machine's processors with what is measured.
//!
//! No peer: none of the tools that stand beside Helix has a control plane that can be driven here.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::api::{RunnerList, SessionPage};
use helix_protocol::runner::Liveness;
use reqwest::Method;
use serde_json::json;

use crate::measure::{cpu_seconds, memory_mib, summary};
use crate::product::Product;
use crate::simulated::{KIND, Simulated};
use crate::{report, say};

const RUNNERS: u32 = 2000;
/// What is stored when lists are read.
const STEPS: [u64; 3] = [1_000, 10_000, 50_000];
/// POSTs on their way at once.
const AT_ONCE: usize = 128;
/// A POST that is refused so often is given up.
const TRIES: u32 = 10;
/// Heartbeats alone are watched for so long.
const WATCH: Duration = Duration::from_secs(30);
const PAGE: u32 = 100;
const PAGES: usize = 200;
/// For all that was created to be placed.
const PATIENCE: Duration = Duration::from_mins(10);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub async fn run() -> Result<()> {
    let (runners, most) =
        (number("HELIX_BENCH_RUNNERS", RUNNERS.into()) as u32, number("HELIX_BENCH_SESSIONS", 50_000));
    let product = Product::start(1, &[])?;
    let parts = [product.pid("server"), product.pid("nats")];
    let memory = || parts.map(|pid| memory_mib(&[pid], "Rss"));
    let alone = memory();
    let begun = Instant::now();
    let fleet = Simulated::start(&product, runners, (most as u32).div_ceil(runners) + 8).await?;
    let enrolled = begun.elapsed().as_secs_f64();
    say(&format!("{runners} runners after {enrolled:.1} s"));
    report(&format!("\n## T10 · control plane: one server, one NATS, {runners} simulated runners"));
    report(&format!("- enrolled, connected and registered in {enrolled:.1} s"));

    let before = parts.map(|pid| cpu_seconds(&[pid]));
    tokio::time::sleep(WATCH).await;
    let used = [0, 1].map(|part| (cpu_seconds(&[parts[part]]) - before[part]) / WATCH.as_secs_f64() * 100.0);
    let rss = memory();
    let online = online(&product).await?;
    report(&format!(
        "- heartbeats alone, {} s: server {:.1} % of a core, NATS {:.1} %; {online} online, {} heartbeats unanswered; RSS server {:.0} MiB ({:.0} without runners), NATS {:.0} ({:.0})",
        WATCH.as_secs(),
        used[0],
        used[1],
        fleet.unanswered(),
        rss[0],
        alone[0],
        rss[1],
        alone[1],
    ));

    report(
        "\n| sessions stored | created and placed, durable | page of 100: | all pages | RSS server, NATS | heartbeats unanswered |\n|---|---|---|---|---|---|",
    );
    let mut stored = 0;
    for step in STEPS.into_iter().filter(|step| *step <= most) {
        let (created, placed) = create(&product, &fleet, stored, step).await?;
        let many = (step - stored) as f64;
        stored = step;
        say(&format!("{step} sessions: {:.0} POSTs/s, {:.0} placements/s", many / created, many / placed));
        let (pages, whole) = list(&product, step).await?;
        let rss = memory();
        report(&format!(
            "| {step} | {:.0} POSTs/s, {:.0} placements/s | {} | {whole:.2} s | {:.0}, {:.0} MiB | {} |",
            many / created,
            many / placed,
            summary(&pages, "ms"),
            rss[0],
            rss[1],
            fleet.unanswered(),
        ));
    }
    let online = self::online(&product).await?;
    report(&format!("\n- {online} runners online at the end"));
    Ok(())
}

/// Seconds until all POSTs were answered, and until every session was at its runner and reported.
async fn create(product: &Product, fleet: &Simulated, from: u64, to: u64) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let posts = futures::stream::iter(from..to).map(|number| post(product, number));
    posts.buffer_unordered(AT_ONCE).try_for_each(|()| async { Ok(()) }).await?;
    let created = begun.elapsed().as_secs_f64();
    tokio::time::timeout(PATIENCE, fleet.placed(to)).await.context("not all sessions are placed")?;
    Ok((created, begun.elapsed().as_secs_f64()))
}

/// As a client does it: what is refused because the store is busy is asked for again.
async fn post(product: &Product, number: u64) -> Result<()> {
    let body = json!({"id": format!("s-{number}"), "kind": KIND});
    let mut left = TRIES;
    while let Err(error) = product.call(Method::POST, "/api/v1/sessions", Some(body.clone())).await {
        left -= 1;
        ensure!(left > 0 && error.to_string().contains("503"), "{error:#}");
    }
    Ok(())
}

/// Milliseconds of each first page, and seconds for all of them.
async fn list(product: &Product, stored: u64) -> Result<(Vec<f64>, f64)> {
    let mut took = Vec::new();
    for _ in 0..PAGES {
        let begun = Instant::now();
        product.call(Method::GET, &format!("/api/v1/sessions?limit={PAGE}"), None).await?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let (begun, mut seen, mut cursor) = (Instant::now(), 0, String::new());
    loop {
        let page = product.call(Method::GET, &format!("/api/v1/sessions?limit=1000{cursor}"), None).await?;
        let page: SessionPage = serde_json::from_value(page)?;
        seen += page.sessions.len() as u64;
        let Some(next) = page.next_cursor else { break };
        cursor = format!("&cursor={next}");
    }
    ensure!(seen == stored, "{seen} of {stored} sessions are listed");
    Ok((took, begun.elapsed().as_secs_f64()))
}

async fn online(product: &Product) -> Result<usize> {
    let list: RunnerList = serde_json::from_value(product.call(Method::GET, "/api/v1/runners", None).await?)?;
    Ok(list.runners.iter().filter(|runner| runner.liveness == Liveness::Online).count())
}
