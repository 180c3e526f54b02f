//! `session chat` as a person at a terminal has it, and as a pipe has it.

use anyhow::{Result, ensure};
use helix_tests::Cluster;
use helix_tests::eventually::secs;
use serde_json::json;

use super::Program;
use super::program::{CTRL_C, CTRL_D};
use crate::cli::Cli;

#[tokio::test(flavor = "multi_thread")]
async fn a_person_prompts_cancels_and_leaves() -> Result<()> {
    let cluster = Cluster::small().await?;
    let cli = Cli::new(&cluster)?;
    cluster.ready(&json!({"id": "s", "kind": "command"})).await?;
    let mut chat = Program::on_a_terminal(&cli, &["session", "chat", "s"])?;
    chat.out.says("/help tells what can be said").await?;
    chat.out.says("> ").await?;
    chat.types("echo hel; echo lo\r").await?;
    chat.out.says("new thread thr_").await?;
    chat.out.says("\nhel\nlo\n> ").await?;

    // Ctrl-C ends the turn and not the chat; what waited behind it goes on.
    chat.types("echo begun; sleep 100\r").await?;
    chat.out.says("\nbegun\n").await?;
    chat.types("echo behind\r").await?;
    chat.out.says("it waits for the running turn").await?;
    chat.types(CTRL_C).await?;
    chat.out.says("cancelling; Ctrl-C again leaves").await?;
    chat.out.says("turn cancelled").await?;
    chat.out.says("\nbehind\n> ").await?;
    chat.types("/interrupt\r").await?;
    chat.out.says("/interrupt TEXT").await?;
    chat.types("exit 3\r").await?;
    chat.out.says("turn completed, exit status 3\n> ").await?;

    // Nothing runs: the first Ctrl-C says how to leave, the second one leaves, and says nothing more.
    tokio::time::sleep(secs(3)).await; // until the one before counts no more: no event tells
    chat.types(CTRL_C).await?;
    chat.out.says("Ctrl-C again, or Ctrl-D, leaves\n> ").await?;
    // On a machine that is busy, two may be too far apart.
    for _ in 0..30 {
        chat.types(CTRL_C).await?;
        if chat.has_ended_within(secs(1)).await {
            break;
        }
    }
    let done = chat.ends(0).await?;
    ensure!(done.stdout.ends_with("leaves\n> ^C\n"), "{:?}", done.stdout);

    // Back in the same thread; Ctrl-D while a turn runs leaves it running.
    let mut chat = Program::on_a_terminal(&cli, &["session", "chat", "s"])?;
    chat.out.says("turns\n> ").await?;
    chat.types("echo on; sleep 4; echo over > over\r").await?;
    chat.out.says("\non\n").await?;
    chat.types(CTRL_D).await?;
    chat.out.says("the running turn goes on").await?;
    chat.ends(0).await?;
    let done = Program::piped(&cli, &["session", "prompt", "s", "cat over", "--wait"])?.ends(0).await?;
    ensure!(done.stdout == "over\n", "the turn did not go on: {:?}", done.stdout);

    // The end of the session ends a chat.
    let mut chat = Program::on_a_terminal(&cli, &["session", "chat", "s"])?;
    chat.out.says("> ").await?;
    cli.plain(0, &["session", "stop", "s", "--wait"]).await?;
    chat.out.says("session s takes no prompts: it is Stopped").await?;
    chat.ends(1).await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_a_pipe_are_prompts_one_after_the_other() -> Result<()> {
    let cluster = Cluster::small().await?;
    let cli = Cli::new(&cluster)?;
    cluster.ready(&json!({"id": "s", "kind": "command"})).await?;
    let mut chat = Program::piped(&cli, &["session", "chat", "s"])?;
    chat.types("sleep 1; echo one\necho two\n").await?;
    chat.closes_input();
    let done = chat.ends(0).await?;
    ensure!(done.stdout == "one\ntwo\n", "{:?}\n{}", done.stdout, done.stderr);
    let mut chat = Program::piped(&cli, &["session", "chat", "s"])?;
    chat.types("exit 3\necho after\n").await?;
    chat.closes_input();
    let done = chat.ends(1).await?;
    ensure!(done.stdout == "after\n" && done.stderr.contains("exit status 3"), "{:?}\n{}", done.stdout, done.stderr);
    cluster.shutdown().await
}
