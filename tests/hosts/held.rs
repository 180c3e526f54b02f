//! Sessions with `on_lost = restart` are held still before a server may start them elsewhere: while the runner is cut
//! off, and while its agentd is stopped. They go on when a server confirms them.

use anyhow::{Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;

use crate::fleet::Fleet;
use crate::harness::{Boot, Case, Host, Suite};
use crate::sessions::one_runner;

/// Stands in for agentd while it is stopped.
const HOLD: &str = "agentd-hold@agentd.service";

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("a_cut_off_session_is_held", a_cut_off_session_is_held),
        Case::always("a_stopped_runner_s_session_is_held", || a_stopped_runners_session_is_held(Suite::Bookworm)),
        Case::thorough("a_stopped_runner_on_trixie", || a_stopped_runners_session_is_held(Suite::Trixie)),
    ]
}

/// One session that may start elsewhere, `moves`, and one that waits, `stays`; both count.
async fn two_sessions(fleet: &Fleet) -> Result<()> {
    let input = "while :; do echo . >> ticks; sleep 0.1; done";
    for (id, on_lost) in [("moves", "restart"), ("stays", "wait")] {
        let body = json!({ "id": id, "kind": "command", "input": input, "on_lost": on_lost });
        fleet.ready(&body, secs(60)).await?;
    }
    Ok(())
}

async fn ticks(host: &Host, id: &str) -> Result<u64> {
    Ok(host.run_ok(&format!("stat -c %s /var/lib/helix/agentd/workspaces/{id}/ticks")).await?.parse()?)
}

async fn goes_on(fleet: &Fleet, host: &Host, from: u64) -> Result<()> {
    let back =
        fleet.until("moves", "goes on", secs(40), |view| view.phase == SessionPhase::Ready && !view.frozen).await?;
    ensure!(back.cause.is_none(), "{back:?}");
    eventually("it runs again", secs(20), || async {
        ensure!(ticks(host, "moves").await? > from + 5);
        Ok(())
    })
    .await
}

async fn a_cut_off_session_is_held() -> Result<()> {
    let (fleet, host) = one_runner(Boot::container()).await?;
    two_sessions(&fleet).await?;
    let began = (ticks(&host, "moves").await?, ticks(&host, "stays").await?);
    host.partition()?;
    fleet.until("moves", "is lost", secs(40), |view| view.phase == SessionPhase::Lost).await?;
    host.heal()?;
    // By the time that a server could say `lost`, it was held: its counter did not move while it was cut off.
    let told = host.run_ok("journalctl -u agentd -o cat | grep -c 'session held still' || true").await?;
    ensure!(told != "0", "it was never held");
    fleet.until("moves", "is seen again", secs(40), |view| view.phase == SessionPhase::Ready && !view.frozen).await?;
    let (moves, stays) = (ticks(&host, "moves").await?, ticks(&host, "stays").await?);
    // Since then: the first was there before the second, and on a loaded machine by longer than it is held.
    ensure!(
        moves - began.0 < stays - began.1,
        "the one that may start elsewhere ran as long as the other: {began:?}, then {moves} {stays}"
    );
    goes_on(&fleet, &host, moves).await?;
    host.stop().await?;
    fleet.stop().await
}

async fn a_stopped_runners_session_is_held(suite: Suite) -> Result<()> {
    let (fleet, host) = one_runner(Boot::container().suite(suite)).await?;
    two_sessions(&fleet).await?;
    host.run_ok("systemctl restart agentd").await?;
    fleet.online("r1").await?;
    // What was started with it sees that agentd is there, and ends.
    nobody_stands_in(&host).await?;
    ensure!(!fleet.api()?.session("moves").await?.frozen, "held although agentd is there");

    host.run_ok("systemctl stop agentd").await?;
    let held = held_once_lost(&fleet, &host).await?;
    host.run_ok("systemctl start agentd").await?;
    goes_on(&fleet, &host, held).await?;

    // Settings that agentd refuses: systemd does not start it again. The state directory is still read from them.
    host.run_ok("cp /etc/helix/agentd.toml /root/good; echo 'log_level = \"loud==\"' >>/etc/helix/agentd.toml").await?;
    host.run_ok("sed -i '0,/^log_level/{/^log_level/d}' /etc/helix/agentd.toml").await?;
    host.run("systemctl restart agentd").await?;
    ensure!(host.run_ok("systemctl show -p ExecMainStatus --value agentd").await? == "78", "wrong settings are good");
    let held = held_once_lost(&fleet, &host).await?;
    host.run_ok("cp /root/good /etc/helix/agentd.toml; systemctl start agentd").await?;
    goes_on(&fleet, &host, held).await?;

    // It is killed, fails at every start from then on, and is started again for ever.
    nobody_stands_in(&host).await?;
    host.run_ok("sed -i 's/^helix-u3:/helix-x3:/' /etc/passwd; systemctl kill -s KILL agentd").await?;
    let held = held_once_lost(&fleet, &host).await?;
    host.run_ok("sed -i 's/^helix-x3:/helix-u3:/' /etc/passwd").await?;
    goes_on(&fleet, &host, held).await?;
    host.stop().await?;
    fleet.stop().await
}

/// Waits until the server calls the runner lost, and proves that only the session that may move stands still; how far
/// it had counted.
async fn held_once_lost(fleet: &Fleet, host: &Host) -> Result<u64> {
    fleet.until("moves", "is lost", secs(40), |view| view.phase == SessionPhase::Lost).await?;
    let (held, other) = (ticks(host, "moves").await?, ticks(host, "stays").await?);
    eventually("the other goes on", secs(10), || async {
        ensure!(ticks(host, "stays").await? > other + 5);
        Ok(())
    })
    .await?;
    ensure!(ticks(host, "moves").await? == held, "it runs although it may have been started elsewhere");
    Ok(held)
}

async fn nobody_stands_in(host: &Host) -> Result<()> {
    eventually("nobody stands in for agentd any more", secs(20), || async {
        let state = host.run(&format!("systemctl is-active {HOLD}")).await?.stdout;
        ensure!(state.trim() == "inactive", "{state}");
        Ok(())
    })
    .await
}
