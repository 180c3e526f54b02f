//! Ways to a host: through another one, with an agent's key; and two operators at once.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use tokio::process::Command;

use super::stage::Stage;
use crate::harness::{Boot, start_all};

pub async fn by_jump_host_and_agent() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let (host, [gate]) = (&stage.hosts[0], start_all([Boot::container()]).await?);
    let key = gate.get("/etc/ssh/ssh_host_ed25519_key.pub").await?;
    let known = std::fs::read_to_string(stage.known_hosts())?;
    std::fs::write(stage.known_hosts(), format!("{known}{} {key}\n", gate.address))?;

    // The key is in an agent alone.
    let socket = stage.dir.join("agent");
    let mut agent =
        Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
    eventually("the agent has its socket", secs(10), || async {
        ensure!(socket.exists(), "not yet");
        Ok(())
    })
    .await?;
    let added = Command::new("ssh-add").arg("-q").arg(&host.key).env("SSH_AUTH_SOCK", &socket).status().await?;
    ensure!(added.success(), "ssh-add");
    let settings = format!(
        "UserKnownHostsFile {}\nGlobalKnownHostsFile /dev/null\nIdentityFile /nowhere\n\
         Host {}\n  ProxyJump root@{}\n",
        stage.known_hosts().display(),
        host.address,
        gate.address
    );
    std::fs::write(stage.dir.join("ssh_config"), settings)?;
    let looks = async || -> Result<(Option<i32>, String)> {
        let output = stage.command("root", &["--check"])?.env("SSH_AUTH_SOCK", &socket).output().await?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (code, said) = looks().await?;
    ensure!(code == Some(0) && said.contains("would_change"), "{said}");
    let journal = host.run_ok("journalctl -u ssh -o cat --no-pager").await?;
    ensure!(journal.contains(&format!("Accepted publickey for root from {}", gate.address)), "{journal}");

    // The gate's key is checked as strictly.
    std::fs::write(stage.known_hosts(), known)?;
    let (code, said) = looks().await?;
    ensure!(code == Some(4) && said.contains(&format!("nothing is known of {}", gate.address)), "{said}");
    agent.kill().await?;
    gate.stop().await?;
    stage.stop().await
}

pub async fn two_runs_at_once_take_turns() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let (one, other) = tokio::join!(stage.provision(&[]), stage.provision(&[]));
    let (one, other) = (one.context("the one")?, other.context("the other")?);
    ensure!(one.code == 0 && other.code == 0, "{}\n{}", one.stdout, other.stdout);
    let outcomes = [&one, &other].map(|run| run.host(0)["outcome"].as_str().unwrap_or_default().to_owned());
    ensure!(outcomes.iter().any(|outcome| outcome == "changed"), "{outcomes:?}");
    ensure!(outcomes.iter().any(|outcome| outcome == "unchanged"), "{outcomes:?}");

    // One that does not end: the other says whose turn it is, and since when.
    stage.hosts[0].run_ok("systemd-run --quiet --unit=holder flock /var/lib/helix/provision/lock sleep 120").await?;
    let run = stage.provision(&["--label", "a=b"]).await?;
    run.expect(4, "refused")?;
    let why = run.host(0)["error"]["why"].as_str().unwrap_or_default().to_owned();
    ensure!(why.contains("helixctl, process") && why.contains("is at work there, since"), "{why}");
    stage.stop().await
}
