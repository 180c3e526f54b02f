//! Eight sessions burn processors and memory, and heartbeats go out on time all the same.
//!
//! What counts is when a heartbeat leaves the host, by the kernel's stamp on the packet. Servers and NATS run outside of
//! the host on the same processors, so the arrival also shows their own delay: it is told, not judged.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::future::try_join_all;
use helix_protocol::subject;
use helix_tests::eventually::secs;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::one_runner;
use crate::figures::Figures;
use crate::harness::{Host, say};

const SESSIONS: usize = 8;
/// Between heartbeats of the fleet's runners, in milliseconds.
const INTERVAL: f64 = 1000.0;
const LATEST: f64 = 250.0;
const IDLE: Duration = secs(8);
const BURNING: Duration = secs(42);
/// Two loops and one that writes 200 MB again and again.
const BURN: &str = "until [ -e go ]; do sleep 0.2; done; while :; do :; done & while :; do :; done & \
    exec python3 -c 'while True: b\"x\" * (200 << 20)'";
const BEATS: &str = include_str!("beats.py");

pub async fn heartbeats_go_out_while_sessions_burn() -> Result<()> {
    let (fleet, host) = one_runner().await?;
    let api = fleet.api()?;
    let start = (0..SESSIONS).map(|number| {
        let body = json!({
            "id": format!("b{number}"), "kind": "command", "input": BURN, "resources": { "memory": "400MiB" }
        });
        let fleet = &fleet;
        async move { fleet.ready(&body, secs(90)).await }
    });
    try_join_all(start).await?;
    host.write("/root/beats.py", BEATS, 0o700).await?;
    let watched = IDLE + BURNING;
    host.run_ok(&format!(
        "systemd-run -q --unit=beats -p StandardOutput=file:/run/beats -p Restart=no \
         python3 /root/beats.py r1 {}",
        watched.as_secs()
    ))
    .await?;
    let mut arrivals = fleet.cluster.observer().await?.subscribe(subject::HEARTBEAT).await?;
    let begun = Instant::now();
    let (mut go, mut heard, mut used) = (None, Vec::new(), 0.0);
    while begun.elapsed() < watched {
        if go.is_none() && begun.elapsed() > IDLE {
            // By the host's clock, which is the machine's.
            let at: f64 = host.run_ok("touch /var/lib/helix/agentd/workspaces/b*/go; date +%s.%N").await?.parse()?;
            used = processor_time(&host).await?;
            go = Some((Instant::now(), at));
        }
        if let Ok(beat) = timeout_at(begun + IDLE.max(begun.elapsed() + secs(1)), arrivals.next()).await {
            beat.context("the subscription ended")?;
            heard.push(Instant::now());
        }
    }
    let (go_here, go_there) = go.context("nothing burnt")?;
    used = (processor_time(&host).await? - used) / go_here.elapsed().as_secs_f64();

    let sent = host.get("/run/beats").await?;
    let sent: Vec<f64> = sent.lines().map(str::parse).collect::<Result<_, _>>()?;
    let (idle, burning): (Vec<f64>, Vec<f64>) = sent.iter().partition(|at| **at < go_there);
    let arrived: Vec<f64> =
        heard.iter().filter(|at| **at > go_here).map(|at| at.duration_since(begun).as_secs_f64()).collect();
    let (idle, burning, arrived) = (jitter(&idle), jitter(&burning), jitter(&arrived));
    say(&format!(
        "heartbeats of 1 s, |gap − interval|; sessions used {used:.2} processors\n  \
         sent, idle:         {idle}\n  sent, burning:      {burning}\n  arrived, burning:   {arrived}"
    ));
    ensure!(used > 0.5, "the sessions used {used:.2} processors only: nothing is proved");
    ensure!(burning.count() >= 35, "{burning}: heartbeats are missing");
    ensure!(burning.at(0.99) <= LATEST, "heartbeats leave too irregularly: {burning}");
    for view in api.sessions().await? {
        ensure!(!view.phase.is_terminal(), "{view:?}");
    }
    host.stop().await?;
    fleet.stop().await
}

/// Seconds that processes of sessions have used.
async fn processor_time(host: &Host) -> Result<f64> {
    let sum = "ps -e -o user:20= -o times= | awk '$1 ~ /^helix-u/ { sum += $2 } END { print sum + 0 }'";
    Ok(host.run_ok(sum).await?.parse()?)
}

/// How far gaps between moments (in seconds) are from the interval.
fn jitter(moments: &[f64]) -> Figures {
    let gaps = moments.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3);
    Figures::of(gaps.map(|gap| (gap - INTERVAL).abs()), "ms")
}
