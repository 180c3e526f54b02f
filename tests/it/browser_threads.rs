//! The conversation beside the desktop in a real Chromium, against a real server and the agent's end of the sync
//! socket: what is typed in the page reaches the agent, what the agent says appears in the page, once and whole.

mod readers;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::browser::{Browser, Place};
use helix_tests::cluster::READY;
use helix_tests::eventually::secs;
use helix_tests::zed_peer::cable::Cable;
use helix_tests::zed_peer::{Options, Peer};
use helix_tests::{Cluster, eventually};
use serde_json::json;

use crate::browser::{no_complaints, pictures};

/// An agent that dials as the session's own.
async fn agent(cluster: &Cluster, session: &str) -> Result<Peer> {
    let known = cluster.api()?.get(&format!("/api/v1/external-agents/{session}")).await?.expect(200)?;
    let token = known["auth_token"].as_str().context("no auth_token")?;
    Ok(Peer::start(Options::new(&cluster.servers[0].address(), session, token).newer()))
}

/// Writes a prompt into the box and presses a key.
async fn prompt(browser: &mut Browser, text: &str, key: &str) -> Result<()> {
    browser.fill("#prompt", text).await?;
    browser.press(key).await
}

/// Waits until the one text in the page is this one.
async fn shows(browser: &mut Browser, expected: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + secs(45);
    loop {
        let texts = browser.texts(".turn .prose").await?;
        if texts == [expected] {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{expected:?} was expected, the page shows {texts:?}");
    }
}

/// What a person on a phone of this height can see and touch without scrolling.
fn in_reach(place: Place, height: f64) -> bool {
    place.reachable
        && place.y >= 0.0
        && place.y + place.height <= height
        && place.x >= 0.0
        && place.x + place.width <= 390.0
}

async fn is_written(path: &Path) -> Result<()> {
    eventually("what was typed on the desktop runs", secs(20), || async {
        ensure!(path.exists(), "{} is not there yet", path.display());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_beside_the_desktop_reaches_the_agent_and_what_it_says_is_seen() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "talk", "kind": "terminal", "geometry": "1024x640"})).await?;
    let workspace = Path::new(view.workspace.as_deref().context("no workspace")?).to_owned();
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.resize(1440, 900).await?;
    browser.open(&api.link("talk").await?.url).await?;
    browser.wait("#status[data-state=connected]").await?;
    browser.wait(".line:has-text('No agent is connected. Prompts wait')").await?;
    ensure!(browser.focused().await? == "desktop-keys", "the desktop has the keyboard at first");
    let peer = agent(&cluster, "talk").await?;
    browser.wait(".sync[data-state=ready]").await?;

    // Keys that are typed into the box are the box's alone.
    browser.click("#prompt").await?;
    browser.type_text("touch stolen").await?;
    browser.press("Shift+Enter").await?;
    browser.type_text("<b>second</b> line").await?;
    browser.press("Enter").await?;
    let run = peer.run().await?;
    ensure!(run.message == "touch stolen\n<b>second</b> line", "{:?}", run.message);
    ensure!(browser.focused().await? == "prompt", "the box keeps the keyboard");

    // What it says appears as it grows; a tool call is folded until somebody looks.
    let words = run.says("I look");
    browser.wait(".turn[data-state=running] .prose p:has-text('I look')").await?;
    words.adds(" at it.\n\n```rust\nfn main() {}\n```\n<img src=x> stays text.");
    browser.wait(".prose pre[data-info=rust]:has-text('fn main')").await?;
    browser.wait(".prose p:has-text('<img src=x> stays text.')").await?;
    let tool = run.uses("Read file", "In Progress", "Status: In Progress\n");
    browser.wait(".tool summary:has-text('Read file')").await?;
    ensure!(browser.texts(".tool .prose").await?.is_empty(), "a tool call is not folded");
    browser.click(".tool summary").await?;
    browser.wait(".tool .prose:has-text('Status: In Progress')").await?;
    tool.is_at("Completed", "Status: Completed\nfn main() {}\n");
    browser.wait(".tool .prose:has-text('Status: Completed')").await?;
    browser.wait(".tool [data-word=completed]").await?;

    // Questions: one by a button, one by a form.
    let options = json!({"type": "object", "required": ["option"], "properties": {"option": {"type": "string", "oneOf": [
        {"const": "once", "title": "Allow once"}, {"const": "never", "title": "Reject"}]}}});
    let question = run.asks("el_1", "permission", "May I run <i>cargo test</i>?", &options);
    browser.wait(".question[data-status=open] button:has-text('Reject')").await?;
    browser.screenshot(&pictures()?.join("threads-question.png")).await?;
    browser.click(".question[data-status=open] button:has-text('Allow once')").await?;
    let answer = question.answer().await?;
    ensure!(answer["action"] == "accept" && answer["content"] == json!({"option": "once"}), "{answer}");
    browser.wait(".question:not([data-status=open]) .outcome").await?;
    let form = json!({"type": "object", "required": ["host"], "properties": {
        "host": {"type": "string"}, "port": {"type": "integer"}, "tls": {"type": "boolean"}}});
    let question = run.asks("el_2", "form", "Where?", &form);
    let open = ".question[data-status=open]";
    browser.click(&format!("{open} button:has-text('Answer')")).await?;
    browser.wait(&format!("{open} .fault:has-text('host: needed')")).await?;
    browser.fill(&format!("{open} .field.text input"), "localhost").await?;
    browser.fill(&format!("{open} .field.number input"), "8080").await?;
    browser.click(&format!("{open} .field.check input")).await?;
    browser.click(&format!("{open} button:has-text('Answer')")).await?;
    let answer = question.answer().await?;
    ensure!(answer["content"] == json!({"host": "localhost", "port": 8080, "tls": true}), "{answer}");

    // The queue: one is taken back, one interrupts, and what runs then is cancelled.
    prompt(&mut browser, "never run", "Enter").await?;
    browser.click(".turn[data-state=queued] [data-act=cancel]").await?;
    browser.wait(".turn[data-state=cancelled]:has-text('never run')").await?;
    prompt(&mut browser, "instead", "Control+Enter").await?;
    browser.wait(".turn[data-state=interrupted]:has-text('second')").await?;
    let run = peer.run().await?;
    ensure!(run.message == "instead", "{:?}", run.message);
    run.says("Working");
    browser.click(".turn[data-state=running] [data-act=cancel]").await?;
    run.ended().await?;
    browser.wait(".turn[data-state=cancelled]:has-text('instead')").await?;

    // Usage and title.
    prompt(&mut browser, "count", "Enter").await?;
    let run = peer.run().await?;
    ensure!(run.message == "count", "{:?}", run.message);
    run.says("42");
    run.completes_with(&json!({"total_tokens": 1200, "input_tokens": 1000, "output_tokens": 200, "thought_tokens": 0,
        "cached_read_tokens": 0, "cached_write_tokens": 0}));
    browser.wait(".turn[data-state=completed] .foot:has-text('1,200 tokens (1,000 in, 200 out)')").await?;
    browser.click(".edit").await?;
    browser.type_text("Login redirect").await?;
    browser.press("Enter").await?;
    browser.wait(".chat-head h2:has-text('Login redirect')").await?;

    // The desktop took nothing of it, and takes keys again once it is clicked.
    browser.click("#screen canvas").await?;
    browser.type_text("touch mine").await?;
    browser.press("Enter").await?;
    is_written(&workspace.join("mine")).await?;
    ensure!(!workspace.join("stolen").exists(), "the desktop got keys that were typed into the box");
    ensure!(browser.texts(".chat b, .chat i, .chat img").await?.is_empty(), "markup of the agent's became the page's");

    // What a person begins in the editor appears by itself.
    browser.click(".back").await?;
    peer.types(None, "typed in the editor").says("Seen");
    browser.wait(".thread-list li:nth-child(2)").await?;
    browser.click(".thread-row:has-text('Thread of the editor')").await?;
    browser.wait(".prompt:has-text('typed in the editor')").await?;
    browser.wait(".prose:has-text('Seen')").await?;
    browser.screenshot(&pictures()?.join("threads.png")).await?;
    no_complaints(&mut browser).await?;
    let foreign = browser.foreign_requests(api.base()).await?;
    ensure!(foreign.is_empty(), "the page asks elsewhere: {foreign:?}");
    browser.close().await?;
    peer.kill();
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_feed_goes_on_without_loss_and_without_doubling() -> Result<()> {
    // No runner: the session waits for one, and its conversation works all the same.
    let mut cluster = Cluster::builder().start().await?;
    let api = cluster.api()?;
    api.create(&json!({"id": "far", "kind": "terminal"})).await?;
    let cable = Cable::to(&cluster.servers[0].address()).await?;
    let page = format!("http://{}/sessions/far/view", cable.address());
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.open(&format!("{page}#token={}", cluster.admin_token())).await?;
    browser.wait(".line:has-text('The session is pending. Prompts wait')").await?;
    prompt(&mut browser, "Count", "Enter").await?;
    browser.wait(".turn[data-state=queued]").await?;
    let peer = agent(&cluster, "far").await?;
    let run = peer.run().await?;
    ensure!(run.message == "Count", "{:?}", run.message);

    // Whoever cuts the line, the text is whole: characters of one to four bytes, and a text that is told anew.
    let mut text = "0 ".to_owned();
    let entry = run.says(&text);
    for number in 1..=40 {
        let more = format!("{number} é€😀 ");
        entry.adds(&more);
        text += &more;
        if number % 10 == 0 {
            shows(&mut browser, &text).await?;
            cable.cut();
        }
    }
    cable.unplug();
    for number in 41..=60 {
        let more = format!("{number} ü ");
        entry.adds(&more);
        text += &more;
    }
    peer.quiet().await?;
    cable.plug_into(&cluster.servers[0].address());
    shows(&mut browser, &text).await?;
    cable.unplug();
    text = text.replace("20 é€😀", "twenty") + "end";
    entry.becomes(&text);
    peer.quiet().await?;
    cable.plug_into(&cluster.servers[0].address());
    shows(&mut browser, &text).await?;

    // The same where the server goes; the agent comes back by itself, and so does the page.
    cluster.servers[0].kill().await?;
    cluster.servers[0].start().await?;
    peer.connected(2).await?;
    entry.adds(" and on");
    text += " and on";
    shows(&mut browser, &text).await?;
    run.completes();
    browser.wait(".turn[data-state=completed]").await?;
    ensure!(browser.texts(".turn").await?.len() == 1, "a turn is doubled");

    // What cannot be sent stays in the box, and is one prompt when it is sent again.
    cable.unplug();
    prompt(&mut browser, "Once", "Enter").await?;
    browser.wait(".composer .fault:has-text('cannot be reached')").await?;
    cable.plug_into(&cluster.servers[0].address());
    browser.press("Enter").await?;
    let run = peer.run().await?;
    ensure!(run.message == "Once", "{:?}", run.message);
    run.says("Yes");
    run.completes();
    browser.wait(".turn[data-state=completed]:has-text('Yes')").await?;
    ensure!(browser.texts(".turn").await?.len() == 2, "a prompt is doubled");
    browser.complaints().await?; // of broken connections

    // A page that is opened afterwards shows the same.
    browser.open(&page).await?;
    browser.wait(".turn[data-state=completed]:has-text('Yes')").await?;
    ensure!(
        browser.texts(".turn .prose").await? == [text.as_str(), "Yes"],
        "another text after the page was opened anew"
    );
    no_complaints(&mut browser).await?;
    browser.close().await?;
    peer.kill();
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_shows_one_thing_at_a_time_and_the_box_stays_in_reach() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "palm", "kind": "terminal", "geometry": "800x600"})).await?;
    let peer = agent(&cluster, "palm").await?;
    let link = api.link("palm").await?.url;
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.resize(390, 844).await?;
    browser.open(&link).await?;
    browser.wait("#status[data-state=connected]").await?;
    let canvas = browser.place("#screen canvas").await?;
    ensure!(in_reach(canvas, 844.0) && canvas.page <= 390.0, "the desktop: {canvas:?}");
    browser.screenshot(&pictures()?.join("phone-desktop.png")).await?;
    browser.click("#tab-chat").await?;
    browser.wait(".sync[data-state=ready]").await?;
    prompt(&mut browser, "Write a lot", "Enter").await?;
    let run = peer.run().await?;
    let long = "a long answer: é€😀\n".repeat(8_000);
    run.says(&long);
    let ask = json!({"type": "object", "properties": {"go": {"type": "boolean"}}});
    let question = run.asks("el_1", "form", "Shall I go on?", &ask);
    browser.wait(".question[data-status=open] button:has-text('Yes')").await?;
    let parts =
        ["#tab-desktop", "#prompt", ".composer [type=submit]", ".question[data-status=open] button:has-text('Yes')"];
    for part in parts {
        let place = browser.place(part).await?;
        ensure!(in_reach(place, 844.0) && place.page <= 390.0, "{part}: {place:?}");
    }
    browser.screenshot(&pictures()?.join("phone-chat.png")).await?;

    // Half of the window is the keyboard's.
    browser.click("#prompt").await?;
    browser.resize(390, 430).await?;
    for part in ["#prompt", ".composer [type=submit]"] {
        let place = browser.place(part).await?;
        ensure!(in_reach(place, 430.0), "{part} above the keyboard: {place:?}");
    }
    ensure!(browser.place(".log").await?.height >= 100.0, "nothing of the conversation is seen above the keyboard");
    browser.screenshot(&pictures()?.join("phone-keyboard.png")).await?;
    browser.resize(390, 844).await?;
    browser.click(".question[data-status=open] button:has-text('Yes')").await?;
    let answer = question.answer().await?;
    ensure!(answer["content"] == json!({"go": true}), "{answer}");
    run.completes();
    browser.wait(".turn[data-state=completed]").await?;

    // What failed is sent again with one touch.
    prompt(&mut browser, "Try this", "Enter").await?;
    peer.run().await?.fails("the model is away");
    browser.wait(".turn[data-state=failed] .cause:has-text('the model is away')").await?;
    browser.click("[data-act=resend]").await?;
    let run = peer.run().await?;
    ensure!(run.message == "Try this", "{:?}", run.message);
    run.says("It went well");
    run.completes();
    browser.wait(".turn[data-state=completed]:has-text('It went well')").await?;
    ensure!(browser.texts("[data-act=resend]").await?.is_empty(), "it can be sent a third time");
    no_complaints(&mut browser).await?;

    // A long text comes in parts when the page is opened anew.
    let (page, _) = link.split_once('#').context("no token in the link")?;
    browser.open(page).await?;
    browser.wait("#status[data-state=connected]").await?;
    browser.click("#tab-chat").await?;
    browser.wait(".more:has-text('64 KiB of')").await?;
    let first = browser.texts(".turn .prose").await?.swap_remove(0);
    ensure!(first.len() <= 64 * 1024 && long.starts_with(&first), "{} bytes", first.len());
    browser.click(".more").await?;
    browser.wait(".turn:first-child .entry:not(:has(.more))").await?;
    ensure!(browser.texts(".turn .prose").await?[0] == long, "not the whole text");

    // The end: the conversation can still be read, and takes nothing more.
    api.stop("palm").await?;
    api.wait_phase("palm", SessionPhase::Stopped, READY).await?;
    browser.wait(".sync[data-state=over]").await?;
    browser.wait("#prompt:disabled").await?;
    browser.wait(".turn:has-text('It went well')").await?;
    browser.close().await?;
    peer.kill();
    cluster.shutdown().await
}
