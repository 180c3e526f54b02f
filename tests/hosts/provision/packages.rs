//! Packages come by apt, from a repository in the lab.

use anyhow::{Result, ensure};

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

    // They are offered, while somebody else installs something: that is waited for.
    let _offered = Repository::offer(&stage.hosts).await?;
    host.run_ok(HOLD).await?;
    let run = stage.provision(&[]).await?;
    run.expect(0, "changed")?;
    let names: Vec<_> = run.host(0)["changes"].as_array().into_iter().flatten().map(|line| &line["name"]).collect();
    let brought = ["tigervnc-standalone-server", "openbox", "xterm", "xrdp", "git", "ca-certificates"];
    ensure!(brought.iter().all(|name| names.iter().any(|known| known == name)), "{names:?}");
    ensure!(run.host(0)["first_frame_ms"].as_u64().is_some(), "no frame: {}", run.stdout);
    host.run_ok("command -v X0tigervnc openbox xterm").await?;
    let listening = host.run_ok("systemctl is-active xrdp xrdp-sesman; ss -Hltn 'sport = 3389'; true").await?;
    ensure!(listening == "inactive\ninactive", "xrdp lets in who has a login: {listening}");
    stage.provision(&[]).await?.expect(0, "unchanged")?;
    stage.stop().await
}
