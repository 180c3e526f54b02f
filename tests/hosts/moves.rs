//! Sessions that go on elsewhere, on whole systems: a runner is cut off and comes back, and one is drained.

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Host};

const IDS: [&str; 3] = ["r1", "r2", "r3"];
/// Its agent is alive as long as it counts; what it counts is its work, and it goes on counting wherever it begins again. A
/// prompt would not: what was handed over before is asked for by a person, or not at all.
const COUNTS: &str = r#"description = "Counts"
command = ["sh", "-c", "git init -q . && while :; do echo . >>ticks; sleep 0.2; done"]
input = "none"
readiness = "none"
on_exit = "end"
"#;
const WORKSPACES: &str = "/var/lib/helix/agentd/workspaces";

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![Case::always("a_cut_off_session_goes_on_elsewhere", a_cut_off_session_goes_on_elsewhere)]
}

async fn three() -> Result<(Fleet, Vec<Host>)> {
    let fleet = Fleet::start().await?;
    let hosts = that_count(&fleet, &IDS).await?;
    Ok((fleet, hosts))
}

/// Hosts of these runners, which have kind `counts` and save its work every second.
pub async fn that_count(fleet: &Fleet, ids: &[&'static str]) -> Result<Vec<Host>> {
    let mut hosts = Vec::new();
    for id in ids.iter().copied() {
        let host = Boot::container().start().await?;
        host.write("/etc/helix/kinds.d/counts.toml", COUNTS, 0o644).await?;
        let settings = RunnerSettings { id, more: "checkpoint_interval = \"1s\"", ..RunnerSettings::default() };
        fleet.join(&host, &settings).await?;
        hosts.push(host);
    }
    Ok(hosts)
}

fn place(runner: &str) -> Result<usize> {
    IDS.iter().position(|id| *id == runner).context("no such runner")
}

async fn a_cut_off_session_goes_on_elsewhere() -> Result<()> {
    let (fleet, hosts) = three().await?;
    let api = fleet.api()?;
    let body = json!({ "id": "moves", "kind": "counts", "on_lost": "restart" });
    let first = fleet.ready(&body, secs(60)).await?;
    let from = first.runner.clone().context("no runner")?.to_string();
    let old = &hosts[place(&from)?];
    let checkpoints = async || -> Result<usize> {
        let list = api.get("/api/v1/sessions/moves/checkpoints").await?.expect(200)?;
        Ok(list["checkpoints"]
            .as_array()
            .context("no list")?
            .iter()
            .filter(|one| one["entries"].as_u64() > Some(5))
            .count())
    };
    eventually("its work is in a checkpoint", secs(60), || async {
        ensure!(checkpoints().await? > 0);
        Ok(())
    })
    .await?;
    old.partition()?;
    let there = fleet
        .until("moves", "goes on elsewhere", secs(120), |view| {
            view.phase == SessionPhase::Ready && view.runner.as_ref().is_some_and(|runner| runner.as_str() != from)
        })
        .await?;
    let new = &hosts[place(there.runner.as_ref().context("no runner")?.as_str())?];
    let path = format!("{WORKSPACES}/moves");
    new.run_ok(&format!("test -s {path}/ticks -a -d {path}/.git")).await?;
    let slice = "systemctl list-units --plain --no-legend 'helix-s*-app.service' | wc -l";
    let count = async |host: &Host, at: &str| host.run_ok(&format!("stat -c %s {at}/ticks")).await;
    let mine = count(new, &path).await?.parse::<u64>()?;
    eventually("the new one counts", secs(30), || async {
        ensure!(count(new, &path).await?.parse::<u64>()? > mine + 3);
        Ok(())
    })
    .await?;
    old.heal()?;
    eventually("the one that comes back has ended, and its workspace is kept", secs(90), || async {
        ensure!(old.run_ok(slice).await? == "0", "it lives");
        old.run_ok(&format!("test ! -e {path} && test -s {path}.kept-*/ticks")).await?;
        Ok(())
    })
    .await?;
    // It stood still before the other one began: hosts have one clock here.
    let last: f64 = old.run_ok(&format!("stat -c %.9Y {path}.kept-*/ticks")).await?.parse()?;
    let assigned = there.timeline.iter().find(|step| step.step == "assigned").context("no time")?.at;
    ensure!(last < assigned.as_duration().as_secs_f64(), "two copies were at work: {last} {assigned}");
    ensure!(new.run_ok(slice).await? == "1");
    let now = api.session("moves").await?;
    ensure!(now.epoch == there.epoch && now.phase == SessionPhase::Ready, "{now:?}");
    // On purpose: all of its work is there, and nothing stays behind.
    api.post_empty("/api/v1/sessions/moves/move").await?.expect(200)?;
    let last = fleet
        .until("moves", "is elsewhere again", secs(120), |view| {
            view.phase == SessionPhase::Ready && view.epoch > there.epoch
        })
        .await?;
    let last = &hosts[place(last.runner.as_ref().context("no runner")?.as_str())?];
    last.run_ok(&format!("test -s {path}/ticks")).await?;
    eventually("nothing is left", secs(60), || async {
        new.run_ok(&format!("test -z \"$(ls -A {WORKSPACES})\"")).await?;
        Ok(())
    })
    .await?;
    for host in hosts {
        host.stop().await?;
    }
    fleet.stop().await
}
