//! Agents fail without a word: whoever waits too long says so, where a person sees it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_protocol::thread::TurnState;
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs, throughout};
use helix_tests::zed_peer::{Dialect, Fate, Options, Panel, Peer};

use super::stage::{Talk, cancel, chat, impatient};

const TODAY: Dialect = Dialect::Today;

async fn stage() -> Result<(Cluster, Talk, Peer)> {
    let cluster = impatient().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    Ok((cluster, talk, peer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_never_comes_is_told() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    peer.next_thread(Fate::Silent);
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let turn = talk.is(&asked, TurnState::Unknown).await?;
    let cause = turn.cause.context("no cause")?;
    ensure!(cause.code == "no_thread_created" && !cause.message.is_empty(), "{cause:?}");
    peer.hears_nothing().await?;

    // The next one is not held up by it.
    let next = talk.prompt(&asked.thread, "two").await?;
    peer.expect(&cancel(&asked)).await?;
    peer.expect(&chat(TODAY, &next, None, "two")).await?;
    let run = peer.run().await?;
    run.says("here");
    run.completes();
    talk.is(&next, TurnState::Completed).await?;
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_is_told() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    run.says("half");
    let silent = || async {
        let turn = talk.is(&asked, TurnState::Unknown).await?;
        ensure!(turn.cause.as_ref().is_some_and(|cause| cause.code == "silent"), "{turn:?}");
        anyhow::Ok(())
    };
    silent().await?;
    // Nothing waits for its place: it may still go on, and then it counts.
    peer.hears_nothing().await?;
    run.says("more");
    eventually("it runs again", secs(20), || async {
        let turn = talk.turn(&asked).await?;
        ensure!(turn.state == TurnState::Running, "{turn:?}");
        Ok(())
    })
    .await?;
    silent().await?;

    // Its place in the editor's loop is freed for what comes next; the editor says that it was cancelled.
    let next = talk.prompt(&asked.thread, "two").await?;
    peer.expect(&cancel(&asked)).await?;
    run.ended().await?;
    let turn = eventually("it is cancelled", secs(20), || async {
        let turn = talk.turn(&asked).await?;
        ensure!(turn.state == TurnState::Cancelled, "{turn:?}");
        Ok(turn)
    })
    .await?;
    ensure!(turn.cause.is_some_and(|cause| cause.code == "silent"), "the reason is lost");
    ensure!(talk.text(&asked).await? == "half\n\nmore", "{}", talk.text(&asked).await?);
    peer.expect(&chat(TODAY, &next, Some(&run.thread), "two")).await?;
    let run = peer.run().await?;
    run.completes();
    talk.is(&next, TurnState::Completed).await?;
    let replay = talk.replay().await?;
    let states = replay.states(&asked.turn);
    let expected = ["queued", "dispatched", "running", "unknown", "running", "unknown", "cancelled"];
    ensure!(states == expected, "{states:?}");
    peer.finish().await?;
    cluster.shutdown().await
}

/// An agent that ends a turn without a word and is gone for the editor as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_vanishes_is_unknown() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    run.says("half");
    run.vanishes();
    let turn = talk.is(&asked, TurnState::Unknown).await?;
    ensure!(turn.cause.is_some_and(|cause| cause.code == "silent"), "no cause");
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// A tool may be silent for longer than an agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_working_tool_is_no_silence() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    let tool = run.uses("Build", "In Progress", "cargo build");
    talk.is(&asked, TurnState::Running).await?;
    throughout("it runs on", Duration::from_millis(5500), || async {
        let turn = talk.turn(&asked).await?;
        ensure!(turn.state == TurnState::Running, "{turn:?}");
        Ok(())
    })
    .await?;
    tool.is_at("Completed", "built");
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// Prompts wait for an agent that is not ready, and for one that never says so only for a while.
#[tokio::test(flavor = "multi_thread")]
async fn the_readiness_gate() -> Result<()> {
    let cluster = impatient().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(Options { second: secs(60), ..talk.options().panel(Panel::Waits) }).await?;
    let asked = talk.new_thread("one").await?;
    throughout("nothing is sent before the agent is ready", secs(1), || async { peer.nothing_more() }).await?;
    let view = talk.api.session("s").await?;
    ensure!(view.sync.connected && !view.sync.ready, "{:?}", view.sync);
    peer.load_panel();
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    eventually("the session says so", secs(20), || async {
        let view = talk.api.session("s").await?;
        ensure!(view.sync.ready && view.sync.agent.is_some(), "{:?}", view.sync);
        Ok(())
    })
    .await?;
    peer.finish().await?;

    // One that never says that it is ready: five of its seconds are longer than our patience.
    let talk = Talk::begin(cluster.api()?, "mute").await?;
    let peer = talk.peer(Options { second: secs(60), ..talk.options().panel(Panel::Waits) }).await?;
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    // It waits in the editor until the panel is there.
    peer.load_panel();
    let run = peer.run().await?;
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}
