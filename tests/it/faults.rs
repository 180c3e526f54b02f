//! A session that cannot start or whose parts die: Failed, with the step, the unit and its last lines, and nothing left.

use anyhow::{Context, Result, ensure};
use helix_protocol::SessionId;
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::process::signal_pid;
use helix_tests::{Cluster, leftovers, x};
use rustix::process::Signal;
use serde_json::json;

fn slice_is_clean(cluster: &Cluster, id: &str) -> Result<()> {
    leftovers::none(&cluster.runners[0].state_dir.join("s").join(SessionId::parse(id)?.unit_key()))
}

fn cause(view: &SessionView) -> Result<&helix_protocol::session::Cause> {
    view.cause.as_ref().context("no cause")
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
    let slice = cluster.runners[0].state_dir.join("s").join(view.id.unit_key());
    let slice = slice.to_str().context("path is not UTF-8")?;
    let displays = leftovers::processes_saying("Xtigervnc")?;
    let of_session =
        |pid: &u32| x::environment(*pid).is_ok_and(|env| env.values().any(|value| value.starts_with(slice)));
    let display = displays.into_iter().find(of_session).context("no display process")?;
    signal_pid(display, Signal::KILL)?;
    let view = api.wait_phase("blind", SessionPhase::Failed, READY).await?;
    ensure!(cause(&view)?.unit.as_deref() == Some("display"), "{:?}", view.cause);
    slice_is_clean(&cluster, "blind")?;

    cluster.ready(&json!({"id": "orphan", "kind": "terminal"})).await?;
    let slice = cluster.runners[0].state_dir.join("s").join(SessionId::parse("orphan")?.unit_key());
    let state_dir = cluster.runners[0].state_dir.to_str().context("path is not UTF-8")?.to_owned();
    let guests: Vec<_> = leftovers::processes_saying("agentd guest")?
        .into_iter()
        .filter(|pid| guest_of(*pid, &slice, &state_dir))
        .collect();
    ensure!(guests.len() == 1, "guests of the session: {guests:?}");
    signal_pid(guests[0], Signal::KILL)?;
    let view = api.wait_phase("orphan", SessionPhase::Failed, READY).await?;
    ensure!(!cause(&view)?.message.is_empty(), "{:?}", view.cause);
    slice_is_clean(&cluster, "orphan")?;

    // The runner is none the worse for it.
    cluster.ready(&json!({"id": "after", "kind": "terminal"})).await?;
    cluster.shutdown().await
}

/// The guest names its session's directory in its arguments, its environment or as its working directory.
fn guest_of(pid: u32, slice: &std::path::Path, state_dir: &str) -> bool {
    let key = slice.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).into_owned();
    let environment = x::environment(pid).unwrap_or_default();
    let mut words = environment.into_values().chain([command]);
    words.any(|word| word.contains(&key) && word.contains(state_dir))
        || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(slice))
}
