//! `session prompt`: the answer as it streams, the outcome as the exit code, and what a prompt gets that cannot go on.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::Cluster;
use helix_tests::cluster::READY;
use helix_tests::runner::RunnerSpec;
use serde_json::json;

use super::Program;
use crate::cli::Cli;

fn prompt<'a>(id: &'a str, text: &'a str) -> [&'a str; 5] {
    ["session", "prompt", id, text, "--wait"]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_streams_and_the_exit_code_is_the_outcome() -> Result<()> {
    let cluster = Cluster::small().await?;
    let cli = Cli::new(&cluster)?;
    let view = cluster.ready(&json!({"id": "s", "kind": "command"})).await?;
    let workspace = Path::new(view.workspace.as_deref().context("no workspace")?).to_owned();

    // The first line is there while the command still runs.
    let text = "echo one; until [ -e go ]; do sleep 0.1; done; printf two";
    let mut streams = Program::piped(&cli, &prompt("s", text))?;
    streams.out.says("one\n").await?;
    std::fs::write(workspace.join("go"), "")?;
    let done = streams.ends(0).await?;
    ensure!(done.stdout == "one\ntwo\n", "more than the answer: {:?}", done.stdout);
    ensure!(done.stderr.contains("completed"), "{}", done.stderr);
    let done = Program::piped(&cli, &[&prompt("s", "echo three; echo four >&2")[..], &["--quiet"]].concat())?.ends(0);
    let done = done.await?;
    ensure!(done.stdout == "three\nfour\n" && done.stderr.is_empty(), "{:?} {:?}", done.stdout, done.stderr);

    // A command that fails, for people and for programs.
    let done = Program::piped(&cli, &prompt("s", "echo so far; exit 3"))?.ends(1).await?;
    ensure!(done.stdout == "so far\n" && done.stderr.contains("exit status 3"), "{:?} {}", done.stdout, done.stderr);
    let told = cli.json(1, &prompt("s", "echo so far; exit 3")).await?;
    ensure!(told["turn"]["exit_status"] == 3 && told["turn"]["state"] == "completed", "{told}");
    ensure!(told["answer"] == "so far\n" && told["session"] == "s", "{told}");
    let told = cli.json(0, &prompt("s", "true")).await?;
    ensure!(told["turn"]["exit_status"] == 0 && told["answer"] == "", "{told}");

    // Without a wait: the turn's id, and where to look.
    let done = Program::piped(&cli, &["session", "prompt", "s", "true"])?.ends(0).await?;
    ensure!(done.stdout.starts_with("int_") && done.stdout.lines().count() == 1, "{:?}", done.stdout);
    ensure!(done.stderr.contains("helixctl thread show s thr_"), "{}", done.stderr);

    // Cancelled by somebody else; a prompt behind it says what it waits for.
    let mut long = Program::piped(&cli, &prompt("s", "echo begun; sleep 100"))?;
    long.out.says("begun").await?;
    let threads = cli.json(0, &["thread", "list", "s"]).await?;
    let thread = threads["threads"][0]["id"].as_str().context("no thread")?.to_owned();
    let mut behind = Program::piped(&cli, &prompt("s", "echo behind"))?;
    behind.err.says("it waits for what was asked in this thread before; --interrupt").await?;
    cli.plain(5, &[&prompt("s", "echo never waited for")[..], &["--timeout", "1"]].concat()).await?;
    cli.plain(0, &["thread", "cancel", "s", &thread]).await?;
    let done = long.ends(1).await?;
    ensure!(done.stdout == "begun\n" && done.stderr.contains("is cancelled"), "{:?} {}", done.stdout, done.stderr);
    ensure!(behind.ends(0).await?.stdout == "behind\n", "the next one is not itself");

    // The same key in the same place is the same prompt: its answer is told again, and nothing runs twice.
    let once = ["--thread", &thread, "--idempotency-key", "k"];
    for _ in 0..2 {
        let args = [&prompt("s", "echo ran >> ran; wc -l < ran")[..], &once].concat();
        ensure!(cli.plain(0, &args).await?.trim() == "1", "it ran twice");
    }

    // What is not there.
    for (args, why) in [
        (prompt("nobody", "true").to_vec(), "there is no session nobody"),
        ([&prompt("s", "true")[..], &["--thread", "thr_0123456789"]].concat(), "has no thread"),
    ] {
        let done = Program::piped(&cli, &args)?.ends(1).await?;
        ensure!(done.stdout.is_empty() && done.stderr.contains(why), "{args:?}: {}", done.stderr);
        ensure!(done.stderr.contains("next:  helixctl"), "{args:?} tells no way on: {}", done.stderr);
    }

    // An ended session says how to begin another; what was said in it can be read.
    cli.plain(0, &["session", "stop", "s", "--wait"]).await?;
    let done = Program::piped(&cli, &prompt("s", "true"))?.ends(1).await?;
    ensure!(done.stderr.contains("takes no prompts"), "{}", done.stderr);
    ensure!(done.stderr.contains("helixctl session create"), "{}", done.stderr);
    let mut chat = Program::on_a_terminal(&cli, &["session", "chat", "s"])?;
    chat.out.says("session s takes no prompts: it is Stopped").await?;
    chat.ends(1).await?;
    let shown = cli.plain(0, &["thread", "show", "s", &thread, "--entries", "1"]).await?;
    ensure!(shown.contains("earlier entries") && !shown.contains("so far"), "{shown}");
    let shown = cli.plain(0, &["thread", "show", "s", &thread, "--entries", "500"]).await?;
    for said in ["one\ntwo", "so far", "exit status 3", "turn cancelled", "behind"] {
        ensure!(shown.contains(said), "{said:?} is not in {shown}");
    }
    let told = cli.json(0, &["thread", "show", "s", &thread, "--entries", "2"]).await?;
    ensure!(told["entries"].as_array().is_some_and(|entries| entries.len() == 2), "{told}");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_to_a_session_that_waits_runs_once_when_it_is_up() -> Result<()> {
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").slots(1)).start().await?;
    let (cli, api) = (Cli::new(&cluster)?, cluster.api()?);
    cluster.ready(&json!({"id": "first", "kind": "terminal"})).await?;
    api.create(&json!({"id": "s", "kind": "command"})).await?;

    let mut waits = Program::piped(&cli, &prompt("s", "echo ran >> ran; cat ran"))?;
    waits.err.says("the session is Pending: the prompt waits until its agent is ready").await?;
    let mut chat = Program::on_a_terminal(&cli, &["session", "chat", "s", "--new-thread"])?;
    chat.out.says("> ").await?;
    chat.types("echo chat >> ran\r").await?;
    chat.out.says("new thread thr_").await?;
    ensure!(api.session("s").await?.phase == SessionPhase::Pending, "it has a runner");
    api.stop("first").await?;
    let view = api.wait_phase("s", SessionPhase::Ready, READY).await?;
    cluster.remember(&view);
    ensure!(waits.ends(0).await?.stdout.contains("ran\n"), "another answer");
    chat.out.says("> ").await?;
    chat.types(super::program::CTRL_D).await?;
    chat.ends(0).await?;
    let ran = std::fs::read_to_string(Path::new(view.workspace.as_deref().context("no workspace")?).join("ran"))?;
    let mut lines: Vec<_> = ran.lines().collect();
    lines.sort_unstable();
    ensure!(lines == ["chat", "ran"], "not once each: {ran}");
    cluster.shutdown().await
}
