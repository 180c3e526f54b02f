//! The desktop as an API through the server: every route over HTTP and with `helixctl`, who may, and what goes wrong.

use anyhow::{Context, Result, ensure};
use helix_protocol::desktop::{CursorView, DisplayView, Waited, WindowList};
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::desktop::truth;

/// GET of something that is no text.
async fn fetch(api: &Api, path: &str, etag: Option<&str>) -> Result<Response> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut request = client.get(format!("{}{path}", api.base())).bearer_auth(api.token());
    if let Some(etag) = etag {
        request = request.header("if-none-match", etag);
    }
    Ok(request.send().await?)
}

fn header<'a>(answer: &'a Response, name: &str) -> Result<&'a str> {
    Ok(answer.headers().get(name).with_context(|| format!("no {name}"))?.to_str()?)
}

async fn settle(api: &Api, id: &str) -> Result<()> {
    let path = format!("/api/v1/sessions/{id}/wait");
    let waited: Waited = api.post(&path, &json!({"for": "settle", "quiet_ms": 300})).await?.json()?;
    ensure!(waited.reached, "{waited:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_is_seen_and_driven_over_http() -> Result<()> {
    let cluster = Cluster::small().await?;
    seen_and_driven(&cluster, "terminal", (1234, 567)).await?;
    cluster.shutdown().await
}

/// The same with the second display server, by the kind's word; its screen gets no larger than it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_of_xvfb_is_seen_and_driven_over_http() -> Result<()> {
    let kinds = tempfile::tempdir()?;
    let terminal = include_str!("../../packaging/kinds/terminal.toml");
    std::fs::write(kinds.path().join("plain.toml"), format!("display_server = \"xvfb\"\n{terminal}"))?;
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").kinds(kinds.path())).start().await?;
    seen_and_driven(&cluster, "plain", (900, 567)).await?;
    let of_desk = helix_protocol::SessionId::parse("desk")?.unit_key();
    let runs = helix_tests::leftovers::processes(cluster.dir())?;
    let is_drawn_by = |server: &str| {
        let programs = runs.iter().filter(|line| line.contains(&of_desk)).filter_map(|line| line.split(' ').nth(1));
        programs.filter_map(|program| program.rsplit('/').next()).any(|program| program == server)
    };
    ensure!(is_drawn_by("X0tigervnc") && !is_drawn_by("Xtigervnc"), "{runs:?}");
    cluster.shutdown().await
}

async fn seen_and_driven(cluster: &Cluster, kind: &str, (width, height): (u32, u32)) -> Result<()> {
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "desk", "kind": kind, "geometry": "1000x700"})).await?;
    let at = |rest: &str| format!("/api/v1/sessions/desk/{rest}");
    settle(&api, "desk").await?;

    // Raw pixels are those of the X server; told again, nothing is sent.
    let raw = fetch(&api, &at("screenshot?format=raw&cursor=false"), None).await?;
    ensure!(raw.status() == StatusCode::OK, "{}", raw.status());
    ensure!((header(&raw, "x-helix-width")?, header(&raw, "x-helix-height")?) == ("1000", "700"));
    ensure!(header(&raw, "content-type")? == "application/octet-stream");
    let etag = header(&raw, "etag")?.to_owned();
    let pixels = raw.bytes().await?;
    let real = truth(&view).await?;
    let seen = pixels.chunks_exact(4).map(|rgba| u32::from_le_bytes([rgba[2], rgba[1], rgba[0], 0]));
    ensure!(seen.eq(real.pixels.iter().copied()), "the screenshot is not what the X server shows");
    let again = fetch(&api, &at("screenshot?format=raw&cursor=false"), Some(&format!("\"x\", W/{etag}"))).await?;
    ensure!(again.status() == StatusCode::NOT_MODIFIED && header(&again, "etag")? == etag, "{}", again.status());
    for (format, media) in [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")] {
        let answer =
            fetch(&api, &at(&format!("screenshot?format={format}&scale=0.5&region=0,0,400,300")), None).await?;
        ensure!(answer.status() == StatusCode::OK && header(&answer, "content-type")? == media, "{format}");
        ensure!(header(&answer, "x-helix-width")? == "200", "{format}");
        ensure!(answer.bytes().await?.len() > 100, "{format}");
    }

    // Typed text is seen and done.
    let actions = json!({"actions": [
        {"type": "text", "text": "echo größe 語 > typed.txt"},
        {"type": "key", "key": "Return"},
        {"type": "wait_frame"},
    ]});
    ensure!(api.post(&at("input"), &actions).await?.json::<Value>()? == json!({"done": 3}));
    let file = std::path::PathBuf::from(view.workspace.clone().context("no workspace")?).join("typed.txt");
    eventually("the command ran", secs(10), || async {
        ensure!(std::fs::read_to_string(&file)? == "größe 語\n");
        Ok(())
    })
    .await?;
    let changed = fetch(&api, &at("screenshot?format=raw&cursor=false"), Some(&etag)).await?;
    ensure!(changed.status() == StatusCode::OK, "nothing was drawn: {}", changed.status());

    // Pointer, windows, clipboard, size.
    api.post(&at("input"), &json!({"actions": [{"type": "move", "x": 12, "y": 34}]})).await?.expect(200)?;
    ensure!(api.get(&at("cursor")).await?.json::<CursorView>()? == CursorView { x: 12, y: 34 });
    let windows = api.get(&at("windows")).await?.json::<WindowList>()?.windows;
    ensure!(windows.len() == 1 && windows[0].class == "XTerm" && windows[0].active, "{windows:?}");
    let window = windows[0].id;
    api.post_empty(&at(&format!("windows/{window}/restore"))).await?.expect(200)?;
    let maximised = api.post_empty(&at(&format!("windows/{window:#x}/maximise"))).await?.expect(200)?;
    ensure!(maximised["maximised"] == true, "{maximised}");
    let text = "x".repeat(500 * 1024);
    ensure!(api.put(&at("clipboard"), &json!({"text": text})).await?.status == 204);
    ensure!(api.get(&at("clipboard")).await?.json::<Value>()? == json!({"text": text}));
    let size: DisplayView = api.put(&at("display"), &json!({"width": width, "height": height})).await?.json()?;
    ensure!((size.width, size.height) == (width, height));
    ensure!(api.get(&at("display")).await?.json::<DisplayView>()? == size);
    settle(&api, "desk").await?;
    let late: Waited = api.post(&at("wait"), &json!({"for": "change", "timeout_ms": 50})).await?.json()?;
    ensure!(!late.reached, "{late:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_calls_are_refused_and_nothing_is_done() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "one", "kind": "terminal", "geometry": "800x600"})).await?;
    cluster.ready(&json!({"id": "two", "kind": "terminal"})).await?;
    let at = |rest: &str| format!("/api/v1/sessions/one/{rest}");
    api.post(&at("input"), &json!({"actions": [{"type": "move", "x": 5, "y": 5}]})).await?.expect(200)?;
    let moved = json!({"type": "move", "x": 1, "y": 1});
    for (action, told) in [
        (json!({"type": "click", "x": 800, "y": 1}), "actions[1].x: 800 is outside the screen"),
        (json!({"type": "key", "key": "Retrun"}), "near it are Return"),
        (json!({"type": "wait", "ms": 10_001}), "actions[1].ms"),
        (json!({"type": "jump"}), "actions[1]"),
        (json!({"type": "click", "x": 1.5, "y": 1}), "actions[1]"),
        (json!({"type": "text", "text": "x".repeat(70_000)}), "at most 65536"),
    ] {
        let refused = api.post(&at("input"), &json!({"actions": [moved, action]})).await?;
        let problem = refused.problem(400, "invalid_request")?;
        ensure!(problem.detail.contains(told), "{}", problem.detail);
    }
    ensure!(api.get(&at("cursor")).await?.json::<CursorView>()? == CursorView { x: 5, y: 5 }, "something was done");
    let much = json!({"actions": [{"type": "text", "text": "x".repeat(10 << 20)}]});
    api.post(&at("input"), &much).await?.problem(413, "body_too_large")?;
    for size in [json!({"width": 0, "height": 600}), json!({"width": 20_000, "height": 600})] {
        api.put(&at("display"), &size).await?.problem(400, "invalid_request")?;
    }
    for query in ["format=gif", "region=0,0,801,1", "region=x", "scale=0", "scale=NaN", "quality=0", "what=1"] {
        api.get(&at(&format!("screenshot?{query}"))).await?.problem(400, "invalid_request")?;
    }
    api.post_empty(&at("windows/1/focus")).await?.problem(404, "window_not_found")?;
    api.post_empty(&at("windows/x/focus")).await?.problem(400, "invalid_request")?;
    api.post_empty(&at("windows/1/explode")).await?.problem(400, "invalid_request")?;
    api.post(&at("wait"), &json!({"for": "ever"})).await?.problem(400, "invalid_request")?;
    api.get("/api/v1/sessions/none/screenshot").await?.problem(404, "session_not_found")?;

    // Who has a link to one desktop drives that one and no other.
    let link = api.link("one").await?;
    let guest = api.with_token(link.url.split_once("#token=").context("no token")?.1);
    guest.post(&at("input"), &json!({"actions": [moved]})).await?.expect(200)?;
    for refused in [
        guest.get("/api/v1/sessions/two/screenshot").await?,
        guest.post("/api/v1/sessions/two/input", &json!({"actions": [moved]})).await?,
    ] {
        ensure!(matches!(refused.status.as_u16(), 403 | 404), "{}", refused.status);
    }

    // More calls than may be are told so, and those under way are not held up by it.
    let wait = json!({"for": "change", "timeout_ms": 3000});
    let waits = futures::future::join_all((0..40).map(|_| api.post("/api/v1/sessions/two/wait", &wait))).await;
    let mut told = 0;
    for answer in waits {
        let answer = answer?;
        if answer.status == 429 {
            answer.problem(429, "too_many_requests")?;
            told += 1;
        } else {
            answer.expect(200)?;
        }
    }
    ensure!(told == 8, "{told} of 40 were refused");

    // A display that dies is told at once, and the session is what it is.
    let directory = helix_protocol::SessionId::parse("two")?.unit_key();
    let displays = helix_tests::leftovers::processes_saying(&format!("{directory}/vnc.sock"))?;
    let display = *displays.first().context("no display")?;
    let wait = json!({"for": "change", "timeout_ms": 30_000});
    let waiting = api.post("/api/v1/sessions/two/wait", &wait);
    let killing = async {
        api.get("/api/v1/sessions/two/cursor").await?.expect(200)?;
        helix_tests::process::signal_pid(display, rustix::process::Signal::KILL)
    };
    let (ended, killed) = tokio::join!(waiting, killing);
    killed?;
    ended?.problem(503, "display_unavailable")?;
    api.wait_phase("two", SessionPhase::Failed, READY).await?;
    api.get("/api/v1/sessions/two/screenshot").await?.problem(409, "session_not_ready")?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_is_found_again_when_its_line_breaks() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "desk", "kind": "terminal"})).await?;
    api.get("/api/v1/sessions/desk/cursor").await?.expect(200)?;
    cluster.runners[0].kill().await?;
    cluster.runners[0].start().await?;
    eventually("the next agentd serves it", READY, || async {
        api.get("/api/v1/sessions/desk/cursor").await?.expect(200)?;
        Ok(())
    })
    .await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn helixctl_drives_a_desktop() -> Result<()> {
    let cluster = Cluster::small().await?;
    let cli = Cli::new(&cluster)?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "800x600"})).await?;
    cli.plain(0, &["session", "wait", "desk", "--quiet-ms", "200"]).await?;
    let done =
        cli.json(0, &["session", "input", "desk", "text=touch typed", "key=Return", "frame", "move=7,8"]).await?;
    ensure!(done == json!({"done": 4}), "{done}");
    let file = std::path::PathBuf::from(view.workspace.clone().context("no workspace")?).join("typed");
    eventually("the command ran", secs(10), || async {
        ensure!(file.exists(), "not yet");
        Ok(())
    })
    .await?;
    ensure!(cli.plain(0, &["session", "cursor", "desk"]).await? == "7,8\n");
    ensure!(cli.plain(0, &["session", "display", "desk"]).await? == "800x600\n");
    ensure!(cli.plain(0, &["session", "display", "desk", "1024x640"]).await? == "1024x640\n");
    cli.plain(0, &["session", "clipboard", "set", "desk", "größe\n"]).await?;
    ensure!(cli.plain(0, &["session", "clipboard", "get", "desk"]).await? == "größe\n");
    let windows = cli.json(0, &["session", "windows", "list", "desk"]).await?;
    let window = windows["windows"][0]["id"].to_string();
    ensure!(cli.plain(0, &["session", "windows", "focus", "desk", &window]).await?.contains("XTerm"));
    let picture = cluster.dir().join("desk.jpg");
    let path = picture.to_str().context("no text")?;
    let told =
        cli.json(0, &["session", "screenshot", "desk", "-o", path, "--region", "0,0,100,50", "--no-cursor"]).await?;
    ensure!(told["width"] == 100 && told["height"] == 50 && told["file"] == path, "{told}");
    ensure!(std::fs::read(&picture)?.starts_with(b"\xff\xd8\xff"), "no JPEG");
    let refused = cli.run(&["session", "input", "desk", "click=5000,1"]).await?;
    ensure!(refused.code == 1 && refused.stderr.contains("outside the screen"), "{}", refused.stderr);
    cli.plain(5, &["session", "wait", "desk", "--change", "--timeout", "1"]).await?;
    cli.plain(2, &["session", "input", "desk", "clack=1,2"]).await?;
    cluster.shutdown().await
}
