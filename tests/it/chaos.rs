//! `kill -9` of every process at random points: every acknowledged session reaches a truthful state, nothing is lost,
//! doubled or left behind. Each victim is struck once before any is struck again. `HELIX_CHAOS_ROUNDS` sets the rounds and
//! draws another seed for every run; `HELIX_CHAOS_SEED` replays one. Without both, every run is the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_protocol::SessionId;
use helix_protocol::session::SessionPhase;
use helix_tests::chaos::{self, Kills};
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::told;
use helix_tests::process::{runs, signal_pid};
use helix_tests::random::Random;
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster, leftovers, parts};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How long everything may take to be true again after a kill.
const TRUTH: Duration = secs(90);
/// Sessions that run at once.
const MOST: usize = 4;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Nats,
    Server(usize),
    Runner(usize),
    /// All of the above at once.
    Everything,
    /// The process that holds a session together.
    Guest,
    /// A session's X server.
    Display,
}

const VICTIMS: [Victim; 8] = [
    Victim::Nats,
    Victim::Server(0),
    Victim::Server(1),
    Victim::Runner(0),
    Victim::Runner(1),
    Victim::Everything,
    Victim::Guest,
    Victim::Display,
];

impl Victim {
    /// True where it is a part of one session, which fails with it.
    fn is_of_a_session(self) -> bool {
        matches!(self, Self::Guest | Self::Display)
    }

    /// True where a session that starts meanwhile may fail.
    fn holds_starts(self) -> bool {
        matches!(self, Self::Runner(_) | Self::Everything)
    }

    /// Goes into the account.
    fn count(self, kills: &Kills, cluster: &Cluster) {
        match self {
            Self::Nats => kills.count("nats-server", 1),
            Self::Server(_) => kills.count("helix-server", 1),
            Self::Runner(_) => kills.count("agentd", 1),
            Self::Guest => kills.count("guest", 1),
            Self::Display => kills.count("display", 1),
            Self::Everything => {
                kills.count("nats-server", 1);
                kills.count("helix-server", cluster.servers.len() as u64);
                kills.count("agentd", cluster.runners.len() as u64);
            }
        }
    }
}

/// All victims in an order that is drawn.
fn shuffled(random: &mut Random) -> Vec<Victim> {
    let mut victims = VICTIMS.to_vec();
    for end in (1..victims.len()).rev() {
        victims.swap(end, random.below(end as u64 + 1) as usize);
    }
    victims
}

/// What was acknowledged last for a session, and so what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Must run: it ran before, or its runner was not touched while it started.
    Run,
    /// Its runner was killed while it may have been starting: it may fail, with a cause.
    Start,
    /// Must have been stopped.
    Stop,
    /// Failed in a former round, or a part of it was killed.
    Failed,
}

fn body(id: &str) -> Value {
    json!({"id": id, "kind": "command", "input": format!("echo ran >>ran.txt; echo mark of {id}")})
}

/// Repeats a request at either server until one acknowledges it: what a client does.
async fn acknowledged(apis: &[Api], method: &str, path: &str, body: &Value) -> Result<()> {
    eventually(&format!("{method} {path} is acknowledged"), TRUTH, || async {
        let mut refusals = Vec::new();
        for api in apis {
            let answer = if method == "DELETE" { api.delete(path).await } else { api.post(path, body).await };
            match answer {
                // A deleted session that is already gone was acknowledged by the answer that got lost.
                Ok(answer) if answer.status.is_success() || (method == "DELETE" && answer.status == 404) => {
                    return Ok(());
                }
                Ok(answer) => refusals.push(format!("{} {}", answer.status, answer.text)),
                Err(fault) => refusals.push(format!("{fault:#}")),
            }
        }
        anyhow::bail!("{refusals:?}")
    })
    .await
}

/// One session against what was asked of it.
async fn truthful(cluster: &Cluster, api: &Api, id: &str, asked: Asked) -> Result<()> {
    let view = api.session(id).await?;
    cluster.remember(&view);
    let unit = SessionId::parse(id)?.unit_key();
    let ended = || -> Result<()> {
        for runner in &cluster.runners {
            leftovers::none(&runner.state_dir.join("s").join(&unit))?;
        }
        Ok(())
    };
    let cause = view.cause.as_ref().is_some_and(|cause| !cause.code.is_empty() && !cause.message.is_empty());
    match (asked, view.phase) {
        (Asked::Run | Asked::Start, SessionPhase::Ready) => {
            ensure!(view.pid.is_some_and(runs), "Ready, yet its agent does not run: {}", told(&view));
            let result = view.result.as_ref().with_context(|| format!("no result yet: {}", told(&view)))?;
            ensure!(result.exit_status == 0, "{}", told(&view));
            ensure!(result.output_tail.ends_with(&format!("mark of {id}\n")), "{}", told(&view));
            let workspace = view.workspace.as_deref().context("no workspace")?;
            let ran = std::fs::read_to_string(format!("{workspace}/ran.txt"))?;
            ensure!(ran == "ran\n", "{id} ran {} times", ran.lines().count());
            Ok(())
        }
        (Asked::Start | Asked::Failed, SessionPhase::Failed) => {
            ensure!(cause, "Failed without a cause: {}", told(&view));
            ended()
        }
        (Asked::Stop, SessionPhase::Stopped) => ended(),
        _ => anyhow::bail!("asked {asked:?}: {}", told(&view)),
    }
}

/// Directory of a session that runs.
async fn slice_of(cluster: &Cluster, api: &Api, id: &str) -> Result<PathBuf> {
    let view = api.session(id).await?;
    let runner = view.runner.as_ref().with_context(|| format!("no runner: {}", told(&view)))?;
    let runner = cluster.runners.iter().find(|one| one.spec.id == runner.as_str()).context("an unknown runner")?;
    Ok(runner.state_dir.join("s").join(view.id.unit_key()))
}

/// Kills the victim at its moment; `slice` is that of the session whose part it is.
async fn strike(cluster: &mut Cluster, victim: Victim, slice: Option<&Path>, after: Duration) -> Result<()> {
    tokio::time::sleep(after).await; // the random point
    let slice = slice.unwrap_or_else(|| Path::new("/nonexistent"));
    match victim {
        Victim::Nats => cluster.nats.restart().await,
        Victim::Server(number) => {
            let server = &mut cluster.servers[number];
            server.kill().await?;
            server.start().await
        }
        Victim::Runner(number) => {
            let runner = &mut cluster.runners[number];
            runner.kill().await?;
            runner.start().await
        }
        Victim::Guest => signal_pid(parts::guest(slice)?, Signal::KILL),
        Victim::Display => signal_pid(parts::display(slice)?, Signal::KILL),
        Victim::Everything => {
            cluster.nats.kill().await?;
            for server in &mut cluster.servers {
                server.kill().await?;
            }
            for runner in &mut cluster.runners {
                runner.kill().await?;
            }
            cluster.nats.restart().await?;
            for server in &mut cluster.servers {
                server.start().await?;
            }
            for runner in &mut cluster.runners {
                runner.start().await?;
            }
            Ok(())
        }
    }
}

async fn round(
    cluster: &mut Cluster,
    random: &mut Random,
    asked: &mut BTreeMap<String, Asked>,
    number: u64,
    victim: Victim,
) -> Result<()> {
    let apis = [cluster.api_of(0)?, cluster.api_of(1)?];
    let mut running: Vec<_> =
        asked.iter().filter(|(_, asked)| **asked == Asked::Run).map(|(id, _)| id.clone()).collect();
    let mut stops = Vec::new();
    while running.len() + 2 > MOST || (!running.is_empty() && random.below(3) == 0) {
        stops.push(running.remove(random.below(running.len() as u64) as usize));
    }
    let creates = [format!("c{number}-a"), format!("c{number}-b")];
    let strike_after = Duration::from_millis(random.below(900));
    let second_after = Duration::from_millis(random.below(500));

    let mut slice = None;
    if victim.is_of_a_session() {
        let id = format!("c{number}-v");
        acknowledged(&apis, "POST", "/api/v1/sessions", &body(&id)).await?;
        eventually(&format!("{id} runs"), TRUTH, || truthful(cluster, &apis[0], &id, Asked::Run)).await?;
        slice = Some(slice_of(cluster, &apis[0], &id).await?);
        asked.insert(id, Asked::Failed);
    }

    let work = async {
        let nothing = json!({});
        for id in &stops {
            acknowledged(&apis, "POST", &format!("/api/v1/sessions/{id}/stop"), &nothing).await?;
        }
        acknowledged(&apis, "POST", "/api/v1/sessions", &body(&creates[0])).await?;
        tokio::time::sleep(second_after).await; // so that starts are at different steps when it strikes
        acknowledged(&apis, "POST", "/api/v1/sessions", &body(&creates[1])).await
    };
    let (worked, struck) = tokio::join!(work, strike(cluster, victim, slice.as_deref(), strike_after));
    let what =
        format!("round {number}: victim {victim:?} after {strike_after:?}, creating {creates:?}, stopping {stops:?}");
    worked.with_context(|| what.clone())?;
    struck.with_context(|| what.clone())?;
    asked.extend(stops.into_iter().map(|id| (id, Asked::Stop)));
    let start = if victim.holds_starts() { Asked::Start } else { Asked::Run };
    asked.extend(creates.into_iter().map(|id| (id, start)));

    for (id, asked) in asked.iter() {
        eventually(&format!("{id} is in a truthful state"), TRUTH, || truthful(cluster, &apis[0], id, *asked))
            .await
            .with_context(|| what.clone())?;
    }
    // Nothing lost, nothing made up, also for the other server, which may just be finding NATS again.
    let sessions = eventually(&format!("{what}: the other server lists what was asked"), TRUTH, || async {
        let sessions = apis[1].sessions().await?;
        let known: Vec<_> = sessions.iter().map(|view| view.id.to_string()).collect();
        let all = known.len() == asked.len() && asked.keys().all(|id| known.contains(id));
        ensure!(all, "{known:?} against {asked:?}");
        Ok(sessions)
    })
    .await?;
    for view in sessions {
        match view.phase {
            SessionPhase::Ready => asked.insert(view.id.to_string(), Asked::Run),
            SessionPhase::Failed => asked.insert(view.id.to_string(), Asked::Failed),
            _ => None,
        };
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_left_whoever_is_killed() -> Result<()> {
    let asked_rounds = chaos::number("HELIX_CHAOS_ROUNDS");
    let rounds = asked_rounds.unwrap_or(VICTIMS.len() as u64);
    let seed = chaos::seed(asked_rounds.is_some());
    let kills = Kills::of("sessions", seed);
    let mut random = Random::seeded(seed);
    let runner = |id| RunnerSpec::new(id).slots(MOST as u32);
    let mut cluster = Cluster::builder().servers(2).runner(runner("r1")).runner(runner("r2")).start().await?;
    let mut asked = BTreeMap::new();
    let mut victims = Vec::new();
    for number in 0..rounds {
        if victims.is_empty() {
            victims = shuffled(&mut random);
        }
        let victim = victims.pop().context("nobody is left to kill")?;
        round(&mut cluster, &mut random, &mut asked, number, victim)
            .await
            .with_context(|| format!("HELIX_CHAOS_SEED={seed} HELIX_CHAOS_ROUNDS={rounds}"))?;
        victim.count(&kills, &cluster);
    }
    let api = cluster.api()?;
    for id in asked.keys() {
        api.delete_session(id, TRUTH).await.with_context(|| format!("HELIX_CHAOS_SEED={seed}"))?;
    }
    ensure!(api.sessions().await?.is_empty(), "records are left");
    for runner in &cluster.runners {
        leftovers::none(&runner.state_dir.join("s"))?;
        let left = std::fs::read_dir(&runner.workspace_dir)?.count();
        ensure!(left == 0, "{left} workspaces are left in {}", runner.workspace_dir.display());
    }
    cluster.shutdown().await?;
    println!("{}", kills.survived()?);
    Ok(())
}
