//! Working in a desktop in a real Chromium: keys of any layout, clipboard both ways, the window's size, fingers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_tests::browser::Browser;
use helix_tests::eventually::{eventually, secs};
use helix_tests::{Api, Cluster};
use serde_json::json;

use crate::browser::{no_complaints, pictures};

/// A cluster with one session, `desk`.
async fn desk() -> Result<(Cluster, Api, SessionView)> {
    let cluster = Cluster::small().await?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "1024x640"})).await?;
    let api = cluster.api()?;
    Ok((cluster, api, view))
}

fn workspace(view: &SessionView) -> Result<PathBuf> {
    Ok(view.workspace.clone().context("no workspace")?.into())
}

/// Waits until a file has this content.
async fn has(path: &Path, expected: &str) -> Result<()> {
    eventually(&format!("{} has what was typed", path.display()), secs(20), || async {
        let found = std::fs::read_to_string(path)?;
        ensure!(found == expected, "{found:?} instead of {expected:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn characters_of_any_layout_arrive_as_they_are() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let workspace = workspace(&view)?;
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.open(&api.link("desk").await?.url).await?;
    browser.wait("#status[data-state=connected]").await?;

    // More characters than the display has spare keys, as text comes from input methods. Each line is read before the
    // next one gives those keys another meaning.
    let texts = ["größe ü é ß € 語 😀 œ ’“”—", "привет мир, как дела?", "Ωλφ ąćęłń ěščřž ğış"];
    browser.type_text("cat >texts.txt").await?;
    browser.press("Enter").await?;
    let mut lines = String::new();
    for text in texts {
        browser.type_text(text).await?;
        browser.press("Enter").await?;
        lines.push_str(text);
        lines.push('\n');
        has(&workspace.join("texts.txt"), &lines).await?;
    }
    browser.press("Control+d").await?;

    // Keys of other layouts: what they give counts, not where they are; with Control it is the other way round.
    browser.type_text("cat >keys.txt").await?;
    browser.press("Enter").await?;
    for (key, code) in [("ü", "BracketLeft"), ("z", "KeyY"), ("ж", "Semicolon")] {
        browser.key(key, code).await?;
    }
    browser.hold("AltGraph", "AltRight", true).await?;
    browser.key("€", "KeyE").await?;
    browser.key("@", "KeyQ").await?;
    browser.hold("AltGraph", "AltRight", false).await?;
    browser.hold("Shift", "ShiftLeft", true).await?;
    browser.key("Ü", "BracketLeft").await?;
    browser.key("X", "KeyX").await?;
    browser.hold("Shift", "ShiftLeft", false).await?;
    browser.compose(&["に", "にほ"], "日本").await?;
    browser.press("Enter").await?;
    browser.control_key("в", "KeyD").await?;
    has(&workspace.join("keys.txt"), "üzж€@ÜX日本\n").await?;

    // One key gives the keyboard back to the page.
    browser.press("Control+F6").await?;
    ensure!(browser.focused().await? == "screen", "the desktop keeps the keyboard");
    browser.press("Enter").await?;
    ensure!(browser.focused().await? == "desktop-keys", "the keyboard does not find back");
    no_complaints(&mut browser).await?;
    browser.close().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clipboard_goes_both_ways() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let workspace = workspace(&view)?;
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.open(&api.link("desk").await?.url).await?;
    browser.wait("#status[data-state=connected]").await?;

    // There: with the key that pastes in that program. It fetches the text by itself: seen, it is there.
    let before = browser.canvas(cluster.dir()).await?;
    browser.copy("echo 'größe 語 😀' >pasted.txt").await?;
    browser.press("Shift+Insert").await?;
    let deadline = tokio::time::Instant::now() + secs(20);
    while browser.canvas(cluster.dir()).await?.differs(&before) < 100 {
        ensure!(tokio::time::Instant::now() < deadline, "nothing is pasted");
    }
    browser.press("Enter").await?;
    has(&workspace.join("pasted.txt"), "größe 語 😀\n").await?;

    // Back: what a program copies is in this machine's clipboard while somebody works in the desktop.
    let there = "from the desktop: größe 語 😀";
    api.put("/api/v1/sessions/desk/clipboard", &json!({"text": there})).await?;
    let deadline = tokio::time::Instant::now() + secs(20);
    while browser.copied().await? != there {
        ensure!(tokio::time::Instant::now() < deadline, "{:?}", browser.copied().await?);
    }

    // Not while he is elsewhere: then it waits.
    browser.click("#desktop-button").await?;
    api.put("/api/v1/sessions/desk/clipboard", &json!({"text": "unasked"})).await?;
    browser.wait("#desktop-button.asks").await?;
    ensure!(browser.copied().await? == there, "a page took the clipboard unasked");
    ensure!(browser.value("#clipboard").await? == "unasked");
    browser.screenshot(&pictures()?.join("clipboard.png")).await?;
    browser.click(".clipboard button:has-text('Copy')").await?;
    browser.wait(".clipboard .words:has-text('Copied')").await?;
    ensure!(browser.copied().await? == "unasked");
    browser.fill("#clipboard", "by hand: ß").await?;
    browser.click(".clipboard button:has-text('Put')").await?;
    browser.wait(".clipboard .words:has-text('It is on the desktop')").await?;
    let now = api.get("/api/v1/sessions/desk/clipboard").await?.expect(200)?;
    ensure!(now["text"] == "by hand: ß", "{now}");
    no_complaints(&mut browser).await?;

    // Somebody else has the control: it says so.
    api.put("/api/v1/sessions/desk/control", &json!({"seat": "script"})).await?.expect(200)?;
    browser.wait("#control[data-state=taken]").await?;
    browser.wait(".clipboard button:has-text('Put'):disabled").await?;
    browser.close().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_desktop_gets_the_windows_size_from_who_may_type() -> Result<()> {
    let (cluster, api, _) = desk().await?;
    let size = || async {
        let display = api.get("/api/v1/sessions/desk/display").await?.expect(200)?;
        anyhow::Ok((display["width"].as_u64().context("no width")?, display["height"].as_u64().context("no height")?))
    };
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.open(&api.link("desk").await?.url).await?;
    browser.wait("#status[data-state=connected]").await?;
    ensure!(size().await? == (1024, 640), "a page changed the desktop's size unasked");
    browser.click("#desktop-button").await?;
    browser.choose("#desktop-size", "resize").await?;
    let follows = async |browser: &mut Browser| {
        let place = browser.place("#screen").await?;
        eventually("the desktop has the window's size", secs(20), || async {
            let (width, height) = size().await?;
            ensure!((width, height) == (place.width as u64, place.height as u64), "{width}x{height}, {place:?}");
            Ok(())
        })
        .await
    };
    follows(&mut browser).await?;
    browser.resize(1100, 700).await?;
    follows(&mut browser).await?;

    // The gate takes no size from who does not hold the control.
    let before = size().await?;
    api.put("/api/v1/sessions/desk/control", &json!({"seat": "script"})).await?.expect(200)?;
    browser.wait("#control[data-state=taken]").await?;
    browser.resize(900, 600).await?;
    let deadline = tokio::time::Instant::now() + secs(20);
    while browser.place("#screen canvas").await?.width > 900.0 {
        ensure!(tokio::time::Instant::now() < deadline, "the picture does not fit into the window");
    }
    ensure!(size().await? == before, "{:?}", size().await?);
    no_complaints(&mut browser).await?;
    browser.close().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn fingers_type_and_point() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let workspace = workspace(&view)?;
    let mut browser = Browser::phone(cluster.dir()).await?;
    browser.open(&api.link("desk").await?.url).await?;
    browser.wait("#status[data-state=connected]").await?;
    browser.wait("#key-bar button").await?;

    // A touch points where it touches, and the keyboard stays away until it is asked for.
    browser.tap("#screen canvas").await?;
    eventually("the pointer is where the finger was", secs(20), || async {
        let at = api.get("/api/v1/sessions/desk/cursor").await?.expect(200)?;
        let (x, y) = (at["x"].as_i64().context("no x")?, at["y"].as_i64().context("no y")?);
        ensure!((x - 512).abs() < 10 && (y - 320).abs() < 10, "{x},{y}");
        Ok(())
    })
    .await?;
    browser.wait("#desktop-keys[inputmode=none]").await?;
    browser.tap("[aria-label='On-screen keyboard']").await?;
    browser.wait("#desktop-keys[inputmode=text]").await?;
    ensure!(browser.focused().await? == "desktop-keys", "the keyboard types elsewhere");
    browser.compose(&["s", "se", "sep"], "seq 200; cat >palm.txt").await?;
    browser.press("Enter").await?;
    browser.compose(&["schö"], "schön").await?;

    // Two fingers scroll: back to what has gone by, which typing ends.
    let before = browser.canvas(cluster.dir()).await?;
    browser.touch("#screen canvas", 2, (0, 160)).await?;
    let deadline = tokio::time::Instant::now() + secs(20);
    while browser.canvas(cluster.dir()).await?.differs(&before) < 500 {
        ensure!(tokio::time::Instant::now() < deadline, "two fingers scroll nothing");
    }
    browser.screenshot(&pictures()?.join("phone-keys.png")).await?;
    browser.press("Enter").await?;

    // The key bar: Control is held for one key.
    browser.tap("[aria-label='Hold Control for the next key']").await?;
    browser.wait("[aria-label='Hold Control for the next key'][aria-pressed=true]").await?;
    browser.key("d", "KeyD").await?;
    browser.wait("[aria-label='Hold Control for the next key'][aria-pressed=false]").await?;
    has(&workspace.join("palm.txt"), "schön\n").await?;
    no_complaints(&mut browser).await?;
    browser.close().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_where_calls_move_the_pointer() -> Result<()> {
    let (cluster, api, _) = desk().await?;
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.open(&api.link("desk").await?.url).await?;
    browser.wait("#status[data-state=connected]").await?;
    ensure!(browser.texts("#pointer:not([hidden])").await?.is_empty(), "a mark before anything moved");

    // The agent's own call, then somebody else's. The mark is there once the page's watch stands.
    let known = api.get("/api/v1/external-agents/desk").await?.expect(200)?;
    let agent = api.with_token(known["auth_token"].as_str().context("no auth_token")?);
    let marked = async |browser: &mut Browser, api: &Api, (x, y): (i32, i32), whose: &str| {
        let input = json!({"actions": [{"type": "move", "x": x, "y": y}]});
        let deadline = tokio::time::Instant::now() + secs(20);
        loop {
            api.post("/api/v1/sessions/desk/input", &input).await?.expect(200)?;
            let mark = browser.place("#pointer").await?;
            let canvas = browser.place("#screen canvas").await?;
            let scale = canvas.width / 1024.0;
            let off = |at: f64, size: f64, from: f64, to: i32| (at + size / 2.0 - from - f64::from(to) * scale).abs();
            let near = off(mark.x, mark.width, canvas.x, x) < 2.0 && off(mark.y, mark.height, canvas.y, y) < 2.0;
            let names = browser.texts("#pointer:not([hidden])").await?;
            if near && names.iter().any(|name| name.contains(whose)) {
                return anyhow::Ok(());
            }
            ensure!(tokio::time::Instant::now() < deadline, "{names:?} at {mark:?}, the picture at {canvas:?}");
        }
    };
    marked(&mut browser, &agent, (200, 150), "Agent").await?;
    browser.screenshot(&pictures()?.join("agent-pointer.png")).await?;
    marked(&mut browser, &api, (900, 600), "admin").await?;
    no_complaints(&mut browser).await?;

    // Whoever may not see the session is told nothing of it.
    api.create(&json!({"id": "other", "kind": "terminal"})).await?;
    let link = api.link("other").await?.url;
    let stranger = api.with_token(link.split_once("#token=").context("no token")?.1);
    ensure!(stranger.socket("/api/v1/sessions/desk/pointer").await.is_err(), "a stranger watches");
    browser.close().await?;
    cluster.shutdown().await
}
