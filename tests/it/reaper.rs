//! What belongs to nothing, from end to end: in NATS and on a runner, removed, told by helixctl, and left where it is not
//! ours.

use std::fs;

use anyhow::{Result, ensure};
use helix_protocol::subject;
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs};
use helix_tests::runner::RunnerSpec;
use serde_json::{Value, json};

use crate::cli::Cli;

#[tokio::test]
async fn what_belongs_to_nothing_goes_from_nats_and_from_runners_and_all_is_told() -> Result<()> {
    let mut spec = RunnerSpec::new("r1");
    spec.settings = "kept_for = \"1ms\"\nkept_at_least = \"0s\"\n".to_owned();
    let settings = "[reaper]\ngrace = \"300ms\"\n";
    let mut cluster = Cluster::builder().runner(spec).settings(settings).start().await?;
    let cli = Cli::new(&cluster)?;
    cluster.ready(&json!({"id": "alive", "kind": "terminal"})).await?;
    cluster.ready(&json!({"id": "gone", "kind": "terminal"})).await?;
    cli.plain(0, &["session", "delete", "gone"]).await?;
    let api = cluster.api()?;
    eventually("its record is gone", secs(60), async || {
        let answer = api.get("/api/v1/sessions/gone").await?;
        ensure!(answer.status == 404, "{answer:?}");
        Ok(())
    })
    .await?;

    // On the runner: the directory of a session that nobody knows, and a workspace whose session lives elsewhere. What
    // is named otherwise is somebody's.
    cluster.runners[0].kill().await?;
    let (state, workspaces) = (cluster.runners[0].state_dir.clone(), cluster.runners[0].workspace_dir.clone());
    let leftover = state.join("s/0123456789abcdef");
    let (kept, others) = (workspaces.join("moved.kept-1"), [state.join("s/notes"), workspaces.join("mine.kept-old")]);
    for dir in [&leftover, &kept, &others[0], &others[1]] {
        fs::create_dir_all(dir.join("deep"))?;
        fs::write(dir.join("deep/file"), "x")?;
    }
    // In NATS: what a session said that was deleted, and what others keep there.
    let jetstream = async_nats::jetstream::new(cluster.bus().await?);
    jetstream.publish("threads.gone.t", "hello".into()).await?.await?;
    jetstream.publish(format!("$KV.{}.my.notes", subject::BUCKET_POOLS), "mine".into()).await?.await?;

    cluster.runners[0].start().await?;
    eventually("the runner has reaped", secs(60), async || {
        ensure!(!leftover.exists() && !kept.exists(), "they are there");
        let told: Value = cli.json(0, &["reap", "--last"]).await?;
        let reaped = &told["runners"][0]["reaped"];
        ensure!(reaped["sessions"] == 1 && reaped["directories"] == 1 && reaped["workspaces"] == 1, "{told}");
        Ok(())
    })
    .await?;
    ensure!(others.iter().all(|other| other.join("deep/file").exists()), "what is not ours was taken");

    eventually("the conversation has gone", secs(60), async || {
        let told: Value = cli.json(0, &["reap"]).await?;
        let removed = told["last_removal"]["removed"].as_array();
        let gone = removed.is_some_and(|list| list.iter().any(|of| of["kind"] == "conversation"));
        ensure!(gone && told["last"]["foreign"][0]["count"] == 1, "{told}");
        Ok(())
    })
    .await?;
    let text = cli.plain(0, &["reap", "--last"]).await?;
    ensure!(text.contains("foreign") && text.contains("my.notes") && text.contains("r1 removed"), "{text}");
    let status = cli.json(0, &["status"]).await?;
    let warned =
        status["warnings"].as_array().is_some_and(|list| list.iter().any(|text| text.to_string().contains("reap")));
    ensure!(warned && status["healthy"] == true, "{status}");
    let alive: Value = api.get("/api/v1/sessions/alive").await?.json()?;
    ensure!(alive["phase"] == "Ready", "{alive}");
    cluster.shutdown().await
}
