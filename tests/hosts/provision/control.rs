//! `runner start`, `stop`, `restart` and `stats` of an agentd on another machine, over SSH, and what an agentd that is stopped
//! keeps meanwhile.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use helix_tests::server::Times;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use super::life::{beside, display, ended, interrupt, outcomes, runner, upgrade};
use super::stage::Stage;
use crate::fleet::start_time;
use crate::harness::Boot;

/// `runner VERB … HOST --json`, to its end.
async fn asks(stage: &Stage, verb: &[&str], user: &str) -> Result<(i32, Value, String)> {
    let mut command = runner(stage, verb, user)?;
    let (code, stdout, stderr) = ended(command.arg("--json").stdin(Stdio::null()).spawn()?).await?;
    let json = if stdout.is_empty() { Value::Null } else { serde_json::from_str(&stdout).context(stdout)? };
    Ok((code, json, stderr))
}

pub async fn agentds_are_steered_over_ssh() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    stage.provision(&[]).await?.expect(0, "changed")?;
    stage.fleet.command("lives", "while :; do date >> ticks; sleep 0.2; done", host).await?;
    let before = display(host).await?;

    // As root and by sudo: what it does is done there, and the session runs on.
    for (verb, user, state) in [
        ("stop", "root", "inactive"),
        ("start", "ops", "active"),
        ("restart", "ops", "active"),
        ("stop", "ops", "inactive"),
    ] {
        let (code, done, stderr) = asks(&stage, &[verb], user).await?;
        ensure!(code == 0 && done["name"] == "agentd" && done["unit"] == "agentd.service", "{verb}: {done} {stderr}");
        ensure!(done["state"] == state && done["sessions"] == 1, "{verb}: {done}");
        let found = host.run("systemctl is-active agentd").await?.stdout;
        ensure!(found.trim() == state, "{verb}: it is {found}");
    }
    let (code, stdout, stderr) = ended(runner(&stage, &["start"], "root")?.stdin(Stdio::null()).spawn()?).await?;
    ensure!(code == 0 && stdout == "agentd" && stderr.contains("1 sessions ran on"), "{code} {stdout} {stderr}");
    stage.fleet.online(&host.name).await?;
    ensure!(display(host).await? == before, "the session has another display");

    // What it uses, as it is there; again and again until nobody wants to know more.
    let (code, stats, stderr) = asks(&stage, &["stats"], "ops").await?;
    let its = &stats["runners"][0];
    ensure!(code == 0 && its["name"] == "agentd" && its["daemon"]["state"] == "active", "{stats} {stderr}");
    ensure!(its["sessions"][0]["session"] == "lives" && its["sessions"][0]["tasks"].as_u64() > Some(0), "{stats}");
    let mut following = runner(&stage, &["stats", "--follow", "--json"], "root")?.stdin(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("no stdout")?).lines();
    for look in 0..2 {
        let line = timeout(secs(30), lines.next_line()).await??.context("it ended")?;
        let stats: Value = serde_json::from_str(&line)?;
        let percent = &stats["runners"][0]["daemon"]["cpu_percent"];
        // Containers with cgroup version 1 count no processor time of agentd's own.
        ensure!(look == 0 || percent.is_u64() || stats["runners"][0]["daemon"]["cpu_ms"].is_null(), "{stats}");
    }
    interrupt(&following)?;
    timeout(secs(10), following.wait()).await.context("it does not end")??;

    // Its log goes on while somebody else restarts it.
    let mut follows = runner(&stage, &["logs", "-f", "-n", "1"], "ops")?.stdin(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(follows.stdout.take().context("no stdout")?).lines();
    timeout(secs(30), lines.next_line()).await??.context("no last line")?;
    let (code, _, stderr) = asks(&stage, &["restart"], "root").await?;
    ensure!(code == 0, "{stderr}");
    let registered = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("registered") {
                return Ok(());
            }
        }
        anyhow::bail!("it ended")
    };
    timeout(secs(30), registered).await.context("nothing new comes")??;
    interrupt(&follows)?;
    ended(follows).await?;
    ensure!(host.run("pgrep -f 'journalctl.*follo[w]'").await?.code == 1, "journalctl is left there");

    one_of_several(&stage).await?;
    ensure!(display(host).await? == before, "the session has another display");
    stage.stop().await
}

/// A second agentd on the machine, whose settings it refuses.
async fn one_of_several(stage: &Stage) -> Result<()> {
    let host = &stage.hosts[0];
    host.write("/etc/helix/agentd-two.toml", "runner_id = \"two\"\nspeed = 3\n", 0o600).await?;
    let (code, done, stderr) = asks(stage, &["restart"], "root").await?;
    ensure!(
        code == 2 && done.is_null() && stderr.contains("several agentd") && stderr.contains("--service"),
        "{stderr}"
    );
    let (code, done, stderr) = asks(stage, &["restart", "--service", "agentd"], "root").await?;
    ensure!(code == 0 && done["name"] == "agentd", "{code} {done} {stderr}");
    // It does not start: its own words say why. By its runner's id, too.
    for name in ["two", "agentd@two"] {
        let (code, done, stderr) = asks(stage, &["start", "--service", name], "ops").await?;
        ensure!(code == 1 && done.is_null(), "{code} {done}");
        for words in ["cannot start agentd@two.service", "exit status 78", "speed"] {
            ensure!(stderr.contains(words), "{words:?} is not in {stderr}");
        }
    }
    let (code, _, stderr) = asks(stage, &["stats", "--service", "three"], "root").await?;
    ensure!(
        code == 1 && stderr.contains("there is no agentd three") && stderr.contains("agentd, two"),
        "{code} {stderr}"
    );
    // The inventory says which one is meant.
    let inventory = stage.dir.join("fleet.toml");
    let text = format!("[[host]]\nhost = \"root@{}\"\nrunner = \"{}\"\n", host.address, host.name);
    std::fs::write(&inventory, text)?;
    let file = inventory.to_str().context("path")?;
    let (settings, name) = (stage.ssh_config(), host.name.as_str());
    let (code, done) = stage.json(&["runner", "restart", "--inventory", file, "--ssh-config", &settings, name]).await?;
    ensure!(code == 0 && done["name"] == "agentd" && done["state"] == "active", "{code} {done}");
    host.run_ok("rm /etc/helix/agentd-two.toml; systemctl reset-failed").await?;
    Ok(())
}

/// What stands in for an agentd that is stopped goes on doing so when an upgrade is undone: the session is held before a
/// server may start it elsewhere.
pub async fn an_upgrade_that_is_undone_keeps_what_is_held() -> Result<()> {
    let times = Times { lost: "40s", ..Times::default() };
    let stage = Stage::start_with(times, [Boot::container()]).await?;
    let host = &stage.hosts[0];
    stage.provision(&[]).await?.expect(0, "changed")?;
    let loops = "while :; do echo . >> ticks; sleep 0.1; done";
    let session = json!({ "id": "moves", "kind": "command", "input": loops, "on_lost": "restart" });
    stage.fleet.ready(&session, start_time(host)).await?;
    host.run_ok("systemctl stop agentd").await?;
    let stands_in = || async {
        let both = host.run_ok("systemctl is-active agentd agentd-hold@agentd; true").await?;
        ensure!(both == "inactive\nactive", "agentd, and what stands in for it: {both}");
        Ok(())
    };
    // systemd starts it beside the end of the other.
    eventually("something stands in for agentd", secs(10), stands_in).await?;
    beside(&stage, &std::fs::read("/bin/true")?)?;
    let (code, report) = upgrade(&stage, &[]).await?;
    ensure!(code == 1 && outcomes(&report) == ["reverted"], "{code} {report}");
    eventually("it stands in again", secs(10), stands_in).await?;
    eventually("the session is held", secs(60), || {
        host.run_ok("journalctl -u agentd-hold@agentd -o cat --no-pager | grep -F 'session held still'")
    })
    .await?;
    stage.stop().await
}
