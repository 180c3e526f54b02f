//! What is said to an agent whose desktop is recorded.

use anyhow::{Context, Result, ensure};
use helix_protocol::recording::RecordedEvent;
use helix_tests::Cluster;
use helix_tests::browser::Browser;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;

use super::{complete, events, recorded_as};

/// What is said to a session's agent stands among what was typed and done, in the API and in the page.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_on_the_time_line() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let (_, recording) = recorded_as(&cluster, &json!({"id": "desk", "kind": "command", "recording": true})).await?;
    let prompt = json!({"prompt": "echo said-$((40 + 2))"});
    let asked = api.post("/api/v1/sessions/desk/threads", &prompt).await?;
    ensure!(asked.status.is_success(), "{} {}", asked.status, asked.text);
    eventually("the turn is done", secs(30), || async {
        let said = api.get("/api/v1/sessions/desk/threads").await?;
        ensure!(said.text.contains("completed"), "{}", said.text);
        Ok(())
    })
    .await?;
    let whole = complete(&api, "desk", &recording).await?.recording;
    let events = events(&api, &recording).await?;
    // A desktop at rest, too, is recorded until its session ends.
    let last = events.iter().find(|event| event.event == RecordedEvent::Ended {}).context("nobody noted the end")?;
    ensure!(last.at_us == whole.duration_us, "{last:?} {whole:?}");
    let events: Vec<String> = events.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let threads: Vec<&String> = events.iter().filter(|event| event.contains(r#""type":"thread""#)).collect();
    let has = |word: &str| threads.iter().any(|event| event.contains(word));
    ensure!(has("echo said-") && has("completed"), "{events:?}");
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.open(&format!("{}/recordings/{recording}/view#token={}", api.base(), cluster.admin_token())).await?;
    browser.wait(".event-list [data-kind=thread]:has-text('echo said-')").await?;
    browser.close().await?;
    cluster.shutdown().await
}
