//! The desktop through the server: tickets, the relay, and the picture that the X server really shows.

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::refusal;
use helix_tests::rfb::{Frame, Rfb};
use helix_tests::{Api, Cluster, leftovers, process, x};
use serde_json::json;

use crate::cli::Cli;

/// What the X server shows now.
pub async fn truth(view: &SessionView) -> Result<Frame> {
    let view = view.clone();
    tokio::task::spawn_blocking(move || x::screen(&view)).await?
}

/// Waits until the viewer's picture is exactly the X server's, and not an empty one.
async fn same_picture(rfb: &mut Rfb, view: &SessionView) -> Result<Frame> {
    let deadline = tokio::time::Instant::now() + secs(20);
    loop {
        let before = truth(view).await?;
        let seen = rfb.full_frame().await?.clone();
        let differ = before.differs(&seen);
        if differ == 0 && seen.colours() > 1 {
            return Ok(seen);
        }
        ensure!(tokio::time::Instant::now() < deadline, "{differ} pixels differ: {seen:?} against {before:?}");
    }
}

async fn opened(api: &Api, id: &str) -> Result<Rfb> {
    Rfb::ticket(&api.ticket(id).await?.url).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_viewer_sees_what_x_shows_and_can_type() -> Result<()> {
    sees_and_types("xtigervnc").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_viewer_sees_what_xvfb_shows_and_can_type() -> Result<()> {
    sees_and_types("xvfb").await
}

async fn sees_and_types(server: &str) -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let wanted = json!({"id": "desk", "kind": "terminal", "geometry": "1000x700", "display_server": server});
    let view = cluster.ready(&wanted).await?;
    let mut rfb = opened(&api, "desk").await?;
    ensure!((rfb.frame.width, rfb.frame.height) == (1000, 700), "{:?}", rfb.frame);
    let before = same_picture(&mut rfb, &view).await.context("before typing")?;

    rfb.type_text("echo typed >typed.txt; seq 40\n").await?;
    let workspace = std::path::PathBuf::from(view.workspace.clone().unwrap_or_default());
    eventually("the typed command runs", secs(20), || async {
        ensure!(std::fs::read(workspace.join("typed.txt"))? == b"typed\n", "not written yet");
        Ok(())
    })
    .await?;
    rfb.change().await.context("the change is not pushed")?;
    let after = same_picture(&mut rfb, &view).await.context("after typing")?;
    ensure!(before.differs(&after) > 500, "typing changed {} pixels", before.differs(&after));

    // A second viewer shares the same desktop.
    let mut second = opened(&api, "desk").await?;
    ensure!(second.full_frame().await?.differs(&after) == 0, "the second viewer sees something else");

    // Whoever comes later sees it as large as it is then.
    let size = json!({"width": 900, "height": 650});
    api.put("/api/v1/sessions/desk/display", &size).await?.expect(200)?;
    let mut third = opened(&api, "desk").await?;
    ensure!((third.frame.width, third.frame.height) == (900, 650), "{:?}", third.frame);
    same_picture(&mut third, &view).await.context("after another size")?;

    // The end of the session ends its viewers.
    api.stop("desk").await?;
    api.wait_phase("desk", SessionPhase::Stopped, READY).await?;
    ensure!(tokio::time::timeout(secs(10), third.change()).await?.is_err(), "the stream outlives its session");
    api.post("/api/v1/sessions/desk/tickets", &json!({"stream": "vnc"})).await?.problem(409, "session_not_ready")?;
    cluster.shutdown().await
}

/// X0tigervnc left a picture of the screen in Xvfb's memory each time that its last viewer had gone.
#[tokio::test(flavor = "multi_thread")]
async fn viewers_leave_nothing_in_xvfb() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "desk", "kind": "terminal", "display_server": "xvfb"})).await?;
    let pid = |program: &str| -> Result<u32> {
        let all = leftovers::processes(cluster.dir())?;
        let mut of = all.iter().filter_map(|line| line.split_once(' '));
        let (pid, _) = of.find(|(_, command)| command.starts_with(program)).context("it does not run")?;
        Ok(pid.parse()?)
    };
    let (screen, view) = (pid("Xvfb")?, pid("X0tigervnc")?);
    let segments = || -> Result<usize> {
        Ok(std::fs::read_to_string(format!("/proc/{screen}/maps"))?
            .lines()
            .filter(|line| line.contains("SYSV"))
            .count())
    };
    let connections = || Ok::<_, anyhow::Error>(std::fs::read_dir(format!("/proc/{view}/fd"))?.count());
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut viewer = opened(&api, "desk").await?;
        viewer.full_frame().await?;
        seen.push(segments()?);
        let with_viewer = connections()?;
        drop(viewer);
        eventually("the viewer is gone", secs(10), || async {
            ensure!(connections()? < with_viewer, "{with_viewer} connections");
            Ok(())
        })
        .await?;
    }
    ensure!(seen[0] > 0, "X0tigervnc shares no picture with Xvfb: look for another way to count");
    ensure!(seen[1..].iter().all(|segments| *segments == seen[0]), "segments: {seen:?}");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_stream_once() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "one", "kind": "terminal"})).await?;
    cluster.ready(&json!({"id": "two", "kind": "terminal"})).await?;

    let ticket = api.ticket("one").await?;
    ensure!(ticket.expires_at.duration_since(jiff::Timestamp::now()).as_secs() <= 60, "it lives longer than 60 s");
    let path = |id: &str, ticket: &str| format!("/api/v1/sessions/{id}/streams/vnc?ticket={ticket}");
    let anonymous = api.with_token("");
    // A ticket for another session, a wrong one, none, and a bearer instead of one.
    ensure!(refusal(anonymous.socket(&path("two", &ticket.ticket)).await)? == 401, "a ticket opened another session");
    ensure!(refusal(anonymous.socket(&path("one", "wrong")).await)? == 401, "a wrong ticket opened it");
    ensure!(refusal(anonymous.socket("/api/v1/sessions/one/streams/vnc").await)? == 401, "no ticket opened it");

    let ticket = api.ticket("one").await?;
    let mut rfb = Rfb::ticket(&ticket.url).await?;
    ensure!(refusal(anonymous.socket(&path("one", &ticket.ticket)).await)? == 401, "a used ticket opened it again");
    rfb.full_frame().await?;

    // Of many at once with the same ticket, one gets in.
    let ticket = api.ticket("one").await?;
    let tries = (0..6).map(|_| anonymous.socket(&ticket.url[ticket.url.find("/api").unwrap_or(0)..]));
    let came = futures::future::join_all(tries.collect::<Vec<_>>().into_iter()).await;
    ensure!(came.iter().filter(|socket| socket.is_ok()).count() == 1, "not exactly one got in");

    // A page's ticket is for that page, and a program's for programs. Another site's page does not even spend it.
    let of_page = api.ticket_of_page("one", api.base()).await?.ticket;
    for foreign in ["http://evil.example.org", "null"] {
        let refused = anonymous.socket_of_page(&path("one", &of_page), foreign).await;
        ensure!(refusal(refused)? == 403, "{foreign} was let in with a good ticket");
    }
    anonymous.socket_of_page(&path("one", &of_page), api.base()).await.context("the page that asked for it")?;
    let of_page = api.ticket_of_page("one", api.base()).await?.ticket;
    ensure!(refusal(anonymous.socket(&path("one", &of_page)).await)? == 401, "a page's ticket is good for a program");
    let of_program = api.ticket("one").await?.ticket;
    let refused = anonymous.socket_of_page(&path("one", &of_program), api.base()).await;
    ensure!(refusal(refused)? == 401, "a program's ticket is good for a page");

    // A link's token opens that desktop and nothing else.
    let link = api.link("one").await?;
    let (page, token) = link.url.split_once("#token=").unwrap_or_default();
    ensure!(page.ends_with("/sessions/one/view"), "{page}");
    let guest = api.with_token(token);
    ensure!(guest.session("one").await?.id.as_str() == "one", "the link's token does not open its session");
    guest.ticket("one").await?;
    ensure!(guest.get("/api/v1/sessions/two").await?.status == 404, "the link's token shows another session");
    let refused = guest.post("/api/v1/sessions/two/tickets", &json!({"stream": "vnc"})).await?;
    ensure!(matches!(refused.status.as_u16(), 403 | 404), "the link's token opens another desktop: {}", refused.status);
    guest.post_empty("/api/v1/sessions/one/stop").await?.problem(403, "forbidden")?;
    guest.post("/api/v1/sessions/one/links", &json!({})).await?.problem(403, "forbidden")?;

    // Revoking a token closes the viewers that came with its tickets, within a second, and nobody else's.
    let cli = Cli::new(&cluster)?;
    let vic = cli.plain(0, &["token", "create", "--scope", "operator", "--name", "vic"]).await?;
    let mut of_vic = opened(&api.with_token(vic.trim()), "one").await?;
    of_vic.full_frame().await?;
    let revoke = async {
        cli.plain(0, &["token", "revoke", "vic"]).await?;
        anyhow::Ok(tokio::time::Instant::now())
    };
    let closed = async {
        tokio::time::timeout(secs(20), of_vic.ended()).await.context("the viewer outlives its token")?;
        anyhow::Ok(tokio::time::Instant::now())
    };
    let (revoked, closed) = tokio::try_join!(revoke, closed)?;
    let late = closed.saturating_duration_since(revoked);
    ensure!(late < secs(1), "closed {late:?} after its token was revoked");
    rfb.full_frame().await.context("another's viewer")?;
    cluster.shutdown().await
}

/// One that asks for everything and takes nothing: no other viewer and no call waits for it, and nothing is heaped up.
#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_takes_nothing_harms_nobody() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "desk", "kind": "terminal", "geometry": "1280x720"})).await?;
    let busy = json!({"actions": [{"type": "text", "text": "while :; do seq 100; sleep 0.05; done\n"}]});
    api.post("/api/v1/sessions/desk/input", &busy).await?.expect(200)?;
    let mut lively = opened(&api, "desk").await?;
    // Ten pictures for who takes them, and calls between: the longest of each.
    let mut worst = async || {
        let (mut seen, mut called) = (secs(0), secs(0));
        for _ in 0..10 {
            let begun = tokio::time::Instant::now();
            lively.full_frame().await?;
            seen = seen.max(begun.elapsed());
            let begun = tokio::time::Instant::now();
            let moved = json!({"actions": [{"type": "move", "x": 5, "y": 5}]});
            api.post("/api/v1/sessions/desk/input", &moved).await?.expect(200)?;
            api.get("/api/v1/sessions/desk/cursor").await?.expect(200)?;
            called = called.max(begun.elapsed());
        }
        anyhow::Ok([seen, called])
    };
    let alone = worst().await?;
    let resident = || {
        let pids = [cluster.servers[0].pid(), cluster.runners[0].pid()];
        pids.into_iter().map(|pid| process::resident_kib(pid.context("it has ended")?)).collect::<Result<Vec<u64>>>()
    };
    let before = resident()?;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut viewer = opened(&api, "desk").await?;
        viewer.ask_and_take_nothing(200).await?;
        slow.push(viewer);
    }
    let beside = worst().await?;
    for (alone, beside) in alone.into_iter().zip(beside) {
        ensure!(beside < 3 * alone + secs(1), "{beside:?} beside eight that take nothing, {alone:?} without");
    }
    let after = resident()?;
    for (name, (before, after)) in ["server", "agentd"].into_iter().zip(before.into_iter().zip(after)) {
        ensure!(after < before + 24 * 1024, "{name} grew from {before} to {after} KiB");
    }
    drop(slow);
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_live_runner_the_viewer_is_told_at_once() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    cluster.ready(&json!({"id": "gone", "kind": "terminal"})).await?;
    let mut rfb = opened(&api, "gone").await?;
    rfb.full_frame().await?;
    cluster.runners[0].kill().await?;

    let started = tokio::time::Instant::now();
    let path = match api.post("/api/v1/sessions/gone/tickets", &json!({"stream": "vnc"})).await? {
        answer if answer.status == 503 => {
            answer.problem(503, "runner_unavailable")?;
            None
        }
        answer => Some(answer.json::<helix_protocol::api::Ticket>()?.url),
    };
    if let Some(url) = path {
        let path = url[url.find("/api").unwrap_or(0)..].to_owned();
        ensure!(refusal(api.with_token("").socket(&path).await)? == 503, "not 503");
    }
    ensure!(started.elapsed() < secs(8), "the viewer had to wait {:?}", started.elapsed());

    // The session ran on; a new agentd serves it again.
    cluster.runners[0].start().await?;
    let view = api.wait_phase("gone", SessionPhase::Ready, READY).await?;
    let mut rfb = eventually("the desktop can be seen again", READY, || opened(&api, "gone")).await?;
    same_picture(&mut rfb, &view).await?;
    cluster.shutdown().await
}
