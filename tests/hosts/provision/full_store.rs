//! NATS's disk is full: what is refused says so, doctor says so, and all is well when there is room again.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use serde_json::json;
use tokio::process::Command;

use super::doctor::Look;
use super::stage::Stage;
use crate::harness::Boot;

/// A shell's line, here.
async fn sh(line: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", line]).output().await?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

pub async fn doctor_tells_that_nats_is_full() -> Result<()> {
    let mut stage = Stage::start([Boot::container()]).await?;
    let dir = stage.fleet.cluster.dir().join("nats");
    let at = |name: &str| dir.join(name).display().to_string();
    let (store, kept) = (at("store"), at("kept"));
    // The store on a disk of its own; in this program's namespace, so that it ends with it.
    stage.fleet.cluster.nats.kill().await?;
    sh(&format!(
        "mv {store} {kept} && mkdir {store} && mount -t tmpfs -o size=32m store {store} && cp -a {kept}/. {store}"
    ))
    .await?;
    stage.fleet.cluster.nats.restart().await?;
    let api = stage.fleet.api()?;
    let secret = json!({ "value": "x".repeat(2000) });
    let stores = async || api.put("/api/v1/secrets/BALLAST", &secret).await;
    eventually("the server stores", secs(30), || async {
        let answer = stores().await?;
        ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text);
        Ok(())
    })
    .await?;
    let before = Look::at(&stage, &[], "root").await?;
    ensure!(!before.wrong().contains("\"nats\""), "{}", before.wrong());

    sh(&format!("dd if=/dev/zero of={store}/ballast bs=4k 2>/dev/null; test -s {store}/ballast")).await?;
    let refused = eventually("something is refused", secs(60), || async {
        let answer = stores().await?;
        ensure!(answer.status == 503, "{} {}", answer.status, answer.text);
        Ok(answer.text)
    })
    .await?;
    crate::harness::say(&refused);
    ensure!(refused.contains("full"), "the cause is not told: {refused}");
    let look = Look::at(&stage, &[], "root").await?;
    ensure!(look.code == 1, "{}: {}", look.code, look.wrong());
    look.says("fail", "nats", "NATS refuses to store")?;

    // Room is made, and nothing else.
    sh(&format!("rm {store}/ballast")).await?;
    eventually("the server stores again", secs(60), || async {
        let answer = stores().await?;
        ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text);
        Ok(())
    })
    .await?;
    let after = Look::at(&stage, &[], "root").await?;
    ensure!(after.wrong() == before.wrong(), "{}", after.wrong());
    stage.fleet.cluster.nats.kill().await?;
    sh(&format!("rm -rf {kept}; cp -a {store} {kept} && umount {store} && rm -r {store} && mv {kept} {store}")).await?;
    ensure!(Path::new(&store).is_dir(), "no store");
    stage.fleet.cluster.nats.restart().await.context("NATS, on its own disk again")?;
    stage.stop().await
}
