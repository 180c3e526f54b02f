//! The life of a fleet over SSH after it was made: logs and commands, upgrades.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use helix_tests::programs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::stage::{self, Stage};
use crate::harness::{Boot, Host};

/// `runner VERB … HOST`, to be started.
pub fn runner(stage: &Stage, verb: &[&str], user: &str) -> Result<Command> {
    let mut command = stage.helixctl(&["runner"])?;
    command.args(verb).arg("--ssh-config").arg(stage.ssh_config());
    command.arg(format!("{user}@{}", stage.hosts[0].address)).env("HELIX_URL", stage.url()?);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

pub async fn ended(mut child: Child) -> Result<(i32, String, String)> {
    drop(child.stdin.take());
    let output = timeout(secs(60), child.wait_with_output()).await.context("helixctl does not end")??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Ok((output.status.code().context("a signal ended it")?, text(&output.stdout), text(&output.stderr)))
}

pub fn interrupt(child: &Child) -> Result<()> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("it has ended")?;
    Ok(kill_process(pid, Signal::INT)?)
}

pub async fn logs_and_commands_over_ssh() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    stage.provision(&[]).await?.expect(0, "changed")?;

    // As root, by sudo with and without a password, with our streams and its exit code.
    for user in ["root", "ops"] {
        let mut command = runner(&stage, &["exec"], user)?;
        command.args(["--", "sh", "-c", "id -u; cat; echo 'to \"err\"' >&2; exit 7"]);
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("no stdin")?.write_all(b"in and out\n").await?;
        let (code, stdout, stderr) = ended(child).await?;
        ensure!(
            (code, stdout.as_str(), stderr.as_str()) == (7, "0\nin and out", "to \"err\""),
            "{user}: {code} {stdout} {stderr}"
        );
    }
    host.run_ok("echo 'ops:a secret' | chpasswd && echo 'ops ALL=(ALL) ALL' >/etc/sudoers.d/ops").await?;
    let file = stage.dir.join("sudo");
    std::fs::write(&file, "a secret\n")?;
    let mut command = runner(&stage, &["exec", "--sudo-password-file", file.to_str().context("path")?], "ops")?;
    command.args(["--", "sh", "-c", "kill -TERM $$"]);
    let (code, _, stderr) = ended(command.stdin(Stdio::null()).spawn()?).await?;
    ensure!(code == 143, "{code} {stderr}");
    // Much of it comes whole.
    let mut command = runner(&stage, &["exec"], "root")?;
    command.args(["--", "head", "-c", "20000000", "/dev/zero"]);
    let output = timeout(secs(60), command.stdin(Stdio::null()).output()).await??;
    ensure!(output.stdout.len() == 20_000_000, "{} bytes came", output.stdout.len());

    // Ctrl-C ends what runs there, root's too.
    for (user, more) in [("root", None), ("ops", Some(["--sudo-password-file", file.to_str().context("path")?]))] {
        let mut command = runner(&stage, &["exec"], user)?;
        command.args(more.into_iter().flatten()).args(["--", "sh", "-c", "echo begun; exec sleep 4321"]);
        let mut child = command.stdin(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        ensure!(timeout(secs(30), lines.next_line()).await??.as_deref() == Some("begun"), "it does not begin");
        interrupt(&child)?;
        let (code, _, stderr) = ended(child).await?;
        ensure!(code == 130, "{user}: {code} {stderr}");
        ensure!(host.run("pgrep -f 'sleep 432[1]'").await?.code == 1, "{user}: it still sleeps");
    }

    // The journal: its end, and what comes.
    let (code, said, stderr) =
        ended(runner(&stage, &["logs", "-n", "50"], "root")?.stdin(Stdio::null()).spawn()?).await?;
    ensure!(code == 0 && said.contains("registered"), "{code} {said} {stderr}");
    let mut child = runner(&stage, &["logs", "-f", "-n", "1"], "root")?.stdin(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    timeout(secs(30), lines.next_line()).await??.context("no last line")?;
    host.run_ok("systemctl restart agentd").await?;
    let follows = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("registered") {
                return Ok(());
            }
        }
        anyhow::bail!("it ended")
    };
    timeout(secs(30), follows).await.context("nothing new comes")??;
    interrupt(&child)?;
    let (code, _, stderr) = ended(child).await?;
    ensure!(code == 130 || code == 0, "{code} {stderr}");
    ensure!(host.run("pgrep -f 'journalctl.*follo[w]'").await?.code == 1, "journalctl is left there");

    // By the runner's id, as the inventory has it.
    let inventory = stage.dir.join("fleet.toml");
    let text = format!("[[host]]\nhost = \"root@{}\"\nrunner = \"{}\"\n", host.address, host.name);
    std::fs::write(&inventory, text)?;
    let mut command = stage.helixctl(&["runner", "exec", "--inventory"])?;
    command.arg(&inventory).arg("--ssh-config").arg(stage.ssh_config()).args([host.name.as_str(), "hostname"]);
    let output = command.output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.trim() == host.name, "{said} {}", String::from_utf8_lossy(&output.stderr));
    stage.stop().await
}

/// A helixctl of the stage's own, beside this agentd.
pub fn beside(stage: &Stage, agentd: &[u8]) -> Result<()> {
    let bin = stage.dir.join("bin");
    std::fs::create_dir_all(&bin)?;
    if !bin.join("helixctl").exists() {
        let from = programs::ours("helixctl")?;
        if std::fs::hard_link(&from, bin.join("helixctl")).is_err() {
            std::fs::copy(&from, bin.join("helixctl"))?;
        }
    }
    put(&bin.join("agentd"), agentd)
}

fn put(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

pub async fn upgrade(stage: &Stage, more: &[&str]) -> Result<(i32, Value)> {
    let (settings, hosts) = (stage.ssh_config(), stage.hosts.iter().map(|host| format!("root@{}", host.address)));
    let hosts: Vec<_> = hosts.collect();
    let mut args = vec!["runner", "upgrade", "--confirm-within", "40", "--ssh-config", settings.as_str()];
    args.extend(more);
    args.extend(hosts.iter().map(String::as_str));
    stage.json(&args).await
}

pub fn outcomes(report: &Value) -> Vec<&str> {
    report["hosts"].as_array().into_iter().flatten().filter_map(|host| host["outcome"].as_str()).collect()
}

pub async fn display(host: &Host) -> Result<String> {
    host.run_ok("pgrep -x Xtigervnc").await
}

pub async fn an_upgrade_stops_by_itself() -> Result<()> {
    let stage = Stage::start([Boot::container(), Boot::container()]).await?;
    // What is no runner is not made one.
    let (code, report) = upgrade(&stage, &[]).await?;
    ensure!(code == 4 && outcomes(&report) == ["refused", "not_begun"], "{code} {report}");
    let made = stage.provision(&["--label", "site=cellar"]).await?;
    ensure!(made.code == 0, "{}", made.stdout);
    stage.fleet.command("lives", "while :; do date >> ticks; sleep 0.2; done", &stage.hosts[0]).await?;
    let session = stage.fleet.api()?.session("lives").await?;
    let at = stage.hosts.iter().position(|host| session.runner.as_ref().is_some_and(|id| id.as_str() == host.name));
    let at = at.context("on no host")?;
    let before = display(&stage.hosts[at]).await?;
    let settings = stage.hosts[0].run_ok("sha256sum /etc/helix/agentd.toml").await?;

    // Another agentd, of the same code.
    let good = std::fs::read(programs::ours("agentd")?)?;
    beside(&stage, &[good.as_slice(), b"another"].concat())?;
    let (code, report) = upgrade(&stage, &["--check"]).await?;
    ensure!(code == 0 && outcomes(&report) == ["would_change", "would_change"], "{code} {report}");
    let (code, report) = upgrade(&stage, &[]).await?;
    ensure!(code == 0 && outcomes(&report) == ["changed", "changed"], "{code} {report}");
    ensure!(report["hosts"][0]["version"].is_string() && report["hosts"][0]["version_before"].is_string(), "{report}");
    let names: Vec<_> =
        report["hosts"][0]["changes"].as_array().into_iter().flatten().map(|line| &line["name"]).collect();
    ensure!(names == ["/usr/bin/agentd", "agentd.service"], "{names:?}");
    ensure!(display(&stage.hosts[at]).await? == before, "the session has another display");
    ensure!(stage.fleet.api()?.session("lives").await?.phase.to_string() == "Ready", "the session ended");
    ensure!(stage.hosts[0].run_ok("sha256sum /etc/helix/agentd.toml").await? == settings, "its settings changed");
    let (code, report) = upgrade(&stage, &[]).await?;
    ensure!(code == 0 && outcomes(&report) == ["unchanged", "unchanged"], "{code} {report}");

    // One that does not start: the first host is as before, the second was never touched.
    let states = async || -> Result<Vec<String>> {
        Ok(vec![stage::traces(&stage.hosts[0]).await?, stage::traces(&stage.hosts[1]).await?])
    };
    let was = states().await?;
    beside(&stage, &std::fs::read("/bin/true")?)?;
    let (code, report) = upgrade(&stage, &["--canary", "1", "--max-failures", "0%"]).await?;
    ensure!(code == 1 && outcomes(&report) == ["reverted", "not_begun"], "{code} {report}");
    ensure!(report.to_string().contains("agentd does not start"), "{report}");
    for (was, is) in was.iter().zip(states().await?) {
        stage::same(was, &is)?;
    }
    eventually("both runners are heard", secs(30), || async {
        for number in 0..2 {
            let runner = stage.runner(number).await?;
            ensure!(runner.liveness == helix_protocol::runner::Liveness::Online, "{runner:?}");
        }
        Ok(())
    })
    .await?;
    ensure!(display(&stage.hosts[at]).await? == before, "the session has another display");

    // With a good one it goes on.
    beside(&stage, &good)?;
    let (code, report) = upgrade(&stage, &[]).await?;
    ensure!(code == 0 && outcomes(&report) == ["changed", "changed"], "{code} {report}");
    stage.stop().await
}

/// Everything that is on a host, but for what any machine writes at any time.
async fn everything(host: &Host) -> Result<String> {
    let look = "find / -xdev \\( -path /proc -o -path /sys -o -path /tmp -o -path /root -o -path /run/user -o -path /run/log \
                -o -path /run/systemd -o -path /run/sudo -o -path /var/lib/sudo -o -path /var/log -o -path /var/cache -o -path /run/lock \
                -o -path /run/utmp -o -path /run/motd.dynamic -o -path /var/lib/systemd -o -path /run/sshd.pid \\) -prune \
                -o -printf '%p %m %u\\n' | grep -v '^/etc/\\(passwd\\|group\\|shadow\\|gshadow\\|subuid\\|subgid\\|.pwd.lock\\)-\\? \\|^/etc/.pwd.lock' | sort; \
                getent passwd; getent group; systemctl list-unit-files --no-legend | grep -v '^session-' | sort; \
                systemctl list-units --all --plain --no-legend 'helix*' 'agentd*'; grep helix /proc/mounts; \
                ps -eo user:32,args | grep '[h]elix-u\\|[a]gentd'; true";
    host.run_ok(look).await
}

async fn remove(stage: &Stage, more: &[&str]) -> Result<(i32, String, String)> {
    let mut command = runner(stage, &["remove"], "root")?;
    ended(command.args(more).arg("--json").stdin(Stdio::null()).spawn()?).await
}

pub async fn remove_leaves_nothing() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    let bare = everything(host).await?;
    stage.provision(&[]).await?.expect(0, "changed")?;
    ensure!(everything(host).await? != bare, "nothing was installed");

    // A session is waited for; in vain, everything is as it was.
    stage.fleet.command("lives", "while :; do sleep 0.2; done", host).await?;
    let (code, stdout, stderr) = remove(&stage, &["--timeout", "1s"]).await?;
    ensure!(code == 5 && stderr.contains("--force"), "{code} {stdout} {stderr}");
    let runner_view = stage.runner(0).await?;
    ensure!(!runner_view.cordoned && runner_view.active_tasks == 1, "{runner_view:?}");
    // By force it ends.
    let (code, stdout, stderr) = remove(&stage, &["--force"]).await?;
    ensure!(code == 0, "{code} {stdout} {stderr}");
    let told: Value = serde_json::from_str(&stdout)?;
    ensure!(told["id"] == host.name.as_str() && told["gone"].as_array().is_some_and(|gone| gone.len() > 40), "{told}");
    ensure!(stage.fleet.api()?.runners().await?.is_empty(), "the server knows it still");
    stage::same(&bare, &everything(host).await?)?;
    // Again, there is nothing to do.
    let (code, stdout, stderr) = remove(&stage, &[]).await?;
    ensure!(
        code == 0 && serde_json::from_str::<Value>(&stdout)?["gone"] == serde_json::json!([]),
        "{code} {stdout} {stderr}"
    );
    stage::same(&bare, &everything(host).await?)?;

    // From a half of it: the program is gone, agentd does not run, and the server knows it still.
    stage.provision(&[]).await?.expect(0, "changed")?;
    host.run_ok("systemctl stop agentd; rm -r /usr/bin/agentd /usr/lib/systemd/system/agentd.service /var/lib/helix/agentd/token").await?;
    let (code, stdout, stderr) = remove(&stage, &["--force"]).await?;
    ensure!(code == 0, "{code} {stdout} {stderr}");
    stage::same(&bare, &everything(host).await?)?;
    ensure!(stage.fleet.api()?.runners().await?.is_empty(), "the server knows it still");

    // What is the operator's stays, and is told; a machine that is not there is the server's matter alone.
    stage.provision(&[]).await?.expect(0, "changed")?;
    host.run_ok("echo LOG_LEVEL=debug >/etc/helix/agentd.env").await?;
    host.partition()?;
    let (code, _, stderr) = remove(&stage, &[]).await?;
    ensure!(code == 3 && stderr.contains("--server-only"), "{code} {stderr}");
    host.heal()?;
    let (code, stdout, stderr) = remove(&stage, &[]).await?;
    ensure!(code == 0 && stdout.contains("file /etc/helix/agentd.env"), "{code} {stdout} {stderr}");
    host.run_ok("rm -r /etc/helix").await?;
    stage::same(&bare, &everything(host).await?)?;
    stage.stop().await
}
