//! agentd is killed again and again while sessions live: none is lost, none is started anew, nothing is left.
//! `HELIX_ADOPTION_KILLS` and `HELIX_ADOPTION_SEED` make it longer or the same again (`make soak`: 1,000 kills).

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::chaos::Kills;
use helix_tests::eventually::{eventually, secs};
use helix_tests::random::Random;
use serde_json::json;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Host, say};
use crate::units::{Units, invocations_of};

/// What lives while agentd is killed.
pub const SESSIONS: [&str; 5] = ["k1", "k2", "k3", "k4", "k5"];
/// Kills agentd and says how long it took until every session was taken over.
pub const KILLS: &str = include_str!("adoption/kills.py");

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("kills_of_agentd_lose_nothing", kills_of_agentd_lose_nothing),
        Case::always("kills_in_the_middle_of_start_and_stop", kills_in_the_middle_of_start_and_stop),
    ]
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Starts [`SESSIONS`], which do something all the time.
pub async fn start_sessions(fleet: &Fleet, host: &Host) -> Result<()> {
    for id in SESSIONS {
        fleet.command(id, "while :; do date +%s.%N > beat; sleep 0.2; done", host).await?;
    }
    Ok(())
}

async fn kills_of_agentd_lose_nothing() -> Result<()> {
    let (kills, seed) = (number("HELIX_ADOPTION_KILLS", 25), number("HELIX_ADOPTION_SEED", 1));
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    start_sessions(&fleet, &host).await?;
    let before = invocations_of(&host, &SESSIONS).await?;
    host.write("/root/kills.py", KILLS, 0o700).await?;
    // In a unit of its own: a thousand kills take longer than a command over ssh may.
    let line = format!(
        "systemd-run -q --unit=kills -p StandardOutput=file:/run/kills.json -p StandardError=file:/run/kills.err python3 /root/kills.py {} {kills} {seed}",
        SESSIONS.len()
    );
    host.run_ok(&line).await?;
    eventually("every kill is struck", secs(60 + kills * 2), || async {
        let state = host.run("systemctl is-active kills.service").await?.stdout;
        ensure!(state.trim() != "active" && state.trim() != "activating", "{state}");
        Ok(())
    })
    .await?;
    let told = host.run_ok("cat /run/kills.json /run/kills.err").await?;
    ensure!(told.contains("\"kills\""), "seed {seed}: {told}");
    say(&format!("agentd killed, seed {seed}: {told}"));
    ensure!(invocations_of(&host, &SESSIONS).await? == before, "seed {seed}: a unit was started anew");
    fleet.online("r1").await?;
    for id in SESSIONS {
        let view = fleet.api()?.session(id).await?;
        ensure!(view.phase == SessionPhase::Ready, "seed {seed}: {view:?}");
    }
    let slices = host.run_ok("systemctl list-units --plain --no-legend 'helix-s*.slice' | wc -l").await?;
    ensure!(slices.trim() == SESSIONS.len().to_string(), "{slices} slices");
    host.stop().await?;
    fleet.stop().await?;
    let survived = Kills::of("adoption", seed);
    survived.count("agentd", kills);
    say(&survived.survived()?);
    Ok(())
}

async fn kills_in_the_middle_of_start_and_stop() -> Result<()> {
    let seed = number("HELIX_ADOPTION_SEED", 1);
    let rounds = number("HELIX_ADOPTION_KILLS", 25) / 3;
    let mut random = Random::seeded(seed);
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    let api = fleet.api()?;
    for round in 0..rounds {
        let id = format!("m{round}");
        let told = || format!("seed {seed}, round {round}");
        api.create(&json!({ "id": id, "kind": "command", "input": "echo once >> ran; sync" })).await?;
        let strike = async |moment: u64| -> Result<()> {
            tokio::time::sleep(std::time::Duration::from_millis(moment)).await; // the random point
            host.run_ok("systemctl kill -s KILL agentd").await?;
            Ok(())
        };
        strike(random.below(400)).await?;
        let view = fleet.until(&id, "is Ready or Failed with a cause", secs(60), |view| {
            view.phase == SessionPhase::Ready || (view.phase == SessionPhase::Failed && view.cause.is_some())
        });
        let view = view.await.with_context(told)?;
        ensure!(view.phase == SessionPhase::Ready, "{}: {view:?}", told());
        let view = api.wait_result(&id, secs(30)).await.with_context(told)?;
        ensure!(view.result.is_some_and(|result| result.exit_status == 0), "{}", told());
        let ran = host.run_ok(&format!("cat /var/lib/helix/agentd/workspaces/{id}/ran")).await?;
        ensure!(ran == "once", "{}: it ran as often as this: {ran}", told());
        let units = Units::of(&host, &id);
        let user = units.user().await?;
        api.stop(&id).await?;
        strike(random.below(300)).await?;
        api.wait_phase(&id, SessionPhase::Stopped, secs(60)).await.with_context(told)?;
        units.gone(&user, secs(20)).await.with_context(told)?;
        api.delete_session(&id, secs(30)).await.with_context(told)?;
    }
    let left = host.run_ok("ls /var/lib/helix/agentd/s /var/lib/helix/agentd/workspaces; systemctl list-units --all --plain --no-legend 'helix-s*'").await?;
    ensure!(!left.contains("helix-s") && !left.contains("\nm"), "{left}");
    host.stop().await?;
    fleet.stop().await
}
