//! `helixctl status` of a fleet whose parts go and come back: what it says, how it waits, and what it shows while it stays.

use anyhow::{Context, Result, ensure};
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs};
use helix_tests::runner::RunnerSpec;
use rustix::process::Signal;
use serde_json::Value;

use crate::cli::Cli;
use crate::cli_conversations::Program;

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_the_truth_waits_for_it_and_shows_it_change() -> Result<()> {
    let mut cluster = Cluster::builder().three_nats().runner(RunnerSpec::new("r1")).start().await?;
    let cli = Cli::new(&cluster)?;
    let ready = cli.run(&["status", "--wait-ready", "--timeout", "90"]).await?;
    ensure!(ready.code == 0, "{} {}", ready.stdout, ready.stderr);
    ensure!(ready.stdout.contains("3 of 3 members") && ready.stdout.contains(" leads"), "{}", ready.stdout);

    let mut watch = Program::piped(&cli, &["status", "--watch", "--json"])?;
    watch.out.says(r#""healthy":true"#).await?;

    // A member of the bus goes and comes back.
    cluster.member(2)?.kill().await?;
    eventually("the member is missed", secs(90), || async {
        let status = cli.run(&["status", "--json"]).await?;
        let said: Value = serde_json::from_str(&status.stdout).with_context(|| status.stderr.clone())?;
        let problems = said["problems"].to_string();
        ensure!(status.code == 1 && problems.contains("NATS member n2 is not heard"), "{} {problems}", status.code);
        Ok(())
    })
    .await?;
    cluster.member(2)?.restart().await?;
    let ready = cli.run(&["status", "--wait-ready", "--timeout", "90"]).await?;
    ensure!(ready.code == 0, "{} {}", ready.stdout, ready.stderr);

    // The runner goes: whoever waits is told what for, whoever watches sees it.
    cluster.runners[0].kill().await?;
    eventually("the runner is missed", secs(60), || async {
        let status = cli.run(&["status"]).await?;
        ensure!(status.code == 1 && status.stdout.contains("runner r1 is "), "{}", status.stdout);
        Ok(())
    })
    .await?;
    let late = cli.run(&["status", "--wait-ready", "--timeout", "1"]).await?;
    ensure!(late.code == 5 && late.stderr.contains("runner r1 is "), "{} {}", late.code, late.stderr);
    watch.out.says("no runner is online").await?;
    cluster.runners[0].start().await?;
    let ready = cli.run(&["status", "--wait-ready", "--timeout", "60"]).await?;
    ensure!(ready.code == 0, "{} {}", ready.stdout, ready.stderr);
    watch.signal(Signal::INT)?;

    // A server that is away is waited for.
    let server = &mut cluster.servers[0];
    server.kill().await?;
    let waits = async { cli.run(&["status", "--wait-ready", "--timeout", "60"]).await };
    let (waited, started) = tokio::join!(waits, server.start());
    started?;
    let waited = waited?;
    ensure!(waited.code == 0, "{} {}", waited.stdout, waited.stderr);
    cluster.shutdown().await
}
