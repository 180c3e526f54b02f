//! Limits, on guests with true cgroup v2: the kernel of the guest itself says that they are enforced.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use helix_protocol::resources::Usage;
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;

use crate::fleet::{Fleet, RunnerSettings, install};
use crate::harness::{Boot, Case, Host, say};
use crate::units::Units;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("limits_are_enforced", limits_are_enforced),
        Case::thorough("a_machine_without_a_controller_is_refused", a_machine_without_a_controller_is_refused),
        Case::thorough("a_guest_s_reboot_is_told", a_guests_reboot_is_told),
    ]
}

/// A guest is slow: its kernel runs in a process.
const SLOW: std::time::Duration = secs(180);

async fn limits_are_enforced() -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::guest().memory(1024).start())?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    let runners = fleet.api()?.runners().await?;
    let facts = runners.first().and_then(|runner| runner.facts.clone()).context("no facts")?;
    for name in ["cpu", "memory", "memory_high", "tasks"] {
        ensure!(facts.enforced.iter().any(|enforced| enforced == name), "{name} is not enforced: {facts:?}");
    }
    let (weighed, unweighed) = (&facts.enforced, &facts.missing);
    let says = weighed.iter().filter(|name| *name == "io_weight").count()
        + unweighed.iter().filter(|reason| reason.starts_with("io_weight:")).count();
    ensure!(says == 1, "it is not said whether io_weight is enforced: {facts:?}");
    fleet.ready(&json!({ "id": "by", "kind": "command", "input": "true" }), SLOW).await?;
    agentd_is_protected(&host).await?;
    memory_kills_only_the_guilty(&fleet, &host).await?;
    processor_time_is_throttled(&fleet, &host).await?;
    forks_fail(&fleet, &host).await?;
    ensure!(fleet.api()?.session("by").await?.phase == SessionPhase::Ready, "another session was hurt");
    host.stop().await?;
    fleet.stop().await
}

/// What keeps heartbeats going out while sessions burn, as the kernel has it.
async fn agentd_is_protected(host: &Host) -> Result<()> {
    let told = host
        .run_ok(
            "cd /sys/fs/cgroup/agentd.slice && cat memory.min memory.low cpu.weight agentd.service/memory.min \
             agentd.service/cpu.weight && cat ../helix.slice/cpu.weight && systemctl show -p OOMScoreAdjust agentd",
        )
        .await?;
    let expected = ["134217728", "536870912", "1000", "67108864", "1000", "100", "OOMScoreAdjust=-900"];
    ensure!(told.lines().eq(expected), "agentd is not protected as its units say: {told}");
    Ok(())
}

async fn memory_kills_only_the_guilty(fleet: &Fleet, host: &Host) -> Result<()> {
    // Waits, so that the time from the kill to what is told can be measured.
    let input = "until [ -e go ]; do sleep 0.2; done; exec head -c 300M /dev/zero | tail";
    let body = json!({ "id": "m", "kind": "command", "input": input, "resources": { "memory": "160MiB" } });
    fleet.ready(&body, SLOW).await?;
    let units = Units::of(host, "m");
    ensure!(units.control("memory.max").await? == (160_u64 << 20).to_string());
    ensure!(units.control("memory.oom.group").await? == "0");
    let before = units.invocations().await?;
    let ahead = host.clock_ahead().await?;
    host.run_ok("touch /var/lib/helix/agentd/workspaces/m/go").await?;
    let view = fleet.until("m", "says out_of_memory", SLOW, |view| {
        view.cause.as_ref().is_some_and(|cause| cause.code == "out_of_memory")
    });
    let view = view.await?;
    let shown = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() + ahead;
    ensure!(view.cause.as_ref().is_some_and(|cause| cause.message.contains("160MiB")), "{:?}", view.cause);
    ensure!(units.counter("memory.events", "oom_kill").await? >= 1);
    // The kernel's own words and agentd's carry the time of the same clock.
    let seen = async |what: &str| -> Result<f64> {
        let line = host.run_ok(&format!("journalctl -o short-unix --no-pager {what} | head -1")).await?;
        line.split(' ').next().and_then(|word| word.parse().ok()).with_context(|| format!("no moment in {line:?}"))
    };
    let killed = seen("-k --grep 'oom-kill:'").await?;
    let told = seen("-u agentd --grep 'out of memory'").await?;
    say(&format!("from the kernel's kill to the cause: {:.0} ms", (told - killed) * 1000.0));
    ensure!(told - killed < 1.0, "killed at {killed}, told at {told}");
    say(&format!("and until the server shows it: {:.0} ms", (shown - killed) * 1000.0));
    ensure!(shown - killed < 1.0, "killed at {killed}, shown at {shown}");
    let done = fleet.api()?.wait_result("m", SLOW).await?;
    ensure!(done.phase == SessionPhase::Ready, "the desktop went with it: {done:?}");
    ensure!(done.result.as_ref().is_some_and(|result| result.exit_status != 0), "{:?}", done.result);
    ensure!(units.invocations().await? == before, "something else than the greedy process was killed");
    let told = |usage: Usage| usage.oom_kills.is_some_and(|kills| kills >= 1);
    let view = fleet.until("m", "has its usage told", SLOW, |view| view.usage.is_some_and(told)).await?;
    let usage = view.usage.context("no usage")?;
    ensure!(usage.memory_bytes.is_some() && usage.tasks.is_some() && usage.cpu_usec.is_some(), "{usage:?}");

    // More at run time, without touching anything.
    amend(fleet, "m", r#"{"resources":{"memory":"220MiB"}}"#).await?;
    eventually("the new limit is set", secs(60), || async {
        ensure!(units.control("memory.max").await? == (220_u64 << 20).to_string());
        Ok(())
    })
    .await?;
    ensure!(units.invocations().await? == before, "a change of limits touched a unit");
    end(fleet, &units, "m").await
}

async fn processor_time_is_throttled(fleet: &Fleet, host: &Host) -> Result<()> {
    let body = json!({ "id": "c", "kind": "command", "input": "while :; do :; done" });
    fleet.ready(&body, SLOW).await?;
    // Only now: with a part of a slow guest's processor a desktop would not be up in time.
    amend(fleet, "c", r#"{"resources":{"cpu":0.2,"memory_high":"300MiB"}}"#).await?;
    let units = Units::of(host, "c");
    eventually("the memory above which it is slowed is set", secs(60), || async {
        ensure!(units.control("memory.high").await? == (300_u64 << 20).to_string());
        Ok(())
    })
    .await?;
    let used = async || units.counter("cpu.stat", "usage_usec").await;
    eventually("it is throttled", secs(60), || async {
        ensure!(units.counter("cpu.stat", "nr_throttled").await? > 5);
        Ok(())
    })
    .await?;
    let (before, begun) = (used().await?, std::time::Instant::now());
    tokio::time::sleep(secs(8)).await; // what is measured is time
    let share = (used().await? - before) as f64 / begun.elapsed().as_micros() as f64;
    // HZ is 100 here: 20 % were measured as up to 29 %.
    ensure!(share < 0.35, "it used {share:.2} of a processor");
    end(fleet, &units, "c").await
}

async fn amend(fleet: &Fleet, id: &str, body: &str) -> Result<()> {
    let body = Some(("application/json", body.as_bytes().to_vec()));
    fleet.api()?.send(http::Method::PATCH, &format!("/api/v1/sessions/{id}"), body).await?.expect(200)?;
    Ok(())
}

async fn forks_fail(fleet: &Fleet, host: &Host) -> Result<()> {
    let bomb = "for i in $(seq 200); do sleep 1000 & done; wait";
    let body = json!({ "id": "f", "kind": "command", "input": bomb, "resources": { "tasks": 64 } });
    fleet.ready(&body, SLOW).await?;
    let units = Units::of(host, "f");
    // Kernels before 6.11 count where a fork failed, later ones where the limit is.
    let below = format!("{}/pids.events", units.service("app")?);
    eventually("forks fail", SLOW, || async {
        let failed = units.counter(&below, "max").await? + units.counter("pids.events", "max").await?;
        ensure!(failed >= 1);
        Ok(())
    })
    .await?;
    ensure!(units.control("pids.max").await? == "64");
    // Dozens of processes, and one word ends them all.
    end(fleet, &units, "f").await
}

async fn end(fleet: &Fleet, units: &Units<'_>, id: &str) -> Result<()> {
    let user = units.user().await?;
    fleet.api()?.stop(id).await?;
    fleet.api()?.wait_phase(id, SessionPhase::Stopped, SLOW).await?;
    units.gone(&user, secs(60)).await
}

async fn a_machine_without_a_controller_is_refused() -> Result<()> {
    let boot = Boot::guest().kernel("cgroup_disable=memory");
    let (fleet, host) = tokio::try_join!(Fleet::start(), boot.start())?;
    install(&host).await?;
    fleet.configure(&host, &RunnerSettings::default()).await?;
    let told = host.run("timeout 120 /usr/bin/agentd run --config /etc/helix/agentd.toml").await?;
    ensure!(told.code == 1, "exit code {}: {}", told.code, told.stderr);
    for word in ["there is no controller memory", "cgroup_enable=memory", "process backend"] {
        ensure!(told.stderr.contains(word), "{}", told.stderr);
    }
    host.stop().await?;
    fleet.stop().await
}

async fn a_guests_reboot_is_told() -> Result<()> {
    let (fleet, mut host) = tokio::try_join!(Fleet::start(), Boot::guest().start())?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    fleet.ready(&json!({ "id": "s", "kind": "command", "input": "true" }), SLOW).await?;
    // What was installed just now is not on the disk yet, as it is on any machine that was.
    host.run_ok("sync").await?;
    host.kill().await?;
    host.boot().await?;
    let ended = fleet.until("s", "is told as ended", SLOW, |view| view.phase == SessionPhase::Failed).await?;
    ensure!(ended.cause.as_ref().is_some_and(|cause| cause.code == "host_rebooted"), "{ended:?}");
    host.stop().await?;
    fleet.stop().await
}
