//! A recording in a real Chromium: recorded by a real session, played back in the page.

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::Cluster;
use helix_tests::browser::Browser;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;

use crate::browser::{no_complaints, pictures};
use crate::desktop::truth;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_seen_again() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view =
        cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "800x600", "recording": true})).await?;
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.resize(1280, 800).await?;

    // Whoever looks is told, also with a link to the desktop alone; only who may see recordings gets there.
    browser.open(&api.link("desk").await?.url).await?;
    browser.wait("#recording:not([href]):has-text('REC')").await?;
    browser.wait("#status[data-state=connected]").await?;
    browser.type_text("seq 100 200").await?;
    browser.press("Enter").await?;
    let input = json!({"actions": [{"type": "move", "x": 700, "y": 500}, {"type": "text", "text": "seq 300 400\n"},
        {"type": "wait_frame"}]});
    api.post("/api/v1/sessions/desk/input", &input).await?.expect(200)?;
    browser.screenshot(&pictures()?.join("recorded.png")).await?;
    browser.open("about:blank").await?;
    let settle = json!({"for": "settle", "quiet_ms": 1500, "timeout_ms": 10000});
    api.post("/api/v1/sessions/desk/wait", &settle).await?.expect(200)?;
    let there = truth(&view).await?;
    api.stop("desk").await?;
    api.wait_phase("desk", SessionPhase::Stopped, READY).await?;
    let recording = eventually("all of it is there", secs(30), || async {
        let list = api.get("/api/v1/recordings?session=desk").await?.expect(200)?;
        ensure!(list["recordings"][0]["state"] == "complete", "{list}");
        Ok(list["recordings"][0]["id"].as_str().context("no id")?.to_owned())
    })
    .await?;

    browser.open(&format!("{}/recordings/{recording}/view#token={}", api.base(), cluster.admin_token())).await?;
    browser.wait("#status[data-state=connected]").await?;
    browser.wait(".event-list [data-kind=input]:has-text('typed')").await?;
    browser.wait(".event-list [data-kind=input]:has-text('input')").await?;
    browser.wait(".event-list [data-kind=viewer]:has-text('opened the desktop')").await?;
    // The beginning is not the end, and the end is what was there last, but for the pointer that is in the picture.
    let first = browser.canvas(cluster.dir()).await?;
    browser.click("#play").await?;
    browser.choose("#speed", "16").await?;
    browser.click("#skips").await?;
    let deadline = tokio::time::Instant::now() + secs(60);
    loop {
        let shown = browser.canvas(cluster.dir()).await?;
        let wrong = there.differs_visibly(&shown, 8);
        if wrong * 500 < there.pixels.len() {
            break;
        }
        ensure!(tokio::time::Instant::now() < deadline, "{wrong} pixels differ: {shown:?} against {there:?}");
    }
    ensure!(there.differs(&first) > 1000, "the first picture is the last one");
    browser.wait("#play:has-text('Play')").await?;
    browser.screenshot(&pictures()?.join("replay.png")).await?;

    // Back to the beginning by a mark.
    browser.click(".event-list li:first-child button").await?;
    let deadline = tokio::time::Instant::now() + secs(20);
    while browser.canvas(cluster.dir()).await?.differs_visibly(&there, 8) < 1000 {
        ensure!(tokio::time::Instant::now() < deadline, "a seek shows nothing else");
    }
    no_complaints(&mut browser).await?;

    // The ended session's page leads here.
    browser.open(&format!("{}/sessions/desk/view", api.base())).await?;
    browser.wait(&format!("#recording[href='/recordings/{recording}/view']")).await?;
    browser.close().await?;
    cluster.shutdown().await
}
