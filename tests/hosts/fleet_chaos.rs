//! Chaos in a whole fleet: three hosts, two servers and a bus of three members, while clients create, claim, prompt, move and
//! stop sessions.
//!
//! A seeded [`plan`] of kills, cuts, drains and processes that stand still is carried out by [`faults`]; [`clients`] repeat
//! what is not acknowledged and remember what is; a [`witness`] on every host writes down what sessions say of
//! themselves. In the end everything is mended, the fleet must come to rest within a bound, and [`oracle`] judges: every
//! acknowledged session reached what was promised or a named failure; never were two copies of one alive; no prompt was
//! lost, and none ran twice in one place; nothing is left on hosts or in the store.
//!
//! `HELIX_FLEET_SECONDS` makes it longer and draws another seed for every run (`make soak`: half an hour);
//! `HELIX_CHAOS_SEED` replays a plan. Everything that was done is in a file that a failed run leaves, with the journals of
//! agentd beside it.

mod clients;
mod faults;
mod oracle;
mod plan;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use helix_tests::chaos::{History, Kills, number, seed};
use helix_tests::cluster::Cluster;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;
use tokio::time::Instant;

use self::clients::{Client, POOL};
use self::faults::{HostLane, MiddleLane, Ports};
use self::witness::{Heard, KIND};
use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Host, say, start_all};

/// Seconds of `make test`.
const SECONDS: u64 = 90;
/// Patience of the servers: longer than any outage here, and shorter than that of clients.
const SETTINGS: &str =
    "[threads]\nready_fallback = \"60s\"\nthread_created = \"60s\"\nsilence = \"60s\"\ntool_silence = \"60s\"\n";
/// Clients at once; each has one session.
const CLIENTS: u64 = 4;
/// Names of runners, in the order of hosts.
const IDS: [&str; plan::HOSTS] = ["r1", "r2", "r3"];
/// Agents that the pool keeps ready.
const WARM: u32 = 2;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![Case::always("a_fleet_in_chaos_keeps_its_promises", a_fleet_in_chaos_keeps_its_promises)]
}

async fn a_fleet_in_chaos_keeps_its_promises() -> Result<()> {
    let asked = number("HELIX_FLEET_SECONDS");
    let length = secs(asked.unwrap_or(SECONDS));
    let seed = seed(asked.is_some());
    let history = Arc::new(History::begin("fleet", seed)?);
    let replay = format!("HELIX_CHAOS_SEED={seed} HELIX_FLEET_SECONDS={}", length.as_secs());
    say(&format!("replay with {replay}; log: {}", history.path().display()));
    let (mut fleet, hosts) = start().await?;
    let outcome = play(&mut fleet, &hosts, seed, length, &history).await;
    if let Err(fault) = &outcome {
        history.note("oracle", format!("{fault:?}"));
        keep_journals(&hosts, &history).await;
    }
    let (summary, kills) = outcome.with_context(|| format!("{replay}; log: {}", history.path().display()))?;
    for host in hosts {
        host.stop().await?;
    }
    fleet.stop().await.with_context(|| replay.clone())?;
    say(&summary);
    say(&kills.survived()?);
    Arc::into_inner(history).context("somebody still writes")?.discard()
}

/// All three hosts, each with a runner, and the pool.
async fn start() -> Result<(Fleet, Vec<Host>)> {
    let builder = Cluster::builder().servers(plan::SERVERS).three_nats().settings(SETTINGS);
    let boots = [Boot::container(), Boot::container(), Boot::container()];
    let (fleet, hosts) = tokio::try_join!(Fleet::of(builder), start_all(boots))?;
    for (host, id) in hosts.iter().zip(IDS) {
        witness::install(host).await?;
        let settings = RunnerSettings { id, more: "checkpoint_interval = \"2s\"", ..RunnerSettings::default() };
        fleet.join(host, &settings).await?;
    }
    let api = fleet.api()?;
    let pool = json!({"kind": KIND, "min_ready": WARM, "max": 6, "on_lost": "restart"});
    let made = api.put(&format!("/api/v1/pools/{POOL}"), &pool).await?;
    ensure!(made.status.is_success(), "{} {}", made.status, made.text);
    eventually("the pool is full", secs(90), || async {
        let view: helix_protocol::api::pools::PoolView = api.get(&format!("/api/v1/pools/{POOL}")).await?.json()?;
        ensure!(view.ready == WARM, "{view:?}");
        Ok(())
    })
    .await?;
    Ok((fleet, hosts.into()))
}

async fn play(
    fleet: &mut Fleet,
    hosts: &[Host],
    seed: u64,
    length: Duration,
    history: &Arc<History>,
) -> Result<(String, Kills)> {
    let plan = plan::plan(seed, length);
    for planned in plan.hosts.iter().chain(&plan.middle) {
        history.note("plan", planned);
    }
    let kills = Kills::of("fleet", seed);
    let apis = [fleet.cluster.api_of(0)?, fleet.cluster.api_of(1)?];
    let began = Instant::now();
    let clients = try_join_all((0..CLIENTS).map(|number| {
        let name = format!("c{number}");
        let client = Client::new(apis.clone(), name, seed ^ (number + 1), Arc::clone(history));
        async move { tokio::spawn(client.work(began + length)).await? }
    }));
    let ports = Ports::of(&fleet.cluster);
    let lane = HostLane { hosts, ids: &IDS, apis: apis.clone(), ports, history, kills: &kills };
    let middle = MiddleLane { cluster: &mut fleet.cluster, up: [true; plan::SERVERS], history, kills: &kills };
    let (stories, (), ()) = tokio::try_join!(clients, lane.run(began, &plan.hosts), middle.run(began, &plan.middle))?;
    let healed = Instant::now();
    history.note("oracle", "everything is mended, and clients went home");
    oracle::nothing_is_left(&fleet.cluster, hosts).await?;
    let summary = oracle::judge(&Heard::of(hosts).await?, &stories)?;
    let faults = plan.hosts.len() + plan.middle.len();
    Ok((format!("{faults} faults; at rest {:?} after the last; {summary}", healed.elapsed()), kills))
}

/// What a failure is understood from, beside the log: hosts are gone with the test.
async fn keep_journals(hosts: &[Host], history: &History) {
    for host in hosts {
        // One that is cut off cannot be asked.
        let _ = host.heal();
        for (what, command) in [
            ("agentd", "journalctl -u agentd -o json --output-fields=MESSAGE,HELIX_SESSION"),
            ("witness", "cat /var/log/witness"),
        ] {
            if let Ok(text) = host.run_ok(command).await {
                let _ = std::fs::write(history.path().with_extension(format!("{}.{what}", host.name)), text);
            }
        }
    }
}
