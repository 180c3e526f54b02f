//! Pools with real servers, runners and desktops: agents are ready before anybody asks, are had in milliseconds, and are
//! there again whatever is killed.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::api::pools::PoolView;
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::eventually::eventually;
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster};
use serde_json::{Value, json};

use crate::cli::Cli;

async fn pool(api: &Api, name: &str) -> Result<PoolView> {
    api.get(&format!("/api/v1/pools/{name}")).await?.json()
}

/// Waits until so many are ready, and nothing is on the way.
async fn full(api: &Api, name: &str, ready: u32) -> Result<PoolView> {
    eventually(&format!("{ready} agents of pool {name} are ready"), READY, || async {
        let view = pool(api, name).await?;
        ensure!(view.ready == ready && view.starting + view.pending + view.queued == 0, "{view:?}");
        Ok(view)
    })
    .await
}

async fn remember_all(cluster: &Cluster, api: &Api) -> Result<()> {
    for view in api.sessions().await? {
        cluster.remember(&view);
    }
    Ok(())
}

/// Waits until every agent that is ready takes prompts: its own program connects a moment after its desktop is up.
async fn listening(api: &Api) -> Result<()> {
    eventually("agents take prompts", READY, || async {
        let views = api.sessions().await?;
        let deaf: Vec<_> =
            views.iter().filter(|view| view.phase == SessionPhase::Ready && !view.sync.connected).collect();
        ensure!(deaf.is_empty(), "{deaf:?}");
        Ok(())
    })
    .await
}

/// A session that takes an agent, and how long the answer took in milliseconds.
async fn claim(api: &Api, body: &Value) -> Result<(SessionView, f64)> {
    let began = Instant::now();
    let view = api.create(body).await?;
    Ok((view, began.elapsed().as_secs_f64() * 1000.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_ready_are_had_in_milliseconds_and_are_there_again() -> Result<()> {
    let mut cluster = Cluster::builder().servers(2).runner(RunnerSpec::new("r1").slots(8)).start().await?;
    let (api, other) = (cluster.api()?, cluster.api_of(1)?);
    let cli = Cli::new(&cluster)?;

    // The outcome that people type: three agents of the default kind, kept so.
    let done = cli.run(&["start-agents", "--agents", "3", "--wait"]).await?;
    ensure!(done.code == 0 && done.stdout == "default\n", "{} {} {}", done.code, done.stdout, done.stderr);
    full(&api, "default", 3).await?;

    // A create that names no pool has one of them, with its prompt, in milliseconds.
    let mut took = Vec::new();
    for round in 0..10 {
        let server = if round % 2 == 0 { &api } else { &other };
        listening(server).await?;
        let (view, ms) = claim(server, &json!({"input": format!("echo round $(( {round} + 40 ))")})).await?;
        ensure!(view.phase == SessionPhase::Ready && view.owner == "admin", "{view:?}");
        took.push(ms);
        let view = server.wait_result(view.id.as_str(), READY).await?;
        let output = view.result.context("no result")?.output_tail;
        ensure!(output.contains(&format!("round {}", round + 40)), "{output}");
        remember_all(&cluster, &api).await?;
        server.delete_session(view.id.as_str(), READY).await?;
        full(&api, "default", 3).await?;
    }
    took.sort_by(f64::total_cmp);
    println!("claims: p50 {:.1} ms, slowest {:.1} ms of {}", took[took.len() / 2], took[took.len() - 1], took.len());

    // The leader is killed in the middle of a refill, then the other: whoever is left goes on, and never with too many.
    let (first, _) = claim(&api, &json!({})).await?;
    cluster.servers[0].kill().await?;
    let view = full(&other, "default", 3).await?;
    ensure!(view.claimed == 1, "{view:?}");
    cluster.servers[0].start().await?;
    let (second, _) = claim(&other, &json!({})).await?;
    cluster.servers[1].kill().await?;
    let view = full(&api, "default", 3).await?;
    ensure!(view.claimed == 2, "{view:?}");
    cluster.servers[1].start().await?;

    // So is agentd: what is ready stays ready, under the same ids.
    let ids =
        |views: Vec<SessionView>| views.into_iter().map(|view| view.id).collect::<std::collections::BTreeSet<_>>();
    let before = ids(api.sessions().await?);
    cluster.runners[0].kill().await?;
    cluster.runners[0].start().await?;
    cluster.runners_online(&api, 1).await?;
    full(&api, "default", 3).await?;
    ensure!(ids(api.sessions().await?) == before, "agents were made again");
    ensure!(before.len() == 5, "{before:?}");
    for session in [&first, &second] {
        ensure!(api.session(session.id.as_str()).await?.phase == SessionPhase::Ready, "{} is gone", session.id);
    }

    // Down to nothing: what somebody has goes on.
    remember_all(&cluster, &api).await?;
    let done = cli.run(&["scale", "1", "--wait"]).await?;
    ensure!(done.code == 0, "{}", done.stderr);
    full(&api, "default", 1).await?;
    let done = cli.run(&["stop-agents", "--wait"]).await?;
    ensure!(done.code == 0 && done.stderr.contains("2 sessions of it go on"), "{} {}", done.code, done.stderr);
    let status: Value = serde_json::from_str(&cli.run(&["status", "--json"]).await?.stdout)?;
    ensure!(status["pools"][0]["claimed"] == 2 && status["healthy"] == true, "{status:#}");
    let done = cli.run(&["pool", "delete", "default", "--stop"]).await?;
    ensure!(done.code == 0, "{}", done.stderr);
    for session in [&first, &second] {
        api.wait_phase(session.id.as_str(), SessionPhase::Stopped, READY).await?;
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_says_which_pools_there_are_and_what_their_sessions_are_like() -> Result<()> {
    let runner = RunnerSpec::new("r1").direct("127.0.0.87").slots(8);
    let cluster = Cluster::builder().runner(runner).start().await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    let file = cluster.dir().join("fleet.toml");
    let path = file.to_str().context("not UTF-8")?.to_owned();
    std::fs::write(
        &file,
        "[pool.open]\nkind = \"terminal\"\nmin_ready = 1\n\
         [pool.closed]\nkind = \"terminal\"\nmin_ready = 1\ndirect = false\nrecording = true\ngeometry = \"800x600\"\n",
    )?;
    let plan = cli.run(&["apply", &path]).await?;
    ensure!(plan.code == 0 && plan.stdout.starts_with("make pool closed\n"), "{}", plan.stdout);
    ensure!(api.get("/api/v1/pools").await?.expect(200)?["pools"] == json!([]), "a plan changed something");
    let done = cli.run(&["apply", &path, "--yes"]).await?;
    ensure!(done.code == 0 && done.stdout == "closed\nopen\n", "{} {}", done.stdout, done.stderr);
    full(&api, "open", 1).await?;
    full(&api, "closed", 1).await?;
    let again = cli.run(&["pool", "apply", "-f", &path, "--yes"]).await?;
    ensure!(again.stderr.contains("all pools are as the file says"), "{}", again.stderr);

    // Direct ports and recording are the pool's to say, for agents that were ready as for sessions that start.
    for (name, body) in [("open", json!({"pool": "open"})), ("closed", json!({"pool": "closed"}))] {
        let taken = api.create(&body).await?;
        ensure!(taken.phase == SessionPhase::Ready, "{taken:?}");
        let own = format!("own-{name}");
        api.create(&json!({"pool": name, "id": own})).await?;
        let started = api.wait_phase(&own, SessionPhase::Ready, READY).await?;
        for view in [&taken, &started] {
            let (direct, recorded) = (view.endpoints.direct_vnc.is_some(), view.recording.is_some());
            ensure!((direct, recorded) == (name == "open", name == "closed"), "{view:?}");
        }
        ensure!(taken.display.as_ref().map(|display| display.geometry) == started.display.map(|shown| shown.geometry));
        full(&api, name, 1).await?;
    }
    remember_all(&cluster, &api).await?;

    // What no runner has is said, in the pool, in status and by whoever waits; the exit code tells it.
    let missing =
        cli.run(&["start-agents", "--agents", "1", "--pool", "odd", "--kind", "nothing", "--wait", "--timeout", "5"]);
    let missing = missing.await?;
    ensure!(
        missing.code == 5 && missing.stderr.contains("no runner offers kind nothing"),
        "{} {}",
        missing.code,
        missing.stderr
    );
    let status = cli.run(&["status"]).await?;
    ensure!(status.code == 1 && status.stdout.contains("pool odd has 0 of 1 ready"), "{}", status.stdout);
    for (args, code, word) in [
        (&["scale", "2", "--pool", "none"][..], 1, "start-agents"),
        (&["apply", "/nonexistent"][..], 2, "[pool.NAME]"),
        (&["pool", "show", "none"][..], 1, "no pool none"),
    ] {
        let done = cli.run(args).await?;
        ensure!(done.code == code && done.stderr.contains(word), "{args:?}: {} {}", done.code, done.stderr);
    }
    for name in ["open", "closed", "odd"] {
        let done = cli.run(&["pool", "delete", name, "--stop"]).await?;
        ensure!(done.code == 0, "{}", done.stderr);
    }
    cluster.shutdown().await
}
