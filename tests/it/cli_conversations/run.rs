//! `helixctl run`: a pipeline's line, and what it leaves behind.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::{Api, Cluster, leftovers, programs};
use rustix::process::Signal;

use super::Program;
use crate::cli::Cli;

/// A repository with one file.
fn project(dir: &Path) -> Result<String> {
    let dir = dir.join("project");
    std::fs::create_dir(&dir)?;
    std::fs::write(dir.join("README"), "of the project\n")?;
    for args in [&["init", "-q"][..], &["add", "."], &["commit", "-qm", "first"]] {
        let identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
        let status = std::process::Command::new(programs::installed("git")?)
            .current_dir(&dir)
            .args(identity)
            .args(args)
            .status()?;
        ensure!(status.success(), "git {args:?}: {status}");
    }
    Ok(dir.to_str().context("not UTF-8")?.to_owned())
}

async fn none_is_left(api: &Api, cluster: &Cluster) -> Result<()> {
    eventually("no session is left", secs(30), || async {
        let sessions = api.sessions().await?;
        ensure!(sessions.is_empty(), "{sessions:?}");
        let processes = leftovers::processes(&cluster.runners[0].workspace_dir)?;
        ensure!(processes.is_empty(), "{processes:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_runs_a_prompt_in_a_project_and_leaves_nothing() -> Result<()> {
    let cluster = Cluster::small().await?;
    let (cli, api) = (Cli::new(&cluster)?, cluster.api()?);
    let project = project(cluster.dir())?;
    let run = |prompt, more: &[&'static str]| {
        let args = ["run", "--project", &project, "--kind", "command", prompt, "--wait"];
        Program::piped(&cli, &[&args[..], more].concat())
    };
    let done = run("cat README; echo more", &[])?.ends(0).await?;
    ensure!(done.stdout == "of the project\nmore\n", "{:?}\n{}", done.stdout, done.stderr);
    ensure!(api.sessions().await?.is_empty(), "it is still there");
    let done = run("echo so far; exit 7", &[])?.ends(1).await?;
    ensure!(done.stdout == "so far\n" && done.stderr.contains("exit status 7"), "{:?} {}", done.stdout, done.stderr);
    ensure!(!done.stderr.contains("helixctl thread show"), "it names what is gone: {}", done.stderr);
    let done = run("true", &["--json"])?.ends(0).await?;
    let told: serde_json::Value = serde_json::from_str(&done.stdout)?;
    ensure!(told["kept"] == false && told["turn"]["exit_status"] == 0, "{told}");
    let done = run("sleep 100", &["--timeout", "8"])?.ends(5).await?;
    ensure!(done.stderr.contains("was not done with its prompt in time"), "{}", done.stderr);
    none_is_left(&api, &cluster).await?;

    // Ctrl-C in the middle, and while it starts.
    let mut long = run("echo begun; sleep 100", &[])?;
    long.out.says("begun").await?;
    long.signal(Signal::INT)?;
    let done = long.ends(1).await?;
    ensure!(done.stdout == "begun\n" && done.stderr.contains("interrupted"), "{:?} {}", done.stdout, done.stderr);
    none_is_left(&api, &cluster).await?;
    let mut early = run("sleep 100", &[])?;
    early.err.says("session run-").await?;
    early.signal(Signal::TERM)?;
    early.ends(1).await?;
    none_is_left(&api, &cluster).await?;

    // A kind that nobody knows, and a project that is not there: no session stays.
    let done = Program::piped(&cli, &["run", "--kind", "nonsense", "true", "--wait"])?.ends(1).await?;
    ensure!(done.stderr.contains("no runner knows kind nonsense"), "{}", done.stderr);
    let absent = ["run", "--kind", "command", "--project", "/nonexistent/project", "true", "--wait"];
    let done = Program::piped(&cli, &absent)?.ends(1).await?;
    ensure!(done.stderr.contains("/nonexistent/project"), "it does not say what is wrong: {}", done.stderr);
    none_is_left(&api, &cluster).await?;

    // Kept: it can be talked to.
    let done = run("echo kept > kept", &["--keep"])?.ends(0).await?;
    let id = done.stderr.split("session chat ").nth(1).and_then(|rest| rest.split(';').next()).context("no id")?;
    cluster.remember(&api.session(id).await?);
    ensure!(cli.plain(0, &["session", "prompt", id, "cat kept", "--wait"]).await? == "kept\n", "another session");
    api.delete_session(id, READY).await?;

    // Without a wait: the id alone, and it works by itself.
    let done = Program::piped(&cli, &["run", "--kind", "command", "echo by itself"])?.ends(0).await?;
    let id = done.stdout.trim();
    let view = api.wait_result(id, READY).await?;
    cluster.remember(&view);
    ensure!(view.result.as_ref().is_some_and(|result| result.output_tail.contains("by itself")), "{view:?}");
    cluster.shutdown().await
}
