//! Ports of a runner at which native viewers reach its sessions: the documents' own lines, and what is refused.
//!
//! Each test's runner listens on an address of the loopback network of its own, so that the documents' ports are free.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::api::audit::AuditPage;
use helix_protocol::api::grants::GrantList;
use helix_protocol::audit::AuditEntry;
use helix_protocol::external_agents::RdpConnection;
use helix_tests::browser::Browser;
use helix_tests::eventually::{eventually, secs};
use helix_tests::own_display::OwnDisplay;
use helix_tests::rfb::{Frame, Rfb};
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster, programs};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::browser::no_complaints;
use crate::cli::Cli;
use crate::desktop::truth;
use crate::rdp::{of_colour, painted, typed};

async fn cluster(listen: &str) -> Result<Cluster> {
    Cluster::builder().runner(RunnerSpec::new("r1").direct(listen)).start().await
}

/// The documents' route: where to connect, and with what.
async fn rdp(api: &Api) -> Result<RdpConnection> {
    api.get("/api/v1/external-agents/desk/rdp").await?.json()
}

/// A line of the documents, with the password in its place, where `localhost` is this address. It is asked whether it
/// trusts the session's certificate, and does.
fn line(line: &str, address: &str, outer: &OwnDisplay, password: &str, dir: &Path) -> Result<Child> {
    let hosts = dir.join("hosts");
    std::fs::write(&hosts, format!("{address} localhost\n"))?;
    let script = format!(
        "mount --bind '{}' /etc/hosts && exec setpriv --pdeathsig KILL -- {}",
        hosts.display(),
        line.replace("secure_password", password)
    );
    let mut child = Command::new(programs::installed("unshare")?)
        .args(["--map-root-user", "--mount", "--", "bash", "-c", &script])
        .envs(outer.environment())
        .env("HOME", dir)
        .env("LANG", "C.UTF-8")
        // The documents' line for the viewer has no password.
        .env("VNC_PASSWORD", password)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut answers = child.stdin.take().context("no input")?;
    // One of them wants the word, the other its first letter.
    let said = if line.starts_with("rdesktop") { "yes\n" } else { "Y\n" };
    tokio::spawn(async move { answers.write_all(said.as_bytes()).await });
    Ok(child)
}

/// Gives the page a password, and waits for what comes of it.
async fn enter(browser: &mut Browser, password: &str, state: &str) -> Result<()> {
    browser.fill("#password", password).await?;
    browser.click("#enter").await?;
    browser.wait(&format!("html[data-state={state}]")).await
}

/// Waits until most of the desktop is on this display, whatever else its viewer draws.
async fn is_shown(outer: &OwnDisplay, view: &SessionView, line: &str) -> Result<()> {
    eventually(&format!("{line} shows the desktop"), secs(40), || async {
        let (there, here): (Frame, Frame) = (truth(view).await?, outer.screen().await?);
        let (there, here) = (of_colour(&there), of_colour(&here));
        ensure!(there > 100_000 && here * 10 > there * 6, "{here} of {there} pixels are there");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_lines_for_a_desktop_work() -> Result<()> {
    const ADDRESS: &str = "127.77.6.1";
    let cluster = cluster(ADDRESS).await?;
    let api = cluster.api()?;
    let view = painted(&cluster).await?;
    let told = rdp(&api).await?;
    ensure!(told.rdp_url.as_deref() == Some("rdp://127.77.6.1:3389"), "{told:?}");
    ensure!(
        told.rdp_port == Some(3389) && told.host.as_deref() == Some(ADDRESS) && told.status == "running",
        "{told:?}"
    );
    let password = told.rdp_password.context("no password")?;
    let view = SessionView { endpoints: api.session("desk").await?.endpoints, ..view };
    ensure!(view.endpoints.rdp.as_deref() == Some("rdp://127.77.6.1:3389"), "{:?}", view.endpoints);
    ensure!(view.endpoints.direct_vnc.as_deref() == Some("vnc://127.77.6.1:5901"), "{:?}", view.endpoints);
    ensure!(view.endpoints.direct_page.as_deref() == Some("http://127.77.6.1:6901/vnc.html"), "{:?}", view.endpoints);

    for words in [
        "rdesktop -u zed -p secure_password localhost:5901",
        "xfreerdp /u:zed /p:secure_password /v:localhost:5901",
        "vncviewer localhost:5901",
        // And at its own port.
        "xfreerdp /u:zed /p:secure_password /v:localhost",
    ] {
        let dir = tempfile::tempdir()?;
        // As large as what a client that is told nothing asks for.
        let outer = OwnDisplay::start(dir.path(), "1024x768").await?;
        let mut client = line(words, ADDRESS, &outer, &password, dir.path())?;
        is_shown(&outer, &view, words).await?;
        client.kill().await?;
        outer.end().await?;
    }

    let mut browser = Browser::start(cluster.dir()).await?;
    browser.open("http://127.77.6.1:6901/vnc.html").await?;
    browser.wait("#door:not([hidden])").await?;
    enter(&mut browser, &password, "connected").await?;
    browser.click("#screen canvas").await?;
    browser.type_text("echo by-page >>typed.txt").await?;
    browser.press("Enter").await?;
    eventually("the page is heard", secs(20), || async {
        ensure!(typed(&view).contains("by-page"), "{:?}", typed(&view));
        Ok(())
    })
    .await?;
    no_complaints(&mut browser).await?;
    // noVNC itself complains of this one.
    browser.open("http://127.77.6.1:6901/vnc.html").await?;
    enter(&mut browser, "wrong123", "refused").await?;
    browser.close().await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_of_one_session_and_gone_with_it() -> Result<()> {
    const ADDRESS: &str = "127.77.6.2";
    let mut cluster = Cluster::builder()
        .runner(RunnerSpec::new("r1").direct(ADDRESS))
        .runner(RunnerSpec::new("r2").direct(ADDRESS))
        .start()
        .await?;
    let api = cluster.api()?;
    let mut seen = Vec::new();
    for id in ["one", "two", "three"] {
        cluster.ready(&json!({"id": id, "kind": "terminal", "geometry": "640x480"})).await?;
        let endpoints = eventually("its ports are told", secs(20), || async {
            let endpoints = api.session(id).await?.endpoints;
            endpoints.direct_vnc.context("not yet").map(|vnc| (vnc, endpoints.rdp, endpoints.direct_page))
        })
        .await?;
        ensure!(!seen.contains(&endpoints), "two sessions have {endpoints:?}");
        seen.push(endpoints);
    }
    // The runner's next agentd opens the same ones, and what was there before goes on.
    let grant = api.post("/api/v1/sessions/one/grants", &json!({})).await?.expect(200)?;
    let password = grant["password"].as_str().context("no password")?;
    for number in 0..2 {
        cluster.runners[number].kill().await?;
        cluster.runners[number].start().await?;
    }
    let address = seen[0].0.strip_prefix("vnc://").context("no address")?.to_owned();
    let mut viewer = eventually("the port is open again", secs(20), || async {
        Rfb::with_password(TcpStream::connect(&address).await?, password).await
    })
    .await?;
    ensure!(viewer.full_frame().await?.colours() > 1);
    let again = api.session("one").await?.endpoints;
    ensure!(again.direct_vnc.as_ref() == Some(&seen[0].0) && again.rdp == seen[0].1, "{again:?} {seen:?}");

    // Another session's grant is none here.
    let foreign = api.post("/api/v1/sessions/two/grants", &json!({})).await?.expect(200)?;
    let foreign = foreign["password"].as_str().context("no password")?;
    ensure!(Rfb::with_password(TcpStream::connect(&address).await?, foreign).await.is_err(), "a foreign grant is good");

    // Revoked, it ends what it opened; stopped, the session closes its ports.
    let grant = format!("/api/v1/sessions/one/grants/{}", grant["id"].as_str().unwrap_or_default());
    let revoke = async {
        api.delete(&grant).await?.expect(200)?;
        anyhow::Ok(tokio::time::Instant::now())
    };
    let closed = async {
        timeout(secs(20), viewer.ended()).await.context("the viewer outlives its grant")?;
        anyhow::Ok(tokio::time::Instant::now())
    };
    let (revoked, closed) = tokio::try_join!(revoke, closed)?;
    let late = closed.saturating_duration_since(revoked);
    ensure!(late < secs(1), "closed {late:?} after its grant was revoked");
    api.stop("one").await?;
    eventually("its port is closed", secs(20), || async {
        ensure!(TcpStream::connect(&address).await.is_err(), "still open");
        Ok(())
    })
    .await?;
    ensure!(api.session("one").await?.endpoints.direct_vnc.is_none());
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_viewer_gets_nothing_at_a_direct_port() -> Result<()> {
    const ADDRESS: &str = "127.77.6.3";
    let cluster = cluster(ADDRESS).await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "640x480"})).await?;
    let password = rdp(&api).await?.rdp_password.context("no password")?;
    let say = async |port: u16, bytes: &[u8]| -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect((ADDRESS, port)).await?;
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = timeout(secs(20), stream.read_to_end(&mut answer)).await.context("it is not closed")?;
        Ok(answer)
    };
    ensure!(say(5901, b"GET / HTTP/1.1\r\n\r\n").await? == b"RFB 003.008\n", "HTTP at the VNC port");
    ensure!(say(5901, b"\x03\x00\x00\x05\x00").await?.is_empty(), "a broken RDP request at the VNC port");
    ensure!(say(3389, b"RFB 003.008\n").await?.is_empty(), "RFB at the RDP port");
    let page = say(6901, b"GET /vnc.html HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let page = String::from_utf8_lossy(&page);
    ensure!(
        page.starts_with("HTTP/1.1 200 OK") && page.contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    let upgrade = "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k\r\n";
    let foreign =
        format!("GET /websockify HTTP/1.1\r\nHost: {ADDRESS}:6901\r\n{upgrade}Origin: http://evil.example\r\n\r\n");
    ensure!(say(6901, foreign.as_bytes()).await?.starts_with(b"HTTP/1.1 403"), "a page of another site's");

    // A hundred at the door and a hundred wrong: the right one comes in all the same, from another address.
    let knock = async |number: u8| -> Result<()> {
        let stream = TcpStream::connect((ADDRESS, 5901)).await?;
        let wrong = format!("wrong{number:03}");
        let came = Rfb::with_password(stream, &wrong).await;
        ensure!(came.is_err(), "{wrong} came in");
        Ok(())
    };
    let knocks = futures::future::join_all((0..100).map(knock));
    let right = async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind("127.77.6.9:0".parse()?)?;
        let stream = socket.connect("127.77.6.3:5901".parse()?).await?;
        let mut viewer = Rfb::with_password(stream, &password).await?;
        ensure!(viewer.full_frame().await?.colours() > 1);
        anyhow::Ok(())
    };
    let (knocks, right) = tokio::join!(knocks, right);
    right?;
    knocks.into_iter().collect::<Result<Vec<()>>>()?;

    // Each of them is in the trail, as one line per cause in ten seconds.
    let before = ["not_rfb", "not_rdp", "foreign_origin"];
    let ways = ["direct_vnc", "direct_rdp", "direct_page"];
    let trail = eventually("the trail counts everybody", secs(40), || async {
        let trail = viewers(&api, "desk").await?;
        let wrong: Vec<_> = trail.iter().filter(|entry| entry.result == "wrong_password").collect();
        let crowded: Vec<_> = trail.iter().filter(|entry| entry.result == "crowded").collect();
        let told = wrong.iter().chain(&crowded).map(|entry| entry.repeated + 1).sum::<u32>();
        ensure!(told == 100, "{told} of 100: {trail:?}");
        ensure!(wrong.len() + crowded.len() <= 10, "a line for each: {trail:?}");
        for (cause, way) in before.iter().zip(ways) {
            let is_there = |entry: &&AuditEntry| entry.result == *cause && is_at(entry, way, "127.0.0.1");
            ensure!(trail.iter().any(|entry| is_there(&entry)), "{cause} at {way} is missing: {trail:?}");
        }
        Ok(trail)
    })
    .await?;
    let grants: GrantList = api.get("/api/v1/sessions/desk/grants").await?.json()?;
    let joined: Vec<_> = trail.iter().filter(|entry| entry.action == "viewer.joined").collect();
    let [joined] = &joined[..] else { anyhow::bail!("{joined:?}") };
    ensure!(joined.result == "ok" && joined.principal == "admin", "{joined:?}");
    ensure!(is_at(joined, "direct_vnc", "127.77.6.9"), "{joined:?}");
    let by = joined.entrance.as_ref().and_then(|entrance| entrance.grant.clone());
    ensure!(by.is_some_and(|by| grants.grants.iter().any(|grant| grant.id == by)), "{joined:?} {grants:?}");
    let text = api.get("/api/v1/audit?limit=1000").await?.text;
    ensure!(!text.contains(&password) && !text.contains("wrong0"), "the trail tells passwords");
    let shown = Cli::new(&cluster)?.plain(0, &["audit", "--refused", "--target", "desk"]).await?;
    ensure!(shown.contains("?  viewer.refused  desk  wrong_password  direct VNC from 127."), "{shown}");
    cluster.shutdown().await
}

/// What the trail says of viewers of this session.
pub async fn viewers(api: &Api, session: &str) -> Result<Vec<AuditEntry>> {
    let page: AuditPage = api.get(&format!("/api/v1/audit?limit=1000&target={session}")).await?.json()?;
    let entries = page.entries.into_iter().map(|item| item.entry);
    Ok(entries.filter(|entry| entry.action.starts_with("viewer.")).collect())
}

fn is_at(entry: &AuditEntry, way: &str, address: &str) -> bool {
    let entrance = entry.entrance.as_ref().and_then(|entrance| serde_json::to_value(entrance).ok());
    entrance.is_some_and(|entrance| entrance["way"] == way && entrance["address"] == address)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_from_another_network_is_closed_and_told() -> Result<()> {
    const ADDRESS: &str = "127.77.6.5";
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").direct_for(ADDRESS, "127.77.6.0/24")).start().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "640x480"})).await?;
    for _ in 0..5 {
        let mut stream = TcpStream::connect((ADDRESS, 5901)).await?; // from 127.0.0.1
        let mut answer = Vec::new();
        let _ = timeout(secs(20), stream.read_to_end(&mut answer)).await.context("it is not closed")?;
        ensure!(answer.is_empty(), "{answer:?}");
    }
    eventually("the trail says so", secs(40), || async {
        let trail = viewers(&api, "desk").await?;
        let told =
            trail.iter().filter(|entry| entry.result == "foreign_network" && is_at(entry, "direct_vnc", "127.0.0.1"));
        let told = told.map(|entry| entry.repeated + 1).sum::<u32>();
        ensure!(told == 5, "{told}: {trail:?}");
        Ok(())
    })
    .await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_keeps_out_nobody() -> Result<()> {
    const ADDRESS: &str = "127.77.6.4";
    const REQUEST: &[u8] =
        b"\x03\x00\x00\x29\x24\xe0\x00\x00\x00\x00\x00Cookie: mstshash=zed\r\n\x01\x00\x08\x00\x03\x00\x00\x00";
    let cluster = cluster(ADDRESS).await?;
    let view = painted(&cluster).await?;
    let password = rdp(&cluster.api()?).await?.rdp_password.context("no password")?;
    let dir = tempfile::tempdir()?;
    let outer = OwnDisplay::start(dir.path(), "1024x768").await?;
    // More than have room, of one address, each with the first word of a client and no more.
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect((ADDRESS, 3389)).await?;
        // The first of them may have lost their places by now.
        let _ = stream.write_all(REQUEST).await;
        silent.push(stream);
    }
    let words = "xfreerdp /u:zed /p:secure_password /v:localhost";
    let mut client = line(words, ADDRESS, &outer, &password, dir.path())?;
    is_shown(&outer, &view, words).await?;
    // Nor do they stay, and none of them takes anything from who is in.
    for mut stream in silent {
        let mut said = Vec::new();
        // It may be broken off.
        let _ = timeout(secs(20), stream.read_to_end(&mut said)).await.context("a silent client is not closed")?;
    }
    is_shown(&outer, &view, words).await?;
    ensure!(client.try_wait()?.is_none(), "who is in was sent away");
    client.kill().await?;
    outer.end().await?;
    cluster.shutdown().await
}
