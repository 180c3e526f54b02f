//! Terminals and files beside the desktop in a real Chromium.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_tests::browser::Browser;
use helix_tests::eventually::{eventually, secs};
use helix_tests::zed_peer::cable::Cable;
use helix_tests::{Api, Cluster};
use serde_json::json;

use crate::browser::{no_complaints, pictures};

async fn desk() -> Result<(Cluster, Api, SessionView)> {
    let cluster = Cluster::small().await?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "1024x640"})).await?;
    let api = cluster.api()?;
    Ok((cluster, api, view))
}

fn workspace(view: &SessionView) -> Result<PathBuf> {
    Ok(view.workspace.clone().context("no workspace")?.into())
}

/// The page for who owns the session; behind a cable where one is given.
async fn open(browser: &mut Browser, cluster: &Cluster, at: &str) -> Result<()> {
    browser.open(&format!("{at}/sessions/desk/view#token={}", cluster.admin_token())).await?;
    browser.wait("#status[data-state=connected]").await
}

/// Waits until the terminal that is looked at shows a text.
async fn shows(browser: &mut Browser, text: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + secs(45);
    loop {
        let rows = browser.texts(".terminal-place:not([hidden]) .xterm-rows").await?.concat();
        if rows.contains(text) {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "no {text:?} in {rows:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_stay_and_are_taken_up_again() -> Result<()> {
    let (mut cluster, api, _) = desk().await?;
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.resize(1440, 900).await?;
    open(&mut browser, &cluster, api.base()).await?;
    browser.click("#tab-terminal").await?;
    browser.wait(".terminal-place:not([hidden]) .xterm-rows").await?;

    // Any character, any colour, and the size that is there.
    browser
        .type_text("echo größe-語-$((6 * 7)); printf '\\033[38;2;255;100;0mtrue colour\\033[0m\\n'; stty size")
        .await?;
    browser.press("Enter").await?;
    shows(&mut browser, "größe-語-42").await?;
    shows(&mut browser, "true colour").await?;
    browser.wait(".xterm-rows span[style*='rgb(255, 100, 0)']").await?;
    browser.screenshot(&pictures()?.join("terminal.png")).await?;
    browser.resize(1440, 500).await?;
    browser.type_text("clear; echo rows-$(stty size | cut -d' ' -f1)-").await?;
    browser.press("Enter").await?;
    let short = 500 / 15;
    let deadline = tokio::time::Instant::now() + secs(20);
    loop {
        let rows = browser.texts(".terminal-place:not([hidden]) .xterm-rows").await?.concat();
        let rows = rows.split_once("rows-").and_then(|(_, rest)| rest.split_once('-')?.0.parse::<u32>().ok());
        if rows.is_some_and(|rows| rows > 10 && rows <= short) {
            break;
        }
        ensure!(tokio::time::Instant::now() < deadline, "{rows:?} rows");
    }
    browser.resize(1440, 900).await?;

    // A page that is opened anew sees what was, and the shell is the same one.
    browser.type_text("mark=kept; echo before-$((1 + 1))").await?;
    browser.press("Enter").await?;
    shows(&mut browser, "before-2").await?;
    browser.open("about:blank").await?;
    browser.open(&format!("{}/sessions/desk/view", api.base())).await?;
    shows(&mut browser, "before-2").await?;
    browser.click("#tab-terminal").await?; // which closes it
    browser.click("#tab-terminal").await?;
    browser.type_text("echo $mark-$((2 + 2))").await?;
    browser.press("Enter").await?;
    shows(&mut browser, "kept-4").await?;
    no_complaints(&mut browser).await?;

    // The line breaks: it comes back by itself.
    cluster.servers[0].kill().await?;
    browser.wait(".terminals > .words:not([hidden])").await?;
    cluster.servers[0].start().await?;
    eventually("the terminal is attached again", secs(30), || async {
        let list = api.get("/api/v1/sessions/desk/terminals").await?.expect(200)?;
        ensure!(list["terminals"][0]["viewers"] == 1, "{list}");
        Ok(())
    })
    .await?;
    browser.click(".terminal-screens").await?;
    browser.type_text("echo $mark-$((3 + 3))").await?;
    browser.press("Enter").await?;
    shows(&mut browser, "kept-6").await?;
    browser.complaints().await?; // of the broken connection

    // More than a page can draw at once does not stay in it.
    browser.type_text("head -c 30000000 /dev/zero | tr '\\0' x; echo; echo flood-$((4 + 4))").await?;
    browser.press("Enter").await?;
    shows(&mut browser, "flood-8").await?;

    // Another one, and how it ended.
    browser.click(".fresh-terminal").await?;
    browser.wait(".terminal-tab:has-text('shell-2')[aria-selected=true]").await?;
    browser.type_text("exit 3").await?;
    browser.press("Enter").await?;
    shows(&mut browser, "ended with exit status 3").await?;
    browser.wait(".terminal-tab.ended:has-text('shell-2')").await?;
    browser.click(".terminal-tab.ended").await?;
    browser.wait(".terminal-tab:has-text('shell-1')[aria-selected=true]").await?;
    ensure!(browser.texts(".terminal-tab").await?.len() == 1);
    browser.click(".terminals .side-head button:has-text('End')").await?;
    browser.click(".terminals .side-head button:has-text('End it?')").await?;
    browser.wait(".terminal-tab.ended:has-text('shell-1')").await?;
    let list = api.get("/api/v1/sessions/desk/terminals").await?.expect(200)?;
    ensure!(list["terminals"].as_array().is_some_and(Vec::is_empty), "{list}");

    // Who has but a link to the desktop reaches nothing else.
    browser.open("about:blank").await?;
    browser.open(&api.link("desk").await?.url).await?;
    browser.wait("#tab-chat").await?;
    ensure!(browser.texts("#tab-terminal:not([hidden]), #tab-files:not([hidden])").await?.is_empty());
    no_complaints(&mut browser).await?;
    browser.close().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_and_go() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let workspace = workspace(&view)?;
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.resize(1440, 900).await?;
    std::fs::create_dir_all(workspace.join("docs"))?;
    std::fs::write(workspace.join("docs/<b>notes.txt"), "<img src=x> größe 語\n")?;
    std::fs::copy(helix_tests::repository().join("docs/screenshot.png"), workspace.join("docs/picture.png"))?;
    std::os::unix::fs::symlink("/etc", workspace.join("out"))?;
    open(&mut browser, &cluster, api.base()).await?;
    browser.click("#tab-files").await?;
    browser.wait(".file-list .name:has-text('docs/')").await?;

    // There, and what is there already is not replaced unasked.
    let own = cluster.dir().join("report.csv");
    std::fs::write(&own, "one")?;
    browser.files("#file-chooser", &[&own]).await?;
    browser.wait(".file-list .name:has-text('report.csv')").await?;
    ensure!(std::fs::read(workspace.join("report.csv"))? == b"one");
    std::fs::write(&own, "another")?;
    browser.files("#file-chooser", &[&own]).await?;
    browser.wait(".transfers .asks:has-text('Replace report.csv?')").await?;
    browser.screenshot(&pictures()?.join("files.png")).await?;
    browser.click(".transfers .asks button:has-text('Replace')").await?;
    eventually("it is replaced", secs(20), || async {
        ensure!(std::fs::read(workspace.join("report.csv"))? == b"another");
        Ok(())
    })
    .await?;
    browser.drop_file(".files-panel", "dropped.txt", "by hand").await?;
    browser.wait(".file-list .name:has-text('dropped.txt')").await?;
    ensure!(std::fs::read(workspace.join("dropped.txt"))? == b"by hand");

    // And back.
    let back = cluster.dir().join("back.csv");
    let name = browser.download("[aria-label='Download report.csv']", &back).await?;
    ensure!(name == "report.csv" && std::fs::read(&back)? == b"another", "{name}");

    // Looked at: text stays text, a picture is a picture.
    browser.click(".file-list .name:has-text('docs/')").await?;
    browser.click(".file-list .name:has-text('notes.txt')").await?;
    browser.wait(".preview pre:has-text('<img src=x> größe 語')").await?;
    browser.press("Escape").await?;
    browser.click(".file-list .name:has-text('picture.png')").await?;
    browser.wait(".preview img").await?;
    browser.screenshot(&pictures()?.join("files-picture.png")).await?;
    browser.press("Escape").await?;
    ensure!(browser.texts(".files-panel b, .files-panel pre img").await?.is_empty(), "a name became markup");

    // Removed when it is pressed twice, and not before.
    browser.click("[aria-label='Delete picture.png']").await?;
    browser.press("Escape").await?;
    browser.click(".crumbs [aria-current]").await?;
    browser.wait(".file-list .name:has-text('picture.png')").await?;
    browser.click("[aria-label='Delete picture.png']").await?;
    browser.click("[aria-label='Delete picture.png'].sure").await?;
    browser.wait(".file-list:not(:has(.name:has-text('picture.png')))").await?;
    ensure!(!workspace.join("docs/picture.png").exists());
    no_complaints(&mut browser).await?;

    // Nothing leads out, and the page says why.
    browser.click(".crumbs button:has-text('Workspace')").await?;
    browser.click(".file-list .name:has-text('out')").await?;
    browser.wait(".files-panel > .words:has-text('leads out of the session')").await?;
    browser.close().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_broke_off() -> Result<()> {
    let (cluster, _, view) = desk().await?;
    let workspace = workspace(&view)?;
    let cable = Cable::to(&cluster.servers[0].address()).await?;
    let mut browser = Browser::start(cluster.dir()).await?;
    open(&mut browser, &cluster, &format!("http://{}", cable.address())).await?;
    browser.click("#tab-files").await?;
    browser.wait(".files-panel .empty:not([hidden])").await?;
    let own = cluster.dir().join("big.bin");
    let bytes: Vec<u8> = (0..300_000_000_u32).map(|number| (number / 7) as u8).collect();
    std::fs::write(&own, &bytes)?;
    browser.files("#file-chooser", &[&own]).await?;
    let parts = workspace.join(".helix-parts");
    let sizes = || -> Vec<u64> {
        let names = std::fs::read_dir(&parts).into_iter().flatten().flatten();
        names.filter_map(|name| Some(name.metadata().ok()?.len())).collect()
    };
    eventually("a part has come", secs(20), || async {
        ensure!(sizes().iter().any(|bytes| *bytes > 0), "{:?}", sizes());
        Ok(())
    })
    .await?;
    cable.cut();
    ensure!(!workspace.join("big.bin").exists(), "it was too fast to be broken off");
    browser.wait(".file-list .name:has-text('big.bin')").await?;
    ensure!(std::fs::read(workspace.join("big.bin"))? == bytes, "not the same file");
    browser.close().await?;
    cluster.shutdown().await
}
