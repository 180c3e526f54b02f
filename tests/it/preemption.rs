//! A session of higher priority has the room of one that allows it: which is saved first, ends, and goes on once there is
//! room, or stays ended with its work in a checkpoint.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::api::placement::PlacementView;
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::eventually::eventually;
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster};
use serde_json::json;

use crate::cli::Cli;

fn notes(view: &SessionView) -> Result<PathBuf> {
    Ok(PathBuf::from(view.workspace.clone().context("it has no workspace")?).join("notes"))
}

async fn placement(api: &Api, id: &str) -> Result<PlacementView> {
    api.get(&format!("/api/v1/sessions/{id}/placement")).await?.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_higher_priority_has_the_room_and_what_gave_way_goes_on_from_its_work() -> Result<()> {
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").slots(1)).start().await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    let made = api.put("/api/v1/pools/urgent", &json!({"priority": 10})).await?;
    ensure!(made.status == 201, "{} {}", made.status, made.text);

    // It goes on later: with all that it had when it ended.
    let flags = ["session", "create", "--id", "batch", "--kind", "terminal", "--preemptible", "--on-lost", "restart"];
    cli.plain(0, &flags).await?;
    let batch = api.wait_phase("batch", SessionPhase::Ready, READY).await?;
    cluster.remember(&batch);
    std::fs::write(notes(&batch)?, "half done")?;
    api.create(&json!({"id": "now", "kind": "terminal", "pool": "urgent"})).await?;
    let now = api.wait_phase("now", SessionPhase::Ready, READY).await?;
    cluster.remember(&now);
    let waits = api.session("batch").await?;
    let why = waits.cause.as_ref().map(|cause| cause.message.clone()).unwrap_or_default();
    ensure!(waits.phase == SessionPhase::Pending && why.starts_with("preempted by session now; "), "{waits:?}");
    let (gave_way, has_room) = (placement(&api, "batch").await?, placement(&api, "now").await?);
    ensure!(gave_way.gives_way_to.as_ref().is_some_and(|to| to.as_str() == "now"), "{gave_way:?}");
    ensure!(
        has_room.made_room.iter().map(helix_protocol::SessionId::as_str).collect::<Vec<_>>() == ["batch"],
        "{has_room:?}"
    );
    let told = cli.plain(0, &["session", "explain", "now"]).await?;
    ensure!(told.contains("batch gives way to it"), "{told}");
    // One that was preempted waits, whatever else allows it; and the same priority preempts nobody.
    api.create(&json!({"id": "also", "kind": "terminal", "pool": "urgent", "preemptible": true})).await?;
    api.stop("now").await?;
    let also = api.wait_phase("also", SessionPhase::Ready, READY).await?;
    cluster.remember(&also);
    ensure!(api.session("batch").await?.phase == SessionPhase::Pending);
    api.stop("also").await?;
    let back = api.wait_phase("batch", SessionPhase::Ready, READY).await?;
    cluster.remember(&back);
    ensure!(back.epoch > batch.epoch && std::fs::read_to_string(notes(&back)?)? == "half done", "{back:?}");
    api.stop("batch").await?;
    api.wait_phase("batch", SessionPhase::Stopped, READY).await?;

    // It ends for good: its work is in a checkpoint, from which another one can begin.
    let once = cluster.ready(&json!({"id": "once", "kind": "terminal", "preemptible": true})).await?;
    std::fs::write(notes(&once)?, "once")?;
    api.create(&json!({"id": "next", "kind": "terminal", "pool": "urgent"})).await?;
    cluster.remember(&api.wait_phase("next", SessionPhase::Ready, READY).await?);
    let ended = api.session("once").await?;
    let cause = ended.cause.clone().context("no cause")?;
    ensure!(ended.phase == SessionPhase::Stopped && cause.code == "preempted", "{ended:?}");
    ensure!(cause.message.starts_with("preempted by session next; its work is in its last checkpoint"), "{cause:?}");
    api.stop("next").await?;
    cli.plain(0, &["session", "fork", "once", "--as", "again"]).await?;
    let again = api.wait_phase("again", SessionPhase::Ready, READY).await?;
    cluster.remember(&again);
    ensure!(std::fs::read_to_string(notes(&again)?)? == "once");
    let trail = cli.plain(0, &["audit", "--limit", "200"]).await?;
    for preempted in ["batch", "once"] {
        let told = trail.lines().any(|line| line.contains("session.preempted") && line.contains(preempted));
        ensure!(told, "no word of {preempted} in the trail: {trail}");
    }

    // What does not allow it has its room for itself, whatever waits.
    api.stop("again").await?;
    cluster.ready(&json!({"id": "mine", "kind": "terminal"})).await?;
    api.create(&json!({"id": "patient", "kind": "terminal", "pool": "urgent"})).await?;
    eventually("it is told why it waits", READY, || async {
        let why = api.session("patient").await?.cause.context("no cause")?.message;
        ensure!(why == "all slots taken (r1 has 1 of 1 slots taken)", "{why}");
        Ok(())
    })
    .await?;
    ensure!(api.session("mine").await?.phase == SessionPhase::Ready);
    cluster.shutdown().await
}
