//! Two servers, one conversation: whoever holds the newest socket acts, and everybody tells the same.

use anyhow::{Result, ensure};
use helix_protocol::thread::TurnState;
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs};
use helix_tests::zed_peer::cable::Cable;
use helix_tests::zed_peer::ledger::End;
use helix_tests::zed_peer::{Dialect, Options, Peer};
use serde_json::json;

use super::Replay;
use super::stage::{Talk, address, cancel, chat, interrupting, open};

const TODAY: Dialect = Dialect::Today;

/// Two servers; a session as each of them knows it.
async fn stage() -> Result<(Cluster, Talk, Talk)> {
    let cluster = Cluster::builder().servers(2).start().await?;
    let one = Talk::begin(cluster.api_of(0)?, "s").await?;
    let two = eventually("the other server knows the session", secs(20), || async {
        let two = Talk::of(cluster.api_of(1)?, "s").await?;
        ensure!(two.token == one.token, "another token");
        Ok(two)
    })
    .await?;
    Ok((cluster, one, two))
}

fn through(talk: &Talk, cable: &Cable) -> Options {
    Options { address: cable.address().to_owned(), ..talk.options() }
}

async fn same(one: &Talk, two: &Talk) -> Result<()> {
    one.nothing_is_left(TODAY).await?;
    let (here, there) = (one.replay().await?, two.replay().await?);
    ensure!(here.items == there.items, "two feeds: {:?} and {:?}", here.items, there.items);
    Ok(())
}

/// Everything through the server that does not hold the socket.
#[tokio::test(flavor = "multi_thread")]
async fn the_other_server_is_as_good() -> Result<()> {
    let (cluster, one, two) = stage().await?;
    let peer = one.peer(one.options()).await?;
    let asked = two.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    run.says("half");
    two.is(&asked, TurnState::Running).await?;
    let urgent = two.interrupt(&asked.thread, "two").await?;
    peer.expect(&interrupting(&urgent, &run.thread, "two")).await?;
    let more = peer.run().await?;
    more.says("two");
    two.is(&urgent, TurnState::Running).await?;
    two.cancel(&urgent).await?;
    peer.expect(&cancel(&urgent)).await?;
    two.is(&urgent, TurnState::Cancelled).await?;
    let query = json!({"query_id": "q"});
    two.command("query_ui_state", &query).await?;
    peer.expect(&json!({"type": "query_ui_state", "data": query})).await?;
    let view = two.api.session("s").await?;
    ensure!(view.sync.connected && view.sync.ready, "{:?}", view.sync);
    let connections = two.api.get("/api/v1/external-agents/connections").await?.expect(200)?;
    ensure!(connections[0]["session_id"] == "s", "{connections}");
    one.is(&asked, TurnState::Interrupted).await?;
    same(&one, &two).await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// A second window opens a second socket, here at the other server: commands go to the newest, events come from both.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_on_each() -> Result<()> {
    let (cluster, one, two) = stage().await?;
    let first = one.peer(one.options()).await?;
    let asked = one.new_thread("one").await?;
    first.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = first.run().await?;
    run.says("half");
    one.is(&asked, TurnState::Running).await?;

    let workspace = first.options().workspace.clone();
    let second = two.peer(two.options().workspace(&workspace)).await?;
    second.expect(&open(&run.thread)).await?;
    // What runs in the first window goes on, and nothing is sent twice.
    run.says("whole");
    run.completes();
    one.is(&asked, TurnState::Completed).await?;
    ensure!(one.text(&asked).await? == "half\n\nwhole", "{}", one.text(&asked).await?);

    let again = one.prompt(&asked.thread, "two").await?;
    second.expect(&chat(TODAY, &again, Some(&run.thread), "two")).await?;
    let more = second.run().await?;
    more.says("in the second window");
    more.completes();
    two.is(&again, TurnState::Completed).await?;
    first.nothing_more()?;

    // The newest goes: the older one serves again.
    second.finish().await?;
    let third = two.prompt(&asked.thread, "three").await?;
    first.expect(&chat(TODAY, &third, Some(&run.thread), "three")).await?;
    let last = first.run().await?;
    last.says("in the first one");
    last.completes();
    two.is(&third, TurnState::Completed).await?;
    same(&one, &two).await?;
    first.finish().await?;
    cluster.shutdown().await
}

/// The editor comes back at the other server in the middle of a turn.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_moves_to_the_other_server() -> Result<()> {
    for newer in [false, true] {
        let (cluster, one, two) = stage().await?;
        let cable = Cable::to(&address(&one.api)).await?;
        let options = through(&one, &cable);
        let peer = one.peer(if newer { options.newer() } else { options }).await?;
        let asked = one.new_thread("one").await?;
        peer.expect(&chat(TODAY, &asked, None, "one")).await?;
        let run = peer.run().await?;
        let entry = run.says("half");
        one.is(&asked, TurnState::Running).await?;
        let waits = one.prompt(&asked.thread, "two").await?;
        cable.plug_into(&address(&two.api));
        peer.connected(2).await?;
        peer.expect(&open(&run.thread)).await?;
        entry.adds(", whole");
        run.completes();
        one.is(&asked, TurnState::Completed).await?;
        ensure!(one.text(&asked).await? == "half, whole", "{}", one.text(&asked).await?);
        peer.expect(&chat(TODAY, &waits, Some(&run.thread), "two")).await?;
        let more = peer.run().await?;
        more.completes();
        one.is(&waits, TurnState::Completed).await?;
        once(&peer)?;
        same(&one, &two).await?;
        peer.finish().await?;
        cluster.shutdown().await?;
    }
    Ok(())
}

/// The server with the socket is killed in the middle of a turn; nothing is lost and nothing runs twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_with_the_socket_dies() -> Result<()> {
    for newer in [false, true] {
        let (mut cluster, one, two) = stage().await?;
        let cable = Cable::to(&address(&one.api)).await?;
        let options = through(&one, &cable);
        let peer = one.peer(if newer { options.newer() } else { options }).await?;
        let asked = two.new_thread("one").await?;
        peer.expect(&chat(TODAY, &asked, None, "one")).await?;
        let run = peer.run().await?;
        let entry = run.says("half");
        two.is(&asked, TurnState::Running).await?;
        cluster.servers[0].kill().await?;
        cable.plug_into(&address(&two.api));
        entry.adds(", whole");
        let waits = two.prompt(&asked.thread, "two").await?;
        peer.connected(2).await?;
        peer.expect(&open(&run.thread)).await?;
        run.completes();
        two.is(&asked, TurnState::Completed).await?;
        peer.expect(&chat(TODAY, &waits, Some(&run.thread), "two")).await?;
        let more = peer.run().await?;
        more.completes();
        two.is(&waits, TurnState::Completed).await?;
        once(&peer)?;

        cluster.servers[0].start().await?;
        let back = Talk::of(cluster.api_of(0)?, "s").await?;
        same(&back, &two).await?;
        // The same server that comes back serves the same agent.
        let third = back.prompt(&asked.thread, "three").await?;
        peer.expect(&chat(TODAY, &third, Some(&run.thread), "three")).await?;
        let last = peer.run().await?;
        last.completes();
        back.is(&third, TurnState::Completed).await?;
        peer.finish().await?;
        cluster.shutdown().await?;
    }
    Ok(())
}

/// NATS goes away in the middle of a turn and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn nats_dies_in_the_middle() -> Result<()> {
    let (mut cluster, one, two) = stage().await?;
    let peer = one.peer(one.options()).await?;
    let asked = one.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    let entry = run.says("before");
    one.is(&asked, TurnState::Running).await?;
    cluster.nats.kill().await?;
    entry.adds(", during");
    let refused = one.api.post("/api/v1/sessions/s/threads", &json!({"prompt": "lost?"})).await?;
    refused.problem(503, "store_unavailable")?;
    run.completes();
    cluster.nats.restart().await?;
    // The socket may or may not have been kept over it: the turn is over all the same.
    one.is(&asked, TurnState::Completed).await?;
    ensure!(one.text(&asked).await? == "before, during", "{}", one.text(&asked).await?);
    once(&peer)?;
    same(&one, &two).await?;
    cluster.shutdown().await
}

fn once(peer: &Peer) -> Result<()> {
    let effects = peer.options().ledger.all();
    ensure!(effects.iter().all(|effect| effect.end == Some(End::Completed)), "{effects:?}");
    let mut requests: Vec<_> = effects.iter().map(|effect| &effect.request_id).collect();
    requests.sort();
    requests.dedup();
    ensure!(requests.len() == effects.len(), "something ran twice: {effects:?}");
    Ok(())
}

/// What a client saw of the feed at one server goes on at the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_feed_resumes_at_the_other_server() -> Result<()> {
    let (cluster, one, two) = stage().await?;
    let peer = one.peer(one.options()).await?;
    let asked = one.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    let run = peer.run().await?;
    run.says("text");
    run.completes();
    one.is(&asked, TurnState::Completed).await?;
    let all = Replay::read(&two.api, "s").await?;
    let middle = all.items[all.items.len() / 2]["sequence"].as_u64().unwrap_or_default();
    let rest = Replay::read_after(&one.api, "s", middle).await?;
    let expected: Vec<_> = all.items.iter().filter(|item| item["sequence"].as_u64() > Some(middle)).collect();
    ensure!(rest.iter().collect::<Vec<_>>() == expected, "{rest:?} after {middle} of {:?}", all.items);
    peer.finish().await?;
    cluster.shutdown().await
}
