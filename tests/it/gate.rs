//! The gate to a desktop: who may type, at browsers' sockets and at a native viewer's port.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::{SessionView, Ticket};
use helix_tests::browser::Browser;
use helix_tests::eventually::{eventually, secs};
use helix_tests::own_display::OwnDisplay;
use helix_tests::rfb::{Frame, Rfb};
use helix_tests::{Api, Cluster, process, programs};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::browser::{no_complaints, pictures};
use crate::cli::Cli;
use crate::desktop::truth;

const CONTROL: &str = "/api/v1/sessions/desk/control";

/// A viewer at this seat.
async fn viewer(api: &Api, body: &Value) -> Result<Rfb> {
    let ticket: Ticket = api.post("/api/v1/sessions/desk/tickets", body).await?.json()?;
    Rfb::ticket(&ticket.url).await
}

fn read(view: &SessionView, file: &str) -> String {
    let path = std::path::Path::new(view.workspace.as_deref().unwrap_or_default()).join(file);
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Types a word into a file, through this viewer, and waits until it is there.
async fn types(rfb: &mut Rfb, view: &SessionView, word: &str) -> Result<()> {
    rfb.type_text(&format!("echo {word} >>typed.txt\n")).await?;
    eventually(&format!("{word} is typed"), secs(20), || async {
        ensure!(read(view, "typed.txt").contains(word), "not yet");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_types_at_a_time() -> Result<()> {
    types_alone("xtigervnc").await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_types_at_a_time_on_xvfb() -> Result<()> {
    types_alone("xvfb").await
}

async fn types_alone(server: &str) -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let wanted = json!({"id": "desk", "kind": "terminal", "geometry": "800x600", "display_server": server});
    let view = cluster.ready(&wanted).await?;
    let mut one = viewer(&api, &json!({"stream": "vnc", "seat": "one"})).await?;
    let mut two = viewer(&api, &json!({"stream": "vnc", "seat": "two"})).await?;
    let mut looks = viewer(&api, &json!({"stream": "vnc", "view_only": true})).await?;
    types(&mut one, &view, "free-one").await?;
    types(&mut two, &view, "free-two").await?;

    // A link that was given away to look: its viewer sees, and is not heard.
    let link = api.post("/api/v1/sessions/desk/links", &json!({"view_only": true})).await?.expect(200)?;
    let token = link["url"].as_str().and_then(|url| url.split_once("#token=")).context("no token")?.1.to_owned();
    let guest = api.with_token(&token);
    let mut linked = viewer(&guest, &json!({"stream": "vnc"})).await?;
    for quiet in [&mut looks, &mut linked] {
        ensure!(quiet.full_frame().await?.colours() > 1, "who looks sees nothing");
        quiet.type_text("echo not-allowed >>typed.txt\n").await?;
    }
    guest.put(CONTROL, &json!({"seat": "guest"})).await?.problem(403, "forbidden")?;
    guest.post("/api/v1/sessions/desk/threads", &json!({"prompt": "x"})).await?.problem(403, "forbidden")?;

    // Taken by one click: from the answer on nobody else is heard.
    let lease = api.put(CONTROL, &json!({"seat": "two"})).await?.expect(200)?;
    ensure!(lease["enforced"] == true && lease["holder"]["seat"] == "two", "{lease}");
    one.type_text("echo too-late >>typed.txt\n").await?;
    types(&mut two, &view, "held-two").await?;
    // The API is at the same gate, by the same seats.
    let input =
        json!({"actions": [{"type": "text", "text": "echo too-late >>typed.txt"}, {"type": "key", "key": "Return"}]});
    let refused = api.post("/api/v1/sessions/desk/input", &input).await?.problem(409, "control_taken")?;
    ensure!(refused.detail.contains("(seat two)"), "{}", refused.detail);
    api.put("/api/v1/sessions/desk/clipboard", &json!({"text": "x"})).await?.problem(409, "control_taken")?;
    api.put("/api/v1/sessions/desk/display", &json!({"width": 640, "height": 480}))
        .await?
        .problem(409, "control_taken")?;
    let looked = api.get("/api/v1/sessions/desk/screenshot").await?;
    ensure!(looked.status == 200, "who does not hold the control sees nothing: {}", looked.status);
    let cli = Cli::new(&cluster)?;
    let mut env = vec![("HELIX_SEAT".to_owned(), "two".to_owned()), ("HOME".to_owned(), cli.home.clone())];
    let args = [
        "--url",
        &cli.url,
        "--token-file",
        &cli.token_file,
        "session",
        "input",
        "desk",
        "text=echo called >>typed.txt",
        "key=Return",
    ];
    let typed = process::run(&programs::ours("helixctl")?, &args, &env, secs(20)).await?;
    ensure!(typed.status.success(), "{}", String::from_utf8_lossy(&typed.stderr));
    eventually("the call is heard", secs(20), || async {
        ensure!(read(&view, "typed.txt").contains("called"), "not yet");
        Ok(())
    })
    .await?;
    "three".clone_into(&mut env[0].1);
    let refused = process::run(&programs::ours("helixctl")?, &args, &env, secs(20)).await?;
    ensure!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("has had the control"),
        "{refused:?}"
    );
    // Whoever comes later from another seat neither.
    let mut late = viewer(&api, &json!({"stream": "vnc", "seat": "three"})).await?;
    late.type_text("echo too-late >>typed.txt\n").await?;
    late.full_frame().await?;
    types(&mut two, &view, "again-two").await?;

    // The lease outlives agentd and server, and what was typed meanwhile is still not heard.
    ensure!(api.get(CONTROL).await?.expect(200)?["holder"]["seat"] == "two");
    api.delete(&format!("{CONTROL}?seat=two")).await?.expect(200)?;
    types(&mut one, &view, "free-again").await?;
    let typed = read(&view, "typed.txt");
    ensure!(!typed.contains("not-allowed") && !typed.contains("too-late"), "{typed}");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_outlives_agentd() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "800x600"})).await?;
    api.put(CONTROL, &json!({"seat": "two", "ttl_seconds": 600})).await?.expect(200)?;
    cluster.runners[0].kill().await?;
    cluster.runners[0].start().await?;
    eventually("the desktop is reached again", secs(20), || async {
        viewer(&api, &json!({"stream": "vnc", "view_only": true})).await.map(drop)
    })
    .await?;
    let mut one = viewer(&api, &json!({"stream": "vnc", "seat": "one"})).await?;
    one.type_text("echo too-late >>typed.txt\n").await?;
    one.full_frame().await?;
    let mut two = viewer(&api, &json!({"stream": "vnc", "seat": "two"})).await?;
    types(&mut two, &view, "held").await?;
    ensure!(!read(&view, "typed.txt").contains("too-late"), "a new agentd forgot who holds the control");
    cluster.shutdown().await
}

/// `helixctl session vnc desk …` while it runs, and the address and password that it prints.
async fn port(cluster: &Cluster, more: &[&str], env: &[(String, String)]) -> Result<(Child, Value)> {
    let cli = Cli::new(cluster)?;
    let mut child = Command::new(programs::ours("helixctl")?)
        .args(["--url", &cli.url, "--token-file", &cli.token_file, "session", "vnc", "desk"])
        .args(more)
        .env("HOME", &cli.home)
        .env_remove("DISPLAY")
        .envs(env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let line = timeout(secs(20), lines.next_line()).await??.context("it says nothing")?;
    let told = serde_json::from_str(&line).or_else(|_| {
        let (address, password) = line.split_once(" password ").with_context(|| line.clone())?;
        anyhow::Ok(json!({"address": address, "password": password}))
    })?;
    Ok((child, told))
}

async fn end(mut child: Child) -> Result<()> {
    process::signal_pid(child.id().context("it ended")?, rustix::process::Signal::TERM)?;
    ensure!(timeout(secs(10), child.wait()).await??.success(), "it did not end well");
    Ok(())
}

/// What a client without the password gets: the result, and whatever follows until the port closes.
async fn knock(address: &str, answer: [u8; 16]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut banner = [0; 12];
    stream.read_exact(&mut banner).await?;
    stream.write_all(b"RFB 003.008\n").await?;
    let mut offered = [0; 2];
    stream.read_exact(&mut offered).await?;
    ensure!(offered == [1, 2], "offered: {offered:?}");
    stream.write_all(&[2]).await?;
    let mut challenge = [0; 16];
    stream.read_exact(&mut challenge).await?;
    stream.write_all(&answer).await?;
    // As if it were in: ClientInit and a request for the picture.
    let _ = stream.write_all(&[1, 3, 0, 0, 0, 0, 0, 3, 32, 2, 88]).await;
    let mut rest = Vec::new();
    timeout(secs(20), stream.read_to_end(&mut rest)).await?.ok();
    Ok(rest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_viewer_shows_the_desktop_to_who_knows_the_password() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "800x600"})).await?;
    let (wrong, told) = port(&cluster, &["--json"], &[]).await?;
    let address = told["address"].as_str().context("no address")?.to_owned();
    ensure!(told["password"].as_str().is_some_and(|password| password.len() == 8), "{told}");

    // A hundred wrong ones at once: each is told so, sees no pixel, and keeps nobody out.
    let knocks = (0..100_u8).map(|number| knock(&address, [number; 16]));
    let told = futures::future::join_all(knocks);
    let dir = tempfile::tempdir()?;
    let outer = OwnDisplay::start(dir.path(), "800x600").await?;
    let mut env = outer.environment();
    env.push(("LANG".to_owned(), "C.UTF-8".to_owned()));
    let shown = async {
        let (child, _) = port(&cluster, &["--take", "--seat", "native"], &env).await?;
        // The viewer that it found and started has a frame and a bar of its own: the desktop's picture is inside.
        eventually("the viewer shows the desktop", secs(30), || async {
            let (there, here) = (truth(&view).await?, outer.screen().await?);
            let text = there.pixels.iter().filter(|pixel| **pixel == there.pixels[there.pixels.len() / 2]).count();
            let same = here.pixels.iter().filter(|pixel| **pixel == there.pixels[there.pixels.len() / 2]).count();
            ensure!(here.colours() > 1 && same * 10 > text * 7, "{same} of {text} pixels are there");
            Ok(())
        })
        .await?;
        anyhow::Ok(child)
    };
    let (told, child) = tokio::join!(told, shown);
    for told in told {
        let told = told?;
        ensure!(told.starts_with(&[0, 0, 0, 1]) && told.len() < 64, "{} bytes: {told:?}", told.len());
    }
    let child = child?;
    ensure!(api.get(CONTROL).await?.expect(200)?["holder"]["seat"] == "native", "--take");
    end(child).await?;
    ensure!(api.get(CONTROL).await?.expect(200)?["holder"] == Value::Null, "it is not handed back");
    end(wrong).await?;
    ensure!(TcpStream::connect(&address).await.is_err(), "the port is still open");
    outer.end().await?;
    cluster.shutdown().await
}

/// A VNC client for scripts, as they use it.
async fn vncdotool(address: &str, password: &str, words: &[&str]) -> Result<()> {
    let address = address.replace(':', "::");
    let args = [&["-m", "vncdotool.command", "-s", &address, "-p", password], words].concat();
    let path = programs::vncdotool()?.display().to_string();
    let python = std::path::Path::new("/usr/bin/python3");
    let done = process::run(python, &args, &[("PYTHONPATH".to_owned(), path)], secs(60)).await?;
    ensure!(done.status.success(), "vncdotool {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_types_and_sees_through_a_port_of_its_own() -> Result<()> {
    let cluster = Cluster::small().await?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "800x600"})).await?;
    let (child, told) = port(&cluster, &["--json"], &[]).await?;
    let text = |name: &str| told[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {told}"));
    let (address, password) = (text("address")?, text("password")?);
    vncdotool(&address, &password, &["type", "echo by-a-script >>typed.txt; seq 30", "key", "enter"]).await?;
    eventually("what the script types arrives", secs(20), || async {
        ensure!(read(&view, "typed.txt") == "by-a-script\n", "{:?}", read(&view, "typed.txt"));
        Ok(())
    })
    .await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("seen.png");
    eventually("the script sees what X shows", secs(60), || async {
        vncdotool(&address, &password, &["capture", &file.display().to_string()]).await?;
        let (seen, there) = (Frame::of_png(&file)?, truth(&view).await?);
        ensure!((there.width, there.height) == (seen.width, seen.height), "{seen:?}");
        // It draws no pointer, and loses the right edge where the first piece of a picture does not begin in the corner.
        let rows = there.pixels.chunks(there.width).zip(seen.pixels.chunks(seen.width));
        let wrong =
            rows.flat_map(|(there, seen)| there[..700].iter().zip(&seen[..700])).filter(|(one, two)| one != two);
        let wrong = wrong.count();
        ensure!(there.colours() > 1 && wrong < 400, "{wrong} pixels differ");
        Ok(())
    })
    .await?;
    let wrong = vncdotool(&address, "wrong-pw", &["capture", "/dev/null"]).await;
    ensure!(wrong.is_err(), "a wrong password sees something");
    end(child).await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_viewer_is_sent_away() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "800x600"})).await?;
    let mut lively = viewer(&api, &json!({"stream": "vnc"})).await?;
    // RDP's first bytes, HTTP, a message that no viewer sends after a good handshake, and a huge clipboard.
    let good = b"RFB 003.008\n\x01\x01";
    let huge = [&good[..], &[6, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]].concat();
    for bytes in
        [&b"\x03\x00\x00\x13\x0e\xe0\x00\x00"[..], b"GET / HTTP/1.1\r\n\r\n", &[&good[..], &[99]].concat(), &huge]
    {
        use futures::{SinkExt as _, StreamExt as _};
        let ticket = api.ticket("desk").await?;
        let (mut socket, _) = tokio_tungstenite::connect_async(&ticket.url).await?;
        socket.send(bytes.to_vec().into()).await?;
        let ended = async { while let Some(Ok(_)) = socket.next().await {} };
        timeout(secs(20), ended).await.with_context(|| format!("{bytes:?} keeps its socket"))?;
    }
    lively.full_frame().await?;
    let refused = [
        json!({"stream": "vnc", "password": "short"}),
        json!({"stream": "vnc", "password": "with spa"}),
        json!({"stream": "vnc", "seat": "a b"}),
    ];
    for body in refused {
        api.post("/api/v1/sessions/desk/tickets", &body).await?.problem(400, "invalid_request")?;
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_takes_the_control_and_hands_it_back() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "800x600"})).await?;
    let mut other = viewer(&api, &json!({"stream": "vnc", "seat": "script"})).await?;
    let mut browser = Browser::start(cluster.dir()).await?;
    browser.open(&api.link("desk").await?.url).await?;
    browser.wait("#status[data-state=connected]").await?;
    browser.wait("#control-button[aria-pressed=false]").await?;
    browser.click("#control-button").await?;
    browser.wait("#control[data-state=mine]").await?;
    other.type_text("echo too-late >>typed.txt\n").await?;
    other.full_frame().await?;
    browser.screenshot(&pictures()?.join("control.png")).await?;

    // The pointer goes back to the desktop, and what is typed there is heard.
    browser.click("#screen canvas").await?;
    browser.type_text("echo from-the-page >>typed.txt").await?;
    browser.press("Enter").await?;
    eventually("the page is heard", secs(20), || async {
        ensure!(read(&view, "typed.txt") == "from-the-page\n", "{:?}", read(&view, "typed.txt"));
        Ok(())
    })
    .await?;

    // Taken over by somebody else: the page says who, and can take it back.
    api.put(CONTROL, &json!({"seat": "script"})).await?.expect(200)?;
    browser.wait("#control[data-state=taken]").await?;
    let words = browser.texts("#control").await?;
    ensure!(words == ["admin has the control"], "{words:?}");
    browser.click("#control-button").await?;
    browser.wait("#control[data-state=mine]").await?;
    browser.click("#control-button").await?;
    browser.wait("#control-button[aria-pressed=false]").await?;
    types(&mut other, &view, "free-again").await?;

    // A link to look.
    let link = api.post("/api/v1/sessions/desk/links", &json!({"view_only": true})).await?.expect(200)?;
    browser.open("about:blank").await?;
    browser.open(link["url"].as_str().context("no link")?).await?;
    browser.wait("#status[data-state=connected]").await?;
    browser.wait("#control[data-state=free]").await?;
    ensure!(browser.texts("#control").await? == ["You only look"]);
    ensure!(browser.texts("#control-button:not([hidden])").await?.is_empty(), "who only looks is offered the control");
    browser.screenshot(&pictures()?.join("view-only.png")).await?;

    // The page looks at its session now and then, and asks for the control only when it was told that it changed.
    let (looked, asked) = (browser.asked("/sessions/desk").await?, browser.asked("/sessions/desk/control").await?);
    let page = Mutex::new(browser);
    eventually("the page has looked twice", secs(30), || async {
        ensure!(page.lock().await.asked("/sessions/desk").await? >= looked + 2, "not yet");
        Ok(())
    })
    .await?;
    let mut browser = page.into_inner();
    ensure!(
        browser.asked("/sessions/desk/control").await? <= asked + 1,
        "the page asks for the control again and again"
    );
    api.put(CONTROL, &json!({"seat": "script"})).await?.expect(200)?;
    browser.wait("#control[data-state=taken]").await?;
    no_complaints(&mut browser).await?;
    browser.close().await?;
    cluster.shutdown().await
}
