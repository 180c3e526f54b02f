//! Three nats-servers with TLS and three copies of everything: one may go at any time, and without most of them nothing is
//! lost but time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use async_nats::{ConnectOptions, jetstream};
use helix_protocol::session::SessionPhase;
use helix_protocol::subject;
use helix_tests::certificates::Certificates;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs, throughout};
use helix_tests::nats::Nats;
use helix_tests::process::{runs, tail};
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster};
use serde_json::{Value, json};

use crate::backup::{Copies, serves};

fn member(cluster: &mut Cluster, number: usize) -> &mut Nats {
    if number == 0 { &mut cluster.nats } else { &mut cluster.peers[number - 1] }
}

/// Waits until every copy of every stream is there and has everything.
async fn whole(cluster: &Cluster) -> Result<()> {
    let bus = jetstream::new(cluster.bus().await?);
    eventually("all copies are current", secs(90), || async {
        for bucket in
            [subject::BUCKET_SESSIONS, subject::BUCKET_LEASES, subject::BUCKET_TOKENS, subject::BUCKET_SECRETS]
        {
            let stream = bus.get_stream(format!("KV_{bucket}")).await?;
            let group = stream.cached_info().cluster.clone().context("it has no copies")?;
            let current = group.replicas.iter().filter(|one| one.current && !one.offline).count();
            ensure!(group.leader.is_some() && current == 2, "{bucket}: {group:?}");
        }
        Ok(())
    })
    .await
}

/// Makes a session as a client does that repeats what is refused for the moment.
async fn made(cluster: &Cluster, api: &Api, id: &str) -> Result<()> {
    eventually(&format!("session {id} is made"), secs(60), || async {
        let made = api.post("/api/v1/sessions", &json!({"id": id, "kind": "command"})).await?;
        ensure!(made.status.is_success(), "{} {}", made.status, made.text);
        Ok(())
    })
    .await?;
    cluster.remember(&api.wait_phase(id, SessionPhase::Ready, READY).await?);
    Ok(())
}

/// Stores one thing after the other until told to stop; what was acknowledged.
async fn write(api: Api, name: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0..25 {
        let secret = format!("{name}_{number}");
        let stored = api.put(&format!("/api/v1/secrets/{secret}"), &json!({"value": "a value"})).await;
        if stored.is_ok_and(|answer| answer.status.is_success()) {
            acknowledged.push(secret);
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_three_can_go() -> Result<()> {
    let mut cluster = Cluster::builder().three_nats().servers(2).runner(RunnerSpec::new("r1")).start().await?;
    let api = cluster.api()?;
    let kept = cluster.ready(&json!({"id": "kept", "kind": "terminal"})).await?;
    whole(&cluster).await?;
    let mut acknowledged = Vec::new();
    // One of them leads the cluster, and each leads some of the streams.
    for victim in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(write(cluster.api()?, format!("V{victim}"), Arc::clone(&stop)));
        member(&mut cluster, victim).kill().await?;
        eventually("it is stored with one gone", secs(60), || async {
            let path = format!("/api/v1/secrets/AFTER_{victim}");
            let stored = api.put(&path, &json!({"value": "a value"})).await?;
            ensure!(stored.status.is_success(), "{} {}", stored.status, stored.text);
            Ok(())
        })
        .await?;
        acknowledged.push(format!("AFTER_{victim}"));
        stop.store(true, Ordering::Relaxed);
        acknowledged.extend(writer.await?);
        made(&cluster, &api, &format!("with-{victim}-gone")).await?;
        let now = api.session("kept").await?;
        ensure!(now.phase == SessionPhase::Ready && now.pid == kept.pid && now.epoch == kept.epoch, "{now:?}");
        member(&mut cluster, victim).restart().await?;
        whole(&cluster).await?;
    }
    let listed = api.get("/api/v1/secrets").await?.expect(200)?;
    let names: Vec<_> = listed["secrets"].as_array().context("no list")?.iter().map(|one| &one["name"]).collect();
    for name in &acknowledged {
        ensure!(names.contains(&&Value::from(name.as_str())), "{name} was acknowledged and is gone");
    }
    cluster.runners_online(&api, 1).await?;
    ensure!(kept.pid.is_some_and(runs), "the session was ended");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_most_of_them_nothing_is_stored_and_nothing_is_lost() -> Result<()> {
    let mut cluster = Cluster::builder().three_nats().runner(RunnerSpec::new("r1")).start().await?;
    let api = cluster.api()?;
    let kept = cluster.ready(&json!({"id": "kept", "kind": "terminal"})).await?;
    whole(&cluster).await?;
    // A backup of a cluster, and where it goes later.
    let (copies, file) = (Copies::of(&cluster)?, cluster.dir().join("three.backup"));
    copies.save(&file).await?;
    cluster.peers[0].kill().await?;
    cluster.peers[1].kill().await?;
    let answer = eventually("a creation is refused", secs(40), || async {
        let answer = api.post("/api/v1/sessions", &json!({"kind": "terminal"})).await?;
        ensure!(answer.status == 503, "{} {}", answer.status, answer.text);
        Ok(answer)
    })
    .await?;
    let problem = answer.problem(503, "store_unavailable")?;
    ensure!(problem.detail.contains("NATS JetStream"), "{problem:?}");
    throughout("the session runs on", secs(5), || async {
        ensure!(kept.pid.is_some_and(runs), "the agent ended");
        Ok(())
    })
    .await?;
    cluster.peers[0].restart().await?;
    cluster.peers[1].restart().await?;
    serves(&api).await?;
    cluster.runners_online(&api, 1).await?;
    whole(&cluster).await?;
    eventually("the session is as it was", secs(30), || async {
        let now = api.session("kept").await?;
        ensure!(now.phase == SessionPhase::Ready && !now.unclaimed && now.pid == kept.pid, "{now:?}");
        Ok(())
    })
    .await?;
    made(&cluster, &api, "next").await?;

    copies.restore(&file, &["--force"]).await?;
    serves(&api).await?;
    whole(&cluster).await?;
    cluster.runners_online(&api, 1).await?;
    eventually("both are there", secs(60), || async {
        let (kept, next) = (api.session("kept").await?, api.session("next").await?);
        ensure!(!kept.unclaimed && next.unclaimed && next.phase == SessionPhase::Ready, "{kept:?} {next:?}");
        Ok(())
    })
    .await?;
    eventually("the unclaimed one can be stopped", secs(30), || async { api.stop("next").await.map(|_| ()) }).await?;
    api.wait_phase("next", SessionPhase::Stopped, READY).await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_believed_without_a_certificate_of_the_ca() -> Result<()> {
    let mut cluster = Cluster::builder().three_nats().runner(RunnerSpec::new("r1")).start().await?;
    let (api, url, token) = (cluster.api()?, cluster.nats.url(), cluster.runners[0].token()?);
    // Who does not ask for TLS is given it, and does not believe what it sees.
    for address in [url.clone(), url.replace("tls://", "nats://")] {
        let plain = ConnectOptions::with_token(token.clone()).connect(address).await;
        ensure!(plain.is_err(), "a client that does not know the CA came in");
    }
    // A runner that believes another CA stays away, and says why.
    let other = Certificates::make(cluster.dir(), "other-")?;
    cluster.runners[0].terminate().await?;
    let settings = cluster.dir().join("r1.toml");
    let good = std::fs::read_to_string(&settings)?;
    std::fs::write(&settings, format!("nats_ca_file = {:?}\n{good}", other.ca.to_string_lossy()))?;
    cluster.runners[0].spawn()?;
    let log = cluster.dir().join("r1.log");
    eventually("it says why", secs(30), || async {
        let said = tail(&log);
        ensure!(said.contains("certificate") && said.contains("no link to a server"), "{said}");
        Ok(())
    })
    .await?;
    cluster.runners[0].kill().await?;
    std::fs::write(&settings, good)?;
    cluster.runners[0].start().await?;
    cluster.runners_online(&api, 1).await?;
    cluster.shutdown().await
}

/// Whoever talks to a member that hears nothing of the others asks another one; the one that was away catches up.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "known fault: a runner that has left such a member may not be let in elsewhere; see docs/nats.md"]
async fn a_member_that_hears_nothing_of_the_others_stops_nobody() -> Result<()> {
    let cluster = Cluster::builder().three_nats().runner(RunnerSpec::new("r1")).start().await?;
    whole(&cluster).await?;
    let api = cluster.api()?;
    let routes = cluster.routes.as_ref().context("the bus has one member")?;
    // Each in its turn: the leader, and the one that the server talks to, are among them. Not two that hear the third alone:
    // they go on electing each other away (docs/nats.md), and only what is safe then can be tested (the fleet's chaos does).
    for pairs in [[(0, 1), (0, 2)], [(1, 0), (1, 2)], [(2, 0), (2, 1)]] {
        for (one, other) in pairs {
            routes.part(one, other);
        }
        let name = format!("apart-{}-{}", pairs[0].0, pairs.len());
        made(&cluster, &api, &name).await.with_context(|| format!("{pairs:?}"))?;
        for (one, other) in pairs {
            routes.mend(one, other);
        }
        whole(&cluster).await.with_context(|| format!("{pairs:?}"))?;
    }
    eventually("all of them are listed", secs(60), || async {
        let sessions = api.sessions().await?;
        ensure!(sessions.len() == 3, "{sessions:?}");
        Ok(())
    })
    .await?;
    cluster.shutdown().await
}
