//! Packages come by apt, from a repository in the lab.

use anyhow::{Result, ensure};

use super::faults::words;
use super::repository::Repository;
use super::stage::{self, Stage};
use crate::harness::Boot;

/// Holds apt's lock, as a program does that installs; tells when it has it, and ends after some seconds.
const HOLD: &str = "systemd-run --quiet --unit=holder -p Type=notify -p NotifyAccess=all python3 -c 'import fcntl, os, time\n\
                    file = open(\"/var/lib/dpkg/lock-frontend\", \"w\"); fcntl.lockf(file, fcntl.LOCK_EX)\n\
                    os.system(\"systemd-notify --ready\"); time.sleep(4)'";

pub async fn packages_come_by_apt() -> Result<()> {
    let stage = Stage { packages: Some(Vec::new()), ..Stage::start([Boot::container().bare()]).await? };
    let host = &stage.hosts[0];
    let bare = stage::traces(host).await?;

    // Nobody offers them yet: that is the cause, and nothing else was changed.
    let run = stage.provision(&[]).await?;
    run.expect(1, "failed")?;
    ensure!(run.stdout.contains("packages cannot be installed"), "{}", run.stdout);
    stage::same(&bare, &stage::traces(host).await?)?;

    // They are offered, and one of them was cut off in the middle: its program is there, and it is not installed.
    let _offered = Repository::offer(&stage.hosts).await?;
    let unpack =
        "cd /tmp && apt-get -qq update && apt-get -qq download xterm && dpkg --unpack xterm_*.deb && rm xterm_*.deb";
    host.run_ok(unpack).await?;
    host.run_ok("command -v xterm").await?;
    let looked = stage.provision(&["--check"]).await?;
    looked.expect(0, "would_change")?;
    ensure!(looked.stdout.contains("\"xterm\""), "what is only unpacked counts as installed: {}", looked.stdout);

    // While somebody else installs something: that is waited for.
    host.run_ok(HOLD).await?;
    let run = stage.provision(&[]).await?;
    run.expect(0, "changed")?;
    let names: Vec<_> = run.host(0)["changes"].as_array().into_iter().flatten().map(|line| &line["name"]).collect();
    let brought = ["tigervnc-standalone-server", "openbox", "xterm", "xrdp", "git", "ca-certificates"];
    ensure!(brought.iter().all(|name| names.iter().any(|known| known == name)), "{names:?}");
    ensure!(run.host(0)["first_frame_ms"].as_u64().is_some(), "no frame: {}", run.stdout);
    host.run_ok("command -v X0tigervnc openbox xterm").await?;
    let xterm = host.run_ok("dpkg-query -W -f '${Status}' xterm").await?;
    ensure!(xterm == "install ok installed", "xterm: {xterm}");
    let listening = host.run_ok("systemctl is-active xrdp xrdp-sesman; ss -Hltn 'sport = 3389'; true").await?;
    ensure!(listening == "inactive\ninactive", "xrdp lets in who has a login: {listening}");
    stage.provision(&[]).await?.expect(0, "unchanged")?;
    stage.stop().await
}

/// Somebody holds apt and does not let go: that is waited for with a bound, and then said.
pub async fn an_apt_that_is_never_free_is_told() -> Result<()> {
    let stage = Stage::start([Boot::container().bare()]).await?.with_packages().await?;
    let host = &stage.hosts[0];
    let bare = stage::traces(host).await?;
    host.run_ok(&HOLD.replace("sleep(4)", "sleep(600)")).await?;
    let run = stage.provision(&[]).await?;
    run.expect(1, "failed")?;
    let error = words(&run);
    let told = ["packages cannot be installed", "apt is held for more than 120 s by /usr/bin/python3", "--no-packages"];
    ensure!(told.iter().all(|words| error.contains(words)), "{error}");
    stage::same(&bare, &stage::traces(host).await?)?;
    // The host is free for the next one, and is made a runner when apt is.
    host.run_ok("systemctl stop holder").await?;
    stage.provision(&[]).await?.expect(0, "changed")?;
    stage.stop().await
}
