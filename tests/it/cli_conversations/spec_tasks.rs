//! `spec-task …`: one desktop, many threads.

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::Cluster;
use helix_tests::cluster::READY;

use super::Program;
use crate::cli::Cli;

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_task_is_created_shown_listed_and_stopped() -> Result<()> {
    let cluster = Cluster::small().await?;
    let (cli, api) = (Cli::new(&cluster)?, cluster.api()?);
    let create = ["spec-task", "create", "--spec-task", "task", "--id", "one", "--kind", "command"];
    let done = Program::piped(&cli, &[&create[..], &["--input", "echo plan", "--wait"]].concat())?.ends(0).await?;
    ensure!(done.stdout == "task\n", "{:?}", done.stdout);
    ensure!(done.stderr.contains("its desktop is session one"), "{}", done.stderr);
    cluster.remember(&api.session("one").await?);
    let more = ["session", "create", "--id", "two", "--kind", "command", "--spec-task", "task", "--input", "echo work"];
    cli.plain(0, &more).await?;

    let listed = cli.plain(0, &["spec-task", "list"]).await?;
    ensure!(listed.contains("task") && listed.contains("one"), "{listed}");
    let shown = cli.json(0, &["spec-task", "show", "task"]).await?;
    let contexts = shown["contexts"].as_array().context("no contexts")?;
    let works: Vec<_> =
        contexts.iter().map(|context| context["work_session_id"].as_str().unwrap_or_default()).collect();
    ensure!(shown["helix_session_id"] == "one" && works == ["one", "two"], "{shown}");
    let told = cli.plain(0, &["spec-task", "show", "task"]).await?;
    for context in contexts {
        let thread = context["zed_context_id"].as_str().context("no id")?;
        ensure!(told.contains(thread), "{thread} is not in {told}");
    }
    // Either name talks to the one desktop, each in its own thread.
    for (name, words) in [("one", "plan"), ("two", "work")] {
        let said = cli.plain(0, &["session", "prompt", name, "echo $((6 * 7))", "--wait"]).await?;
        ensure!(said == "42\n", "{name}: {said}");
        let thread = contexts[usize::from(name == "two")]["zed_context_id"].as_str().context("no id")?;
        let shown = cli.plain(0, &["thread", "show", name, thread]).await?;
        ensure!(shown.contains(words) && shown.contains("42"), "{name}: {shown}");
    }

    cli.plain(0, &["spec-task", "stop", "task"]).await?;
    for name in ["one", "two"] {
        api.wait_phase(name, SessionPhase::Stopped, READY).await?;
    }
    // A command that fails is told by the exit code, as of `session create`.
    let fails = ["spec-task", "create", "--spec-task", "other", "--id", "fails", "--kind", "command"];
    let said = cli.plain(1, &[&fails[..], &["--input", "exit 3", "--wait=result"]].concat()).await?;
    ensure!(said == "other\n", "{said}");
    cluster.remember(&api.session("fails").await?);
    let done = Program::piped(&cli, &["spec-task", "show", "nobody"])?.ends(1).await?;
    ensure!(done.stderr.contains("helixctl spec-task list"), "{}", done.stderr);
    cluster.shutdown().await
}
