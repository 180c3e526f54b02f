//! Checkpoints from end to end: what was in a workspace is there again, here, elsewhere and in another session; what is
//! damaged or cannot be made changes nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::api::checkpoints::CheckpointList;
use helix_protocol::checkpoint::CheckpointsRecord;
use helix_protocol::session::SessionPhase;
use helix_protocol::subject;
use helix_protocol::thread::TurnState;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster};
use serde_json::json;

use crate::cli::Cli;
use crate::conversations::stage::Talk;

fn workspace(view: &SessionView) -> Result<PathBuf> {
    Ok(PathBuf::from(view.workspace.clone().context("it has no workspace")?))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string())
}

async fn checkpoints(api: &Api, id: &str) -> Result<CheckpointList> {
    api.get(&format!("/api/v1/sessions/{id}/checkpoints")).await?.json()
}

/// Changes all packs of a session's checkpoints where they are stored.
async fn damage(cluster: &Cluster, id: &str) -> Result<()> {
    let jetstream = async_nats::jetstream::new(cluster.bus().await?);
    let stream = jetstream.get_stream(subject::STREAM_CHECKPOINTS).await?;
    let records = jetstream.get_key_value(subject::BUCKET_CHECKPOINTS).await?;
    let record = records.get(id).await?.context("it has no checkpoint")?;
    let record: CheckpointsRecord = serde_json::from_slice(&record)?;
    let manifest = subject::checkpoint_blob(&record.family, &record.list[0].manifest);
    let bytes = stream.get_last_raw_message_by_subject(&manifest).await?.payload;
    let mut changed = bytes.to_vec();
    changed[8] ^= 1;
    stream.purge().filter(manifest.clone()).await?;
    jetstream.publish(manifest, changed.into()).await?.await?;
    Ok(())
}

#[tokio::test]
async fn a_session_goes_back_to_a_checkpoint_and_another_one_begins_from_it() -> Result<()> {
    let cluster = Cluster::small().await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal"})).await?;
    let file = workspace(&view)?.join("notes");

    // No repository: a directory is enough.
    std::fs::write(&file, "one")?;
    ensure!(cli.plain(0, &["session", "checkpoint", "desk"]).await?.trim() == "1");
    ensure!(cli.plain(0, &["session", "checkpoint", "desk"]).await?.trim() == "1", "nothing had changed");
    std::fs::write(&file, "two")?;
    cli.plain(0, &["session", "restore", "desk", "--checkpoint", "1"]).await?;
    let back = api.session("desk").await?;
    cluster.remember(&back);
    ensure!(back.phase == SessionPhase::Ready && back.epoch > view.epoch, "{back:?}");
    ensure!(text(&file) == "one", "{}", text(&file));
    // What it was before is not lost.
    let list = checkpoints(&api, "desk").await?.checkpoints;
    let numbers: Vec<_> = list.iter().map(|checkpoint| checkpoint.number).collect();
    ensure!(numbers == [3, 2, 1] && list[0].manifest == list[2].manifest, "{list:?}");
    cli.plain(0, &["session", "restore", "desk", "--checkpoint", "2"]).await?;
    cluster.remember(&api.session("desk").await?);
    ensure!(text(&file) == "two", "{}", text(&file));

    ensure!(cli.plain(0, &["session", "fork", "desk", "--checkpoint", "1", "--as", "other"]).await?.trim() == "other");
    let other = api.wait_phase("other", SessionPhase::Ready, READY).await?;
    cluster.remember(&other);
    ensure!(text(&workspace(&other)?.join("notes")) == "one");
    // The other one's packs stay when this one goes.
    api.delete_session("desk", READY).await?;
    ensure!(cli.plain(0, &["session", "fork", "other", "--as", "third"]).await?.trim() == "third");
    cluster.remember(&api.wait_phase("third", SessionPhase::Ready, READY).await?);

    api.post("/api/v1/sessions/other/restore", &json!({"checkpoint": 9}))
        .await?
        .problem(404, "checkpoint_not_found")?;
    damage(&cluster, "other").await?;
    let before = api.session("other").await?;
    api.post_empty("/api/v1/sessions/other/restore").await?.problem(409, "checkpoint_damaged")?;
    api.post_empty("/api/v1/sessions/other/fork").await?.problem(409, "checkpoint_damaged")?;
    let after = api.session("other").await?;
    ensure!(after.phase == SessionPhase::Ready && after.epoch == before.epoch, "{after:?}");
    api.post_empty("/api/v1/sessions/other/move").await?.problem(503, "runner_unavailable")?;
    api.stop("other").await?;
    api.wait_phase("other", SessionPhase::Stopped, READY).await?;
    api.post_empty("/api/v1/sessions/other/checkpoints").await?.problem(409, "session_ended")?;
    cluster.shutdown().await
}

#[tokio::test]
async fn a_session_moves_to_another_runner_with_its_work_and_leaves_nothing() -> Result<()> {
    let builder = Cluster::builder().runner(RunnerSpec::new("r1")).runner(RunnerSpec::new("r2"));
    let cluster = builder.start().await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal"})).await?;
    let (from, old) = (view.runner.clone().context("no runner")?.to_string(), workspace(&view)?);
    std::fs::write(old.join("notes"), "work")?;
    let to = if from == "r1" { "r2" } else { "r1" };
    api.post("/api/v1/sessions/desk/move", &json!({"to": from})).await?.problem(400, "invalid_request")?;
    api.post("/api/v1/sessions/desk/move", &json!({"to": "r9"})).await?.problem(404, "runner_not_found")?;

    ensure!(cli.plain(0, &["session", "move", "desk"]).await?.trim() == to);
    let there = api.session("desk").await?;
    cluster.remember(&there);
    ensure!(there.phase == SessionPhase::Ready && there.epoch > view.epoch, "{there:?}");
    let new = workspace(&there)?;
    ensure!(new != old && text(&new.join("notes")) == "work", "{}", new.display());
    eventually("nothing is left where it was", secs(30), || async {
        ensure!(!old.exists(), "{} is there", old.display());
        Ok(())
    })
    .await?;
    let beside = std::fs::read_dir(old.parent().context("no directory")?)?.count();
    ensure!(beside == 0, "all of it was in the checkpoint, and yet {beside} are kept");

    std::fs::write(new.join("notes"), "more work")?;
    cli.plain(0, &["runner", "drain", to, "--move", "--deadline", "2m"]).await?;
    let back = api.wait_phase("desk", SessionPhase::Ready, READY).await?;
    cluster.remember(&back);
    ensure!(back.runner.as_ref().is_some_and(|runner| runner.as_str() == from), "{back:?}");
    ensure!(text(&workspace(&back)?.join("notes")) == "more work");
    cluster.shutdown().await
}

#[tokio::test]
async fn a_lost_runners_session_begins_elsewhere_from_its_last_checkpoint() -> Result<()> {
    let spec = |id| RunnerSpec { settings: "checkpoint_interval = \"1s\"\n".to_owned(), ..RunnerSpec::new(id) };
    let mut cluster = Cluster::builder().runner(spec("r1")).runner(spec("r2")).start().await?;
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "on_lost": "restart"})).await?;
    let (from, old) = (view.runner.clone().context("no runner")?.to_string(), workspace(&view)?);
    std::fs::write(old.join("notes"), "kept")?;
    eventually("what was changed is in a checkpoint", secs(30), || async {
        let list = checkpoints(&api, "desk").await?.checkpoints;
        ensure!(list.first().is_some_and(|last| last.entries == 1), "{list:?}");
        Ok(())
    })
    .await?;
    let place = usize::from(from != "r1");
    cluster.runners[place].kill().await?;
    std::fs::write(old.join("later"), "in no checkpoint")?;
    let there = eventually("it begins elsewhere", secs(60), || async {
        let now = api.session("desk").await?;
        let moved = now.runner.as_ref().is_some_and(|runner| runner.as_str() != from);
        ensure!(moved && now.phase == SessionPhase::Ready, "{now:?}");
        Ok(now)
    })
    .await?;
    cluster.remember(&there);
    ensure!(there.epoch > view.epoch && text(&workspace(&there)?.join("notes")) == "kept");

    // The runner that comes back ends what it has, and keeps the work that nobody else has.
    cluster.runners[place].start().await?;
    let parent = old.parent().context("no directory")?.to_owned();
    let kept = eventually("its workspace is put aside", secs(60), || async {
        ensure!(!old.exists(), "it is still there");
        let kept = std::fs::read_dir(&parent)?.find_map(|entry| Some(entry.ok()?.path()));
        kept.context("nothing is kept")
    })
    .await?;
    ensure!(text(&kept.join("later")) == "in no checkpoint", "{}", kept.display());
    let now = api.session("desk").await?;
    ensure!(now.phase == SessionPhase::Ready && now.runner == there.runner, "{now:?}");
    cluster.shutdown().await
}

#[tokio::test]
async fn an_agentd_that_dies_while_it_brings_a_checkpoint_costs_nothing() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal"})).await?;
    let workspace = workspace(&view)?;
    // Nothing of it compresses.
    let mut random = std::fs::File::open("/dev/urandom")?;
    let mut file = std::fs::File::create(workspace.join("large"))?;
    std::io::copy(&mut std::io::Read::take(&mut random, 96 << 20), &mut file)?;
    let ask = tokio::spawn({
        let api = cluster.api()?;
        async move { api.post_empty("/api/v1/sessions/desk/checkpoints").await }
    });
    let jetstream = async_nats::jetstream::new(cluster.bus().await?);
    eventually("packs come", secs(30), || async {
        let mut stream = jetstream.get_stream(subject::STREAM_CHECKPOINTS).await?;
        ensure!(stream.info().await?.state.messages > 0);
        Ok(())
    })
    .await?;
    cluster.runners[0].kill().await?;
    ensure!(checkpoints(&api, "desk").await?.checkpoints.is_empty(), "half of one is none");
    cluster.runners[0].start().await?;
    // It was asked for, and is made by whoever is there now.
    let made = eventually("the checkpoint is made", secs(60), || async {
        let list = checkpoints(&api, "desk").await?.checkpoints;
        list.first().cloned().context("none yet")
    })
    .await?;
    ensure!(made.bytes == 96 << 20 && made.entries == 1, "{made:?}");
    drop(ask.await?);
    cluster.shutdown().await
}

#[tokio::test]
async fn what_a_lost_runner_was_carrying_out_is_not_done_again_elsewhere() -> Result<()> {
    let spec = |id| RunnerSpec { settings: "checkpoint_interval = \"1h\"\n".to_owned(), ..RunnerSpec::new(id) };
    let mut cluster = Cluster::builder().runner(spec("r1")).runner(spec("r2")).start().await?;
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "task", "kind": "command", "on_lost": "restart"})).await?;
    let from = view.runner.clone().context("no runner")?.to_string();
    // The agent's memory that goes elsewhere is older than the prompt.
    std::fs::write(workspace(&view)?.join("notes"), "kept")?;
    api.post_empty("/api/v1/sessions/task/checkpoints").await?.expect(200)?;
    let talk = Talk::of(api.clone(), "task").await?;
    let ran = cluster.dir().join("ran");
    let asked = talk.new_thread(&format!("echo once >>{}; sleep 600", ran.display())).await?;
    eventually("it runs", secs(20), || async {
        ensure!(text(&ran) == "once\n", "{}", text(&ran));
        Ok(())
    })
    .await?;
    cluster.runners[usize::from(from != "r1")].kill().await?;
    let there = eventually("it begins elsewhere", secs(60), || async {
        let now = api.session("task").await?;
        let moved = now.runner.as_ref().is_some_and(|runner| runner.as_str() != from);
        ensure!(moved && now.phase == SessionPhase::Ready, "{now:?}");
        Ok(now)
    })
    .await?;
    cluster.remember(&there);
    let left = talk.is(&asked, TurnState::Unknown).await?;
    ensure!(left.cause.as_ref().is_some_and(|cause| cause.code == "begun_elsewhere"), "{left:?}");
    // The agent there works, and has had its turn.
    let next = talk.prompt(&asked.thread, "true").await?;
    talk.is(&next, TurnState::Completed).await?;
    ensure!(text(&ran) == "once\n", "it ran again: {}", text(&ran));
    cluster.shutdown().await
}
