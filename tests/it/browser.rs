//! The pages in a real Chromium: the live desktop, the list of the fleet, and what they must never do.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use helix_tests::browser::Browser;
use helix_tests::cluster::READY;
use helix_tests::eventually::secs;
use helix_tests::{Cluster, repository};
use serde_json::json;

use crate::desktop::truth;

/// Where screenshots for people go.
pub fn pictures() -> Result<PathBuf> {
    let dir = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from)
        .join("screenshots");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Waits until the canvas shows what X shows: noVNC may take lossy rectangles, so a pixel may be off by a little and
/// a few of them by more.
async fn canvas_is_true(browser: &mut Browser, cluster: &Cluster, view: &SessionView) -> Result<()> {
    let deadline = tokio::time::Instant::now() + secs(30);
    loop {
        let real = truth(view).await?;
        let shown = browser.canvas(cluster.dir()).await?;
        let wrong = real.differs_visibly(&shown, 8);
        if wrong * 1000 < real.pixels.len() && shown.colours() > 1 {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{wrong} pixels differ: {shown:?} against {real:?}");
    }
}

pub async fn no_complaints(browser: &mut Browser) -> Result<()> {
    let complaints = browser.complaints().await?;
    ensure!(complaints.is_empty(), "the page complains: {complaints:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_page_shows_the_desktop_and_types_into_it() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "live", "kind": "terminal", "geometry": "1024x640"})).await?;
    let link = api.link("live").await?;
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.open(&link.url).await?;
    browser.wait("#status[data-state=connected]").await?;
    ensure!(!browser.address().await?.contains("token"), "the token stays in the address bar");
    canvas_is_true(&mut browser, &cluster, &view).await?;

    // The keyboard works at once, without a click.
    let before = browser.canvas(cluster.dir()).await?;
    browser.type_text("echo from the browser >typed.txt; seq 30").await?;
    browser.press("Enter").await?;
    let typed = PathBuf::from(view.workspace.clone().context("no workspace")?).join("typed.txt");
    helix_tests::eventually("what was typed runs", secs(20), || async {
        ensure!(std::fs::read(&typed)? == b"from the browser\n", "not written yet");
        Ok(())
    })
    .await?;
    canvas_is_true(&mut browser, &cluster, &view).await?;
    ensure!(browser.canvas(cluster.dir()).await?.differs(&before) > 500, "typing changed nothing on the page");
    browser.screenshot(&pictures()?.join("view.png")).await?;
    no_complaints(&mut browser).await?;
    let foreign = browser.foreign_requests(api.base()).await?;
    ensure!(foreign.is_empty(), "the page asks elsewhere: {foreign:?}");

    // The server goes and comes back: the page reconnects by itself with a fresh ticket.
    cluster.servers[0].kill().await?;
    browser.wait("#status[data-state=waiting]").await?;
    cluster.servers[0].start().await?;
    browser.wait("#status[data-state=connected]").await?;
    canvas_is_true(&mut browser, &cluster, &view).await?;
    browser.complaints().await?; // of the broken connection

    // The same where the runner's agentd is killed: the session runs on, and its desktop comes back.
    cluster.runners[0].kill().await?;
    browser.wait("#status[data-state=waiting]").await?;
    cluster.runners[0].start().await?;
    browser.wait("#status[data-state=connected]").await?;
    canvas_is_true(&mut browser, &cluster, &view).await?;
    let now = api.session("live").await?;
    ensure!(now.pid == view.pid && now.epoch == view.epoch, "not the same session: {now:?}");
    browser.complaints().await?; // of the broken connection

    // The end is told with its cause.
    api.stop("live").await?;
    api.wait_phase("live", SessionPhase::Stopped, READY).await?;
    browser.wait("#status[data-state=over]").await?;
    browser.wait("#panel h2").await?;
    browser.screenshot(&pictures()?.join("view-ended.png")).await?;
    browser.close().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_page_lists_the_fleet_live() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let mut browser = Browser::start(cluster.dir()).await?;

    // Without a token there is a form, and nothing of the fleet.
    browser.open(&format!("{}/", api.base())).await?;
    browser.wait("#sign-in input").await?;
    ensure!(browser.texts("#sessions tr").await?.is_empty(), "something is shown without a token");
    browser.fill("#token", "wrong").await?;
    browser.press("Enter").await?;
    browser.wait("#sign-in .fault:not([hidden])").await?;
    browser.complaints().await?; // 401s are told on the console
    browser.fill("#token", cluster.admin_token()).await?;
    browser.press("Enter").await?;
    browser.wait("#feed[data-state=live]").await?;
    browser.wait("#runners tr [data-word=available]").await?;
    browser.wait("#no-sessions:not([hidden])").await?;

    // A session appears, becomes Ready, and its failure is told, all without a reload. Markup stays text.
    api.create(&json!({"id": "seen", "kind": "command", "input": "echo '<img src=x onerror=alert(1)>'"})).await?;
    browser.wait("#sessions tr[data-key=seen] [data-word=ready]").await?;
    api.create(&json!({"id": "broken", "kind": "terminal", "project": "/nonexistent/<b>repository</b>"})).await?;
    browser.wait("#sessions tr[data-key=broken] [data-word=failed]").await?;
    ensure!(
        browser.texts("#sessions img, #sessions b").await?.is_empty(),
        "markup of a session became markup of the page"
    );
    let rows = browser.texts("#sessions tr").await?;
    ensure!(rows.iter().any(|row| row.contains("<img src=x onerror=alert(1)>")), "{rows:?}");
    browser.screenshot(&pictures()?.join("index.png")).await?;
    api.stop("seen").await?;
    browser.wait("#sessions tr[data-key=seen] [data-word=stopped]").await?;
    no_complaints(&mut browser).await?;
    let foreign = browser.foreign_requests(api.base()).await?;
    ensure!(foreign.is_empty(), "the page asks elsewhere: {foreign:?}");

    // The failed session's page tells why.
    browser.open(&format!("{}/sessions/broken/view", api.base())).await?;
    browser.wait("#panel pre").await?;
    ensure!(browser.texts("#panel").await?.join("").contains("nonexistent"), "git's words are not shown");
    browser.screenshot(&pictures()?.join("view-failed.png")).await?;
    no_complaints(&mut browser).await?;
    browser.close().await?;
    cluster.shutdown().await
}
