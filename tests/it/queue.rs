//! Full slots, time-outs and drain: what a runner's capacity does to sessions.

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::Cluster;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::runner::RunnerSpec;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn full_slots_queue_with_place_and_reason() -> Result<()> {
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").slots(1)).start().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "first", "kind": "terminal"})).await?;
    for (id, place) in [("second", 1), ("third", 2)] {
        let answer = api.post("/api/v1/sessions", &json!({"id": id, "kind": "terminal"})).await?;
        ensure!(answer.status == 201, "{} {}", answer.status, answer.text);
        eventually("the queued session tells its place and why", secs(15), || async {
            let view = api.session(id).await?;
            ensure!(view.phase == SessionPhase::Pending, "{}", view.phase);
            ensure!(view.queue_position == Some(place), "place {:?}", view.queue_position);
            ensure!(view.cause.as_ref().is_some_and(|cause| !cause.message.is_empty()), "no reason");
            Ok(())
        })
        .await?;
    }
    // Waiting for it times out; the session itself stands.
    let waited =
        api.post("/api/v1/sessions?wait=ready&timeout=1", &json!({"id": "fourth", "kind": "terminal"})).await?;
    waited.problem(504, "wait_timeout")?;
    ensure!(api.session("fourth").await?.phase == SessionPhase::Pending, "the request itself was dropped");
    // A queued session is stopped without ever having run.
    api.stop("fourth").await?;
    api.wait_phase("fourth", SessionPhase::Stopped, READY).await?;

    api.stop("first").await?;
    let second = api.wait_phase("second", SessionPhase::Ready, READY).await?;
    cluster.remember(&second);
    let third = api.session("third").await?;
    ensure!(third.phase == SessionPhase::Pending && third.queue_position == Some(1), "{third:?}");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_by_its_timeout() -> Result<()> {
    let mut spec = RunnerSpec::new("r1");
    spec.session_timeout = "2s".to_owned();
    let cluster = Cluster::builder().runner(spec).start().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "short", "kind": "command", "input": "true"})).await?;
    let view = api.wait_phase("short", SessionPhase::Stopped, READY).await?;
    ensure!(view.cause.as_ref().is_some_and(|cause| cause.code == "timeout"), "{:?}", view.cause);
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_drains_after_its_last_task() -> Result<()> {
    let mut spec = RunnerSpec::new("r1");
    spec.max_tasks = 1;
    let mut cluster = Cluster::builder().runner(spec).start().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "only", "kind": "command", "input": "true"})).await?;
    api.stop("only").await?;
    let process = cluster.runners[0].process().context("agentd was not started")?;
    let status = process.wait(secs(40)).await?;
    ensure!(status.success(), "agentd ended with {status} after its last task");
    api.wait_phase("only", SessionPhase::Stopped, READY).await?;
    // Whoever supervises it starts it again: it takes sessions again.
    cluster.runners[0].start().await?;
    cluster.ready(&json!({"id": "next", "kind": "command", "input": "true"})).await?;
    cluster.shutdown().await
}
