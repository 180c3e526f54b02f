//! One slow host, three, and twelve: what is only seen with many, or on a kernel of its own.

use anyhow::{Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;

use super::stage::Stage;
use crate::harness::{Boot, Suite, say};

const TWELVE: usize = 12;

pub async fn a_bare_guest_becomes_a_runner() -> Result<()> {
    let stage = Stage::start([Boot::guest().bare()]).await?.with_packages().await?;
    // A guest takes seconds for what a machine does at once.
    let patient = ["--confirm-within", "300"];
    let made = stage.provision_within(secs(800), "ops", &patient).await?;
    made.expect(0, "changed")?;
    ensure!(made.host(0)["first_frame_ms"].as_u64().is_some_and(|ms| ms > 0), "no frame: {}", made.stdout);
    let facts = stage.runner(0).await?.facts;
    let enforced = facts.map(|facts| facts.enforced).unwrap_or_default();
    ensure!(enforced.len() >= 3, "limits are enforced by cgroup version 2: {enforced:?}");
    let again = stage.provision(&patient).await?;
    again.expect(0, "unchanged")?;
    ensure!(again.host(0)["round_trips"].as_u64() <= Some(2), "{}", again.stdout);
    stage.stop().await
}

pub async fn three_hosts_at_once() -> Result<()> {
    let bare = Boot::container().bare();
    let stage = Stage::start([bare, bare.suite(Suite::Trixie), bare]).await?.with_packages().await?;
    stage.hosts[1].partition()?;
    let run = stage.provision(&[]).await?;
    ensure!(run.code == 3, "the worst host is one that is not there: {} {}", run.code, run.stderr);
    for (number, outcome) in [(0, "changed"), (1, "failed"), (2, "changed")] {
        ensure!(run.host(number)["outcome"] == outcome, "host {number}: {}", run.stdout);
    }
    stage.hosts[1].heal()?;
    let again = stage.provision(&[]).await?;
    ensure!(again.code == 0, "{} {}", again.stdout, again.stderr);
    for (number, outcome) in [(0, "unchanged"), (1, "changed"), (2, "unchanged")] {
        ensure!(again.host(number)["outcome"] == outcome, "host {number}: {}", again.stdout);
    }
    for number in 0..3 {
        ensure!(stage.runner(number).await?.liveness == Liveness::Online, "runner {number}");
    }
    stage.stop().await
}

/// A session on a host of its own.
async fn session_on(stage: &Stage, number: usize) -> Result<SessionView> {
    let name = &stage.hosts[number].name;
    let loops = "while :; do date >> ticks; sleep 0.5; done";
    let body = json!({ "id": format!("on-{name}"), "kind": "command", "input": loops, "runner": name });
    let view = stage.fleet.ready(&body, secs(90)).await?;
    ensure!(view.runner.as_ref().is_some_and(|runner| runner.as_str() == name), "{view:#?}");
    Ok(view)
}

pub async fn twelve_hosts_become_a_fleet() -> Result<()> {
    let boots = std::array::from_fn(|number| {
        Boot::container().bare().suite(if number % 2 == 0 { Suite::Bookworm } else { Suite::Trixie })
    });
    // On the heap: twelve starts at once are a large future.
    let mut stage = Box::pin(Stage::start::<TWELVE>(boots)).await?.with_packages().await?;
    // All install packages at once, on the processors of one machine.
    let run = stage.provision_within(secs(600), "root", &["--confirm-within", "180"]).await?;
    ensure!(run.code == 0, "{} {}\n{}", run.code, run.stdout, run.stderr);
    let again = stage.provision(&["--confirm-within", "180"]).await?;
    ensure!(again.code == 0, "{} {}\n{}", again.code, again.stdout, again.stderr);
    for number in 0..TWELVE {
        let (first, second) = (run.host(number), again.host(number));
        ensure!(first["outcome"] == "changed" && second["outcome"] == "unchanged", "{first:#} {second:#}");
        ensure!(second["round_trips"].as_u64() <= Some(2), "{second:#}");
    }
    say(&format!("twelve hosts: {} ms, again {} ms", run.host(0)["took_ms"], again.host(0)["took_ms"]));

    for number in 0..TWELVE {
        session_on(&stage, number).await?;
    }
    // One is cut off, one loses its power: their sessions are lost, the others' go on.
    stage.hosts[1].partition()?;
    stage.hosts[2].kill().await?;
    let id = |number: usize| format!("on-{}", stage.hosts[number].name);
    for number in [1, 2] {
        let lost = |view: &SessionView| view.phase == SessionPhase::Lost;
        stage.fleet.until(&id(number), "is lost", secs(60), lost).await?;
    }
    for number in (0..TWELVE).filter(|number| ![1, 2].contains(number)) {
        let view = stage.fleet.api()?.session(&id(number)).await?;
        ensure!(view.phase == SessionPhase::Ready, "{view:#?}");
    }
    stage.hosts[1].heal()?;
    stage.fleet.until(&id(1), "is back", secs(60), |view| view.phase == SessionPhase::Ready).await?;
    // The other boots again, and is a runner as before.
    stage.hosts[2].boot().await?;
    eventually("it is online", secs(60), || async {
        let runner = stage.runner(2).await?;
        ensure!(runner.liveness == Liveness::Online, "{runner:?}");
        Ok(())
    })
    .await?;
    stage.provision(&["--confirm-within", "180"]).await?.expect(0, "unchanged")?;
    stage.stop().await
}
