//! The systemd backend against its suite, `helix-backend-suite`, where systemd is process 1: a container, and guests
//! with a kernel of their own. `HELIX_BACKEND_CHECKS="part part"` runs only checks whose names contain a part.

use std::time::Duration;

use anyhow::{Result, bail};
use helix_tests::eventually::{eventually, secs};
use helix_tests::programs;

use crate::fleet::install;
use crate::harness::{Boot, Case, Host, Suite, say};

/// Where the suite is on a host, beside agentd.
const SUITE: &str = "/usr/bin/helix-backend-suite";
/// What it says.
const SAID: &str = "/var/log/helix-backend-suite";
/// Names of the checks to run; all where it is not set.
const CHECKS: &str = "HELIX_BACKEND_CHECKS";
/// What version 2 makes different, in well below a minute.
const SHORT: &str = "start_is_idempotent stop_asks only_the_greedy a_frozen limits_usage kill_leaves";

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("the_backend_in_a_container", in_a_container),
        Case::always("the_backend_on_cgroup_v2", on_version_2),
        Case::thorough("the_backend_in_a_guest", in_a_guest),
        Case::thorough("the_backend_on_trixie", on_trixie),
    ]
}

async fn in_a_container() -> Result<()> {
    suite(Boot::container().start().await?, "", secs(300)).await
}

async fn on_version_2() -> Result<()> {
    suite(Boot::guest().start().await?, SHORT, secs(300)).await
}

async fn in_a_guest() -> Result<()> {
    suite(Boot::guest().start().await?, "", secs(780)).await
}

async fn on_trixie() -> Result<()> {
    suite(Boot::container().suite(Suite::Trixie).start().await?, "", secs(300)).await
}

/// Runs these checks. They take longer than a login may, so a unit runs them.
async fn suite(host: Host, checks: &str, within: Duration) -> Result<()> {
    let checks = std::env::var(CHECKS).unwrap_or_else(|_| checks.to_owned());
    install(&host).await?;
    host.put(&programs::ours("helix-backend-suite")?, SUITE, 0o755).await?;
    host.run_ok(&format!(
        "systemd-run --quiet --unit=backend-suite --slice=backend.slice \
         sh -c '{SUITE} {checks} >{SAID} 2>{SAID}.more; echo $? >{SAID}.code'"
    ))
    .await?;
    let over = eventually("the suite is over", within, async || {
        // The host itself waits: questions over and over would keep a guest busy.
        let wait = format!("for n in $(seq 20); do cat {SAID}.code 2>/dev/null && exit; sleep 1; done");
        match host.run_ok(&wait).await?.as_str() {
            "" => bail!("{}", host.get(SAID).await?),
            code => Ok(code == "0"),
        }
    });
    let passed = over.await;
    let said = host.get(SAID).await?;
    said.lines().for_each(say);
    if !passed? {
        bail!("{said}\n{}", host.get(&format!("{SAID}.more")).await?);
    }
    host.stop().await
}
