//! How sessions end: the agent first, while its desktop is still there, and everything in the end; an agent that ended
//! by itself while nobody looked is not forgotten.

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Host};
use crate::units::Units;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("an_agent_may_save_before_its_desktop_goes", an_agent_may_save_before_its_desktop_goes),
        Case::always("an_exit_without_agentd_is_kept", an_exit_without_agentd_is_kept),
    ]
}

/// Longest that the two polite requests of a stop may take, in milliseconds, and what the kill takes beside them.
const POLITE_MS: u64 = 7000;
const KILL_MS: u64 = 3000;

/// A kind whose agent is this shell script; the session ends with it.
fn kind(script: &str) -> String {
    let command = json!(["bash", "-c", script]);
    format!(
        "description = \"A script\"\ncommand = {command}\ninput = \"none\"\nreadiness = \"none\"\non_exit = \"end\"\n"
    )
}

async fn runner_with(kinds: &[(&str, &str)]) -> Result<(Fleet, Host)> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    for (name, script) in kinds {
        host.write(&format!("/etc/helix/kinds.d/{name}.toml"), &kind(script), 0o644).await?;
    }
    fleet.join(&host, &RunnerSettings::default()).await?;
    for (name, _) in kinds {
        fleet.ready(&json!({ "id": name, "kind": name }), secs(60)).await?;
    }
    Ok((fleet, host))
}

async fn an_agent_may_save_before_its_desktop_goes() -> Result<()> {
    let (fleet, host) = runner_with(&[
        // It needs both its display and its workspace.
        ("saves", "trap 'xkbcomp $DISPLAY saved; exit 0' TERM; while :; do sleep 0.1; done"),
        ("stubborn", "trap '' TERM; while :; do sleep 0.1; done"),
    ])
    .await?;
    let saving = stopped(&fleet, &host, "saves").await?;
    let saved = host.run_ok("head -c 10 /var/lib/helix/agentd/workspaces/saves/saved").await?;
    ensure!(saved == "xkb_keymap", "it could not ask its display: {saved:?}");
    ensure!(stopping_ms(&saving)? < POLITE_MS, "one that obeys was waited for: {:?}", saving.timeline);
    let killed = stopped(&fleet, &host, "stubborn").await?;
    let took = stopping_ms(&killed)?;
    ensure!((5000..POLITE_MS + KILL_MS).contains(&took), "its end took {took} ms");
    host.stop().await?;
    fleet.stop().await
}

/// Stops a session, and waits until nothing of it is left.
async fn stopped(fleet: &Fleet, host: &Host, id: &str) -> Result<SessionView> {
    let units = Units::of(host, id);
    let user = units.user().await?;
    fleet.api()?.stop(id).await?;
    let view = fleet.api()?.wait_phase(id, SessionPhase::Stopped, secs(30)).await?;
    units.gone(&user, secs(10)).await?;
    Ok(view)
}

fn stopping_ms(view: &SessionView) -> Result<u64> {
    let step = view.timeline.iter().find(|step| step.step == "stopping").context("it never stopped")?;
    step.duration_ms.with_context(|| format!("it stops still: {:?}", view.timeline))
}

async fn an_exit_without_agentd_is_kept() -> Result<()> {
    let (fleet, host) = runner_with(&[("leaves", "until [ -e go ]; do sleep 0.05; done; exit 0")]).await?;
    let units = Units::of(&host, "leaves");
    let user = units.user().await?;
    host.run_ok("systemctl stop agentd; touch /var/lib/helix/agentd/workspaces/leaves/go").await?;
    // A unit that ends well is forgotten by systemd, and its outcome with it, unless it is told to remain.
    eventually("the agent has ended", secs(10), || async {
        ensure!(units.property("app", "SubState").await? == "exited", "it runs, or is forgotten");
        Ok(())
    })
    .await?;
    host.run_ok("systemctl start agentd").await?;
    let ended = fleet.until("leaves", "ends with its agent", secs(20), |view| view.phase.is_terminal()).await?;
    ensure!(ended.phase == SessionPhase::Stopped, "{ended:?}");
    ensure!(ended.cause.as_ref().is_some_and(|cause| cause.code == "agent_exited"), "{ended:?}");
    units.gone(&user, secs(10)).await?;
    host.stop().await?;
    fleet.stop().await
}
