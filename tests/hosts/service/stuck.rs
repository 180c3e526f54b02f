//! An agentd that is stuck is killed by systemd's watchdog and started again; sessions do not notice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use http::StatusCode;
use tokio::time::Instant;

use super::{main_pid, one_runner};
use crate::fleet::{Fleet, STATE_DIR};
use crate::harness::{Boot, Host, say};
use crate::units::Units;

const SESSIONS: [&str; 2] = ["w1", "w2"];
const STICK: &str = include_str!("stick.py");
/// WatchdogSec= of the unit, and what a loaded machine may add.
const WATCHDOG: &str = "20s";
const PATIENCE: std::time::Duration = secs(20 + 15);

async fn invocations(host: &Host) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for id in SESSIONS {
        all.extend(Units::of(host, id).invocations().await?);
    }
    Ok(all)
}

async fn with_sessions(boot: Boot) -> Result<(Fleet, Host, BTreeMap<String, String>)> {
    let (fleet, host) = one_runner(boot).await?;
    for id in SESSIONS {
        fleet.command(id, "while :; do date +%s.%N > beat; sleep 0.2; done", &host).await?;
    }
    ensure!(host.run_ok("systemctl show --value -p WatchdogUSec agentd").await? == WATCHDOG);
    let before = invocations(&host).await?;
    Ok((fleet, host, before))
}

/// Waits until another process is agentd, by the watchdog's doing.
async fn restarted(host: &Host, stuck: u32) -> Result<()> {
    let begun = Instant::now();
    eventually("the watchdog restarts agentd", PATIENCE, || async {
        let pid = main_pid(host, "agentd").await?;
        let state = host.run_ok("systemctl show --value -p ActiveState agentd").await?;
        ensure!(pid != 0 && pid != stuck && state == "active", "{pid} is {state}");
        Ok(())
    })
    .await?;
    say(&format!("the watchdog had agentd started again after {:.1} s", begun.elapsed().as_secs_f64()));
    let said = host.run_ok("journalctl -u agentd -o cat -n 400").await?;
    ensure!(said.contains("Watchdog timeout"), "something else ended it:\n{said}");
    Ok(())
}

pub async fn a_stuck_agentd_is_restarted() -> Result<()> {
    let (fleet, host, before) = with_sessions(Boot::container()).await?;
    let pid = main_pid(&host, "agentd").await?;
    host.run_ok("systemctl kill -s STOP --kill-who=main agentd").await?;
    restarted(&host, pid).await?;
    unhurt(&fleet, &host, &before).await?;
    host.stop().await?;
    fleet.stop().await
}

/// The loop alone is stuck, while the link's task sends heartbeats and gets them answered: it removes a forgotten
/// session from the ledger, and the ledger's thread does not move, as it would not if its disk hung.
pub async fn a_stuck_reconcile_loop_is_restarted() -> Result<()> {
    let (mut fleet, host, before) = with_sessions(Boot::container()).await?;
    let api = fleet.api()?;
    fleet.command("gone", "true", &host).await?;
    api.stop("gone").await?;
    api.wait_phase("gone", SessionPhase::Stopped, secs(30)).await?;
    let entry = format!("{STATE_DIR}/ledger/{}.json", Units::of(&host, "gone").key()?);
    // As an agentd leaves it that was killed between forgetting a session and hearing that a server knows it.
    host.run_ok("systemctl stop agentd").await?;
    ensure!(api.delete("/api/v1/sessions/gone").await?.status.is_success());
    host.run_ok(&format!(
        "sed -i 's/\"forgotten\":false/\"forgotten\":true/' {entry} && grep -q forgotten\\\":true {entry}"
    ))
    .await?;
    let server = fleet.cluster.servers.first_mut().context("no server")?;
    server.kill().await?;
    host.run_ok("systemctl start agentd").await?;
    let pid = main_pid(&host, "agentd").await?;
    host.write("/root/stick.py", STICK, 0o700).await?;
    host.run_ok(&format!(
        "systemd-run -q --unit=stick -p StandardOutput=file:/run/stick -p StandardError=file:/run/stick.err \
         python3 /root/stick.py {pid} ledger"
    ))
    .await?;
    eventually("the ledger's thread is stuck", secs(5), || async {
        let said = host.run_ok("cat /run/stick /run/stick.err").await?;
        ensure!(said == "stuck", "{said}");
        Ok(())
    })
    .await?;
    let server = fleet.cluster.servers.first_mut().context("no server")?;
    server.start().await?;
    let mut beats = fleet.cluster.bus().await?.subscribe("up.r1.heartbeat").await?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = tokio::spawn({
        let heard = heard.clone();
        async move {
            while beats.next().await.is_some() {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
        }
    });
    fleet.online("r1").await?;
    restarted(&host, pid).await?;
    let over = Instant::now();
    listener.abort();
    // It was stuck for 20 s: until the end it was heard, and it was not for its silence that it was killed.
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let last = heard.iter().filter(|at| (secs(2)..secs(12)).contains(&over.duration_since(**at))).count();
    say(&format!("heartbeats in ten seconds before that: {last}"));
    ensure!(last >= 7, "heartbeats stopped, too: {last} in ten seconds");
    unhurt(&fleet, &host, &before).await?;
    eventually("the forgotten session is gone", secs(20), || async {
        ensure!(host.run(&format!("test -e {entry}")).await?.code == 1, "{entry} is there");
        ensure!(api.get("/api/v1/sessions/gone").await?.status == StatusCode::NOT_FOUND, "a server knows it");
        Ok(())
    })
    .await?;
    host.stop().await?;
    fleet.stop().await
}

/// All sessions are what they were, and looked after.
async fn unhurt(fleet: &Fleet, host: &Host, before: &BTreeMap<String, String>) -> Result<()> {
    fleet.online("r1").await?;
    ensure!(invocations(host).await? == *before, "a unit was started anew");
    for id in SESSIONS {
        let view = fleet.api()?.session(id).await?;
        ensure!(view.phase == SessionPhase::Ready, "{view:?}");
    }
    Ok(())
}
