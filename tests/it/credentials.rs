//! Tokens and labels by helixctl, and rotation of a runner's own token with a real agentd: killed in the middle, and while no
//! server is there.

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use helix_protocol::api::RunnerView;
use helix_protocol::ids::secret_hash;
use helix_protocol::runner::Liveness;
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::{exit_code, run};
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster, programs};
use serde_json::{Value, json};

use crate::cli::Cli;

async fn runner(api: &Api, id: &str) -> Result<RunnerView> {
    api.get(&format!("/api/v1/runners/{id}")).await?.json()
}

async fn online(api: &Api, id: &str) -> Result<RunnerView> {
    eventually(&format!("{id} is online"), secs(40), || async {
        let view = runner(api, id).await?;
        ensure!(view.liveness == Liveness::Online && view.facts.is_some(), "{view:?}");
        Ok(view)
    })
    .await
}

/// Waits until the rotation is done: the file has another token, and that one alone is good.
async fn rotated(cluster: &Cluster, api: &Api, old: &str) -> Result<String> {
    let own = cluster.runners.first().context("a runner")?;
    let new = eventually("the runner has a new token", secs(40), || async {
        let view = runner(api, &own.spec.id).await?;
        let token = own.token()?;
        ensure!(!view.rotating && token != old, "{view:?}");
        Ok(token)
    })
    .await?;
    ensure!(api.with_token(old).get("/api/v1/whoami").await?.status == 401, "the old token is good");
    let who: Value = api.with_token(&new).get("/api/v1/whoami").await?.json()?;
    ensure!(who["scope"] == "runner", "{who}");
    ensure!(!own.state_dir.join("token.next").exists(), "the next token is still there");
    Ok(new)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_and_revoked() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let (cli, api) = (Cli::new(&cluster)?, cluster.api()?);
    let made = cli.json(0, &["token", "create", "--runner", "--reusable", "--name", "lab", "--ttl", "2h"]).await?;
    let secret = made["token"].as_str().context("no token")?.to_owned();
    ensure!(made["reusable"] == true && made["name"] == "lab" && made["scope"] == "enrol", "{made}");
    let once = cli.plain(0, &["token", "create", "--runner=r9"]).await?;
    ensure!(once.lines().count() == 1 && once.trim().len() > 32, "one token on one line, and nothing else: {once:?}");
    let list = cli.plain(0, &["token", "list"]).await?;
    ensure!(list.contains("lab") && list.contains("r9") && list.contains("once"), "{list}");
    ensure!(!list.contains(&secret) && !list.contains(once.trim()), "a secret is listed");

    // Two machines with one token; its end is nobody's but its own.
    let enrol = async |id: &str, token: &str| {
        let body = json!({"id": id, "token_hash": secret_hash(&format!("own token of {id}"))});
        api.with_token(token).post("/api/v1/runners/enrol", &body).await
    };
    for id in ["a", "b"] {
        enrol(id, &secret).await?.expect(200)?;
    }
    cli.plain(0, &["token", "revoke", "lab"]).await?;
    let refused = enrol("c", &secret).await?.problem(401, "token_invalid")?;
    ensure!(refused.detail.contains("revoked"), "{}", refused.detail);
    enrol("r8", once.trim()).await?.problem(403, "forbidden")?;
    enrol("r9", once.trim()).await?.expect(200)?;
    let used = enrol("r9", once.trim()).await?;
    used.expect(200).context("the same again")?;
    ensure!(cli.plain(0, &["token", "list"]).await?.contains("used"), "it is not told as used");

    // A person's socket closes with the token, within a second.
    let viewer = cli.plain(0, &["token", "create", "--scope", "viewer", "--name", "vic"]).await?;
    let mut feed = api.with_token(viewer.trim()).socket("/api/v1/events").await?;
    cli.plain(0, &["token", "revoke", "vic"]).await?;
    let closed = async {
        while let Some(Ok(message)) = feed.next().await {
            if message.is_close() {
                return;
            }
        }
    };
    tokio::time::timeout(secs(1), closed).await.context("the feed of a revoked token goes on")?;

    // Bad words, each with its exit code.
    for (code, args) in [
        (2, vec!["token", "create"]),
        (2, vec!["token", "create", "--scope", "admin", "--name", "x"]),
        (2, vec!["token", "create", "--scope", "viewer"]),
        (2, vec!["token", "create", "--runner", "--ttl", "soon"]),
        (1, vec!["token", "create", "--runner", "--ttl", "2d"]),
        (1, vec!["token", "revoke", "nobody"]),
    ] {
        cli.plain(code, &args).await?;
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_gets_a_new_token_and_its_session_goes_on() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let (cli, api) = (Cli::new(&cluster)?, cluster.api()?);
    let session = cluster.ready(&json!({"id": "s", "kind": "terminal"})).await?;
    let id = cluster.runners[0].spec.id.clone();
    let old = cluster.runners[0].token()?;
    let answer = cli.json(0, &["runner", "rotate", &id]).await?;
    ensure!(answer["rotating"] == false, "{answer}");
    let new = rotated(&cluster, &api, &old).await?;
    // NATS and HTTP go on: what comes by the one, and what is dialled back by the other.
    online(&api, &id).await?;
    let lines = api.get("/api/v1/sessions/s/logs").await?;
    ensure!(lines.status == 200, "{}", lines.text);
    ensure!(api.session("s").await?.pid == session.pid, "the session was touched");
    // A new start, and another rotation.
    cluster.runners[0].kill().await?;
    cluster.runners[0].start().await?;
    ensure!(cluster.runners[0].token()? == new, "a restart made a new token");
    cli.plain(0, &["runner", "rotate", &id]).await?;
    rotated(&cluster, &api, &new).await?;

    // While no server is there, nothing is lost: the wish stands, and so does the token of before.
    let before = cluster.runners[0].token()?;
    cluster.runners[0].kill().await?;
    let told = cli.run(&["runner", "rotate", &id, "--within", "1s"]).await?;
    ensure!(told.code == 5 && told.stderr.contains("the wish stands"), "{} {}", told.code, told.stderr);
    cluster.servers[0].kill().await?;
    cluster.runners[0].spawn()?;
    cluster.servers[0].start().await?;
    rotated(&cluster, &api, &before).await?;
    online(&api, &id).await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agentd_that_is_killed_in_a_rotation_keeps_a_token_that_is_good() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let id = cluster.runners[0].spec.id.clone();
    let path = format!("/api/v1/runners/{id}/rotate");
    let dir = cluster.runners[0].state_dir.clone();
    // Every place where it can be: what is on the disk and what the server knows are those of a kill -9 right there.
    for place in ["the next token is made", "the server knows it", "it is the token", "it is proved"] {
        let old = cluster.runners[0].token()?;
        cluster.runners[0].kill().await?;
        api.post_empty(&path).await?.expect(200)?;
        let next = secret_hash(&format!("{place} {old}"));
        let (own, renew) = (format!("/api/v1/runners/{id}/token"), json!({"token_hash": secret_hash(&next)}));
        std::fs::write(dir.join("token.next"), &next)?;
        if place != "the next token is made" {
            api.with_token(&old).put(&own, &renew).await?.expect(204)?;
        }
        if matches!(place, "it is the token" | "it is proved") {
            std::fs::rename(dir.join("token.next"), dir.join("token"))?;
        }
        if place == "it is proved" {
            api.with_token(&next).put(&own, &renew).await?.expect(204)?;
        }
        // It comes back before the server does.
        cluster.servers[0].kill().await?;
        cluster.runners[0].spawn()?;
        cluster.servers[0].start().await?;
        let new = rotated(&cluster, &api, &old).await.with_context(|| format!("killed when {place}"))?;
        ensure!(new == next, "killed when {place}: another token was made");
        online(&api, &id).await?;
    }
    // And at any moment of its own choice.
    for round in 0..6_u64 {
        let old = cluster.runners[0].token()?;
        api.post_empty(&path).await?.expect(200)?;
        tokio::time::sleep(std::time::Duration::from_millis(7 * round)).await;
        cluster.runners[0].kill().await?;
        cluster.runners[0].start().await?;
        rotated(&cluster, &api, &old).await.with_context(|| format!("killed after {} ms", 7 * round))?;
        online(&api, &id).await?;
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_cordon_and_drain_by_hand() -> Result<()> {
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1")).runner(RunnerSpec::new("r2")).start().await?;
    let (cli, api) = (Cli::new(&cluster)?, cluster.api()?);
    cluster.runners_online(&api, 2).await?;
    let labels = cli.plain(0, &["runner", "labels", "r2", "site=cellar", "pool=ci"]).await?;
    ensure!(labels == "pool=ci\nsite=cellar\n", "{labels}");
    let list = cli.json(0, &["runner", "list", "--label", "site=cellar"]).await?;
    ensure!(list["runners"].as_array().is_some_and(|runners| runners.len() == 1 && runners[0]["id"] == "r2"), "{list}");
    let none = cli.json(0, &["runner", "list", "--label", "site=cellar", "--label", "pool=x"]).await?;
    ensure!(none["runners"].as_array().is_some_and(Vec::is_empty), "{none}");
    ensure!(cli.plain(0, &["runner", "show", "r2"]).await?.contains("site=cellar"), "show has no label");
    // Placement goes by them.
    cluster.ready(&json!({"id": "p", "kind": "terminal", "pool": "ci"})).await?;
    ensure!(api.session("p").await?.runner.is_some_and(|runner| runner.as_str() == "r2"), "placed elsewhere");
    ensure!(cli.plain(0, &["runner", "labels", "r2", "pool-"]).await? == "site=cellar\n", "not removed");
    cli.plain(2, &["runner", "labels", "r2", "pool"]).await?;
    cli.plain(1, &["runner", "labels", "nobody", "a=b"]).await?;

    // Drained: sessions go on while they may, then end; nothing new comes until it is opened again.
    let busy = cli.run(&["runner", "drain", "r2", "--within", "1s"]).await?;
    ensure!(busy.code == 5 && busy.stderr.contains("1 sessions of runner r2 go on"), "{} {}", busy.code, busy.stderr);
    let drained = cli.json(0, &["runner", "drain", "r2", "--within", "0s", "--stop"]).await?;
    ensure!(drained["cordoned"] == true && drained["active_tasks"] == 0, "{drained}");
    ensure!(cli.plain(0, &["runner", "list"]).await?.contains("cordoned"), "the list does not tell");
    cli.plain(0, &["runner", "uncordon", "r2"]).await?;
    cluster.ready(&json!({"id": "after", "kind": "terminal", "runner": "r2"})).await?;

    // Cut off at once, and not before it is said twice.
    cli.plain(1, &["runner", "remove", "--server-only", "r1"]).await?;
    cli.plain(0, &["runner", "remove", "--server-only", "r1", "--force"]).await?;
    cluster.shutdown().await
}

/// Only with what is not there yet: `join` looks at everything before it touches anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_needs_root_and_says_so() -> Result<()> {
    let helixctl = programs::ours("helixctl")?;
    let helixctl = helixctl.to_str().context("path is not UTF-8")?;
    let line = [
        "--reuid=65534",
        "--clear-groups",
        helixctl,
        "runner",
        "join",
        "--server",
        "http://127.0.0.1:1",
        "--token",
        "x",
    ];
    let output = run(&programs::installed("setpriv")?, &line, &[], secs(20)).await?;
    let told = String::from_utf8(output.stderr)?;
    ensure!(exit_code(output.status) == 4 && told.contains("needs root") && told.contains("sudo"), "{told}");
    Ok(())
}
