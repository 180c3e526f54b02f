//! What goes wrong, one thing after the other at drawn moments, and the end of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use helix_tests::Cluster;
use helix_tests::chaos::Kills;
use helix_tests::eventually::{eventually, secs};
use helix_tests::random::Random;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::bridges::Bridge;
use super::editors::Editor;

/// How long a strike waits for an answer to come to its end somewhere.
const RESPITE: Duration = secs(5);

/// Who is struck, and how.
#[derive(Debug, Clone, Copy)]
enum Strike {
    /// An editor dies and comes back after a while.
    Editor,
    /// A connection breaks.
    Break,
    /// A connection breaks on an event, which is lost.
    Lose,
    /// A connection breaks on the end of a turn.
    LoseEnd,
    /// A connection breaks on the first word of a new thread.
    LoseThread,
    /// The network between an editor and its server breaks.
    Cut,
    /// It is away for a while.
    Unplug,
    /// It leads to the other server from now on.
    Move,
    /// The bridge dies; its session starts it again.
    Bridge,
    /// agentd dies and comes back.
    Agentd,
    /// A server dies and comes back.
    Server,
    /// NATS dies and comes back.
    Nats,
    /// Both servers and NATS die and come back.
    Everything,
}

const STRIKES: [Strike; 13] = [
    Strike::Editor,
    Strike::Break,
    Strike::Lose,
    Strike::LoseEnd,
    Strike::LoseThread,
    Strike::Cut,
    Strike::Unplug,
    Strike::Move,
    Strike::Bridge,
    Strike::Agentd,
    Strike::Server,
    Strike::Nats,
    Strike::Everything,
];

impl Strike {
    /// What is killed goes into the account; what only breaks does not.
    fn count(self, kills: &Kills) {
        match self {
            Self::Bridge => kills.count("bridge", 1),
            Self::Agentd => kills.count("agentd", 1),
            Self::Server => kills.count("helix-server", 1),
            Self::Nats => kills.count("nats-server", 1),
            Self::Everything => {
                kills.count("helix-server", 2);
                kills.count("nats-server", 1);
            }
            _ => {}
        }
    }
}

/// Strikes until it is dropped. Each kind comes once before any comes again.
pub async fn for_ever(
    cluster: &mut Cluster,
    editors: &[Arc<Editor>],
    bridge: &Bridge,
    mut ended: watch::Receiver<u64>,
    random: &mut Random,
    kills: &Kills,
) -> Result<Infallible> {
    loop {
        let mut strikes = STRIKES;
        for end in (1..strikes.len()).rev() {
            strikes.swap(end, random.below(end as u64 + 1) as usize);
        }
        for strike in strikes {
            pause(random, 900).await;
            // A machine that is busy must get something done between two strikes.
            ended.borrow_and_update();
            let _ = timeout(RESPITE, ended.changed()).await;
            let number = random.below(editors.len() as u64) as usize;
            let server = random.below(2) as usize;
            println!("{strike:?}: session {number}, server {server}");
            let editor = &editors[number];
            hit(cluster, editor, bridge, strike, server, random).await.with_context(|| format!("{strike:?}"))?;
            strike.count(kills);
            if matches!(strike, Strike::Nats | Strike::Everything) {
                // One outage after the other without a moment of life in between would prove nothing.
                well(cluster).await?;
            }
        }
    }
}

/// Both servers have their store again.
async fn well(cluster: &Cluster) -> Result<()> {
    for server in 0..cluster.servers.len() {
        let api = cluster.api_of(server)?;
        eventually("the store is back", secs(60), || async {
            api.get("/api/v1/sessions").await?.expect(200).map(drop)
        })
        .await?;
    }
    Ok(())
}

/// The random point, or the random length of an outage.
async fn pause(random: &mut Random, most: u64) {
    sleep(Duration::from_millis(random.below(most))).await;
}

async fn hit(
    cluster: &mut Cluster,
    editor: &Editor,
    bridge: &Bridge,
    strike: Strike,
    server: usize,
    random: &mut Random,
) -> Result<()> {
    match strike {
        Strike::Editor => {
            editor.kill().await?;
            pause(random, 1000).await;
            editor.revive().await;
        }
        Strike::Break => drop(editor.with(helix_tests::zed_peer::Peer::break_connection).await),
        Strike::Lose => drop(editor.with(helix_tests::zed_peer::Peer::lose_next_event).await),
        Strike::LoseEnd => drop(editor.with(|peer| peer.lose_next("message_completed")).await),
        Strike::LoseThread => drop(editor.with(|peer| peer.lose_next("thread_created")).await),
        Strike::Cut => editor.cable.cut(),
        Strike::Unplug => {
            editor.cable.unplug();
            pause(random, 1500).await;
            editor.cable.plug_into(&cluster.servers[server].address());
        }
        Strike::Move => editor.cable.plug_into(&cluster.servers[server].address()),
        Strike::Bridge => bridge.kill()?,
        Strike::Agentd => {
            cluster.runners[0].kill().await?;
            pause(random, 1000).await;
            cluster.runners[0].start().await?;
        }
        Strike::Server => {
            cluster.servers[server].kill().await?;
            pause(random, 1000).await;
            cluster.servers[server].start().await?;
        }
        Strike::Nats => {
            cluster.nats.kill().await?;
            pause(random, 1000).await;
            cluster.nats.restart().await?;
        }
        Strike::Everything => {
            cluster.nats.kill().await?;
            for server in &mut cluster.servers {
                server.kill().await?;
            }
            cluster.nats.restart().await?;
            for server in &mut cluster.servers {
                server.start().await?;
            }
        }
    }
    Ok(())
}

/// Everything is well again, whatever the last strike had left.
pub async fn mend(cluster: &mut Cluster, editors: &[Arc<Editor>]) -> Result<()> {
    if cluster.nats.pid().is_none() {
        cluster.nats.restart().await?;
    }
    for server in &mut cluster.servers {
        if server.pid().is_none() {
            server.start().await?;
        }
    }
    for runner in &mut cluster.runners {
        if runner.pid().is_none() {
            runner.start().await?;
        }
    }
    for editor in editors {
        editor.revive().await;
        editor.with(helix_tests::zed_peer::Peer::lose_nothing_more).await;
        editor.cable.plug_into(&cluster.servers[0].address());
    }
    Ok(())
}
