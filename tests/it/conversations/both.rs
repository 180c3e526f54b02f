//! Scenarios that both dialects can express, played in each.

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use helix_protocol::thread::{Origin, TurnState};
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::Socket;
use helix_tests::zed_peer::{Dialect, Fate, Options, Peer, Run, SeedStyle};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::stage::{Asked, DIALECTS, Talk, chat, open, small};

/// Plays `scene` once per dialect, each with a session and a peer of its own on one server.
async fn in_each<F>(dialects: &[Dialect], scene: F) -> Result<()>
where
    F: AsyncFn(&Talk, Peer, Dialect) -> Result<()>,
{
    let cluster = small().await?;
    for (number, dialect) in dialects.iter().enumerate() {
        let talk = Talk::begin(cluster.api()?, &format!("s{number}")).await?;
        let peer = talk.peer(talk.options().dialect(*dialect)).await?;
        scene(&talk, peer, *dialect).await.with_context(|| format!("{dialect:?}"))?;
        talk.nothing_is_left(*dialect).await?;
        talk.replay().await.with_context(|| format!("{dialect:?}"))?;
    }
    cluster.shutdown().await
}

/// Says a text in pieces and is done.
async fn answers(run: &Run, pieces: &[&str]) -> Result<String> {
    let entry = run.says(pieces[0]);
    for piece in &pieces[1..] {
        entry.adds(piece);
    }
    run.completes();
    run.ended().await?;
    Ok(pieces.concat())
}

/// A first prompt up to its completed turn.
async fn first_turn(talk: &Talk, peer: &Peer, dialect: Dialect, prompt: &str) -> Result<(Asked, Run)> {
    let asked = talk.new_thread(prompt).await?;
    peer.expect(&chat(dialect, &asked, None, prompt)).await?;
    let run = peer.run().await?;
    answers(&run, &["an answer", " to ", prompt]).await?;
    talk.is(&asked, TurnState::Completed).await?;
    Ok((asked, run))
}

#[tokio::test(flavor = "multi_thread")]
async fn new_thread() -> Result<()> {
    in_each(&DIALECTS, async |talk, peer, dialect| {
        let asked = talk.new_thread("Add a health endpoint").await?;
        peer.expect(&chat(dialect, &asked, None, "Add a health endpoint")).await?;
        let run = peer.run().await?;
        ensure!((run.request_id.as_str(), run.message.as_str()) == (asked.turn.as_str(), "Add a health endpoint"));
        let entry = run.says("I look");
        if dialect != Dialect::Seed(SeedStyle::Whole) {
            talk.is(&asked, TurnState::Running).await?;
        }
        entry.adds(" at the router, ä ö ü 🦀");
        run.completes();
        talk.is(&asked, TurnState::Completed).await?;
        ensure!(talk.text(&asked).await? == "I look at the router, ä ö ü 🦀", "{}", talk.text(&asked).await?);

        let threads = talk.threads().await?;
        ensure!(threads.len() == 1 && threads[0].id.as_str() == asked.thread, "{threads:?}");
        ensure!(
            threads[0].origin == Origin::Api && threads[0].acp_thread_id == Some(run.thread.clone()),
            "{threads:?}"
        );
        let replay = talk.replay().await?;
        ensure!(replay.states(&asked.turn) == ["queued", "dispatched", "running", "completed"], "{replay:?}");
        peer.finish().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_up() -> Result<()> {
    in_each(&DIALECTS, async |talk, peer, dialect| {
        let (first, run) = first_turn(talk, &peer, dialect, "one").await?;
        let again = talk.prompt(&first.thread, "two").await?;
        peer.expect(&chat(dialect, &again, Some(&run.thread), "two")).await?;
        let more = peer.run().await?;
        ensure!(more.thread == run.thread, "another thread");
        let said = answers(&more, &["more", " of it"]).await?;
        talk.is(&again, TurnState::Completed).await?;
        ensure!(talk.text(&again).await? == said && talk.text(&first).await? == "an answer to one", "texts");
        ensure!(talk.threads().await?.len() == 1, "a follow-up made a thread");
        peer.finish().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn second_thread_and_follow_up_to_one_not_shown() -> Result<()> {
    in_each(&DIALECTS, async |talk, peer, dialect| {
        let (first, one) = first_turn(talk, &peer, dialect, "one").await?;
        let (second, two) = first_turn(talk, &peer, dialect, "two").await?;
        ensure!(one.thread != two.thread && first.thread != second.thread, "the same thread");
        // The second is shown now; the first one's entries have the same numbers as the second's.
        let again = talk.prompt(&first.thread, "one again").await?;
        peer.expect(&chat(dialect, &again, Some(&one.thread), "one again")).await?;
        let run = peer.run().await?;
        ensure!(run.thread == one.thread, "in the thread that is shown");
        let said = answers(&run, &["back", " here"]).await?;
        talk.is(&again, TurnState::Completed).await?;
        for (asked, text) in [(&first, "an answer to one"), (&second, "an answer to two"), (&again, said.as_str())] {
            ensure!(talk.text(asked).await? == text, "{} instead of {text}", talk.text(asked).await?);
        }
        peer.finish().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_prompts_wait_at_the_server_and_a_waiting_one_can_be_called_off() -> Result<()> {
    in_each(&DIALECTS, async |talk, peer, dialect| {
        let one = talk.new_thread("one").await?;
        peer.expect(&chat(dialect, &one, None, "one")).await?;
        let run = peer.run().await?;
        let two = talk.prompt(&one.thread, "two").await?;
        let three = talk.prompt(&one.thread, "three").await?;
        let view = talk.threads().await?.remove(0);
        ensure!(view.queued == 2 && view.turns == 3, "{view:?}");
        // It never went to the agent, so its end needs no word of the agent's.
        talk.cancel(&two).await?;
        let ended = talk.is(&two, TurnState::Cancelled).await?;
        ensure!(ended.cancel_requested && ended.dispatched_at.is_none() && ended.finished_at.is_some(), "{ended:?}");
        peer.nothing_more()?;

        let said = answers(&run, &["first"]).await?;
        peer.expect(&chat(dialect, &three, Some(&run.thread), "three")).await?;
        let last = peer.run().await?;
        answers(&last, &["third"]).await?;
        talk.is(&three, TurnState::Completed).await?;
        ensure!(talk.text(&one).await? == said && talk.text(&three).await? == "third", "texts");
        let effects = peer.options().ledger.all();
        ensure!(effects.len() == 2, "{effects:?}");
        peer.finish().await
    })
    .await
}

/// The seed has no word for the end of an answer to what a person typed, so its turn's state is not looked at there.
#[tokio::test(flavor = "multi_thread")]
async fn user_created_thread() -> Result<()> {
    in_each(&DIALECTS, async |talk, peer, dialect| {
        let run = peer.types(None, "typed by hand");
        let entry = run.says("an answer");
        entry.adds(" to a person");
        entry.told().await?;
        run.completes();
        let thread = eventually("the thread appears by itself", secs(20), || async {
            let threads = talk.threads().await?;
            let thread = threads.into_iter().next().context("no thread")?;
            let detail = talk.detail(thread.id.as_str()).await?;
            let said = detail.entries.last().map(|entry| entry.text.as_str());
            ensure!(said == Some("an answer to a person"), "{detail:?}");
            if dialect == Dialect::Today {
                ensure!(detail.thread.state == Some(TurnState::Completed), "{detail:?}");
            }
            Ok(detail)
        })
        .await?;
        ensure!(thread.thread.origin == Origin::Editor, "{thread:?}");
        ensure!(thread.thread.acp_thread_id == Some(run.thread.clone()), "{thread:?}");
        ensure!(thread.recent_turns.len() == 1 && thread.recent_turns[0].prompt == "typed by hand", "{thread:?}");
        ensure!(thread.recent_turns[0].origin == Origin::Editor, "{thread:?}");
        peer.renames(&run.thread, "By hand");

        // It is a thread like any other.
        let id = thread.thread.id.to_string();
        let again = talk.prompt(&id, "and from here").await?;
        peer.expect(&chat(dialect, &again, Some(&run.thread), "and from here")).await?;
        let more = peer.run().await?;
        let said = answers(&more, &["of course"]).await?;
        talk.is(&again, TurnState::Completed).await?;
        ensure!(talk.text(&again).await? == said, "{}", talk.text(&again).await?);
        let detail = talk.detail(&id).await?;
        ensure!(detail.thread.title.as_deref() == Some("By hand") && detail.recent_turns.len() == 2, "{detail:?}");
        peer.finish().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_and_reconnect() -> Result<()> {
    in_each(&DIALECTS, async |talk, peer, dialect| {
        let (first, run) = first_turn(talk, &peer, dialect, "one").await?;
        let options = peer.options().clone();
        peer.nothing_more()?;
        peer.kill();
        // Accepted while nobody is there.
        let waits = talk.prompt(&first.thread, "two").await?;
        ensure!(talk.turn(&waits).await?.state == TurnState::Queued, "it is not queued");

        // The editor comes back with its threads: first the thread is opened, then comes what waited. The dialect is
        // not known yet when it connects; the seed drops what it does not know.
        let peer = talk.peer(Options { second: secs(30), ..options }).await?;
        peer.expect(&open(&run.thread)).await?;
        peer.expect(&chat(dialect, &waits, Some(&run.thread), "two")).await?;
        let more = peer.run().await?;
        answers(&more, &["two", " as well"]).await?;
        talk.is(&waits, TurnState::Completed).await?;
        ensure!(talk.text(&waits).await? == "two as well" && talk.text(&first).await? == "an answer to one", "texts");
        peer.finish().await
    })
    .await
}

/// The connection breaks in the middle, the editor does not: what it says meanwhile comes first when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_break_in_the_middle_of_a_turn() -> Result<()> {
    in_each(&DIALECTS, async |talk, peer, dialect| {
        let asked = talk.new_thread("one").await?;
        peer.expect(&chat(dialect, &asked, None, "one")).await?;
        let run = peer.run().await?;
        let entry = run.says("before");
        peer.quiet().await?;
        peer.stay_away();
        peer.break_connection();
        entry.adds(", during");
        run.completes();
        let waits = talk.prompt(&asked.thread, "two").await?;
        peer.come_back();
        peer.expect(&open(&run.thread)).await?;
        talk.is(&asked, TurnState::Completed).await?;
        ensure!(talk.text(&asked).await? == "before, during", "{}", talk.text(&asked).await?);
        peer.expect(&chat(dialect, &waits, Some(&run.thread), "two")).await?;
        let more = peer.run().await?;
        answers(&more, &["after"]).await?;
        talk.is(&waits, TurnState::Completed).await?;
        ensure!(peer.options().ledger.all().len() == 2, "{:?}", peer.options().ledger.all());
        peer.finish().await
    })
    .await
}

async fn next_entry(feed: &mut Socket) -> Result<Value> {
    loop {
        let message = timeout(secs(20), feed.next()).await.context("the feed is silent")?;
        let Message::Text(text) = message.context("the feed ended")?? else { continue };
        let item: Value = serde_json::from_str(&text)?;
        ensure!(item["type"] != "gap", "{item}");
        if item["type"] == "entry" {
            return Ok(item);
        }
    }
}

/// Each piece is in the feed before the agent says the next one, as an addition. The seed's `chat_response` has no pieces.
#[tokio::test(flavor = "multi_thread")]
async fn streaming_cadence() -> Result<()> {
    let streaming: Vec<_> =
        DIALECTS.into_iter().filter(|dialect| *dialect != Dialect::Seed(SeedStyle::Whole)).collect();
    in_each(&streaming, async |talk, peer, dialect| {
        let mut feed = talk.api.socket(&format!("/api/v1/sessions/{}/events?after=0", talk.id)).await?;
        let asked = talk.new_thread("count").await?;
        peer.expect(&chat(dialect, &asked, None, "count")).await?;
        let run = peer.run().await?;
        let mut said = String::from("0");
        let entry = run.says("0");
        let item = next_entry(&mut feed).await?;
        ensure!(
            (&item["offset"], &item["text"], &item["turn"]) == (&json!(0), &json!("0"), &json!(asked.turn)),
            "{item}"
        );
        for number in 1..12 {
            let piece = format!(" and {number}");
            entry.adds(&piece);
            let item = next_entry(&mut feed).await?;
            ensure!((&item["offset"], &item["text"]) == (&json!(said.len()), &json!(piece)), "{item} after {said}");
            said += &piece;
        }
        ensure!(talk.turn(&asked).await?.state == TurnState::Running, "not running");
        run.completes();
        talk.is(&asked, TurnState::Completed).await?;
        ensure!(talk.text(&asked).await? == said, "{}", talk.text(&asked).await?);
        // What is told again at the end is stored no more than once.
        let replay = talk.replay().await?;
        let stored: usize = replay.of("entry").iter().filter_map(|item| item["text"].as_str()).map(str::len).sum();
        ensure!(stored == said.len(), "{stored} bytes are stored of a text of {}", said.len());
        peer.finish().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn phantom_draft() -> Result<()> {
    in_each(&DIALECTS, async |talk, peer, dialect| {
        let draft = peer.opens_draft();
        peer.quiet().await?;
        // A prompt of ours does not land in it.
        let (asked, run) = first_turn(talk, &peer, dialect, "one").await?;
        ensure!(run.thread != draft, "in the draft");
        let threads = talk.threads().await?;
        ensure!(threads.len() == 1 && threads[0].id.as_str() == asked.thread, "a draft is shown: {threads:?}");
        ensure!(talk.replay().await?.threads.len() == 1, "the feed tells of a draft");

        // Once something is said in it, it is a thread.
        let typed = peer.types(Some(&draft), "after all");
        let entry = typed.says("well");
        entry.told().await?;
        typed.completes();
        eventually("the draft is a thread now", secs(20), || async {
            let threads = talk.threads().await?;
            ensure!(threads.len() == 2 && threads[1].acp_thread_id.as_deref() == Some(&draft), "{threads:?}");
            ensure!(dialect != Dialect::Today || threads[1].state == Some(TurnState::Completed), "{threads:?}");
            Ok(())
        })
        .await?;
        peer.finish().await
    })
    .await
}

/// A draft that opens while a thread of ours is being made. The seed could not tell one from the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_not_taken_for_the_thread_that_is_being_made() -> Result<()> {
    in_each(&[Dialect::Today], async |talk, peer, dialect| {
        peer.next_thread(Fate::Held);
        let asked = talk.new_thread("one").await?;
        peer.expect(&chat(dialect, &asked, None, "one")).await?;
        let draft = peer.opens_draft();
        peer.quiet().await?;
        peer.release();
        let run = peer.run().await?;
        answers(&run, &["made"]).await?;
        talk.is(&asked, TurnState::Completed).await?;
        let threads = talk.threads().await?;
        ensure!(threads.len() == 1 && threads[0].acp_thread_id == Some(run.thread.clone()), "{draft}: {threads:?}");
        peer.finish().await
    })
    .await
}

/// Peers that are not gone: the cluster's end must not need them.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_ends_with_open_sockets() -> Result<()> {
    let mut cluster: Cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    let code = cluster.servers[0].terminate().await?;
    ensure!(code == Some(0), "helix-server ended with {code:?}");
    eventually("the editor sees it", secs(20), || async {
        ensure!(!peer.closes().is_empty(), "still connected");
        Ok(())
    })
    .await?;
    peer.kill();
    cluster.shutdown().await
}
