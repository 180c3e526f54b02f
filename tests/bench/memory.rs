//! T4 and T5: what idle desktops cost, and what the fleet's own parts cost.
//!
//! N desktops (1080p, window manager, terminal) are Ready and nobody watches. PSS counts shared pages once over all.
//! Peer: as many bare Xtigervnc + openbox + xterm desktops.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::measure::{memory_mib, program, scheduler_seconds};
use crate::peer::Peer;
use crate::product::Product;
use crate::{report, say};

const IDLE: Duration = Duration::from_secs(20);

pub async fn run() -> Result<()> {
    let count: usize = std::env::var("HELIX_BENCH_DESKTOPS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let product = Product::start(count as u32 + 2, &[])?;
    let parts = ["up", "nats", "server", "agentd"];
    let idle: BTreeMap<_, _> = parts.iter().map(|part| (*part, memory_mib(&[product.pid(part)], "Rss"))).collect();
    report("\n## T5 · the fleet's own parts, RSS");
    report(&format!("- idle, no session: {}", line(&idle)));
    let sum: f64 = ["nats", "server", "agentd"].iter().filter_map(|part| idle.get(part)).sum();
    report(&format!("- server + agentd + nats: {sum:.1} MiB"));

    for index in 0..count {
        product.create_ready().await?;
        if index % 20 == 19 {
            say(&format!("{} desktops", index + 1));
        }
    }
    let agentd = memory_mib(&[product.pid("agentd")], "Rss");
    let per_session = (agentd - idle.get("agentd").copied().unwrap_or_default()) * 1024.0 / count as f64;
    report(&format!("- agentd with {count} sessions: {agentd:.1} MiB ({per_session:.0} KiB per session)"));

    let processes = product.session_processes();
    let (before, parts_before) = (scheduler_seconds(&processes), scheduler_seconds(&product.processes()));
    tokio::time::sleep(IDLE).await;
    let share = |used: f64| used / IDLE.as_secs_f64() * 100.0;
    let idle_cpu = share(scheduler_seconds(&processes) - before);
    let all_cpu = share(scheduler_seconds(&product.processes()) - parts_before);
    report(&format!("\n## T4 · {count} idle desktops, 1080p"));
    let total = memory_mib(&processes, "Pss") / count as f64;
    report(&format!("- helix: {total:.1} MiB PSS each: {}", by_program(&processes, count)));
    report(&format!(
        "- helix: {idle_cpu:.2} % of one core for all desktops, {all_cpu:.2} % with bus, server and runner"
    ));
    drop(product);

    let peers: Vec<Peer> = (0..count).map(|index| Peer::tigervnc_desktop(600 + index as u32)).collect::<Result<_>>()?;
    // The peer has no readiness event; its desktops settle within this.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let processes: Vec<u32> = peers.iter().flat_map(Peer::processes).collect();
    let before = scheduler_seconds(&processes);
    tokio::time::sleep(IDLE).await;
    let idle_cpu = share(scheduler_seconds(&processes) - before);
    let total = memory_mib(&processes, "Pss") / count as f64;
    report(&format!("- bare Xtigervnc + openbox + xterm: {total:.1} MiB PSS each: {}", by_program(&processes, count)));
    report(&format!("- bare: {idle_cpu:.2} % of one core for all"));
    Ok(())
}

fn by_program(processes: &[u32], count: usize) -> String {
    let mut groups: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for pid in processes {
        groups.entry(program(*pid)).or_default().push(*pid);
    }
    let line: Vec<String> =
        groups.iter().map(|(name, pids)| format!("{name} {:.1}", memory_mib(pids, "Pss") / count as f64)).collect();
    line.join(", ")
}

fn line(parts: &BTreeMap<&str, f64>) -> String {
    parts.iter().map(|(part, mib)| format!("{part} {mib:.1} MiB")).collect::<Vec<_>>().join(", ")
}
