//! Backups and restores that are killed, meet a full disk, or are given something else than a backup of this fleet.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use helix_protocol::session::SessionPhase;
use helix_protocol::subject;
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::{PATIENCE, exit_code, run, runs, tail};
use helix_tests::programs;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Copies, serves, text};

/// Chunks of an image, and their size: enough that copying takes a while.
const CHUNKS: u64 = 160;
const CHUNK: usize = 1 << 20;

/// Fills the stream of images with what does not compress.
async fn fill(cluster: &Cluster) -> Result<()> {
    let bus = jetstream::new(cluster.bus().await?);
    let mut bytes = vec![0; CHUNK];
    for number in 0..CHUNKS {
        getrandom::fill(&mut bytes).map_err(|fault| anyhow::anyhow!("no random bytes: {fault}"))?;
        bus.publish(format!("images.chunk.{number}"), bytes.clone().into()).await?.await?;
    }
    Ok(())
}

async fn messages(cluster: &Cluster, stream: &str) -> Result<u64> {
    let bus = jetstream::new(cluster.bus().await?);
    Ok(bus.get_stream(stream).await?.cached_info().state.messages)
}

/// A command that is not waited for.
fn begin(cluster: &Cluster, args: &[&str]) -> Result<Child> {
    let mut command = Command::new(programs::ours("helixctl")?);
    command.args(args).arg("--config").arg(cluster.servers[0].settings());
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?)
}

fn part_of(file: &Path) -> PathBuf {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_is_none_and_a_killed_restore_is_begun_again() -> Result<()> {
    let mut cluster = Cluster::builder().servers(2).runner(helix_tests::runner::RunnerSpec::new("r1")).start().await?;
    let (api, copies) = (cluster.api()?, Copies::of(&cluster)?);
    let kept = cluster.ready(&json!({"id": "kept", "kind": "terminal"})).await?;
    fill(&cluster).await?;
    let file = cluster.dir().join("big.backup");

    let mut child = begin(&cluster, &["backup", text(&file)?])?;
    eventually("a part of it is written", secs(60), || async {
        let written = std::fs::metadata(part_of(&file))?.size();
        ensure!(written > 20 << 20, "{written} bytes");
        Ok(())
    })
    .await?;
    child.kill().await?;
    ensure!(!file.exists(), "half a backup has the name of a whole one");
    copies.save(&file).await?;
    ensure!(!part_of(&file).exists(), "what the killed one left is still there");

    // Killed once the old store is gone and the new one is not whole.
    let mut child = begin(&cluster, &["restore", text(&file)?, "--force"])?;
    let mut said = BufReader::new(child.stderr.take().context("no output")?).lines();
    let conversations_are_there = async {
        while let Some(line) = said.next_line().await? {
            if line.starts_with(subject::STREAM_THREADS) {
                return Ok(());
            }
        }
        anyhow::bail!("it ended")
    };
    timeout(secs(60), conversations_are_there).await.context("nothing is restored")??;
    child.kill().await?;
    let bus = jetstream::new(cluster.bus().await?);
    ensure!(bus.get_stream(subject::STREAM_RESTORE).await.is_ok(), "no mark");
    ensure!(bus.get_stream(subject::STREAM_RECORDINGS).await.is_err(), "it was whole already");

    // No server takes that for a fleet: not one that runs, not one that starts.
    let answer = eventually("requests are refused", secs(20), || async {
        let answer = api.post("/api/v1/sessions", &json!({"kind": "terminal"})).await?;
        ensure!(answer.status == 503, "{} {}", answer.status, answer.text);
        Ok(answer)
    })
    .await?;
    let problem = answer.problem(503, "store_unavailable")?;
    ensure!(problem.detail.contains("being restored"), "{problem:?}");
    cluster.servers[1].kill().await?;
    ensure!(cluster.servers[1].start().await.is_err(), "a server starts on half a store");
    let log = tail(&cluster.dir().join("server1.log"));
    ensure!(log.contains("has not ended") && log.contains("helixctl restore"), "{log}");
    ensure!(kept.pid.is_some_and(runs), "the session was ended");
    let said = copies.fails(4, &["backup", text(&cluster.dir().join("half.backup"))?]).await?;
    ensure!(said.contains("not whole"), "{said}");

    // The same again, which needs not be told to replace what was lost already.
    copies.restore(&file, &[]).await?;
    serves(&api).await?;
    cluster.servers[1].start().await?;
    ensure!(messages(&cluster, subject::STREAM_IMAGES).await? == CHUNKS, "chunks are missing");
    cluster.runners_online(&api, 1).await?;
    eventually("the session is as it was", secs(30), || async {
        let now = api.session("kept").await?;
        ensure!(now.phase == SessionPhase::Ready && !now.unclaimed && now.pid == kept.pid, "{now:?}");
        Ok(())
    })
    .await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_backup_of_this_fleet_changes_nothing() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let (api, copies) = (cluster.api()?, Copies::of(&cluster)?);
    let other = Cluster::builder().start().await?;
    let foreign = other.dir().join("foreign.backup");
    Copies::of(&other)?.save(&foreign).await?;
    let good = cluster.dir().join("good.backup");
    copies.save(&good).await?;
    let whole = std::fs::read(&good)?;
    let made = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = cluster.dir().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    };
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (file, code, says) in [
        (made("flipped", &flipped)?, 2, "damaged"),
        (made("cut", &whole[..whole.len() - 10])?, 2, "cut off"),
        (made("text", b"some other file")?, 2, "no backup of Helix"),
        (cluster.dir().join("absent"), 2, "No such file"),
        (foreign, 4, "another fleet"),
    ] {
        let said = copies.fails(code, &["restore", text(&file)?, "--force"]).await?;
        ensure!(said.contains(says) && said.contains("next:"), "{}: {said}", file.display());
    }
    let said = copies.fails(2, &["backup", text(&good)?]).await?;
    ensure!(said.contains("there already"), "{said}");
    ensure!(std::fs::read(&good)? == whole, "a backup was overwritten");
    ensure!(api.get("/readyz").await?.status == 200, "a refused restore kept the server away");
    other.shutdown().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_nothing_half_done() -> Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let (api, copies) = (cluster.api()?, Copies::of(&cluster)?);
    fill(&cluster).await?;
    // A file system of its own, of 8 MiB, where the backup is to be.
    let small = cluster.dir().join("small");
    std::fs::create_dir(&small)?;
    let script = "mount -t tmpfs -o size=8m none \"$1\" && \"$2\" backup \"$1/b\" --config \"$3\"; code=$?; ls -A \"$1\"; exit $code";
    let helixctl = programs::ours("helixctl")?;
    let config = cluster.servers[0].settings();
    let args = ["-rm", "sh", "-c", script, "sh", text(&small)?, text(&helixctl)?, config];
    let full = run(Path::new("unshare"), &args, &[], PATIENCE).await?;
    let (out, said) = (String::from_utf8_lossy(&full.stdout), String::from_utf8_lossy(&full.stderr));
    ensure!(exit_code(full.status) == 1 && said.contains("No space left"), "{} {out} {said}", full.status);
    ensure!(out.is_empty() && said.contains("free some space"), "left: {out}\n{said}");

    // JetStream has less room than the backup needs.
    let file = cluster.dir().join("big.backup");
    copies.save(&file).await?;
    for server in &mut cluster.servers {
        server.terminate().await?;
    }
    cluster.nats.destroy().await?;
    let first = cluster.dir().join("nats.toml");
    let with = |more: &str| -> Result<String> {
        let text = std::fs::read_to_string(&first)?;
        Ok(text.replace("[nats]\n", &format!("[nats]\n{more}")))
    };
    let roomy = with("")?;
    std::fs::write(&first, with("max_file_store = \"64MiB\"\n")?)?;
    cluster.nats.restart().await?;
    let said = copies.fails(1, &["restore", text(&file)?]).await?;
    ensure!(said.contains("cannot restore stream") && said.contains("max_file_store"), "{said}");
    let bus = jetstream::new(cluster.bus().await?);
    let info = bus.query_account().await?;
    ensure!(info.streams == 0, "the store was empty, and has {} streams now", info.streams);
    std::fs::write(&first, roomy)?;
    cluster.nats.restart().await?;
    copies.restore(&file, &[]).await.context("with more room")?;
    cluster.servers[0].start().await?;
    serves(&api).await?;
    ensure!(messages(&cluster, subject::STREAM_IMAGES).await? == CHUNKS, "chunks are missing");
    cluster.shutdown().await
}
