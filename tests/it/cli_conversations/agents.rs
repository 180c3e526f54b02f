//! An agent that asks, is lost, and tells things of its own: the peer that plays Zed, with no runner.

use anyhow::{Context, Result, ensure};
use helix_tests::zed_peer::{Fate, Peer};
use serde_json::{Value, json};

use super::Program;
use super::program::CTRL_C;
use crate::cli::Cli;
use crate::conversations::stage::{Talk, impatient};

const SCHEMA: &str = r#"{"type": "object", "required": ["db"], "properties": {"db": {"type": "string"}}}"#;

async fn newest(cli: &Cli) -> Result<String> {
    let list = cli.json(0, &["thread", "list", "s"]).await?;
    let newest = list["threads"].as_array().and_then(|threads| threads.last()).context("no thread")?;
    Ok(newest["id"].as_str().context("no id")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_and_a_thread_is_followed() -> Result<()> {
    let cluster = crate::conversations::stage::small().await?;
    let cli = Cli::new(&cluster)?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    let schema: Value = serde_json::from_str(SCHEMA)?;

    // In a chat: by a line, and taken away by somebody else.
    let mut chat = Program::on_a_terminal(&cli, &["session", "chat", "s"])?;
    chat.out.says("> ").await?;
    chat.types("make a table\r").await?;
    let run = peer.run().await?;
    run.says("Which one?");
    chat.out.says("Which one?").await?;
    let thread = newest(&cli).await?;
    let mut follow = Program::piped(&cli, &["thread", "show", "s", &thread, "--follow"])?;
    let mut events = Program::piped(&cli, &["thread", "show", "s", &thread, "--follow", "--json"])?;
    follow.out.says("[admin] make a table\nWhich one?").await?;
    let question = run.asks("el_1", "form", "Which database?", &schema);
    chat.out.says("the agent asks: Which database?").await?;
    chat.out.says("answer> ").await?;
    follow.out.says("Which database? (question el_1)").await?;
    chat.types("pg\r").await?;
    ensure!(question.answer().await?["content"] == json!({"db": "pg"}), "another answer");
    follow.out.says("the question is answered by admin").await?;

    // From a script; a wrong one says what is wrong.
    let question = run.asks("el_2", "form", "And the host?", &schema);
    chat.out.says("the agent asks: And the host?").await?;
    let answer = ["thread", "answer", "s", &thread, "el_2"];
    let done = Program::piped(&cli, &[&answer[..], &["--accept={db"]].concat())?.ends(2).await?;
    ensure!(done.stderr.contains("it is not JSON"), "{}", done.stderr);
    cli.plain(0, &[&answer[..], &["--accept={\"db\":\"localhost\"}"]].concat()).await?;
    ensure!(question.answer().await?["content"] == json!({"db": "localhost"}), "another answer");
    chat.out.says("the question is answered by admin").await?;
    let done = Program::piped(&cli, &[&answer[..], &["--decline"]].concat())?.ends(1).await?;
    ensure!(done.stderr.contains("question_answered"), "{}", done.stderr);

    // Events of its own: to who follows, and to who reads the thread afterwards.
    peer.tell("weather_changed", json!({"acp_thread_id": run.thread, "to": "rain"}));
    follow.out.says("event of the agent's: weather_changed").await?;
    events.out.says("weather_changed").await?;
    let told = cli.json(0, &["thread", "show", "s", &thread]).await?;
    ensure!(told["custom_events"][0]["data"]["to"] == "rain", "{told}");
    run.says("Done.");
    run.completes();
    chat.out.says("Done.\n> ").await?;
    follow.out.says("turn completed").await?;
    events.out.says("\"state\":\"completed\"").await?;
    let lines = events.out.all();
    let parsed = lines.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    ensure!(parsed[0]["type"] == "thread_started", "{}", parsed[0]);
    for follower in [follow, events] {
        follower.signal(rustix::process::Signal::INT)?;
        follower.ends(130).await?;
    }
    chat.types("/quit\r").await?;
    chat.ends(0).await?;
    peer.kill();
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_of_which_nobody_knows_is_a_failure_that_says_so() -> Result<()> {
    let cluster = impatient().await?;
    let cli = Cli::new(&cluster)?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    peer.next_thread(Fate::Silent);
    let lost = Program::piped(&cli, &["session", "prompt", "s", "build it", "--wait"])?;
    let done = lost.ends(1).await?;
    ensure!(done.stdout.is_empty() && done.stderr.contains("no_thread_created"), "{:?} {}", done.stdout, done.stderr);
    ensure!(done.stderr.contains("nobody can tell what became of turn int_"), "{}", done.stderr);
    let again = done.stderr.split("ask again: helixctl ").nth(1).context("it does not say how to ask again")?;
    let again: Vec<_> = again.split_whitespace().collect();
    cli.plain(0, &again).await?;
    answer(&peer, "whole").await?;

    // In a chat, too; and there Ctrl-C of a turn that nobody has any more is no error.
    peer.next_thread(Fate::Silent);
    let mut chat = Program::on_a_terminal(&cli, &["session", "chat", "s", "--new-thread"])?;
    chat.out.says("> ").await?;
    chat.types("once more\r").await?;
    chat.out.says("turn unknown").await?;
    chat.out.says("ask again: helixctl thread resend s thr_").await?;
    chat.out.says("> ").await?;
    chat.types(CTRL_C).await?;
    chat.out.says("Ctrl-C again, or Ctrl-D, leaves").await?;
    chat.types("/quit\r").await?;
    chat.ends(0).await?;
    peer.kill();
    cluster.shutdown().await
}

async fn answer(peer: &Peer, text: &str) -> Result<()> {
    let run = peer.run().await?;
    run.says(text);
    run.completes();
    run.ended().await
}
