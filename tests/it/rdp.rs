//! RDP: a real client, xfreerdp, on a display of the test's own, through `helixctl session rdp`.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::api::grants::{GrantList, NewGrant};
use helix_protocol::audit::AuditEntry;
use helix_protocol::viewer::ViewerWay;
use helix_tests::eventually::{eventually, secs};
use helix_tests::own_display::OwnDisplay;
use helix_tests::rfb::{Frame, Rfb};
use helix_tests::{Api, Cluster, leftovers, process, programs};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::cli::Cli;
use crate::desktop::truth;
use crate::direct::viewers;

const CONTROL: &str = "/api/v1/sessions/desk/control";
const GRANTS: &str = "/api/v1/sessions/desk/grants";
/// A colour that no client and no dialogue of xrdp's has.
pub const COLOUR: u32 = 0x00b0_1030;

/// A terminal of which every pixel but the letters has [`COLOUR`].
pub async fn painted(cluster: &Cluster) -> Result<SessionView> {
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "800x600"})).await?;
    let text = "printf '\\033]11;#b01030\\007'; clear";
    let actions = json!({"actions": [{"type": "text", "text": text}, {"type": "key", "key": "Return"}]});
    cluster.api()?.post("/api/v1/sessions/desk/input", &actions).await?.expect(200)?;
    eventually("the desktop has its colour", secs(20), || async {
        let shown = of_colour(&truth(&view).await?);
        ensure!(shown > 400_000, "{shown} pixels");
        Ok(())
    })
    .await?;
    Ok(view)
}

/// How many pixels have the desktop's colour.
pub fn of_colour(frame: &Frame) -> usize {
    frame.pixels.iter().filter(|pixel| **pixel & 0x00ff_ffff == COLOUR).count()
}

/// What the session's terminal was told.
pub fn typed(view: &SessionView) -> String {
    let path = std::path::Path::new(view.workspace.as_deref().unwrap_or_default()).join("typed.txt");
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `helixctl session rdp desk --json …` while it runs, and what it prints.
async fn port(cluster: &Cluster, more: &[&str]) -> Result<(Child, Value)> {
    let cli = Cli::new(cluster)?;
    let mut child = Command::new(programs::ours("helixctl")?)
        .args(["--url", &cli.url, "--token-file", &cli.token_file, "session", "rdp", "desk", "--json"])
        .args(more)
        .env("HOME", &cli.home)
        .env_remove("DISPLAY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let line = timeout(secs(20), lines.next_line()).await??.context("it says nothing")?;
    Ok((child, serde_json::from_str(&line)?))
}

async fn end(mut child: Child) -> Result<()> {
    process::signal_pid(child.id().context("it ended")?, rustix::process::Signal::TERM)?;
    ensure!(timeout(secs(10), child.wait()).await??.success(), "it did not end well");
    Ok(())
}

/// xfreerdp on this display, as large as it.
pub fn freerdp(outer: &OwnDisplay, address: &str, user: &str, password: &str) -> Result<Child> {
    freerdp_with(outer, address, user, password, &["/size:800x600"])
}

fn freerdp_with(outer: &OwnDisplay, address: &str, user: &str, password: &str, more: &[&str]) -> Result<Child> {
    let child = Command::new(programs::installed("xfreerdp")?)
        .args([&format!("/v:{address}"), &format!("/u:{user}"), &format!("/p:{password}")])
        .args(["/d:", "/cert:ignore", "/sec:tls", "+clipboard", "-decorations"])
        .args(more)
        .envs(outer.environment())
        .env("HOME", outer.authority.parent().context("no directory")?)
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// Waits until this display shows what the session's shows.
pub async fn same_picture(outer: &OwnDisplay, view: &SessionView) -> Result<()> {
    eventually("the client shows the desktop", secs(40), || async {
        let (there, here) = (truth(view).await?, outer.screen().await?);
        let differ = there.differs_visibly(&here, 8);
        ensure!(of_colour(&here) > 300_000 && differ < 4_000, "{} pixels, {differ} differ", of_colour(&here));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rdp_client_shows_the_desktop_and_types() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view = painted(&cluster).await?;
    let (opened, told) = port(&cluster, &["--seat", "couch"]).await?;
    let text = |key: &str| told[key].as_str().context(told.to_string());
    let (address, user, password) = (text("address")?, text("username")?, text("password")?);
    ensure!(user == "zed" && password.len() == 8, "{told}");

    let dir = tempfile::tempdir()?;
    let outer = OwnDisplay::start(dir.path(), "800x600").await?;
    // Before it comes: xrdp is sure to take a connection's first copy alone.
    let mut keys = Rfb::unix(&outer.socket).await?;
    keys.paste("copied here").await?;
    let mut client = freerdp(&outer, address, user, password)?;
    same_picture(&outer, &view).await?;
    private_network(&cluster)?;

    // What is typed at the client's display is typed there.
    keys.type_text("echo by-rdp >>typed.txt\n").await?;
    eventually("the client is heard", secs(20), || async {
        ensure!(typed(&view).contains("by-rdp"), "{:?}", typed(&view));
        Ok(())
    })
    .await?;
    // What was copied at the client's display is on the desktop.
    eventually("the client's clipboard is the desktop's", secs(20), || async {
        let there = api.get("/api/v1/sessions/desk/clipboard").await?;
        ensure!(there.text.contains("copied here"), "{} {}", there.status, there.text);
        Ok(())
    })
    .await?;
    // What is copied on the desktop reaches the client's display.
    api.put("/api/v1/sessions/desk/clipboard", &json!({"text": "copied there"})).await?.expect(204)?;
    timeout(secs(20), async {
        while keys.copied.as_deref() != Some("copied there") {
            keys.full_frame().await?;
        }
        anyhow::Ok(())
    })
    .await
    .with_context(|| format!("the clipboard did not come: {:?}", keys.copied))??;
    // The lease holds for it as for everybody: its own seat types, another's takes that away.
    api.put(CONTROL, &json!({"seat": "couch"})).await?.expect(200)?;
    keys.type_text("echo held >>typed.txt\n").await?;
    eventually("who holds the control is heard", secs(20), || async {
        ensure!(typed(&view).contains("held"), "{:?}", typed(&view));
        Ok(())
    })
    .await?;
    api.put(CONTROL, &json!({"seat": "else"})).await?.expect(200)?;
    keys.type_text("echo too-late >>typed.txt\n").await?;

    // Its grant is in the list without the password; revoked, it ends what it opened.
    let grants: GrantList = api.get(GRANTS).await?.json()?;
    let [grant] = &grants.grants[..] else { anyhow::bail!("{grants:?}") };
    ensure!(!api.get(GRANTS).await?.text.contains(password), "the list tells passwords");
    ensure!(client.try_wait()?.is_none(), "the client has left");
    let revoke = async {
        api.delete(&format!("{GRANTS}/{}", grant.id)).await?.expect(200)?;
        anyhow::Ok(Instant::now())
    };
    let closed = async {
        timeout(secs(20), client.wait()).await.context("the client outlives its grant")??;
        anyhow::Ok(Instant::now())
    };
    let (revoked, closed) = tokio::try_join!(revoke, closed)?;
    let late = closed.saturating_duration_since(revoked);
    ensure!(late < secs(1), "the client left {late:?} after its grant was revoked");
    api.delete(&format!("{GRANTS}/{}", grant.id)).await?.problem(404, "grant_not_found")?;
    refused(&outer, address, user, password).await?;
    // Whatever was on its way has come by now, or never will.
    ensure!(!typed(&view).contains("too-late"), "who does not hold the control was heard: {}", typed(&view));

    // The port's end revokes its grant, which is gone already: a word of warning and no more.
    end(opened).await?;
    let audit = api.get("/api/v1/audit?limit=1000").await?.text;
    ensure!(
        audit.contains("POST /sessions/{id}/grants") && audit.contains("DELETE /sessions/{id}/grants/{grant}"),
        "{audit}"
    );
    ensure!(!audit.contains(password), "the trail tells a password");
    outer.end().await?;
    no_secret_in_logs(&cluster, password)?;
    cluster.shutdown().await
}

/// The desktop takes each size that a client's window takes, and a client that may not type takes the desktop's.
#[tokio::test(flavor = "multi_thread")]
async fn the_desktop_follows_the_size_of_who_may_type() -> Result<()> {
    let cluster = Cluster::small().await?;
    let view = painted(&cluster).await?;
    let (opened, told) = port(&cluster, &[]).await?;
    let (address, password) =
        (told["address"].as_str().context("no address")?.to_owned(), told["password"].as_str().context("none")?);
    let dir = tempfile::tempdir()?;
    let outer = OwnDisplay::start(dir.path(), "1000x700").await?;
    let mut client = freerdp_with(&outer, &address, "zed", password, &["/size:800x600", "/dynamic-resolution"])?;
    eventually("the client shows the desktop", secs(40), || async {
        let shown = of_colour(&outer.screen().await?);
        ensure!(shown > 300_000, "{shown} pixels");
        Ok(())
    })
    .await?;
    outer.resize_windows(1000, 700).await?;
    let has_size = async |width: usize, height: usize| {
        eventually("the desktop has that size", secs(20), || async {
            let there = truth(&view).await?;
            ensure!((there.width, there.height) == (width, height), "{}x{}", there.width, there.height);
            Ok(())
        })
        .await
    };
    has_size(1000, 700).await?;
    same_picture(&outer, &view).await?;
    client.kill().await?;

    // One that only looks is asked for nothing, neither when it comes nor later; it shows the desktop as it is.
    let look: NewGrant = cluster.api()?.post(GRANTS, &json!({"view_only": true, "ttl_seconds": 600})).await?.json()?;
    let mut looks = freerdp_with(&outer, &address, "zed", &look.password, &["/size:640x480", "/dynamic-resolution"])?;
    same_picture(&outer, &view).await?;
    outer.resize_windows(900, 650).await?;
    same_picture(&outer, &view).await?;
    has_size(1000, 700).await?;
    looks.kill().await?;
    end(opened).await?;

    // Where there is a display the command starts the client itself, and its end is the client's.
    let cli = Cli::new(&cluster)?;
    let started = Command::new(programs::ours("helixctl")?)
        .args(["--url", &cli.url, "--token-file", &cli.token_file, "session", "rdp", "desk"])
        .envs(outer.environment())
        .env("HOME", dir.path())
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    eventually("the client that it started shows the desktop", secs(40), || async {
        let shown = of_colour(&outer.screen().await?);
        ensure!(shown > 300_000, "{shown} pixels");
        Ok(())
    })
    .await?;
    end(started).await?;
    eventually("the client has left", secs(20), || async {
        let shown = of_colour(&outer.screen().await?);
        ensure!(shown == 0, "{shown} pixels");
        Ok(())
    })
    .await?;
    outer.end().await?;
    cluster.shutdown().await
}

/// Until the client has left, and a moment more: none of its pixels is the desktop's.
async fn refused(outer: &OwnDisplay, address: &str, user: &str, password: &str) -> Result<()> {
    let mut client = freerdp(outer, address, user, password)?;
    let deadline = Instant::now() + secs(40);
    loop {
        let seen = of_colour(&outer.screen().await?);
        ensure!(seen == 0, "{user} with {password:?} saw {seen} pixels of the desktop");
        if client.try_wait()?.is_some() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{user} with {password:?} is not sent away");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_no_password_never_sees_a_pixel() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view = painted(&cluster).await?;
    let (opened, told) = port(&cluster, &[]).await?;
    let (address, password) =
        (told["address"].as_str().context("no address")?.to_owned(), told["password"].as_str().context("none")?);
    let dir = tempfile::tempdir()?;
    let outer = OwnDisplay::start(dir.path(), "800x600").await?;
    refused(&outer, &address, "zed", "wrong123").await?;
    refused(&outer, &address, "ann", password).await?;

    // What is no RDP client at all: closed, and nothing comes but a refusal in RDP's own words.
    let long = [&[3, 0, 2, 0][..], &[0x41; 2000]].concat();
    let ann = b"\x03\x00\x00\x29\x24\xe0\x00\x00\x00\x00\x00Cookie: mstshash=ann\r\n\x01\x00\x08\x00\x03\x00\x00\x00";
    for (bytes, answered) in
        [(&b"GET / HTTP/1.1\r\n\r\n"[..], 0), (b"\x03\x00\x00\x05\x00\x00", 0), (&long, 0), (&[0xff; 64], 0), (ann, 19)]
    {
        let mut stream = TcpStream::connect(&address).await?;
        // It may be closed before all is said.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = timeout(secs(20), stream.read_to_end(&mut answer)).await.context("it is not closed")?;
        ensure!(answer.len() == answered, "{bytes:?}: {answer:?}");
    }

    // And none of that keeps the right one out; one to look is not heard.
    let look: NewGrant = api.post(GRANTS, &json!({"view_only": true, "ttl_seconds": 600})).await?.json()?;
    let mut looks = freerdp(&outer, &address, "zed", &look.password)?;
    same_picture(&outer, &view).await?;
    let mut keys = Rfb::unix(&outer.socket).await?;
    keys.type_text("echo not-allowed >>typed.txt\n").await?;
    keys.full_frame().await?;
    looks.kill().await?;
    let mut right = freerdp(&outer, &address, "zed", password)?;
    same_picture(&outer, &view).await?;
    keys.type_text("echo allowed >>typed.txt\n").await?;
    eventually("the right one is heard", secs(20), || async {
        ensure!(typed(&view).contains("allowed"), "{:?}", typed(&view));
        Ok(())
    })
    .await?;
    ensure!(!typed(&view).contains("not-allowed"), "who only looks was heard");

    // Who came and who did not is in the trail, with whose port it was, and the grant of those who came in.
    eventually("the trail tells all of it", secs(40), || async {
        let trail = viewers(&api, "desk").await?;
        let of = |result: &str| {
            let entries = trail.iter().filter(|entry| entry.result == result && entry.principal == "admin");
            let is_rdp = |entry: &&AuditEntry| entry.entrance.as_ref().is_some_and(|came| came.way == ViewerWay::Rdp);
            entries.filter(is_rdp).map(|entry| entry.repeated + 1).sum::<u32>()
        };
        let told = ["wrong_password", "wrong_user", "not_rdp", "ok"].map(of);
        // xfreerdp may try a second time in another way.
        ensure!(told[0] >= 1 && told[1] >= 2 && told[2] == 4 && told[3] == 2, "{told:?}: {trail:?}");
        Ok(())
    })
    .await?;
    let text = api.get("/api/v1/audit?limit=1000").await?.text;
    ensure!(!text.contains(password) && !text.contains(&look.password), "the trail tells a password");

    // The end of the session is the client's, and everybody's who served it.
    api.stop("desk").await?;
    timeout(secs(30), right.wait()).await.context("the client outlives the session")??;
    api.post(GRANTS, &json!({})).await?.problem(409, "session_ended")?;
    end(opened).await.ok();
    outer.end().await?;
    cluster.shutdown().await
}

/// xrdp and the unit that it belongs to are in no network that others are in.
fn private_network(cluster: &Cluster) -> Result<()> {
    let ours = std::fs::read_link("/proc/self/ns/net")?;
    let mut found = 0;
    for line in leftovers::processes(cluster.dir())? {
        let (pid, command) = line.split_once(' ').unwrap_or_default();
        if command.starts_with("xrdp ") || command.contains(" rdp --socket=") {
            let theirs = std::fs::read_link(format!("/proc/{pid}/ns/net"))?;
            ensure!(theirs != ours, "{line} is in the machine's network");
            found += 1;
        }
    }
    ensure!(found >= 2, "{found} processes serve RDP");
    Ok(())
}

/// No file that the cluster wrote but the runner's ledger, which is private, has the password.
fn no_secret_in_logs(cluster: &Cluster, password: &str) -> Result<()> {
    for entry in std::fs::read_dir(cluster.dir())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            ensure!(!String::from_utf8_lossy(&std::fs::read(&path)?).contains(password), "{} has it", path.display());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_made_listed_and_revoked_by_command() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api: Api = cluster.api()?;
    cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "800x600"})).await?;
    let cli = Cli::new(&cluster)?;
    let said = cli.plain(0, &["session", "grant", "desk", "--ttl", "600"]).await?;
    let password = said.trim().strip_prefix("user zed password ").with_context(|| said.clone())?.to_owned();
    ensure!(password.len() == 8 && password.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{said}");
    let made = cli.json(0, &["session", "grant", "desk", "--view-only", "--seat", "couch"]).await?;
    ensure!(made["role"] == "view" && made["enforced"] == true, "{made}");
    let list = cli.json(0, &["session", "grant", "desk", "--list"]).await?;
    let ids: Vec<&str> =
        list["grants"].as_array().context("none")?.iter().filter_map(|grant| grant["id"].as_str()).collect();
    ensure!(ids.len() == 2 && ids[1] == made["id"].as_str().unwrap_or_default(), "{list}");
    ensure!(list["grants"][1]["seat"] == "couch" && !list.to_string().contains(&password), "{list}");
    cli.plain(0, &["session", "grant", "desk", "--revoke", ids[0]]).await?;
    cli.plain(1, &["session", "grant", "desk", "--revoke", ids[0]]).await?;
    for body in [json!({"ttl_seconds": 1}), json!({"ttl_seconds": 10_000_000}), json!({"seat": "a b"})] {
        api.post(GRANTS, &body).await?.problem(400, "invalid_request")?;
    }

    // Few at once: one more is refused, and nobody's ends for it. A link to the desktop makes none: it would outlive
    // itself.
    for _ in 0..31 {
        api.post(GRANTS, &json!({})).await?.expect(200)?;
    }
    api.post(GRANTS, &json!({})).await?.problem(429, "too_many_requests")?;
    let grants: GrantList = api.get(GRANTS).await?.json()?;
    ensure!(grants.grants.len() == 32 && grants.grants[0].seat.is_some(), "{grants:?}");
    let link = api.link("desk").await?;
    let guest = api.with_token(link.url.split_once("#token=").context("no token")?.1);
    guest.post(GRANTS, &json!({})).await?.problem(403, "forbidden")?;
    guest.get(GRANTS).await?.problem(403, "forbidden")?;
    guest.get("/api/v1/external-agents/desk/rdp").await?.problem(403, "forbidden")?;
    cluster.shutdown().await
}
