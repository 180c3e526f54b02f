//! Changes that break their host: a disk that is full in the middle, a service that does not stay up, one that takes the way in
//! away. The host is as it was after each, and can be provisioned when the cause is gone.

use anyhow::{Result, ensure};
use helix_tests::eventually::{eventually, secs};

use super::faults::words;
use super::stage::{self, Stage};
use crate::fleet::{self, RunnerSettings};
use crate::harness::{Boot, Host, start_all};

const DROP_IN: &str = "/etc/systemd/system/agentd.service.d/lab.conf";

pub async fn a_disk_that_is_full_in_the_middle_changes_nothing() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    host.run_ok("mkdir -p /var/lib/helix/provision /usr/share/helix/kinds").await?;
    let bare = stage::traces(host).await?;
    // Where the upload goes, then where files get their names: both are not what a look at the disk tells.
    for (place, size, outcome) in
        [("/var/lib/helix/provision", "4M", "failed"), ("/usr/share/helix/kinds", "8k", "reverted")]
    {
        host.run_ok(&format!("mount -t tmpfs -o size={size} full {place}")).await?;
        let run = stage.provision(&[]).await?;
        run.expect(1, outcome)?;
        let error = run.host(0)["error"].to_string();
        ensure!(error.contains("disk") || error.contains("room"), "{error}");
        host.run_ok(&format!("umount {place} && mkdir -p /usr/share/helix/kinds")).await?;
        stage::same(&bare, &stage::traces(host).await?)?;
    }
    stage.provision(&[]).await?.expect(0, "changed")?;
    stage.stop().await
}

pub async fn a_service_that_does_not_stay_up_is_undone() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    let bare = stage::traces(host).await?;
    // It says that it is ready, and ends, again and again.
    let script = "#!/bin/sh\nsystemd-notify --ready\necho 'lab: I end here'\nsleep 0.2\nexit 7\n";
    host.write("/usr/local/sbin/lab-crash", script, 0o755).await?;
    let text = "[Service]\nNotifyAccess=all\nExecStart=\nExecStart=/usr/local/sbin/lab-crash\nRestartSec=200ms\n";
    host.write(DROP_IN, text, 0o644).await?;
    let with_drop_in = stage::traces(host).await?;
    let run = stage.provision(&["--confirm-within", "12"]).await?;
    run.expect(1, "reverted")?;
    // Its end, how often it came, and its own words are the cause.
    let error = words(&run);
    let told = ["agentd does not stay up", "exit status 7", "started again", "lab: I end here", "journalctl -u agentd"];
    ensure!(told.iter().all(|words| error.contains(words)) && !error.contains("again 0 times"), "{error}");
    stage::same(&with_drop_in, &stage::traces(host).await?)?;
    nothing_runs(host).await?;
    // One that does not even start says why, too: systemd's words are all that there is.
    host.write("/usr/local/sbin/lab-crash", "#!/no/such/shell\n", 0o755).await?;
    let run = stage.provision(&["--confirm-within", "12"]).await?;
    run.expect(1, "reverted")?;
    let error = words(&run);
    ensure!(error.contains("agentd does not start") && error.contains("No such file or directory"), "{error}");
    stage::same(&with_drop_in, &stage::traces(host).await?)?;
    nothing_runs(host).await?;
    host.run_ok(&format!("rm -r {} && systemctl daemon-reload", DROP_IN.trim_end_matches("/lab.conf"))).await?;
    stage::same(&bare, &stage::traces(host).await?)?;
    stage.provision(&[]).await?.expect(0, "changed")?;
    stage.stop().await
}

/// A host that was no runner has nothing of agentd that runs, waits to be started again or has failed; nor what stands in
/// for it, which systemd starts at each of its ends.
async fn nothing_runs(host: &Host) -> Result<()> {
    let left = host.run_ok("systemctl list-units --all --plain --no-legend 'agentd*' 'helix*'").await?;
    ensure!(left.is_empty(), "left: {left}");
    Ok(())
}

/// Another machine comes online under the name while this one says nothing: that is no proof of this one.
pub async fn a_runner_of_that_name_elsewhere_confirms_nothing() -> Result<()> {
    let (stage, [twin]) = tokio::try_join!(Stage::start([Boot::container()]), start_all([Boot::container()]))?;
    let host = &stage.hosts[0];
    fleet::install(&twin).await?;
    let settings = stage.fleet.settings_text(&RunnerSettings::default())?;
    let settings = settings.replace("runner_id = \"r1\"", &format!("runner_id = \"{}\"", host.name));
    twin.write("/etc/helix/agentd.toml", &settings, 0o600).await?;
    twin.write("/etc/helix/enrolment.token", &stage.fleet.cluster.enrolment_token()?, 0o600).await?;
    let mute = "#!/bin/sh\nsystemd-notify --ready\nexec sleep 600\n";
    host.write("/usr/local/sbin/lab-mute", mute, 0o755).await?;
    let text = "[Service]\nNotifyAccess=all\nWatchdogSec=0\nExecStart=\nExecStart=/usr/local/sbin/lab-mute\n";
    host.write(DROP_IN, text, 0o644).await?;
    let bare = stage::traces(host).await?;
    let comes_online = async {
        eventually("the host is changed", secs(60), || host.run_ok("systemctl is-active agentd")).await?;
        twin.run_ok("systemctl start agentd").await
    };
    let (run, online) = tokio::join!(stage.provision(&[]), comes_online);
    online?;
    let run = run?;
    run.expect(1, "reverted")?;
    let said = format!("agentd of this host is runner none, and {} was heard", host.name);
    ensure!(words(&run).contains(&said), "{}", words(&run));
    stage::same(&bare, &stage::traces(host).await?)?;
    twin.stop().await?;
    stage.stop().await
}

pub async fn a_change_that_breaks_the_way_in_is_undone() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    // sshd is gone as soon as agentd runs, then the whole network.
    for (down, up) in
        [("systemctl stop ssh", "systemctl start ssh"), ("ip link set host0 down", "ip link set host0 up")]
    {
        let bin = |line: &str| format!("+/bin/sh -c '{line}; ip route replace default via 10.77.0.1 || true'");
        let text = format!("[Service]\nExecStartPost={}\nExecStopPost={}\n", bin(down), bin(up));
        host.write(DROP_IN, &text, 0o644).await?;
        host.run_ok("systemctl daemon-reload").await?;
        let before = stage::traces(host).await?;
        let run = stage.provision(&["--confirm-within", "10"]).await?;
        ensure!(run.code != 0, "{}", run.stdout);
        eventually("the way in is back", secs(60), || async { stage::same(&before, &stage::traces(host).await?) })
            .await?;
        let said = host.run_ok("cat /var/lib/helix/provision/runs/*/reverted").await?;
        // helixctl asks for it over the connection that it has, if that lives; else the host's own timer does.
        ensure!(said.contains("cannot connect") || said.contains("not confirmed within 10 s"), "{said}");
    }
    host.run_ok(&format!("rm {DROP_IN} && systemctl daemon-reload")).await?;
    stage.provision(&[]).await?.expect(0, "changed")?;
    stage.stop().await
}
