//! What a reconnect means for a prompt that was handed over before: the four rows of the contract's table 1.10, and
//! evidence that comes late. The peer writes down each run, so that none is doubled unseen.

use anyhow::{Context, Result, ensure};
use helix_protocol::thread::TurnState;
use helix_tests::Cluster;
use helix_tests::eventually::throughout;
use helix_tests::zed_peer::ledger::End;
use helix_tests::zed_peer::{Dialect, Fate, Options, Peer, Run};
use std::time::Duration;

use super::stage::{Asked, Talk, cancel, chat, impatient, open};

const TODAY: Dialect = Dialect::Today;

async fn stage(newer: bool) -> Result<(Cluster, Talk, Peer)> {
    let cluster = impatient().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let options = talk.options();
    let peer = talk.peer(if newer { options.newer() } else { options }).await?;
    Ok((cluster, talk, peer))
}

async fn speaking(talk: &Talk, peer: &Peer) -> Result<(Asked, Run)> {
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    run.says("half");
    talk.is(&asked, TurnState::Running).await?;
    Ok((asked, run))
}

/// The editor is killed and started again with what it keeps on disk.
async fn restarted(talk: &Talk, peer: Peer, acp: Option<&str>) -> Result<Peer> {
    peer.nothing_more()?;
    let options: Options = peer.options().clone();
    peer.kill();
    let peer = talk.peer(options).await?;
    if let Some(acp) = acp {
        peer.expect(&open(acp)).await?;
    }
    Ok(peer)
}

fn runs(peer: &Peer, asked: &Asked) -> Vec<Option<End>> {
    peer.options().ledger.of(&asked.turn).iter().map(|effect| effect.end).collect()
}

/// Row 1: it reports its turns and names this one, so it has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_the_agent_names_is_left_to_it() -> Result<()> {
    let (cluster, talk, peer) = stage(true).await?;
    let (asked, run) = speaking(&talk, &peer).await?;
    peer.break_connection();
    peer.connected(2).await?;
    peer.expect(&open(&run.thread)).await?;
    peer.quiet().await?;
    run.says("whole");
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    ensure!(talk.text(&asked).await? == "half\n\nwhole", "{}", talk.text(&asked).await?);
    ensure!(runs(&peer, &asked) == [Some(End::Completed)], "{:?}", runs(&peer, &asked));

    // Also one that only waits in the editor.
    peer.next_thread(Fate::Held);
    let waits = talk.new_thread("waits").await?;
    peer.expect(&chat(TODAY, &waits, None, "waits")).await?;
    peer.break_connection();
    peer.connected(3).await?;
    peer.expect(&open(&run.thread)).await?;
    peer.quiet().await?;
    peer.release();
    let more = peer.run().await?;
    more.completes();
    talk.is(&waits, TurnState::Completed).await?;
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// Row 2: it reports its turns and does not name this one, so it is delivered, under the same request.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_the_agent_provably_lacks_is_delivered() -> Result<()> {
    let (cluster, talk, peer) = stage(true).await?;
    peer.next_thread(Fate::Held);
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    talk.is(&asked, TurnState::Dispatched).await?;
    let peer = restarted(&talk, peer, None).await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    run.says("now");
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    ensure!(runs(&peer, &asked) == [Some(End::Completed)], "{:?}", runs(&peer, &asked));
    ensure!(talk.text(&asked).await? == "now", "{}", talk.text(&asked).await?);
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// The one event that a break loses was the end of the run: the agent has nothing any more, for it is done. The prompt
/// must not run again.
#[tokio::test(flavor = "multi_thread")]
async fn lost_completion_of_a_reporting_peer() -> Result<()> {
    let (cluster, talk, peer) = stage(true).await?;
    let (asked, run) = speaking(&talk, &peer).await?;
    peer.lose_next("message_completed");
    run.says("whole");
    run.completes();
    peer.connected(2).await?;
    peer.expect(&open(&run.thread)).await?;
    throughout("it does not run again", Duration::from_secs(3), || async {
        ensure!(runs(&peer, &asked) == [Some(End::Completed)], "{:?}\n{}", runs(&peer, &asked), peer.told());
        Ok(())
    })
    .await?;
    let turn = talk.is(&asked, TurnState::Unknown).await?;
    let cause = turn.cause.context("no cause")?;
    ensure!(cause.code == "end_lost", "{cause:?}");
    ensure!(talk.text(&asked).await? == "half\n\nwhole", "{}", talk.text(&asked).await?);
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// Row 3: an older build was handed the prompt, so it is never sent again by itself; after a silence it is `unknown`,
/// and a person may send it again.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_build_is_not_handed_a_prompt_twice() -> Result<()> {
    for shown in [true, false] {
        let (cluster, talk, peer) = stage(false).await?;
        let (asked, acp) = if shown {
            let (asked, run) = speaking(&talk, &peer).await?;
            (asked, Some(run.thread))
        } else {
            peer.next_thread(Fate::Held);
            let asked = talk.new_thread("one").await?;
            peer.expect(&chat(TODAY, &asked, None, "one")).await?;
            (asked, None)
        };
        let peer = restarted(&talk, peer, acp.as_deref()).await?;
        let turn = talk.is(&asked, TurnState::Unknown).await?;
        let code = turn.cause.context("no cause")?.code;
        ensure!(["not_proved", "no_thread_created"].contains(&code.as_str()), "{code}");
        peer.hears_nothing().await?;

        let again = talk.resend(&asked).await?;
        // Should it hang there after all, it must not hold up what follows.
        peer.expect(&cancel(&asked)).await?;
        ensure!(again.turn != asked.turn, "the same turn");
        ensure!(talk.turn(&again).await?.resend_of.is_some_and(|of| of.as_str() == asked.turn), "of what?");
        peer.expect(&chat(TODAY, &again, acp.as_deref(), "one")).await?;
        let run = peer.run().await?;
        run.says("whole");
        run.completes();
        talk.is(&again, TurnState::Completed).await?;
        let expected: &[_] = if shown { &[Some(End::Killed)] } else { &[] };
        ensure!(runs(&peer, &asked) == expected, "{:?}", runs(&peer, &asked));
        talk.replay().await?;
        peer.finish().await?;
        cluster.shutdown().await?;
    }
    Ok(())
}

/// The same while the editor lives: it goes on, so what it says counts.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_build_that_goes_on_proves_its_turn() -> Result<()> {
    let (cluster, talk, peer) = stage(false).await?;
    let (asked, run) = speaking(&talk, &peer).await?;
    peer.break_connection();
    peer.connected(2).await?;
    peer.expect(&open(&run.thread)).await?;
    run.says("whole");
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    ensure!(runs(&peer, &asked) == [Some(End::Completed)], "{:?}", runs(&peer, &asked));
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// And if the lost event was its end, nobody can prove it.
#[tokio::test(flavor = "multi_thread")]
async fn lost_completion_of_an_older_build() -> Result<()> {
    let (cluster, talk, peer) = stage(false).await?;
    let (asked, run) = speaking(&talk, &peer).await?;
    peer.lose_next("message_completed");
    run.completes();
    peer.connected(2).await?;
    peer.expect(&open(&run.thread)).await?;
    talk.is(&asked, TurnState::Unknown).await?;
    ensure!(runs(&peer, &asked) == [Some(End::Completed)], "{:?}", runs(&peer, &asked));
    // The queue goes on.
    let next = talk.prompt(&asked.thread, "next").await?;
    peer.expect(&cancel(&asked)).await?;
    peer.expect(&chat(TODAY, &next, Some(&run.thread), "next")).await?;
    let more = peer.run().await?;
    more.completes();
    talk.is(&next, TurnState::Completed).await?;
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// Row 4: an older build that was never handed the prompt gets it.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_build_gets_what_it_was_never_handed() -> Result<()> {
    let (cluster, talk, peer) = stage(false).await?;
    let (first, run) = speaking(&talk, &peer).await?;
    let waits = talk.prompt(&first.thread, "two").await?;
    run.completes();
    talk.is(&first, TurnState::Completed).await?;
    peer.expect(&chat(TODAY, &waits, Some(&run.thread), "two")).await?;
    let more = peer.run().await?;
    let third = talk.prompt(&first.thread, "three").await?;
    more.completes();
    // It may have been handed the third by now: only what was accepted while it was away was provably not.
    talk.is(&waits, TurnState::Completed).await?;
    peer.expect(&chat(TODAY, &third, Some(&run.thread), "three")).await?;
    let last = peer.run().await?;
    last.completes();
    talk.is(&third, TurnState::Completed).await?;
    let options = peer.options().clone();
    peer.kill();
    let fourth = talk.prompt(&first.thread, "four").await?;
    let peer = talk.peer(options).await?;
    peer.expect(&open(&run.thread)).await?;
    peer.expect(&chat(TODAY, &fourth, Some(&run.thread), "four")).await?;
    let run = peer.run().await?;
    run.completes();
    talk.is(&fourth, TurnState::Completed).await?;
    ensure!(runs(&peer, &fourth) == [Some(End::Completed)], "{:?}", runs(&peer, &fourth));
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// A thread that the agent has lost is made anew, and the prompt runs there, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_thread_is_made_anew() -> Result<()> {
    for error in [None, Some("no rollout found for thread id x"), Some("Agent does not support session loading")] {
        let (cluster, talk, peer) = stage(true).await?;
        let (first, run) = speaking(&talk, &peer).await?;
        run.completes();
        talk.is(&first, TurnState::Completed).await?;
        let options = peer.options().clone();
        peer.kill();
        if error.is_none() {
            options.workspace.forget(&run.thread);
        }
        let next = talk.prompt(&first.thread, "two").await?;
        let peer = Peer::start(options);
        if let Some(error) = error {
            peer.next_load(Fate::Fails(error.to_owned()));
            peer.next_load(Fate::Fails(error.to_owned()));
        }
        peer.expect(&open(&run.thread)).await?;
        // Either the failed load or the refused prompt says so; then comes a new thread.
        let mut frame = peer.expect_any().await?;
        if frame == chat(TODAY, &next, Some(&run.thread), "two") {
            frame = peer.expect_any().await?;
        }
        ensure!(frame == chat(TODAY, &next, None, "two"), "{frame}\n{}", peer.told());
        let more = peer.run().await?;
        ensure!(more.thread != run.thread, "the same thread");
        more.says("again from the start");
        more.completes();
        talk.is(&next, TurnState::Completed).await?;
        let detail = talk.detail(&first.thread).await?;
        ensure!(detail.thread.acp_thread_id == Some(more.thread.clone()), "{detail:?}");
        ensure!(talk.threads().await?.len() == 1, "another thread of ours");
        ensure!(talk.text(&next).await? == "again from the start", "{}", talk.text(&next).await?);
        ensure!(talk.text(&first).await? == "half", "the former text: {}", talk.text(&first).await?);
        ensure!(runs(&peer, &next) == [Some(End::Completed)], "{:?}", runs(&peer, &next));
        talk.replay().await?;
        peer.finish().await?;
        cluster.shutdown().await?;
    }
    Ok(())
}

/// The agent may give a thread another id when it loads it.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_may_have_another_id_after_a_load() -> Result<()> {
    let (cluster, talk, peer) = stage(false).await?;
    let (first, run) = speaking(&talk, &peer).await?;
    run.completes();
    talk.is(&first, TurnState::Completed).await?;
    let options = Options { replays_history: true, ..peer.options().clone() };
    peer.kill();
    let peer = Peer::start(options);
    peer.next_load(Fate::Renamed("th-other".to_owned()));
    peer.expect(&open(&run.thread)).await?;
    peer.quiet().await?;
    let next = talk.prompt(&first.thread, "two").await?;
    let frame = peer.expect_any().await?;
    let known = [chat(TODAY, &next, Some("th-other"), "two"), chat(TODAY, &next, Some(&run.thread), "two")];
    ensure!(known.contains(&frame), "{frame}");
    let more = peer.run().await?;
    ensure!(more.thread == "th-other", "{}", more.thread);
    more.says("two");
    more.completes();
    talk.is(&next, TurnState::Completed).await?;
    ensure!(talk.text(&next).await? == "two" && talk.text(&first).await? == "half", "texts");
    // Its history was told once more, and is not shown twice.
    let detail = talk.detail(&first.thread).await?;
    ensure!(talk.threads().await?.len() == 1, "taken for a foreign thread");
    let agents: Vec<_> = detail.entries.iter().map(|entry| entry.text.as_str()).collect();
    ensure!(agents == ["half", "two"], "{agents:?}");
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}
