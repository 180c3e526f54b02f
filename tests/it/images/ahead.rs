//! Images of pools are on their runners before anybody asks, and nowhere else; what the disk has no room for goes.

use anyhow::{Context, Result, ensure};
use helix_protocol::api::RunnerView;
use helix_tests::cluster::Cluster;
use helix_tests::eventually;
use helix_tests::eventually::secs;
use helix_tests::runner::RunnerSpec;
use serde_json::{Value, json};

use super::own::{desk, own};
use super::{Lab, Mounted, digest, json, lab};
use crate::cli::Cli;

/// Bytes of what only one of the images has: its pull takes its time.
const OWN_BYTES: u64 = 60_000_000;

fn runner(id: &str, zone: &str) -> Result<RunnerSpec> {
    let public = super::LAB.get().context("no lab")?.root.join("sign.key.pub").display().to_string();
    Ok(RunnerSpec {
        settings: format!("image_signers = {public:?}\n[labels]\nzone = {zone:?}\n"),
        ..RunnerSpec::new(id)
    })
}

/// An image `ahead` with bytes of its own; its digest, and what a runner needs for its files and for its chunks.
async fn image(lab: &Lab, dir: &std::path::Path, word: &str) -> Result<(String, u64, u64)> {
    let more = format!("[[commands]]\nrun = \"echo {word}; head -c {OWN_BYTES} /dev/urandom >/opt/large\"\n");
    std::fs::write(dir.join("ahead.toml"), desk("ahead", &more))?;
    let built = digest(&lab.built(&dir.join("ahead.toml")).await?)?;
    let shown = json(&lab.image(&["show", &built, "--json"]).await?)?;
    let bytes = |value: &Value| value.as_u64().with_context(|| shown.to_string());
    Ok((built, bytes(&shown["tar_bytes"])?, bytes(&shown["stored_bytes"])?))
}

fn of<'a>(runners: &'a [RunnerView], id: &str) -> Result<&'a RunnerView> {
    runners.iter().find(|runner| runner.id.as_str() == id).context("no such runner")
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_pools_are_had_ahead_and_go_when_the_disk_fills() -> Result<()> {
    let lab = lab().await?;
    let dir = lab.recipes("ahead", &[])?;
    let (one, files, chunks) = image(lab, &dir, "one").await?;
    let mut cluster = Cluster::builder()
        .runner(runner("near", "a")?)
        .runner(runner("far", "b")?)
        .runner(runner("closed", "a")?)
        .start()
        .await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    // Room for one image with its chunks, and for what is asked beforehand; not for a second one beside it.
    let images = cluster.runners[0].state_dir.join("images");
    std::fs::create_dir_all(&images)?;
    let room = Mounted::tmpfs(&images, &(2 * files + (104 << 20) + chunks / 2).to_string()).await?;
    let push = async || {
        let push = ["image", "push", "ahead", "--url", &cli.url, "--token-file", &cli.token_file, "--json"];
        json(&own(&lab.root, lab, &push).await?)
    };
    push().await?;
    cli.plain(0, &["runner", "cordon", "closed"]).await?;
    let pool = json!({ "min_ready": 0, "image": "ahead", "selector": { "zone": "a" } });
    api.put("/api/v1/pools/ci", &pool).await?.expect(201)?;

    // How far it is, for people, then the whole; on the runner that may have the pool's agents.
    eventually("status tells of the pull", secs(30), || async {
        let status = cli.run(&["status"]).await?;
        ensure!(status.stdout.contains(&format!("near fetches image {one}")), "{}", status.stdout);
        Ok(())
    })
    .await?;
    let runners = present(&cluster, "near", &[&one]).await?;
    for other in ["far", "closed"] {
        ensure!(of(&runners, other)?.images.is_empty(), "{:?}", of(&runners, other)?);
    }
    ensure!(api.sessions().await?.is_empty(), "somebody asked");
    cli.plain(0, &["runner", "uncordon", "closed"]).await?;
    present(&cluster, "closed", &[&one]).await?;

    // The tag names another image: that one comes, and the first, which nobody wants, makes room.
    let (two, ..) = image(lab, &dir, "two").await?;
    ensure!(two != one);
    push().await?;
    let runners = present(&cluster, "near", &[&two]).await?;
    ensure!(of(&runners, "near")?.images.lacking.is_empty());

    // The disk fills by something else: what no session has goes, this one too, and that is told.
    let free = rustix::fs::statvfs(&images)?;
    let filled = free.f_bavail * free.f_frsize - (4 << 20);
    std::fs::write(images.join("something-else"), vec![1; usize::try_from(filled)?])?;
    present(&cluster, "near", &[]).await?;
    let status = cli.run(&["status"]).await?;
    ensure!(status.stderr.contains(&format!("near lacks image {two}: it was removed")), "{}", status.stderr);
    ensure!(cli.plain(0, &["runner", "show", "near"]).await?.contains("lacks image"));
    // Its chunks go with it; not at once, for its files go first.
    eventually("no chunk is left", secs(60), || async {
        let left = std::process::Command::new("find").arg(images.join("chunks")).args(["-type", "f"]).output()?;
        ensure!(left.stdout.is_empty(), "chunks are left: {}", String::from_utf8_lossy(&left.stdout));
        Ok(())
    })
    .await?;
    // Nobody may be in the way of the file system's end.
    ensure!(cluster.runners[0].terminate().await? == Some(0));
    drop(room);
    cluster.shutdown().await
}

/// Waits until a runner has these images and nothing on its way.
async fn present(cluster: &Cluster, id: &str, wanted: &[&str]) -> Result<Vec<RunnerView>> {
    let api = cluster.api()?;
    eventually(&format!("{id} has {wanted:?}"), secs(120), || async {
        let runners = api.runners().await?;
        let images = &of(&runners, id)?.images;
        let present: Vec<_> = images.present.iter().map(ToString::to_string).collect();
        ensure!(present == wanted && images.pulls.is_empty(), "{images:?}");
        Ok(runners)
    })
    .await
}
