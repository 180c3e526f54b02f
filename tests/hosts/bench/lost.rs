//! T13: a host is cut off, and its session begins elsewhere: from the moment when its cable is pulled. With the fast
//! profile (heartbeats every second, suspect after two, lost after three) as many times as there are rounds, with the
//! defaults once. No peer can be driven here; Nomad's default is 20 s and more.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use helix_tests::server::Times;
use serde_json::json;

use super::{report, rounds};
use crate::figures::Figures;
use crate::fleet::Fleet;
use crate::harness::{Host, say};
use crate::moves::that_count;

const IDS: [&str; 2] = ["r1", "r2"];
const FAST: (&str, &str, &str) = ("1s", "2s", "3s");
const DEFAULT: (&str, &str, &str) = ("5s", "15s", "30s");
/// Between two looks at the session.
const STEP: Duration = Duration::from_millis(10);

pub async fn lost() -> Result<()> {
    let (fast, default) = (of(FAST, rounds()).await?, of(DEFAULT, 1).await?);
    let line = |what: &str, [queued, ready]: [Vec<f64>; 2]| {
        let (queued, ready) = (Figures::of(queued, "s"), Figures::of(ready, "s"));
        format!("- {what}: cable pulled to lost and queued again {queued}; to Ready on the other host {ready}")
    };
    report(&[
        "## T13 · a host that is cut off, in container hosts".to_owned(),
        line("fast profile (1, 2, 3 s)", fast),
        line("defaults (5, 15, 30 s)", default),
        "- every time one assignment more, and the copy that came back had ended before it served again".to_owned(),
    ]);
    Ok(())
}

async fn of(
    (heartbeat, suspect, lost): (&'static str, &'static str, &'static str),
    rounds: u32,
) -> Result<[Vec<f64>; 2]> {
    let fleet = Fleet::start_with(Times { heartbeat, suspect, lost, ..Times::default() }).await?;
    let hosts = that_count(&fleet, &IDS).await?;
    let mut view = fleet.ready(&json!({"id": "moves", "kind": "counts", "on_lost": "restart"}), secs(60)).await?;
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let old = place(&view)?;
        let (queued, ready, now) = cut(&fleet, &hosts[old], &view).await?;
        say(&format!("lost {round}: queued again {queued:.2} s, ready {ready:.2} s"));
        took[0].push(queued);
        took[1].push(ready);
        ensure!(now.epoch.0 == view.epoch.0 + 1, "{} then {}: assigned more than once", view.epoch, now.epoch);
        hosts[old].heal()?;
        fleet.online(IDS[old]).await?;
        eventually("the copy that came back has ended", secs(60), || async {
            let live = "systemctl list-units --plain --no-legend 'helix-s*-app.service' | wc -l";
            ensure!(hosts[old].run_ok(live).await? == "0");
            Ok(())
        })
        .await?;
        view = now;
    }
    for host in hosts {
        host.stop().await?;
    }
    fleet.stop().await?;
    Ok(took)
}

/// Seconds until it is no more with its runner, and until it is Ready with another one.
async fn cut(fleet: &Fleet, host: &Host, before: &SessionView) -> Result<(f64, f64, SessionView)> {
    let api = fleet.api()?;
    let (begun, mut queued) = (Instant::now(), None);
    host.partition()?;
    loop {
        let view = api.session("moves").await?;
        if queued.is_none() && (view.phase == SessionPhase::Lost || view.runner != before.runner) {
            queued = Some(begun.elapsed().as_secs_f64());
        }
        if view.phase == SessionPhase::Ready && view.runner.is_some() && view.runner != before.runner {
            return Ok((queued.context("it was never lost")?, begun.elapsed().as_secs_f64(), view));
        }
        ensure!(begun.elapsed() < secs(120), "it does not begin elsewhere: {view:?}");
        tokio::time::sleep(STEP).await;
    }
}

fn place(view: &SessionView) -> Result<usize> {
    let runner = view.runner.as_ref().context("no runner")?;
    IDS.iter().position(|id| *id == runner.as_str()).context("no such runner")
}
