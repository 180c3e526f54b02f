//! A session that cannot start or whose parts die: Failed, with the step, the unit and its last lines, and nothing left.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use helix_protocol::SessionId;
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::process::signal_pid;
use helix_tests::{Cluster, leftovers, parts};
use rustix::process::Signal;
use serde_json::json;

fn slice_of(cluster: &Cluster, id: &str) -> Result<PathBuf> {
    Ok(cluster.runners[0].state_dir.join("s").join(SessionId::parse(id)?.unit_key()))
}

fn slice_is_clean(cluster: &Cluster, id: &str) -> Result<()> {
    leftovers::none(&slice_of(cluster, id)?)
}

fn cause(view: &SessionView) -> Result<&helix_protocol::session::Cause> {
    view.cause.as_ref().context("no cause")
}

/// Of Xvfb and its VNC server neither is of use alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_display_of_two_programs_ends_with_either() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    for (id, program, says) in [("one", "X0tigervnc", Some("X0tigervnc ended (signal: 9")), ("two", "Xvfb", None)] {
        cluster.ready(&json!({"id": id, "kind": "terminal", "display_server": "xvfb"})).await?;
        signal_pid(parts::named(&slice_of(&cluster, id)?, program)?, Signal::KILL)?;
        let ended = api.wait_phase(id, SessionPhase::Failed, READY).await?;
        let cause = cause(&ended)?;
        ensure!(cause.code == "display_died", "{cause:?}");
        let told = |says: &str| cause.log_tail.iter().any(|line| line.contains(says));
        ensure!(says.is_none_or(told), "{cause:?}");
        slice_is_clean(&cluster, id)?;
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_clone_shows_what_git_said() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    api.create(&json!({"id": "nogit", "kind": "terminal", "project": "file:///nonexistent/repository.git"})).await?;
    let view = api.wait_phase("nogit", SessionPhase::Failed, READY).await?;
    let cause = cause(&view)?;
    ensure!(cause.code == "workspace_failed", "{cause:?}");
    ensure!(cause.unit.as_deref() == Some("workspace") && cause.step.as_deref() == Some("workspace"), "{cause:?}");
    let said = cause.log_tail.join("\n");
    ensure!(said.contains("/nonexistent/repository.git"), "git's words are not in {cause:?}");
    slice_is_clean(&cluster, "nogit")?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_part_fails_the_session_with_its_name() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;

    let view = cluster.ready(&json!({"id": "blind", "kind": "terminal"})).await?;
    signal_pid(parts::display(&slice_of(&cluster, view.id.as_str())?)?, Signal::KILL)?;
    let view = api.wait_phase("blind", SessionPhase::Failed, READY).await?;
    ensure!(cause(&view)?.unit.as_deref() == Some("display"), "{:?}", view.cause);
    slice_is_clean(&cluster, "blind")?;

    cluster.ready(&json!({"id": "orphan", "kind": "terminal"})).await?;
    signal_pid(parts::guest(&slice_of(&cluster, "orphan")?)?, Signal::KILL)?;
    let view = api.wait_phase("orphan", SessionPhase::Failed, READY).await?;
    ensure!(!cause(&view)?.message.is_empty(), "{:?}", view.cause);
    slice_is_clean(&cluster, "orphan")?;

    // The runner is none the worse for it.
    cluster.ready(&json!({"id": "after", "kind": "terminal"})).await?;
    cluster.shutdown().await
}
