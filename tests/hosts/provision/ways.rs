//! Ways to a host: through another one, with an agent's key; and two operators at once.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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

/// A program's streams, two jump hosts, and a password that is typed at a terminal.
pub async fn by_program_jumps_and_password() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let (host, [gate]) = (&stage.hosts[0], start_all([Boot::container()]).await?);
    let key = gate.get("/etc/ssh/ssh_host_ed25519_key.pub").await?;
    let known = std::fs::read_to_string(stage.known_hosts())?;
    std::fs::write(stage.known_hosts(), format!("{known}{} {key}\n", gate.address))?;
    let settings = |identity: &str, more: &str| {
        let text = format!(
            "UserKnownHostsFile {}\nGlobalKnownHostsFile /dev/null\nIdentitiesOnly yes\nIdentityFile {identity}\n\
             Host twice\n  HostName {gate}\n  HostKeyAlias {gate}\nHost {}\n  {more}\n",
            stage.known_hosts().display(),
            host.address,
            gate = gate.address,
        );
        std::fs::write(stage.dir.join("ssh_config"), text)
    };
    let key = host.key.display().to_string();
    let program = format!("ssh -q -F {} -W %h:%p root@{}", stage.dir.join("ssh_config").display(), gate.address);
    for more in [format!("ProxyJump root@{},root@twice", gate.address), format!("ProxyCommand {program}")] {
        settings(&key, &more)?;
        host.run_ok("journalctl --rotate --vacuum-time=1s -q").await?;
        let output = stage.command("root", &["--check"])?.output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.code() == Some(0), "{more}: {said} {}", String::from_utf8_lossy(&output.stderr));
        let journal = host.run_ok("journalctl -u ssh -o cat --no-pager").await?;
        ensure!(journal.contains(&format!("Accepted publickey for root from {}", gate.address)), "{more}: {journal}");
    }

    // No key at all: without a terminal that is said, with one the password is asked for, unseen.
    settings("/nowhere", "Port 22")?;
    host.run_ok("echo 'ops:a secret' | chpasswd").await?;
    let output = stage.command("ops", &["--check"])?.output().await?;
    ensure!(output.status.code() == Some(4), "{}", String::from_utf8_lossy(&output.stdout));
    let command = stage.command("ops", &["--check"])?;
    let words = std::iter::once(command.as_std().get_program()).chain(command.as_std().get_args());
    let line: Vec<_> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let mut typed = Command::new("script");
    typed.arg("-qefc").arg(line.join(" ")).arg("/dev/null").env("HOME", &stage.dir).env_remove("SSH_AUTH_SOCK");
    typed.env("HELIX_TOKEN", stage.fleet.api()?.token());
    let mut child = typed.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().context("script")?;
    let (mut keys, mut screen) = (child.stdin.take().context("stdin")?, child.stdout.take().context("stdout")?);
    let shown = async {
        let (mut shown, mut piece, mut answered) = (Vec::new(), [0; 4096], false);
        loop {
            let count = screen.read(&mut piece).await?;
            if count == 0 {
                return Ok::<_, anyhow::Error>(String::from_utf8_lossy(&shown).into_owned());
            }
            shown.extend_from_slice(&piece[..count]);
            if !answered && String::from_utf8_lossy(&shown).contains("the password of ops@") {
                keys.write_all(b"a secret\n").await?;
                answered = true;
            }
        }
    };
    let shown = tokio::time::timeout(secs(60), shown).await.context("it does not end")??;
    let code = child.wait().await?.code();
    ensure!(code == Some(0) && shown.contains("would_change"), "{code:?} {shown}");
    ensure!(!shown.contains("a secret"), "the password is shown");
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
