//! NATS is away for twice the lost-timeout under three runners, and nothing comes of it but waiting: nobody is called lost,
//! nothing is moved, nothing is killed. `HELIX_OUTAGE_SECONDS` is for how long, with the times of an installation and not
//! of a test (`make soak`: a minute).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::{StreamExt, TryStreamExt};
use helix_protocol::api::SessionView;
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use helix_protocol::subject;
use helix_tests::Cluster;
use helix_tests::chaos::number;
use helix_tests::eventually::{eventually, secs, throughout};
use helix_tests::process::runs;
use helix_tests::runner::RunnerSpec;
use helix_tests::server::Times;
use serde_json::{Value, json};

/// Of an installation that says nothing of its own.
const INSTALLED: Times = Times { heartbeat: "5s", suspect: "15s", lost: "30s", credential: "1h" };
/// The lost-timeout of [`Times::default`], and of [`INSTALLED`].
const LOST: [Duration; 2] = [secs(10), secs(30)];
const RUNNERS: [&str; 3] = ["r1", "r2", "r3"];

/// When a process was started, which no other process of its number shares.
fn born(pid: u32) -> Result<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("no name in stat")?;
    rest.split(' ').nth(19).map(str::to_owned).context("no start in stat")
}

fn pid(view: &SessionView) -> Result<u32> {
    view.pid.with_context(|| format!("no pid: {view:?}"))
}

/// What the fleet's trail says from here on.
async fn events(cluster: &Cluster, after: u64) -> Result<Vec<Value>> {
    let stream = jetstream::new(cluster.bus().await?).get_stream(subject::STREAM_EXTERNAL_AGENTS).await?;
    let last = stream.cached_info().state.last_sequence;
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        ack_policy: AckPolicy::None,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let wanted = usize::try_from(last.saturating_sub(after))?;
    let batch = consumer.fetch().max_messages(wanted.max(1)).expires(secs(5)).messages().await?;
    let messages: Vec<_> = batch.take(wanted).try_collect().await.map_err(|fault| anyhow::anyhow!("{fault}"))?;
    Ok(messages.iter().filter_map(|message| serde_json::from_slice(&message.payload).ok()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_outage_of_nats_loses_nobody() -> Result<()> {
    let asked = number("HELIX_OUTAGE_SECONDS").map(secs);
    let lost = LOST[usize::from(asked.is_some())];
    let outage = asked.unwrap_or(lost * 2);
    ensure!(outage >= lost * 2, "an outage of less than {:?} proves nothing", lost * 2);
    let mut builder = Cluster::builder().servers(2);
    if asked.is_some() {
        builder = builder.times(INSTALLED);
    }
    for id in RUNNERS {
        builder = builder.runner(RunnerSpec::new(id).slots(2));
    }
    let mut cluster = builder.start().await?;
    let api = cluster.api()?;
    cluster.runners_online(&api, RUNNERS.len()).await?;
    let mut before = BTreeMap::new();
    for runner in RUNNERS {
        for on_lost in ["wait", "restart"] {
            let id = format!("{runner}-{on_lost}");
            let body = json!({"id": id, "kind": "terminal", "runner": runner, "on_lost": on_lost});
            let view = cluster.ready(&body).await?;
            before.insert(id, (born(pid(&view)?)?, view));
        }
    }
    let stream = jetstream::new(cluster.bus().await?).get_stream(subject::STREAM_EXTERNAL_AGENTS).await?;
    let trail = stream.cached_info().state.last_sequence;

    cluster.nats.kill().await?;
    throughout("what sessions run runs on", outage, || async {
        for (id, (born_at, view)) in &before {
            let pid = pid(view)?;
            ensure!(runs(pid) && born(pid)? == *born_at, "the agent of {id} was ended");
        }
        Ok(())
    })
    .await?;
    cluster.nats.restart().await?;

    // Servers serve before the last runner is back: who would call it lost has its time to do so.
    let same = async |settled: bool| -> Result<()> {
        for (number, api) in [cluster.api_of(0)?, cluster.api_of(1)?].iter().enumerate() {
            let runners = api.runners().await?;
            ensure!(runners.len() == RUNNERS.len(), "{runners:?}");
            let gone: Vec<_> = runners.iter().filter(|runner| runner.liveness == Liveness::Lost).collect();
            ensure!(gone.is_empty(), "server {number} calls them lost: {gone:?}");
            for (id, (born_at, was)) in &before {
                let now = api.session(id).await?;
                ensure!(
                    now.phase == SessionPhase::Ready && now.epoch == was.epoch && now.runner == was.runner,
                    "server {number}: {now:?}"
                );
                ensure!(!settled || (!now.frozen && !now.unclaimed), "server {number}: {now:?}");
                let pid = pid(was)?;
                ensure!(now.pid == Some(pid) && runs(pid) && born(pid)? == *born_at, "server {number}: {now:?}");
            }
        }
        Ok(())
    };
    eventually("both servers serve again", secs(60), || async {
        for number in 0..2 {
            cluster.api_of(number)?.get("/api/v1/sessions").await?.expect(200)?;
        }
        Ok(())
    })
    .await?;
    throughout("nobody is called lost, nothing is moved or ended", lost * 3 / 2, || same(false)).await?;
    cluster.runners_online(&api, RUNNERS.len()).await?;
    eventually("what was held goes on", secs(60), || same(true)).await?;
    // What happened between two looks is in the trail.
    let trail = events(&cluster, trail).await?;
    let gone = serde_json::to_value(Liveness::Lost)?;
    let bad: Vec<_> = trail
        .iter()
        .filter(|event| event["phase"].as_str().is_some_and(|phase| phase != "Ready") || event["liveness"] == gone)
        .collect();
    ensure!(bad.is_empty(), "{bad:#?}");
    println!("NATS was away for {outage:?}; {} events since, none of a loss", trail.len());
    cluster.shutdown().await
}
