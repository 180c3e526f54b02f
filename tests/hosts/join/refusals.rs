//! What bad input gets: the machine as it was, the cause and the fix.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::stage::{Stage, nothing_is_left, traces};
use super::{BRIEF, SCRIPT};
use crate::harness::{Boot, lab};

pub async fn what_bad_input_gets() -> Result<()> {
    let mut stage = Stage::start(Boot::container()).await?;
    let (host, server) = (&stage.host, &stage.server);
    let bare = traces(host).await?;
    let single = stage.operator(&["token", "create", "--runner"]).await?;
    let brief = stage.operator(&["token", "create", "--runner", "--reusable", "--ttl", "1s"]).await?;
    let good = stage.reusable().await?;
    // Taken elsewhere, with the token for one use.
    let taken = json!({"id": "taken", "token_hash": "0".repeat(64)});
    stage.fleet.api()?.with_token(&single).post("/api/v1/runners/enrol", &taken).await?.expect(200)?;
    let join = |token: &str, more: &str| {
        format!("helixctl runner join --server {server} --token {token} --container-name bad {more}")
    };
    let unreachable = format!("http://{}:1", lab::SERVER);
    let table: Vec<(String, i32, Vec<&str>)> = vec![
        (join("nonsense", ""), 4, vec!["unknown, expired or revoked", "token create --runner"]),
        (join("oh-hallo-insecure-token", ""), 2, vec!["sample token"]),
        (join(&single, "--runner-id other"), 4, vec!["used by another machine", "token create --runner"]),
        (join(&brief, ""), 4, vec!["expired at", "token create --runner"]),
        (join(&good, "--runner-id taken"), 4, vec!["enrolled with another token", "runner remove --server-only taken"]),
        (join(&good, "--runner-id 'no id'"), 2, vec!["id of a runner"]),
        (
            join(&good, "--container-name ../x").replace("--container-name bad ", ""),
            2,
            vec!["cannot be the name of an agentd"],
        ),
        (join(&good, "--concurrency 99"), 1, vec!["not 99 free slot users", "install.sh --slots"]),
        (join(&good, "--concurrency many"), 2, vec!["--concurrency"]),
        (join(&good, "--session-timeout soon"), 2, vec!["session_timeout", "is not a duration"]),
        (join(&good, "--workspace-dir relative"), 2, vec!["absolute path"]),
        (join(&good, "--workspace-dir /etc/passwd"), 2, vec!["no directory"]),
        (join(&good, "-e 'A B=c'"), 2, vec!["cannot be a variable"]),
        (
            join(&good, &format!("--nats nats://{}:1 {BRIEF}", lab::SERVER)),
            5,
            vec!["does not hear", "cannot be reached", "--nats"],
        ),
        (
            format!("helixctl runner join --server {unreachable} --token {good} --container-name bad"),
            3,
            vec!["cannot be reached", "refused"],
        ),
        (format!("helixctl runner join --server ftp://x --token {good} --container-name bad"), 2, vec!["ftp://x"]),
        (
            format!("helixctl runner join --server {server} --container-name bad"),
            2,
            vec!["no enrolment token", "token create --runner"],
        ),
        (
            format!("helixctl runner join --server {server} --token-file /nowhere --container-name bad"),
            2,
            vec!["/nowhere"],
        ),
        (format!("{SCRIPT} --unknown"), 2, vec!["--unknown"]),
    ];
    for (line, code, words) in table {
        let (found, why) = stage.refused(&line).await?;
        ensure!(found == code && words.iter().all(|word| why.contains(word)), "{line}\nexit code {found}\n{why}");
        nothing_is_left(host, &bare).await.with_context(|| line.clone())?;
    }
    ensure!(stage.fleet.api()?.runners().await?.len() == 1, "a failed join left a runner at the server");

    // Not root; nothing installed; a settings file of somebody else's.
    let denied = host.run_as("ops", &format!("/usr/bin/helixctl runner join --server {server} --token {good}")).await?;
    ensure!(denied.code == 4 && denied.stderr.contains("needs root") && denied.stderr.contains("sudo"), "{denied:?}");
    host.write("/etc/helix/agentd-own.toml", "runner_id = \"own\"\n", 0o600).await?;
    let (code, why) = stage.refused(&join(&good, "").replace("--container-name bad", "--container-name own")).await?;
    ensure!(code == 1 && why.contains("not set up by a join"), "{why}");
    let (code, why) = stage.refused("helixctl runner leave own").await?;
    ensure!(code == 1 && why.contains("not set up by a join"), "{why}");
    host.run_ok("rm /etc/helix/agentd-own.toml").await?;

    // Two joins at once, of one name and of two: they take turns.
    let (one, two) = (join(&good, "--runner-id a"), join(&good, "--runner-id b").replace(" bad ", " good "));
    let at_once = format!("({one}) & a=$!; ({one}) & b=$!; ({two}) & c=$!; wait $a && wait $b && wait $c");
    stage.types(&at_once).await?;
    for id in ["a", "b"] {
        stage.is_online(id).await?;
    }
    for name in ["bad", "good"] {
        stage.types(&format!("helixctl runner leave {name}")).await?;
    }
    // The server is gone when it leaves: said, and nothing is left here.
    stage.types(&two).await?;
    stage.fleet.cluster.servers[0].kill().await?;
    let away = stage.host.run("helixctl runner leave good").await?;
    ensure!(
        away.code == 0
            && away.stderr.contains("still knows b")
            && away.stderr.contains("runner remove --server-only b"),
        "{away:?}"
    );
    nothing_is_left(&stage.host, &bare).await?;
    let host = &stage.host;
    host.run_ok("mv /usr/lib/systemd/system/agentd@.service /root/ && systemctl daemon-reload").await?;
    let (code, why) = stage.refused(&join(&good, "")).await?;
    ensure!(code == 1 && why.contains("not installed") && why.contains("make install"), "{why}");
    stage.stop().await
}
