//! T12: from `kill -9` of agentd until all of five sessions are taken over; the peer is supervisord with five programs,
//! killed in the same host, until its programs run again.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{report, rounds, versions};
use crate::adoption::{KILLS, SESSIONS, start_sessions};
use crate::figures::Figures;
use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Host, say};
use crate::units::invocations_of;

const RESPAWN: &str = include_str!("respawn.py");
/// As agentd.service has it; what Debian ships waits 50 s.
const DROP_IN: &str = "[Service]\nRestartSec=100ms\n[Unit]\nStartLimitIntervalSec=0\n";

/// As many as there are sessions.
const PROGRAMS: &str = "[program:peer]\nnumprocs=5\nprocess_name=%(program_name)s%(process_num)s\nautorestart=true\n\
    command=python3 -c \"import time; time.sleep(1e9)\" peer-program\n";

async fn start_peer(host: &Host) -> Result<()> {
    host.write("/etc/supervisor/conf.d/peer.conf", PROGRAMS, 0o644).await?;
    host.write("/etc/systemd/system/supervisor.service.d/peer.conf", DROP_IN, 0o644).await?;
    // The root's builder masks it, so that hosts boot quickly.
    host.run_ok(
        "rm -f /etc/systemd/system/supervisor.service; systemctl daemon-reload; systemctl start supervisor.service",
    )
    .await?;
    Ok(())
}

/// Processor time in milliseconds that a service's main process and its children have used since they began.
async fn used_ms(host: &Host, service: &str) -> Result<f64> {
    let sum = format!(
        "main=$(systemctl show --value -p MainPID {service}); for pid in $main $(pgrep -P $main); do \
         cat /proc/$pid/task/*/schedstat; done | awk '{{ sum += $1 }} END {{ print sum / 1e6 }}'"
    );
    host.run_ok(&sum).await?.parse().context("milliseconds")
}

/// What a script on the host printed.
async fn told(host: &Host, line: &str) -> Result<Value> {
    let said = host.run_ok(line).await?;
    serde_json::from_str(&said).with_context(|| format!("{line}: {said}"))
}

pub async fn recovery() -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    start_sessions(&fleet, &host).await?;
    let before = invocations_of(&host, &SESSIONS).await?;
    start_peer(&host).await?;
    host.write("/root/kills.py", KILLS, 0o700).await?;
    host.write("/root/respawn.py", RESPAWN, 0o700).await?;
    let [mut ours, mut our_cpu, mut theirs, mut their_cpu] = [const { Vec::new() }; 4];
    let mut orphans = 0;
    for round in 0..rounds() {
        let kill = told(&host, &format!("python3 /root/kills.py {} 1 {round}", SESSIONS.len())).await?;
        our_cpu.push(used_ms(&host, "agentd").await?);
        ours.push(kill["p50_ms"].as_f64().context("no time")?);
        let kill = told(&host, &format!("python3 /root/respawn.py {}", SESSIONS.len())).await?;
        their_cpu.push(used_ms(&host, "supervisor").await?);
        theirs.push(kill["ms"].as_f64().context("no time")?);
        orphans += kill["orphans"].as_u64().context("no orphans")?;
        say(&format!("recovery {round}: agentd {:?}, supervisord {:?}", ours.last(), theirs.last()));
    }
    ensure!(invocations_of(&host, &SESSIONS).await? == before, "a session was started anew");
    let wait = "from `kill -9` of agentd to the last of 5 sessions taken over";
    report(&[
        "## T12 · recovery of the runner, in a container host".to_owned(),
        versions(&host).await?,
        format!("- helix, {wait}: {}; no session lost, none started anew", Figures::of(ours, "ms")),
        format!(
            "- supervisord (RestartSec=100ms as agentd's; Debian ships 50 s), to its 5 programs running again: {}; \
             programs of the killed one left as orphans: {orphans}",
            Figures::of(theirs, "ms")
        ),
        format!(
            "- CPU of the new process, and of programs that it starts: helix {}; supervisord {}",
            Figures::of(our_cpu, "ms"),
            Figures::of(their_cpu, "ms")
        ),
    ]);
    host.stop().await?;
    fleet.stop().await
}
