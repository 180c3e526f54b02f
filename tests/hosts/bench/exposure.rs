//! T14: `systemd-analyze security` of everything of ours that runs, and of peers in the same host as Debian ships them.

use anyhow::Result;

use super::{report, versions};
use crate::fleet::Fleet;
use crate::harness::{Boot, Suite};
use crate::service::scores::{Score, of, of_ours};

const PEERS: [&str; 5] = ["ssh", "supervisor", "dbus", "systemd-logind", "systemd-journald"];

pub async fn exposure() -> Result<()> {
    let mut lines = vec!["## T14 · exposure (systemd-analyze security, 0 is none, 10 is all)".to_owned()];
    for suite in Suite::ALL {
        let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().suite(suite).start())?;
        let mut scores = of_ours(&fleet, &host).await?;
        let points = of(&host, "helix-server.service").await?;
        scores.insert(1, Score { what: "helix-server".to_owned(), points, most: Some(1.8) });
        // The root's builder masks it, so that hosts boot quickly.
        host.run_ok("rm -f /etc/systemd/system/supervisor.service; systemctl daemon-reload").await?;
        for peer in PEERS {
            let points = of(&host, &format!("{peer}.service")).await?;
            scores.push(Score { what: format!("peer: {peer}"), points, most: None });
        }
        lines.push(format!("{} ({})\n", versions(&host).await?, suite.name()));
        lines.push("| unit | points | at most |\n|---|---|---|".to_owned());
        for Score { what, points, most } in scores {
            let most = most.map_or_else(String::new, |most| format!("{most:.1}"));
            lines.push(format!("| {what} | {points:.1} | {most} |"));
        }
        lines.push(String::new());
        host.stop().await?;
        fleet.stop().await?;
    }
    report(&lines);
    Ok(())
}
