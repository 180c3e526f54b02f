//! One-machine mode: `helixctl up` and `down`, as an operator types them.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::told;
use helix_tests::process::{exit_code, runs, signal_pid};
use helix_tests::up::{Machine, Told, words};
use rustix::process::Signal;
use serde_json::json;

fn pid(told: &Told, name: &str) -> Result<u32> {
    told.pids.get(name).copied().with_context(|| format!("no {name} in {:?}", told.pids))
}

/// A client with the credentials in the address, which async-nats itself does not read.
async fn observer(url: &str) -> Result<async_nats::Client> {
    let (user, rest) = url.strip_prefix("nats://").and_then(|rest| rest.split_once(':')).context("no user")?;
    let (password, host) = rest.split_once('@').context("no password")?;
    let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    Ok(options.connect(host).await?)
}

/// What `up` wrote about itself last.
fn now(machine: &Machine) -> Result<Told> {
    Ok(serde_json::from_slice(&std::fs::read(machine.state_dir().join("up.json"))?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn up_serves_and_down_leaves_nothing() -> Result<()> {
    let machine = Machine::new()?;
    let told_up = machine.up().await?;
    let api = machine.api(&told_up)?;
    for secret in
        ["admin.token", "runner.token", "server.key", "nats.password", "observer.password", "up.json", "nats.conf"]
    {
        let mode = std::fs::metadata(machine.state_dir().join(secret))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{secret} has mode {mode:o}");
    }
    ensure!(
        std::fs::metadata(machine.state_dir())?.permissions().mode() & 0o777 == 0o700,
        "the state directory is open"
    );
    let runners = api.runners().await?;
    ensure!(runners.len() == 1 && runners[0].slots == 2, "{runners:?}");

    // `nats_url` may read everything and change nothing.
    let observer = observer(&told_up.nats_url).await.context("nats_url")?;
    let info = observer.request("$JS.API.STREAM.INFO.EXTERNAL_AGENTS", "".into()).await?;
    ensure!(String::from_utf8_lossy(&info.payload).contains("\"EXTERNAL_AGENTS\""), "{info:?}");

    // A second one says so and harms nothing.
    let second = machine.try_up().await?;
    ensure!(!second.status.success(), "a second up on the same directory was started");
    ensure!(words(&second).to_lowercase().contains("already"), "{}", words(&second));
    ensure!(told_up.pids.values().all(|pid| runs(*pid)), "the second up ended the first");

    let view = api.create(&json!({"id": "kept", "kind": "terminal"})).await?;
    api.wait_phase(view.id.as_str(), SessionPhase::Ready, READY).await?;
    // The CLI finds server and token by itself.
    let state = machine.state_dir();
    let state = state.to_str().context("path is not UTF-8")?;
    let listed = machine.helixctl(&["--state-dir", state, "session", "list", "--json"]).await?;
    ensure!(listed.status.success() && words(&listed).contains("\"kept\""), "{}", words(&listed));

    let down = machine.down().await?;
    ensure!(down.status.success(), "down: {} {}", exit_code(down.status), words(&down));
    machine.nothing_runs()?;
    ensure!(told_up.pids.values().all(|pid| !runs(*pid)), "a process outlives down");
    ensure!(api.get("/healthz").await.is_err(), "something still listens");

    // Started again: the records are there, and so is a truthful state.
    let told_again = machine.up().await?;
    let api = machine.api(&told_again)?;
    eventually("the record is there and tells the truth", secs(40), || async {
        let view = api.session("kept").await?;
        ensure!(view.phase.is_terminal() && view.cause.is_some(), "{}", told(&view));
        Ok(())
    })
    .await?;
    let view = api.create(&json!({"id": "next", "kind": "terminal"})).await?;
    api.wait_phase(view.id.as_str(), SessionPhase::Ready, READY).await?;
    ensure!(machine.down().await?.status.success(), "the second down failed");
    machine.nothing_runs()?;
    // Nothing to end is no failure.
    let idle = machine.down().await?;
    ensure!(idle.status.success(), "down with nothing up: {}", words(&idle));
    machine.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_an_attached_up_and_leaves_nothing() -> Result<()> {
    let machine = Machine::new()?;
    let up = machine.up_attached().await?;
    let pids = up.told.pids.clone();
    ensure!(pids.len() == 4 && pids.values().all(|pid| runs(*pid)), "{pids:?}");
    let api = machine.api(&up.told)?;
    api.create(&json!({"id": "shown", "kind": "terminal"})).await?;
    let view = api.wait_phase("shown", SessionPhase::Ready, READY).await?;
    let agent = view.pid.context("no pid")?;

    let (code, more) = up.interrupt().await?;
    ensure!(code == 0, "helixctl up ended with {code} on Ctrl-C");
    ensure!(more.is_empty(), "--json is one object, then came {more:?}");
    ensure!(pids.values().chain([&agent]).all(|pid| !runs(*pid)), "a process outlives Ctrl-C: {pids:?}, {agent}");
    machine.nothing_runs()?;
    ensure!(api.get("/healthz").await.is_err(), "something still listens");
    machine.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_dies_is_started_again() -> Result<()> {
    let machine = Machine::new()?;
    let first = machine.up().await?;
    let api = machine.api(&first)?;
    let view = api.create(&json!({"id": "lives", "kind": "terminal"})).await?;
    let ready = api.wait_phase(view.id.as_str(), SessionPhase::Ready, READY).await?;
    for name in ["agentd", "server", "nats"] {
        let before = pid(&now(&machine)?, name)?;
        signal_pid(before, Signal::KILL)?;
        eventually(&format!("{name} runs again"), secs(40), || async {
            let after = pid(&now(&machine)?, name)?;
            ensure!(after != before && runs(after), "{before} {after}");
            Ok(())
        })
        .await?;
        eventually(&format!("the session is as it was after {name} died"), secs(60), || async {
            let view = api.session("lives").await?;
            ensure!(
                view.phase == SessionPhase::Ready && view.pid == ready.pid && view.pid.is_some_and(runs),
                "{}",
                told(&view)
            );
            Ok(())
        })
        .await?;
    }
    ensure!(machine.down().await?.status.success(), "down failed");
    machine.nothing_runs()?;
    machine.close()
}

#[tokio::test(flavor = "multi_thread")]
async fn down_cleans_up_after_a_killed_supervisor() -> Result<()> {
    let machine = Machine::new()?;
    let told_up = machine.up().await?;
    let api = machine.api(&told_up)?;
    api.create(&json!({"id": "left", "kind": "terminal"})).await?;
    api.wait_phase("left", SessionPhase::Ready, READY).await?;
    signal_pid(pid(&told_up, "up")?, Signal::KILL)?;
    let down = machine.down().await?;
    ensure!(down.status.success(), "down: {}", words(&down));
    machine.nothing_runs()?;
    // And everything can be started again.
    machine.up().await?;
    ensure!(machine.down().await?.status.success(), "down failed");
    machine.nothing_runs()?;
    machine.close()
}
