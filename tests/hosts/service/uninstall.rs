//! `packaging/install.sh uninstall --purge` on the machine itself: refused while sessions run, and nothing is left after it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::secs;
use serde_json::json;

use crate::fleet::{Fleet, RunnerSettings, start_time};
use crate::harness::{Boot, Host};

/// Where the sources are on the host.
const SOURCE: &str = "/opt/helix";
/// What any system changes by itself, and what tools keep as a copy of the files before.
const OTHERS: [&str; 6] =
    ["/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock", "/var/log/"];

/// All files that outlive a reboot, users, groups, and units.
pub async fn everything(host: &Host) -> Result<BTreeSet<String>> {
    let look = "find / -xdev; getent passwd; getent group; systemctl list-unit-files --no-legend --plain; \
        systemctl list-units --all --no-legend --plain 'helix*' 'agentd*'; \
        find /run/helix /sys/fs/cgroup -name '*helix*' -o -name 'agentd*'";
    let listed = host.run(look).await?.stdout;
    let lines = listed.lines().filter(|line| !OTHERS.iter().any(|other| line.starts_with(other)));
    Ok(lines.map(str::to_owned).collect())
}

async fn bring_sources(host: &Host) -> Result<()> {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    for (name, mode) in [("install.sh", 0o755), ("files.txt", 0o644)] {
        host.put(&packaging.join(name), &format!("{SOURCE}/packaging/{name}"), mode).await?;
    }
    Ok(())
}

pub async fn an_uninstall_leaves_nothing() -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    bring_sources(&host).await?;
    let before = everything(&host).await?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    fleet.command("kept", "echo kept > file", &host).await?;
    fleet.ready(&json!({ "id": "runs", "kind": "terminal" }), start_time(&host)).await?;
    let api = fleet.api()?;
    // What is looked at shows what was installed.
    let installed: BTreeSet<_> = everything(&host).await?.difference(&before).cloned().collect();
    for part in
        ["/usr/bin/agentd", "helix-u1:x:", "agentd.service ", "helix.slice ", "/run/helix", "agentd/workspaces/kept"]
    {
        ensure!(installed.iter().any(|line| line.contains(part)), "{part} is not seen: {installed:#?}");
    }
    let uninstall = format!("{SOURCE}/packaging/install.sh uninstall --purge");
    let refused = host.run(&uninstall).await?;
    ensure!(refused.code == 1 && refused.stderr.contains("agentd.service"), "{refused:?}");
    ensure!(refused.stderr.contains("helix-s") && refused.stderr.contains("session stop"), "{refused:?}");
    host.run_ok("test -x /usr/bin/agentd && systemctl is-active -q agentd").await?;
    for id in ["kept", "runs"] {
        api.stop(id).await?;
        api.wait_phase(id, SessionPhase::Stopped, secs(30)).await?;
    }
    // One workspace is kept, and belongs to nobody that will be there.
    host.run_ok("test -e /var/lib/helix/agentd/workspaces/kept/file && systemctl disable -q --now agentd").await?;
    let said = host.run_ok(&uninstall).await?;
    ensure!(said.contains("users are gone"), "{said}");
    let after = everything(&host).await?;
    let left: Vec<_> = after.difference(&before).collect();
    ensure!(left.is_empty(), "left: {left:#?}");
    let lost: Vec<_> = before.difference(&after).collect();
    ensure!(lost.is_empty(), "taken along: {lost:#?}");
    host.stop().await?;
    fleet.stop().await
}
