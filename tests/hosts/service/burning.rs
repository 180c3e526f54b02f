//! Eight sessions burn processors and memory, and heartbeats go out on time all the same.
//!
//! What counts is when a heartbeat leaves the host, by the kernel's stamp on the packet. Servers and NATS run outside of
//! the host on the same processors, so the arrival also shows their own delay: it is told, not judged.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use helix_protocol::subject;
use helix_tests::eventually::secs;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::one_runner;
use crate::figures::Figures;
use crate::fleet::start_time;
use crate::harness::{Boot, Host, say};

const SESSIONS: usize = 8;
/// Between heartbeats of the fleet's runners, in milliseconds.
const INTERVAL: f64 = 1000.0;
const LATEST: f64 = 250.0;
const IDLE: Duration = secs(8);
const BURNING: Duration = secs(42);
/// Two loops, and one that writes so many MiB again and again.
const BURN: &str = "until [ -e go ]; do sleep 0.2; done; while :; do :; done & while :; do :; done & \
    exec python3 -c 'while True: b\"x\" * (MIB << 20)'";
const BEATS: &str = include_str!("beats.py");

pub async fn heartbeats_go_out_while_sessions_burn() -> Result<()> {
    burn(Boot::container(), 200).await
}

/// With a kernel of its own, hence with cgroup v2 and the memory protection of agentd.slice.
pub async fn heartbeats_go_out_while_a_guest_burns() -> Result<()> {
    burn(Boot::guest().memory(2048), 60).await
}

async fn burn(boot: Boot, mebibytes: u32) -> Result<()> {
    let (fleet, host) = one_runner(boot).await?;
    let api = fleet.api()?;
    // One after the other: on a guest, eight desktops at once would miss their deadlines.
    for number in 0..SESSIONS {
        let body = json!({
            "id": format!("b{number}"), "kind": "command", "input": BURN.replace("MIB", &mebibytes.to_string()),
            "resources": { "memory": format!("{}MiB", mebibytes + 200) }
        });
        fleet.ready(&body, start_time(&host)).await?;
    }
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
            let at: f64 = host
                .run_ok("for dir in /var/lib/helix/agentd/workspaces/b*; do touch $dir/go; done; date +%s.%N")
                .await?
                .parse()?;
            used = processor_time(&host).await?;
            go = Some((Instant::now(), at));
        }
        if let Ok(beat) = timeout(secs(1), arrivals.next()).await {
            beat.context("the subscription ended")?;
            heard.push(Instant::now());
        }
    }
    let (started, since) = go.context("nothing burnt")?;
    used = (processor_time(&host).await? - used) / started.elapsed().as_secs_f64();

    let sent = host.get("/run/beats").await?;
    let sent: Vec<f64> = sent.lines().map(str::parse).collect::<Result<_, _>>()?;
    let (idle, burning): (Vec<f64>, Vec<f64>) = sent.iter().partition(|at| **at < since);
    let arrived: Vec<f64> =
        heard.iter().filter(|at| **at > started).map(|at| at.duration_since(begun).as_secs_f64()).collect();
    let (idle, burning, arrived) = (jitter(&idle), jitter(&burning), jitter(&arrived));
    say(&format!(
        "heartbeats of 1 s on a {:?}, |gap − interval|; sessions used {used:.2} processors\n  \
         sent, idle:         {idle}\n  sent, burning:      {burning}\n  arrived, burning:   {arrived}",
        host.kind
    ));
    for view in api.sessions().await? {
        ensure!(!view.phase.is_terminal() && view.result.is_none(), "it burns no more: {view:#?}");
    }
    ensure!(used > 0.2, "the sessions used {used:.2} processors only: nothing is proved");
    ensure!(burning.count() >= 35, "{burning}: heartbeats are missing");
    ensure!(burning.at(0.99) <= LATEST, "heartbeats leave too irregularly: {burning}");
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
