//! `helixctl audit`: the trail as an operator reads it, and follows it.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use helix_tests::{Cluster, process, programs};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::cli::Cli;

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_is_read_and_followed() -> Result<()> {
    let cluster = Cluster::small().await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    cluster.ready(&json!({"id": "desk", "kind": "terminal"})).await?;
    api.with_token("wrong").get("/api/v1/sessions").await?.problem(401, "token_invalid")?;
    eventually("the trail tells it", secs(20), || async {
        let trail = cli.plain(0, &["audit"]).await?;
        for words in [
            "admin  POST /sessions  desk  ok",
            "runner r1  session.Ready  desk  ok",
            "?  GET /sessions  -  token_invalid",
        ] {
            ensure!(trail.contains(words), "{words:?} is missing in\n{trail}");
        }
        Ok(())
    })
    .await?;
    let refused = cli.plain(0, &["audit", "--refused", "--json"]).await?;
    let item: Value = serde_json::from_str(refused.lines().next().context("nothing refused")?)?;
    ensure!(item["result"] == "token_invalid" && item["principal"] == "?", "{item}");

    let mut follower = Command::new(programs::ours("helixctl")?)
        .args(["--url", &cli.url, "--token-file", &cli.token_file, "audit", "-f", "--principal", "admin"])
        .env("HOME", &cli.home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(follower.stdout.take().context("no stdout")?).lines();
    let mut until = async |words: &str| -> Result<()> {
        let found = async {
            while let Some(line) = lines.next_line().await? {
                if line.contains(words) {
                    return Ok(());
                }
            }
            anyhow::bail!("it ended")
        };
        timeout(secs(20), found).await.with_context(|| format!("{words:?} is not told"))?
    };
    until("admin  POST /sessions  desk  ok").await?;
    api.post("/api/v1/sessions/desk/tickets", &json!({"stream": "vnc"})).await?.expect(200)?;
    until("admin  POST /sessions/{id}/tickets  desk  ok").await?;
    api.stop("desk").await?;
    until("admin  POST /sessions/{id}/stop  desk  ok").await?;
    process::signal_pid(follower.id().context("it ended")?, rustix::process::Signal::INT)?;
    timeout(secs(10), follower.wait()).await??;
    cluster.shutdown().await
}
