//! RDP under systemd: a unit of its own in a network of its own, nothing that listens on the host, nothing left.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_protocol::external_agents::RdpConnection;
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use helix_tests::own_display::OwnDisplay;
use helix_tests::programs;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Suite};
use crate::units::Units;

/// Of kind `terminal`.
const BACKGROUND: u32 = 0x0016_181d;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("an_rdp_client_reaches_a_session_that_listens_nowhere", || reached(Suite::Bookworm)),
        Case::always("an_rdp_client_reaches_a_session_on_trixie", || reached(Suite::Trixie)),
    ]
}

/// `helixctl session rdp` while it runs, and what it prints.
async fn port(fleet: &Fleet, id: &str) -> Result<(Child, Value)> {
    let mut child = Command::new(programs::ours("helixctl")?)
        .args(["--url", &fleet.cluster.servers[0].url(), "--token-file"])
        .arg(&fleet.cluster.secrets.admin)
        .args(["session", "rdp", id, "--json"])
        .env("HOME", fleet.cluster.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let line = timeout(secs(30), lines.next_line()).await??.context("it says nothing")?;
    Ok((child, serde_json::from_str(&line)?))
}

async fn reached(suite: Suite) -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().suite(suite).start())?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    let api = fleet.api()?;
    let listens = "ss -Hltn | awk '{print $4}' | sort";
    // Without a network of its own, and with one: its agent shares the display's, and not this unit's.
    for (id, network) in [("host", "host"), ("none", "none")] {
        let spec = json!({ "id": id, "kind": "terminal", "network": network, "geometry": "800x600" });
        fleet.ready(&spec, secs(60)).await?;
        // With the session's own way out on loopback.
        let before = host.run_ok(listens).await?;
        let told: RdpConnection = api.get(&format!("/api/v1/external-agents/{id}/rdp")).await?.json()?;
        ensure!(told.status == "running" && told.rdp_url.is_none(), "{told:?}");
        let (mut opened, told) = port(&fleet, id).await?;
        let text = |key: &str| told[key].as_str().context(told.to_string());
        let dir = tempfile::tempdir()?;
        let outer = OwnDisplay::start(dir.path(), "800x600").await?;
        let empty = outer.screen().await?;
        let mut client = Command::new(programs::installed("xfreerdp")?)
            .args([
                format!("/v:{}", text("address")?),
                format!("/u:{}", text("username")?),
                format!("/p:{}", text("password")?),
            ])
            .args(["/d:", "/cert:ignore", "/sec:tls", "/size:800x600", "/dynamic-resolution", "-decorations"])
            .envs(outer.environment())
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let shot = format!("/api/v1/sessions/{id}/screenshot");
        let units = Units::of(&host, id);
        let shown = eventually("the client shows the desktop", secs(40), || async {
            let here = outer.screen().await?;
            ensure!(here != empty && here.colours() > 1, "nothing yet");
            let shown = here.pixels.iter().filter(|pixel| **pixel & 0x00ff_ffff == BACKGROUND).count();
            ensure!(shown > 300_000, "{shown} pixels of the terminal's");
            Ok(())
        })
        .await;
        if let Err(error) = shown {
            let said =
                host.run_ok(&format!("journalctl -n 40 --no-pager -u {} -u agentd", units.service("rdp")?)).await?;
            return Err(error.context(said));
        }
        ensure!(api.get(&shot).await?.status == 200, "the API sees no desktop");

        let user = units.user().await?;
        ensure!(units.property("rdp", "User").await? == user);
        ensure!(units.property("rdp", "PrivateNetwork").await? == "yes");
        let pid = units.pid("rdp").await?;
        let app = units.pid("app").await?;
        let spaces = host.run_ok(&format!("readlink /proc/1/ns/net /proc/{pid}/ns/net /proc/{app}/ns/net")).await?;
        let spaces: std::collections::BTreeSet<&str> = spaces.lines().skip(1).collect();
        ensure!(spaces.len() == 2, "its network is shared: {spaces:?}");
        ensure!(host.run_ok(listens).await? == before, "something of RDP listens on the host");
        let there = host.run_ok(&format!("nsenter -n -t {pid} ss -Hltn")).await?;
        let is_inside = |line: &str| line.contains("127.0.0.1:") || line.contains("[::1]:");
        ensure!(there.lines().count() >= 1 && there.lines().all(is_inside), "{there}");
        // Another unit of the session sees nothing of its files.
        let done =
            api.post(&format!("/api/v1/sessions/{id}/exec"), &json!({"command": "ls /run"})).await?.expect(200)?;
        let seen = done["stdout"].as_str().context("no text")?;
        ensure!(!seen.contains("rdp"), "{seen}");

        // The desktop follows the client's window.
        outer.resize_windows(720, 560).await?;
        let display = format!("/api/v1/sessions/{id}/display");
        eventually("the desktop has the window's size", secs(20), || async {
            let size: Value = api.get(&display).await?.json()?;
            ensure!(size["width"] == 720 && size["height"] == 560, "{size}");
            Ok(())
        })
        .await?;

        api.stop(id).await?;
        api.wait_phase(id, SessionPhase::Stopped, secs(40)).await?;
        timeout(secs(20), client.wait()).await.context("the client outlives the session")??;
        opened.kill().await?;
        units.gone(&user, secs(10)).await?;
        outer.end().await?;
    }
    host.stop().await?;
    fleet.stop().await
}
