//! `helixctl audit`: the trail as an operator reads it, and follows it.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use helix_tests::{Cluster, process, programs};
use reqwest::Method;
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
    // Commands, files and terminals, by what they did and never by what was in it.
    let files = "/api/v1/sessions/desk/files?path=notes.txt";
    let put = api.send(Method::PUT, files, Some(("text/plain", b"SECRET-TEXT".to_vec()))).await?;
    ensure!(put.status.is_success(), "{}", put.text);
    ensure!(api.get(files).await?.text == "SECRET-TEXT");
    api.post("/api/v1/sessions/desk/exec", &json!({"command": "echo SECRET-COMMAND"})).await?.expect(200)?;
    drop(api.socket("/api/v1/sessions/desk/terminals/main").await?);
    api.get("/api/v1/sessions/desk/files?path=none.txt").await?.problem(404, "file_not_found")?;
    api.delete(files).await?;
    eventually("the trail tells them", secs(20), || async {
        let trail = cli.plain(0, &["audit", "--target", "desk"]).await?;
        for words in [
            "admin  PUT /sessions/{id}/files  desk  ok",
            "admin  GET /sessions/{id}/files  desk  ok",
            "admin  POST /sessions/{id}/exec  desk  ok",
            "admin  GET /sessions/{id}/terminals/{name}  desk  ok",
            "admin  GET /sessions/{id}/files  desk  file_not_found",
            "admin  DELETE /sessions/{id}/files  desk  ok",
        ] {
            ensure!(trail.contains(words), "{words:?} is missing in\n{trail}");
        }
        ensure!(!trail.contains("SECRET") && !trail.contains("notes.txt"), "{trail}");
        Ok(())
    })
    .await?;
    api.stop("desk").await?;
    until("admin  POST /sessions/{id}/stop  desk  ok").await?;
    process::signal_pid(follower.id().context("it ended")?, rustix::process::Signal::INT)?;
    timeout(secs(10), follower.wait()).await??;
    cluster.shutdown().await
}
