//! A store that is put back to an earlier time, under runners that live in the present.

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::Cluster;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::runs;
use serde_json::json;

use super::{Copies, serves};

#[tokio::test(flavor = "multi_thread")]
async fn what_came_after_a_backup_is_nobodys_order_to_end() -> Result<()> {
    let cluster = Cluster::small().await?;
    let (api, copies) = (cluster.api()?, Copies::of(&cluster)?);
    let kept = cluster.ready(&json!({"id": "kept", "kind": "terminal"})).await?;
    for id in ["ended", "removed"] {
        cluster.ready(&json!({"id": id, "kind": "terminal"})).await?;
    }
    let file = cluster.dir().join("earlier.backup");
    copies.save(&file).await?;
    // What the backup does not know.
    api.stop("ended").await?;
    api.wait_phase("ended", SessionPhase::Stopped, READY).await?;
    let removed = api.session("removed").await?.pid.context("no pid")?;
    api.delete_session("removed", READY).await?;
    ensure!(!runs(removed), "a deleted session runs");
    let later = cluster.ready(&json!({"id": "later", "kind": "terminal"})).await?;

    copies.restore(&file, &["--force"]).await?;
    serves(&api).await?;
    cluster.runners_online(&api, 1).await?;
    // It was never ended, and the backup says that it shall run.
    eventually("the kept one is as it was", secs(30), || async {
        let now = api.session("kept").await?;
        ensure!(now.phase == SessionPhase::Ready && !now.unclaimed && now.pid == kept.pid, "{now:?}");
        Ok(())
    })
    .await?;
    // Absence is not an order.
    eventually("the later one is unclaimed", secs(60), || async {
        let now = api.session("later").await?;
        ensure!(now.unclaimed && now.phase == SessionPhase::Ready && now.pid == later.pid, "{now:?}");
        Ok(())
    })
    .await?;
    ensure!(later.pid.is_some_and(runs), "it was ended");
    // Its runner knows that it ended, and does not start it a second time.
    eventually("the ended one has ended", secs(60), || async {
        let now = api.session("ended").await?;
        ensure!(now.phase == SessionPhase::Stopped, "{now:?}");
        Ok(())
    })
    .await?;
    // Nobody knows that it was deleted: it begins anew, and is seen as it is.
    let again = eventually("the removed one runs again", READY, || async {
        let now = api.session("removed").await?;
        ensure!(now.phase == SessionPhase::Ready && now.pid.is_some_and(|pid| pid != removed && runs(pid)), "{now:?}");
        Ok(now)
    })
    .await?;
    cluster.remember(&again);
    for id in ["later", "removed"] {
        api.stop(id).await?;
        api.wait_phase(id, SessionPhase::Stopped, READY).await?;
    }
    cluster.shutdown().await
}
