//! A runner whose machine was taken over: what its credentials let through must be its own link and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::{Client, ConnectOptions, Event, HeaderMap, jetstream};
use futures::{StreamExt, TryStreamExt};
use helix_protocol::session::SessionPhase;
use helix_protocol::{RunnerId, subject};
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs, throughout};
use helix_tests::runner::RunnerSpec;
use serde_json::json;
use tokio::time::timeout;

/// A NATS connection with a runner's own token, and what the server objected to.
struct Hostile {
    client: Client,
    objections: Arc<Mutex<Vec<String>>>,
}

impl Hostile {
    async fn enter(cluster: &Cluster, runner: &str, token: &str) -> Result<Self> {
        let objections = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&objections);
        let options = ConnectOptions::with_token(token.to_owned())
            .custom_inbox_prefix(subject::inbox_prefix(&RunnerId::parse(runner)?))
            .event_callback(move |event| {
                if let (Event::ServerError(fault), Ok(mut heard)) = (event, heard.lock()) {
                    heard.push(fault.to_string().to_lowercase());
                }
                async {}
            });
        let client = cluster.nats.options(options).connect(cluster.nats.url()).await?;
        Ok(Self { client, objections })
    }

    /// Waits until the server refused `subject` by name.
    async fn was_refused(&self, subject: &str) -> Result<()> {
        let subject = subject.to_lowercase();
        eventually(&format!("{subject} is refused"), secs(10), || async {
            self.client.flush().await?;
            let objections = self.objections.lock().map(|all| all.clone()).unwrap_or_default();
            let refused = objections.iter().any(|one| one.contains("permissions violation") && one.contains(&subject));
            ensure!(refused, "objections so far: {objections:?}");
            Ok(())
        })
        .await
    }
}

/// Every key and revision of the buckets that decide about sessions.
async fn revisions(bus: &Client) -> Result<BTreeMap<String, u64>> {
    let context = jetstream::new(bus.clone());
    let mut all = BTreeMap::new();
    for bucket in [subject::BUCKET_SESSIONS, subject::BUCKET_DESIRED, subject::BUCKET_OBSERVED, subject::BUCKET_TOKENS]
    {
        let store = context.get_key_value(bucket).await?;
        let keys: Vec<String> = store.keys().await?.try_collect().await?;
        for key in keys {
            let entry = store.entry(&key).await?.with_context(|| format!("{bucket}/{key} vanished"))?;
            all.insert(format!("{bucket}/{key}"), entry.revision);
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_runner_reaches_its_own_link_only() -> Result<()> {
    attacked(Cluster::builder()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_runner_reaches_no_more_of_a_cluster() -> Result<()> {
    attacked(Cluster::builder().three_nats()).await
}

async fn attacked(builder: helix_tests::cluster::Builder) -> Result<()> {
    let cluster = builder.runner(RunnerSpec::new("good")).runner(RunnerSpec::new("evil").slots(1)).start().await?;
    let api = cluster.api()?;
    cluster.runners_online(&api, 2).await?;
    // One session on each, whoever got which.
    let mut ids = Vec::new();
    for id in ["a", "b", "c"] {
        cluster.ready(&json!({"id": id, "kind": "terminal"})).await?;
        ids.push(id);
    }
    let bus = cluster.bus().await?;
    let before = eventually("reports settle", secs(20), || async {
        let one = revisions(&bus).await?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        ensure!(one == revisions(&bus).await?, "still changing");
        Ok(one)
    })
    .await?;
    let evil = Hostile::enter(&cluster, "evil", &cluster.runners[1].token()?).await?;

    // Listening to others, to the store, to everything.
    let mut ears = Vec::new();
    for subject in [
        "down.good.>",
        "down.>",
        "up.>",
        "up.good.>",
        ">",
        "_INBOX.>",
        "_INBOX.good.>",
        "external_agents.>",
        "$KV.>",
        "$JS.>",
        "$SYS.>",
    ] {
        ears.push(evil.client.subscribe(subject).await?);
        evil.was_refused(subject).await?;
    }

    // Speaking as others, to the store, to JetStream's API.
    let mut rollup = HeaderMap::new();
    rollup.insert("Nats-Rollup", "all");
    for subject in [
        "up.good.report",
        "up.good.register",
        "down.good.sync",
        "external_agents.register",
        "external_agents.response",
        "$KV.helix_sessions.a",
        "$KV.helix_desired.good.a",
        "$KV.helix_leases.leader",
        "$JS.API.INFO",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.DELETE.KV_helix_sessions",
        "$JS.API.STREAM.PURGE.KV_helix_sessions",
        "$JS.API.CONSUMER.CREATE.KV_helix_sessions",
        "$JS.API.CONSUMER.DURABLE.CREATE.KV_helix_sessions.x",
        "$JS.API.DIRECT.GET.KV_helix_tokens",
        "$SYS.REQ.USER.AUTH",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.good.x",
    ] {
        evil.client.publish_with_headers(subject, rollup.clone(), "{\"deleted\":true}".into()).await?;
        evil.was_refused(subject).await?;
    }

    // On its own subjects: rollup headers, sequences and replies that point at others' subjects and at the store.
    for reply in [
        "$KV.helix_sessions.a",
        "down.good.sync",
        "up.good.report",
        "$JS.API.STREAM.DELETE.KV_helix_sessions",
        "external_agents.register",
        "_INBOX.good.x",
    ] {
        for verb in ["sync", "heartbeat", "report", "dials.x", "register"] {
            let subject = format!("up.evil.{verb}");
            evil.client
                .publish_with_reply_and_headers(
                    subject,
                    reply,
                    rollup.clone(),
                    "{\"runner\":\"evil\",\"type\":\"sync\"}".into(),
                )
                .await?;
        }
    }
    // In another's name, or about another's sessions, on its own subject.
    for body in [
        json!({"runner": "good", "type": "sync"}),
        json!({"runner": "evil", "type": "report", "observed": {"session": "a", "runner": "good", "epoch": 999,
               "generation": 1, "report": 999, "phase": "Failed", "timeline": [], "kind": "terminal"}}),
    ] {
        for verb in ["sync", "report"] {
            let request = evil.client.request(format!("up.evil.{verb}"), serde_json::to_vec(&body)?.into());
            if let Ok(Ok(answer)) = timeout(secs(5), request).await {
                let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
                ensure!(answer["type"] == "refused", "{body} was answered: {answer}");
            }
        }
    }
    evil.client.flush().await?;

    throughout("nothing of it had an effect", secs(3), || async {
        for id in &ids {
            let view = api.session(id).await?;
            ensure!(view.phase == SessionPhase::Ready, "session {id} is {} now", view.phase);
        }
        Ok(())
    })
    .await?;
    let after = revisions(&bus).await?;
    ensure!(before == after, "records changed:\n{before:?}\n{after:?}");
    for mut ear in ears {
        let heard = timeout(Duration::from_millis(20), ear.next()).await;
        ensure!(!matches!(heard, Ok(Some(_))), "it heard {heard:?}");
    }

    // Its token opens its own link over HTTP as well, and nothing else there.
    let http = api.with_token(&cluster.runners[1].token()?);
    http.get("/api/v1/sessions").await?.problem(403, "forbidden")?;
    http.post("/api/v1/sessions", &json!({"kind": "terminal"})).await?.problem(403, "forbidden")?;
    http.delete("/api/v1/runners/good").await?.problem(403, "forbidden")?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_enters_with_wrong_or_foreign_credentials() -> Result<()> {
    let mut cluster = Cluster::builder().runner(RunnerSpec::new("good")).start().await?;
    let token = cluster.runners[0].token()?;
    let admin = cluster.admin_token().to_owned();
    let enrolment = cluster.enrolment_token()?;
    for wrong in ["wrong", "", admin.as_str(), enrolment.as_str()] {
        let entered = timeout(secs(10), ConnectOptions::with_token(wrong.to_owned()).connect(cluster.nats.url())).await;
        ensure!(!matches!(entered, Ok(Ok(_))), "somebody came in with a token that is no runner's");
    }
    for (user, password) in [("server", token.as_str()), ("server", "server"), ("observer", ""), ("good", "wrong")] {
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
        let entered = timeout(secs(10), options.connect(cluster.nats.url())).await;
        ensure!(!matches!(entered, Ok(Ok(_))), "{user} came in with a wrong password");
    }
    let anonymous = timeout(secs(10), async_nats::connect(cluster.nats.url())).await;
    ensure!(!matches!(anonymous, Ok(Ok(_))), "somebody came in without credentials");

    // An id is enrolled once: another machine cannot take it over with the enrolment token.
    let api = cluster.api()?.with_token(&enrolment);
    let body = json!({"id": "good", "token_hash": helix_protocol::ids::secret_hash("another machine")});
    api.post("/api/v1/runners/enrol", &body).await?.problem(409, "runner_enrolled_elsewhere")?;
    let own = json!({"id": "good", "token_hash": helix_protocol::ids::secret_hash(&token)});
    ensure!(api.post("/api/v1/runners/enrol", &own).await?.status.is_success(), "the same enrolment again is refused");

    // A runner that was removed does not come in again.
    let raw = ConnectOptions::with_token(token.clone());
    raw.connect(cluster.nats.url()).await.context("the right token does not come in")?;
    cluster.api()?.delete("/api/v1/runners/good").await?.problem(409, "conflict")?;
    cluster.runners[0].terminate().await?;
    eventually("a runner that is not heard is removed", secs(30), || async {
        let answer = cluster.api()?.delete("/api/v1/runners/good").await?;
        ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text);
        Ok(())
    })
    .await?;
    eventually("the removed runner stays out", secs(15), || async {
        let options = ConnectOptions::with_token(token.clone());
        let entered = timeout(secs(5), options.connect(cluster.nats.url())).await;
        ensure!(!matches!(entered, Ok(Ok(_))), "it came in");
        Ok(())
    })
    .await?;
    cluster.shutdown().await
}
