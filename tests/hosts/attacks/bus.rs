//! Attacks on NATS with one runner's credentials, each of which succeeds with unrestricted ones.
//!
//! What a runner's credentials let through is looked at from every side in `it/hostile.rs`; here every class has its
//! control, and the effect is told by somebody else: a listener hears it, or the store has it. That sessions have no
//! credentials at all is in the table ("credentials of the bus").

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::{Client, ConnectOptions, Subscriber, jetstream};
use futures::StreamExt;
use helix_protocol::{RunnerId, subject};
use helix_tests::Cluster;
use helix_tests::eventually::secs;
use helix_tests::random::secret_hex;
use helix_tests::runner::RunnerSpec;
use tokio::time::timeout;

use crate::harness::say;

/// Long enough for what is let through on loopback; every refusal costs it.
const SILENCE: Duration = Duration::from_millis(700);
/// What shall be heard is waited for longer.
const PATIENCE: Duration = secs(10);

/// What is tried.
#[derive(Debug, Clone, Copy)]
enum Attempt {
    /// Hear what is said to the other runner, on a subject that matches.
    Listen(&'static str),
    /// Say something on a subject of others.
    Speak(&'static str),
    /// Write a key of the store.
    Write(&'static str),
    /// Ask JetStream for what only the server may know.
    Ask(&'static str),
}

const ATTEMPTS: [Attempt; 12] = [
    Attempt::Listen("down.good.>"),
    Attempt::Listen("down.*.attack"),
    Attempt::Listen(">"),
    Attempt::Speak("up.good.attack"),
    Attempt::Speak("down.good.attack"),
    Attempt::Speak("_INBOX.good.attack"),
    Attempt::Speak("external_agents.attack"),
    Attempt::Write("$KV.helix_leases.attack"),
    Attempt::Write("$KV.helix_desired.good.attack"),
    Attempt::Ask("$JS.API.STREAM.INFO.KV_helix_tokens"),
    Attempt::Ask("$JS.API.STREAM.NAMES"),
    Attempt::Ask("$JS.API.INFO"),
];

/// `good` is the victim, `evil` the runner whose machine was taken over.
pub async fn no_runner_speaks_for_another() -> Result<()> {
    let cluster = Cluster::builder().runner(RunnerSpec::new("good")).runner(RunnerSpec::new("evil")).start().await?;
    cluster.runners_online(&cluster.api()?, 2).await?;
    let free = cluster.bus().await?;
    let witness = cluster.bus().await?;
    let token = cluster.runners.iter().find(|runner| runner.spec.id == "evil").context("no evil")?.token()?;
    let evil = ConnectOptions::with_token(token)
        .custom_inbox_prefix(subject::inbox_prefix(&RunnerId::parse("evil")?))
        .connect(cluster.nats.url())
        .await?;
    let mut faults = Vec::new();
    for attempt in ATTEMPTS {
        let control =
            succeeds(&free, &witness, attempt, PATIENCE).await.with_context(|| format!("control of {attempt:?}"))?;
        let protected = succeeds(&evil, &witness, attempt, SILENCE).await.with_context(|| format!("{attempt:?}"))?;
        say(&format!("nats {attempt:?}: control {control}, protected {protected}"));
        if !control {
            faults.push(format!("the control of {attempt:?} did not succeed, so it proves nothing"));
        }
        if protected {
            faults.push(format!("{attempt:?} SUCCEEDED with a runner's credentials"));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    cluster.shutdown().await
}

async fn succeeds(client: &Client, witness: &Client, attempt: Attempt, within: Duration) -> Result<bool> {
    let mark = secret_hex(8)?;
    match attempt {
        Attempt::Listen(wanted) => {
            let mut ears = client.subscribe(wanted).await?;
            client.flush().await?;
            let heard = async {
                tokio::select! {
                    heard = hears(&mut ears, &mark) => heard,
                    never = repeat(witness, "down.good.attack", &mark) => never,
                }
            };
            Ok(timeout(within, heard).await.unwrap_or(false))
        }
        Attempt::Speak(wanted) => {
            let mut ears = witness.subscribe(wanted).await?;
            witness.flush().await?;
            let heard = async {
                tokio::select! {
                    heard = hears(&mut ears, &mark) => heard,
                    never = repeat(client, wanted, &mark) => never,
                }
            };
            Ok(timeout(within, heard).await.unwrap_or(false))
        }
        Attempt::Write(wanted) => {
            client.publish(wanted, mark.clone().into()).await?;
            client.flush().await?;
            let mut parts = wanted.trim_start_matches("$KV.").splitn(2, '.');
            let (bucket, key) = (parts.next().context("no bucket")?, parts.next().context("no key")?);
            let store = jetstream::new(witness.clone()).get_key_value(bucket).await?;
            let found = async {
                while store.get(key).await.ok().flatten().is_none_or(|value| value != mark.as_bytes()) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let written = timeout(within, found).await.is_ok();
            if written {
                store.purge(key).await?;
            }
            Ok(written)
        }
        Attempt::Ask(wanted) => {
            let answer = timeout(within.max(secs(1)), client.request(wanted, "".into())).await;
            Ok(matches!(answer, Ok(Ok(answer)) if !answer.payload.is_empty()))
        }
    }
}

/// Says it again and again: nothing tells when a subscription has reached the server.
async fn repeat(client: &Client, wanted: &'static str, mark: &str) -> bool {
    loop {
        let _ = client.publish(wanted, mark.to_owned().into()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// True once the mark is heard; false when the subscription ends without it, as a refused one does.
async fn hears(ears: &mut Subscriber, mark: &str) -> bool {
    while let Some(message) = ears.next().await {
        if message.payload == mark.as_bytes() {
            return true;
        }
    }
    false
}
