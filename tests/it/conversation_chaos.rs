//! Random kills during many turns: every prompt that was acknowledged ends in a final state, and what is promised of it
//! holds.
//!
//! Sessions have peers of an older or a newer build, each on a cable of its own to one of two servers; one more runs on
//! a real runner, with our own bridge as its agent. Clients send
//! prompts by REST under idempotency keys, to either server, repeated until one acknowledges; some interrupt, some are
//! cancelled. Meanwhile peers, the bridge, agentd, servers and NATS are killed, connections break (losing an event) and move. In the end
//! everything is well again, and [`oracle`] compares what the API and the feed say with what the peers' ledgers have.
//!
//! `HELIX_CHAOS_TURNS` sets the number of turns and draws another seed for every run; `HELIX_CHAOS_SEED` replays one.
//! Without both, every run has the same seed: that draws the same acts, whose moments the machine still decides.

#![expect(clippy::print_stdout, reason = "the harness keeps it for a failure, and soak shows it")]

mod bridges;
mod clients;
mod editors;
mod oracle;
mod strikes;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_tests::Cluster;
use helix_tests::chaos::{Kills, number, seed};
use helix_tests::eventually::{eventually, secs};
use helix_tests::random::Random;
use helix_tests::runner::RunnerSpec;
use tokio::sync::watch;

use self::bridges::Bridge;
use self::clients::{Client, Speaks};
use self::editors::Editor;
use crate::conversations::stage::Talk;

/// Turns of `make test`.
const TURNS: u64 = 60;
/// Patience of the servers: longer than any outage here, so that only what cannot be proved ends in `unknown`.
const SETTINGS: &str = "[threads]\nready_fallback = \"12s\"\nthread_created = \"12s\"\nsilence = \"12s\"\n\
                        tool_silence = \"12s\"\n";
/// How long a turn may take to be over: several in a row may each have to wait out a silence that breaks cut short.
const TRUTH: Duration = secs(300);
/// Sessions, each with an editor; even ones are of an older build.
const SESSIONS: usize = 4;
/// Clients of each session.
const CLIENTS: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn conversations_survive_kills_at_random_points() -> Result<()> {
    let drawn = number("HELIX_CHAOS_TURNS");
    let turns = drawn.unwrap_or(TURNS);
    let seed = seed(drawn.is_some());
    let kills = Kills::of("conversations", seed);
    let what = format!("HELIX_CHAOS_SEED={seed} HELIX_CHAOS_TURNS={turns}");
    println!("replay with {what}");
    let builder = Cluster::builder().servers(2).settings(SETTINGS);
    let mut cluster = builder.runner(RunnerSpec::new(bridges::RUNNER).slots(1)).start().await?;
    let outcome = play(&mut cluster, seed, turns, &kills).await;
    outcome.with_context(|| what.clone())?;
    cluster.shutdown().await.with_context(|| what)?;
    println!("{}", kills.survived()?);
    Ok(())
}

async fn play(cluster: &mut Cluster, seed: u64, turns: u64, kills: &Kills) -> Result<()> {
    let mut random = Random::seeded(seed);
    let apis = [cluster.api_of(0)?, cluster.api_of(1)?];
    let ended = Arc::new(watch::Sender::new(0));
    let mut editors = Vec::new();
    let mut clients = Vec::new();
    let bridge = Bridge::start(cluster, "bridge").await?;
    let share = turns / ((SESSIONS + 1) * CLIENTS) as u64 + 1;
    let mut client = |session: &str, speaks: Speaks, seed: u64| {
        let client = Client::new(apis.clone(), session.to_owned(), format!("c{}", clients.len()), speaks, seed);
        clients.push(tokio::spawn(client.work(share)));
    };
    for number in 0..SESSIONS {
        let talk = Talk::begin(apis[0].clone(), &format!("s{number}")).await?;
        eventually("the other server knows the session", secs(20), || async {
            apis[1].session(&talk.id).await.map(drop)
        })
        .await?;
        editors.push(Arc::new(Editor::start(&talk, number % 2 == 1, random.draw(), Arc::clone(&ended)).await?));
        for _ in 0..CLIENTS {
            client(&talk.id, Speaks::Words, random.draw());
        }
    }
    for _ in 0..CLIENTS {
        client(&bridge.session, Speaks::Shell, random.draw());
    }
    let done = async {
        let mut asked = Vec::new();
        for client in clients {
            asked.extend(client.await??);
        }
        anyhow::Ok(asked)
    };
    let asked = tokio::select! {
        asked = done => asked?,
        struck = strikes::for_ever(cluster, &editors, &bridge, ended.subscribe(), &mut random, kills) => match struck {
            Ok(never) => match never {},
            Err(fault) => return Err(fault),
        },
    };
    strikes::mend(cluster, &editors).await?;
    ensure!(asked.len() as u64 >= turns, "{} prompts were acknowledged", asked.len());
    let summary = oracle::judge(&apis, &editors, &bridge, &asked, TRUTH).await?;
    println!("{summary}");
    for session in editors.iter().map(|editor| &editor.session).chain([&bridge.session]) {
        apis[0].delete_session(session, TRUTH).await?;
    }
    Ok(())
}
