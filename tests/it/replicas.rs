//! Two servers on one NATS are one fleet, and either can go.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use futures::StreamExt;
use helix_protocol::api::status::FleetStatus;
use helix_protocol::assignment::Lease;
use helix_protocol::session::SessionPhase;
use helix_protocol::subject;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::Socket;
use helix_tests::rfb::Rfb;
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

async fn server_id(api: &Api) -> Result<String> {
    Ok(api.get("/api/v1/status").await?.json::<FleetStatus>()?.server)
}

async fn leader(cluster: &Cluster) -> Result<String> {
    let leases = jetstream::new(cluster.bus().await?).get_key_value(subject::BUCKET_LEASES).await?;
    let value = leases.get(subject::LEADER_LEASE_KEY).await?.context("nobody leads")?;
    Ok(serde_json::from_slice::<Lease>(&value)?.server)
}

/// The next item of an event feed.
async fn next(feed: &mut Socket) -> Result<Value> {
    loop {
        if let Message::Text(text) = feed.next().await.context("the feed ended")?? {
            return Ok(serde_json::from_str(&text)?);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_are_one_fleet() -> Result<()> {
    let mut cluster = Cluster::builder().servers(2).runner(RunnerSpec::new("r1")).start().await?;
    let (one, two) = (cluster.api_of(0)?, cluster.api_of(1)?);
    ensure!(server_id(&one).await? != server_id(&two).await?, "both have the same id");

    // Created at one, seen, watched, viewed and ended at the other.
    let mut feed = two.socket_as_browser("/api/v1/events", two.base()).await?;
    one.create(&json!({"id": "shared", "kind": "terminal"})).await?;
    two.session("shared").await?;
    let view = two.wait_phase("shared", SessionPhase::Ready, READY).await?;
    cluster.remember(&view);
    let heard = async {
        loop {
            let item = next(&mut feed).await?;
            if item["session"] == "shared" && item["phase"] == "Ready" {
                return Ok::<_, anyhow::Error>(item);
            }
        }
    };
    let item = timeout(secs(20), heard).await.context("the other server's feed does not tell")??;

    // The feed resumes after a sequence, at either server.
    let sequence = item["sequence"].as_u64().context("no sequence")?;
    let mut resumed = one.socket(&format!("/api/v1/events?after={}", sequence - 1)).await?;
    let first = timeout(secs(10), next(&mut resumed)).await.context("the feed does not resume")??;
    ensure!(first == item, "resumed with {first}");

    let ticket = one.ticket("shared").await?;
    let path = ticket.url[ticket.url.find("/api").context("no path")?..].to_owned();
    let socket = two.with_token("").socket(&path).await.context("a ticket of one server at the other")?;
    Rfb::over(socket).await?.full_frame().await?;
    two.stop("shared").await?;
    one.wait_phase("shared", SessionPhase::Stopped, READY).await?;

    // The leader dies: the other takes over, and loses nothing.
    let kept = cluster.ready(&json!({"id": "kept", "kind": "terminal"})).await?;
    let lead = leader(&cluster).await?;
    let (dies, survivor) = if lead == server_id(&one).await? { (0, two) } else { (1, one) };
    cluster.servers[dies].kill().await?;
    survivor.create(&json!({"id": "later", "kind": "terminal"})).await?;
    let later = survivor.wait_phase("later", SessionPhase::Ready, READY).await?;
    cluster.remember(&later);
    ensure!(leader(&cluster).await? == server_id(&survivor).await?, "the survivor does not lead");
    let now = survivor.session("kept").await?;
    ensure!(now.phase == SessionPhase::Ready && now.epoch == kept.epoch && now.pid == kept.pid, "{now:?}");
    Rfb::ticket(&survivor.ticket("kept").await?.url).await?.full_frame().await?;

    // The dead one comes back and serves the same fleet.
    cluster.servers[dies].start().await?;
    let back = cluster.api_of(dies)?;
    eventually("the restarted server sees everything", secs(20), || async {
        ensure!(back.sessions().await?.len() == 3, "not all sessions");
        Ok(())
    })
    .await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_page_gets_no_socket() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let api = cluster.api()?;
    let refused = helix_tests::http::refusal(api.socket_as_browser("/api/v1/events", "http://evil.example.org").await)?;
    ensure!(refused == 403, "a foreign origin got {refused}");
    let wrong = api.with_token("wrong").socket_as_browser("/api/v1/events", api.base()).await;
    ensure!(helix_tests::http::refusal(wrong)? == 401, "a wrong token got a feed");
    api.socket_as_browser("/api/v1/events", api.base()).await?;
    cluster.shutdown().await
}
