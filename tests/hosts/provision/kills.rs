//! helixctl is killed, or its connection ends: the host undoes what nobody confirmed, and the next run ends as one that was
//! never disturbed. `HELIX_PROVISION_KILLS` makes it longer, `HELIX_CHAOS_SEED` plays a run again.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_tests::chaos::{Kills, number};
use helix_tests::eventually::{eventually, secs};
use helix_tests::random::Random;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use super::stage::{self, Stage};
use crate::harness::Boot;

/// Steps as helixctl tells them, in their order.
const STEPS: [&str; 7] = [
    "connecting",
    "looking",
    "waiting for the host",
    "uploading",
    "changing",
    "waiting for the runner",
    "starting a test",
];

/// A run that is at this step.
async fn run_until(stage: &Stage, args: &[&str], step: &str) -> Result<Child> {
    let mut child = stage.command("root", args)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
    let reached = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(step) {
                return Ok(());
            }
        }
        anyhow::bail!("it ended before {step:?}")
    };
    timeout(secs(120), reached).await.context("helixctl does not get there")??;
    // What it says further goes nowhere: it must not fail for that.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(child)
}

pub async fn a_change_that_nobody_confirms_is_undone() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    let bare = stage::traces(host).await?;
    for round in 0..2 {
        let before = stage::traces(host).await?;
        let label = format!("round={round}");
        let args = ["--confirm-within", "10", "--label", &label];
        let mut killed = run_until(&stage, &args, "waiting for the runner").await?;
        killed.kill().await?;
        let changed = stage::traces(host).await?;
        ensure!(changed != before, "nothing was changed yet");
        eventually("the host undid it", secs(60), || async { stage::same(&before, &stage::traces(host).await?) })
            .await?;
        let said = host.run_ok("cat /var/lib/helix/provision/runs/*/reverted").await?;
        ensure!(said.contains("not confirmed within 10 s"), "{said}");
        stage.provision(&["--label", &label]).await?.expect(0, "changed")?;
    }
    ensure!(stage::traces(host).await? != bare, "the second round began on a bare host, too");

    // The connection, not the program: the host's network is gone while it changes.
    let before = stage::traces(host).await?;
    let mut cut = run_until(&stage, &["--confirm-within", "10", "--label", "round=cut"], "changing").await?;
    host.partition()?;
    let ended = timeout(secs(120), cut.wait()).await.context("helixctl does not notice")??;
    ensure!(!ended.success(), "it called a host changed that it could not ask");
    host.heal()?;
    eventually("the host undid it", secs(60), || async { stage::same(&before, &stage::traces(host).await?) }).await?;
    stage.stop().await
}

/// Ends every connection to the host's sshd but the one that this comes by.
const CUT: &str = "own=$(echo \"$SSH_CONNECTION\" | cut -d ' ' -f 2); \
                   ss -Htnp state established 'sport = :22' | grep -v \":$own \" | grep -o 'pid=[0-9]*' | cut -d = -f 2 | sort -u | \
                   xargs -r kill -9; true";

/// helixctl lives, and its connections do not, from one of its steps on.
pub async fn a_connection_that_is_cut_leaves_the_host_as_it_was() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    for step in STEPS {
        let before = stage::traces(host).await?;
        let label = format!("cut={}", step.replace(' ', "-"));
        let mut child = run_until(&stage, &["--confirm-within", "10", "--label", &label], step).await?;
        eventually("helixctl notices", secs(90), || {
            let ended = child.try_wait();
            async {
                host.run_ok(CUT).await?;
                ensure!(ended?.is_some(), "it goes on");
                Ok(())
            }
        })
        .await?;
        let output = child.wait_with_output().await?;
        let said: Value = serde_json::from_slice(&output.stdout).context(step)?;
        let (report, error) = (&said["hosts"][0], &said["hosts"][0]["error"]);
        crate::harness::say(&format!("{step}: {} {}", report["outcome"], error["what"]));
        ensure!(output.status.code() == Some(3) && report["outcome"] == "failed", "{step}: {said}");
        ensure!(!error["why"].is_null() && !error["next"].is_null(), "{step}: neither cause nor fix: {error}");
        if step != "starting a test" {
            eventually("the host undid it", secs(60), || async { stage::same(&before, &stage::traces(host).await?) })
                .await
                .context(step)?;
        }
    }
    // The last one was confirmed; what was not proved is proved now.
    let label = format!("cut={}", STEPS[STEPS.len() - 1].replace(' ', "-"));
    let run = stage.provision(&["--label", &label]).await?;
    run.expect(0, "unchanged")?;
    ensure!(run.host(0)["first_frame_ms"].as_u64().is_some(), "it was not proved: {}", run.stdout);
    stage.stop().await
}

pub async fn a_killed_run_is_finished_by_the_next() -> Result<()> {
    let rounds = number("HELIX_PROVISION_KILLS").map_or(Ok(STEPS.len()), usize::try_from)?;
    let seed = number("HELIX_CHAOS_SEED").unwrap_or(7);
    let (kills, mut random) = (Kills::of("provision", seed), Random::seeded(seed));
    let stage = Stage::start([Boot::container()]).await?;
    for round in 0..rounds {
        // Each point once before any comes again.
        let step = STEPS[round % STEPS.len()];
        let label = format!("round={round}");
        let mut child = run_until(&stage, &["--label", &label], step).await?;
        let moment = Duration::from_millis(random.below(400));
        let _ = timeout(moment, child.wait()).await;
        // Each point by turns: helixctl is killed, or its connection is.
        let what = if (round / STEPS.len()).is_multiple_of(2) { "killed" } else { "cut" };
        crate::harness::say(&format!("round {round}: {what} {moment:?} after {step:?}"));
        if what == "cut" {
            stage.hosts[0].run_ok(CUT).await?;
            timeout(secs(120), child.wait()).await.context("helixctl does not notice")??;
        } else {
            child.kill().await?;
            kills.count("helixctl", 1);
        }
        let run = stage.provision(&["--label", &label]).await?;
        ensure!(run.code == 0, "round {round}, {step}: {}\n{}", run.stdout, run.stderr);
        let check = stage.provision(&["--check", "--label", &label]).await?;
        check.expect(0, "unchanged").with_context(|| format!("round {round}, {step}"))?;
    }
    let host = &stage.hosts[0];
    eventually("no test session is left", secs(60), || async {
        let sessions = stage.fleet.api()?.sessions().await?;
        ensure!(sessions.is_empty(), "{sessions:#?}");
        Ok(())
    })
    .await?;
    let left = host.run_ok("ls /var/lib/helix/provision; ls /var/lib/helix/provision/runs | wc -l").await?;
    ensure!(left == "lock\nowner\nproved\nruns\n1", "left: {left}");
    stage.stop().await?;
    crate::harness::say(&kills.survived()?);
    Ok(())
}

/// helixctl's machine loses its power: nobody tells the host. The next run notices within a minute or so.
pub async fn a_lock_of_a_dead_controller_is_taken() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    stage.provision(&[]).await?.expect(0, "changed")?;
    let mut dead = run_until(&stage, &["--label", "a=dead"], "uploading").await?;
    // Nothing of that connection arrives any more, not even its end.
    let port = host.run_ok("sed -n 's/^connection [^ ]* \\([0-9]*\\) .*/\\1/p' /var/lib/helix/provision/owner").await?;
    host.run_ok(&format!(
        "nft 'add table ip lab; add chain ip lab in {{ type filter hook input priority 0 ; policy accept ; }}; \
         add rule ip lab in tcp sport {port} drop'"
    ))
    .await?;
    dead.kill().await?;
    let begun = std::time::Instant::now();
    stage.provision(&["--label", "a=next"]).await?.expect(0, "changed")?;
    crate::harness::say(&format!("the lock was free after {:?}", begun.elapsed()));
    ensure!(begun.elapsed() < secs(150), "it took {:?}", begun.elapsed());
    stage.stop().await
}
