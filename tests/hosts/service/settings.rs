//! `systemctl reload agentd`: new settings, the same process, untouched sessions; faulty settings change nothing.

use anyhow::{Context, Result, ensure};
use helix_protocol::runner::RunnerFacts;
use helix_tests::eventually::{eventually, secs};

use super::{main_pid, one_runner};
use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::Boot;
use crate::units::Units;

/// Where the fault is, and what it is.
const FAULT: &str = "sed -i 's/^concurrency = .*/concurrency = \"many\"/' /etc/helix/agentd.toml";

async fn facts(fleet: &Fleet) -> Result<RunnerFacts> {
    let runners = fleet.api()?.runners().await?;
    runners.into_iter().find(|runner| runner.id.as_str() == "r1").and_then(|runner| runner.facts).context("no facts")
}

pub async fn reload_takes_new_settings_and_touches_nothing() -> Result<()> {
    let (fleet, host) = one_runner(Boot::container()).await?;
    for id in ["one", "two"] {
        fleet.command(id, "while :; do date >> ticks; sleep 0.2; done", &host).await?;
    }
    let all = async || -> Result<_> {
        Ok((Units::of(&host, "one").invocations().await?, Units::of(&host, "two").invocations().await?))
    };
    let (before, pid) = (all().await?, main_pid(&host, "agentd").await?);
    ensure!(facts(&fleet).await?.slots == 8);

    let more = "[labels]\nsite = \"cellar\"";
    fleet.configure(&host, &RunnerSettings { slots: 3, more, ..RunnerSettings::default() }).await?;
    host.run_ok("systemctl reload agentd").await?;
    let told = eventually("the new settings are told", secs(20), || async {
        let facts = facts(&fleet).await?;
        ensure!(facts.slots == 3 && facts.labels.get("site").is_some_and(|site| site == "cellar"), "{facts:?}");
        Ok(facts)
    })
    .await?;
    ensure!(main_pid(&host, "agentd").await? == pid, "another process");
    ensure!(all().await? == before, "a unit was started anew");
    fleet.command("three", "true", &host).await?;

    // The place of each fault, in the journal of the service that would not reload.
    let line = host.run_ok(&format!("{FAULT}; grep -n '^concurrency' /etc/helix/agentd.toml | cut -d: -f1")).await?;
    let place = format!("agentd.toml line {line}");
    let refused = host.run("systemctl reload agentd").await?;
    ensure!(refused.code != 0, "faulty settings were taken");
    eventually("the fault is told", secs(10), || async {
        let said = host.run_ok("journalctl -u agentd -o cat -n 50").await?;
        ensure!(said.contains(&place), "no {place} in:\n{said}");
        Ok(())
    })
    .await?;
    let state = async || host.run_ok("systemctl show --value -p ActiveState agentd").await;
    eventually("it goes on", secs(10), || async {
        ensure!(state().await? == "active", "{}", state().await?);
        Ok(())
    })
    .await?;
    // The same without systemctl in between: agentd itself refuses, and the status line says why.
    host.run_ok("systemctl kill -s HUP --kill-who=main agentd").await?;
    eventually("the status names the fault", secs(10), || async {
        let status = host.run_ok("systemctl show --value -p StatusText agentd").await?;
        ensure!(status.contains("not reloaded") && status.contains(&place), "{status}");
        Ok(())
    })
    .await?;
    ensure!(main_pid(&host, "agentd").await? == pid && state().await? == "active", "it did not go on");
    ensure!(facts(&fleet).await? == told, "other settings than before");
    ensure!(all().await? == before, "a unit was started anew");
    host.stop().await?;
    fleet.stop().await
}
