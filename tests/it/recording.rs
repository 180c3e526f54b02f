//! Recordings from end to end: what a desktop showed is what its recording shows, whoever is killed meanwhile, and whatever
//! is done to it afterwards is found out.

mod conversation;
mod proof;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use helix_protocol::api::{SessionView, Ticket};
use helix_protocol::recording::chunk::{RecordKind, records};
use helix_protocol::recording::{EventPage, RecordingDetail, RecordingList, RecordingState, TimedEvent};
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::rfb::{Frame, Rfb};
use helix_tests::{Api, Cluster, process, x};
use helixctl::replay::Player;
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::cli_conversations::Program;
use crate::desktop::truth;

/// A terminal that is recorded, at rest.
async fn recorded(cluster: &Cluster, id: &str, recording: &Value) -> Result<(SessionView, String)> {
    let body = json!({"id": id, "kind": "terminal", "geometry": "640x400", "recording": recording});
    recorded_as(cluster, &body).await
}

async fn recorded_as(cluster: &Cluster, body: &Value) -> Result<(SessionView, String)> {
    let view = cluster.ready(body).await?;
    let recording = view.recording.as_ref().context("the session does not say that it is recorded")?.to_string();
    let step = view.timeline.iter().find(|step| step.step == "recorder").context("no step of the recorder's")?;
    ensure!(step.duration_ms.is_some(), "the agent began before its recorder");
    Ok((view, recording))
}

async fn manifest(api: &Api, recording: &str) -> Result<RecordingDetail> {
    api.get(&format!("/api/v1/recordings/{recording}")).await?.json()
}

async fn chunk(api: &Api, recording: &str, number: u32) -> Result<Vec<u8>> {
    let url = format!("{}/api/v1/recordings/{recording}/chunks/{number}", api.base());
    let answer = reqwest::Client::builder().no_proxy().build()?.get(url).bearer_auth(api.token()).send().await?;
    ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
    Ok(answer.bytes().await?.to_vec())
}

/// Ends the session and waits until all of its recording is at the server.
pub async fn complete(api: &Api, session: &str, recording: &str) -> Result<RecordingDetail> {
    api.stop(session).await?;
    api.wait_phase(session, SessionPhase::Stopped, READY).await?;
    eventually("the recording is complete", secs(30), || async {
        let detail = manifest(api, recording).await?;
        ensure!(detail.recording.state == RecordingState::Complete, "{:?}", detail.recording);
        Ok(detail)
    })
    .await
}

/// Every event of the recording.
async fn events(api: &Api, recording: &str) -> Result<Vec<TimedEvent>> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page: EventPage = api.get(&format!("/api/v1/recordings/{recording}/events{after}")).await?.json()?;
        all.extend(page.events);
        let Some(next) = page.next else { return Ok(all) };
        after = format!("?after={next}");
    }
}

/// Plays all of it; answers how often the picture changed.
pub async fn play(api: &Api, detail: &RecordingDetail) -> Result<u64> {
    let (mut player, mut changes) = (Player::default(), 0);
    for entry in &detail.chunk_list {
        let bytes = chunk(api, detail.recording.id.as_str(), entry.number).await?;
        for record in records(&bytes) {
            changes += u64::from(player.take(&record?)?);
        }
    }
    Ok(changes)
}

/// How many pixels the picture of the recording that is nearest to this one has otherwise, and the time of each change. The
/// last picture is none to ask for: the end of a session closes its windows before its display.
async fn nearest(api: &Api, detail: &RecordingDetail, wanted: &Frame) -> Result<(usize, Vec<u64>)> {
    let (mut player, mut changes, mut nearest) = (Player::default(), Vec::new(), usize::MAX);
    for entry in &detail.chunk_list {
        let bytes = chunk(api, detail.recording.id.as_str(), entry.number).await?;
        for record in records(&bytes) {
            let record = record?;
            if player.take(&record)? {
                changes.push(record.at_us);
                nearest = nearest.min(frame(&player).differs_visibly(wanted, 40));
            }
        }
    }
    Ok((nearest, changes))
}

fn frame(player: &Player) -> Frame {
    let picture = player.picture();
    let pixels = picture.pixels().chunks_exact(3).map(|rgb| u32::from_be_bytes([0, rgb[0], rgb[1], rgb[2]]));
    Frame { width: picture.width(), height: picture.height(), pixels: pixels.collect() }
}

fn spool(cluster: &Cluster, recording: &str) -> PathBuf {
    cluster.runners[0].state_dir.join("recordings").join(recording).join("spool")
}

/// What is recorded by now: the server's chunks, then what is spooled on the runner up to the last whole record.
async fn recorded_by_now(cluster: &Cluster, recording: &str) -> Result<Frame> {
    let (api, spool, mut player) = (cluster.api()?, spool(cluster, recording), Player::default());
    let known = manifest(&api, recording).await?.recording.chunks;
    for number in 0.. {
        let bytes = if number < known {
            chunk(&api, recording, number).await?
        } else {
            let closed = std::fs::read(spool.join(format!("{number}.chunk")));
            match closed.or_else(|_| std::fs::read(spool.join(format!("{number}.open")))) {
                Ok(bytes) => bytes,
                Err(_) => break,
            }
        };
        for record in records(&bytes).map_while(Result::ok) {
            player.take(&record)?;
        }
    }
    Ok(frame(&player))
}

/// Types a command, and waits until it has run and the desktop is at rest.
async fn types(api: &Api, view: &SessionView, text: &str) -> Result<()> {
    let workspace = PathBuf::from(view.workspace.clone().context("no workspace")?);
    let mark = format!("mark-{}", std::fs::read_dir(&workspace)?.count());
    let actions = json!({"actions": [{"type": "text", "text": format!("{text}; touch {mark}\n")}]});
    let at = |rest: &str| format!("/api/v1/sessions/{}/{rest}", view.id);
    api.post(&at("input"), &actions).await?.expect(200)?;
    eventually("the command has run", secs(20), || async {
        ensure!(workspace.join(&mark).exists(), "not yet");
        Ok(())
    })
    .await?;
    api.post(&at("wait"), &json!({"for": "settle", "quiet_ms": 500})).await?.expect(200)?;
    Ok(())
}

/// The process that records.
fn recorder(cluster: &Cluster, recording: &str) -> Result<u32> {
    let words = format!("--spool={}", spool(cluster, recording).display());
    helix_tests::leftovers::processes_saying(&words)?.first().copied().context("no recorder")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_shows_what_the_desktop_showed() -> Result<()> {
    shows_what_was_shown("xtigervnc").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_shows_what_xvfb_showed() -> Result<()> {
    shows_what_was_shown("xvfb").await
}

async fn shows_what_was_shown(server: &str) -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let body =
        json!({"id": "desk", "kind": "terminal", "geometry": "640x400", "recording": true, "display_server": server});
    let (view, recording) = recorded_as(&cluster, &body).await?;
    // Whoever looks is told.
    let ticket: Ticket = api.post("/api/v1/sessions/desk/tickets", &json!({"stream": "vnc"})).await?.json()?;
    ensure!(ticket.recorded, "a viewer is not told");
    let cli = Cli::new(&cluster)?;
    for viewer in ["vnc", "rdp"] {
        let mut port = Program::piped(&cli, &["session", viewer, "desk", "--print"])?;
        port.err.says("this desktop is recorded").await?;
        port.signal(Signal::TERM)?;
        port.ends(0).await?;
    }
    let mut rfb = Rfb::ticket(&ticket.url).await?;
    rfb.type_text("echo by-hand\n").await?;
    // Known at once, long before anything of it is complete.
    eventually("the server knows of the recording", secs(10), || async {
        let list: RecordingList = api.get("/api/v1/recordings?session=desk").await?.json()?;
        ensure!(list.recordings.len() == 1 && list.recordings[0].state == RecordingState::Recording, "{list:?}");
        Ok(())
    })
    .await?;
    types(&api, &view, "seq 200; printf '\\033[41mred\\033[0m %s\\n' done").await?;
    api.put("/api/v1/sessions/desk/control", &json!({"seat": "here"})).await?.expect(200)?;
    // The pointer is in the recording, and not in the X server's picture: out of the way.
    let away = json!({"actions": [{"type": "move", "x": 639, "y": 399}, {"type": "wait", "ms": 300}]});
    api.post("/api/v1/sessions/desk/input", &away).await?;
    drop(rfb);
    let shown = truth(&view).await?;
    // As much as a look at the desktop takes.
    eventually("the picture is on the disk", secs(10), || async {
        let differ = recorded_by_now(&cluster, &recording).await?.differs_visibly(&shown, 40);
        ensure!(differ < 100, "{differ} pixels differ");
        Ok(())
    })
    .await?;
    let detail = complete(&api, "desk", &recording).await?;
    let (differ, changes) = nearest(&api, &detail, &shown).await?;
    ensure!(differ < 100, "{differ} pixels differ");
    ensure!(changes.len() > 3 && changes.is_sorted(), "{changes:?}");
    ensure!((detail.recording.width, detail.recording.height) == (640, 400), "{:?}", detail.recording);

    // What was done beside the picture, in order, with who did it.
    let events = events(&api, &recording).await?;
    let has = |wanted: &str| {
        let found = events.iter().any(|event| serde_json::to_string(event).is_ok_and(|text| text.contains(wanted)));
        found.then_some(()).with_context(|| format!("no {wanted} in {events:?}"))
    };
    for wanted in
        ["viewer_joined", r#""type":"key""#, r#""call":"input""#, "text=seq 200", r#""seat":"here""#, "viewer_left"]
    {
        has(wanted)?;
    }
    ensure!(events.is_sorted_by_key(|event| event.at_us), "events are out of order");

    // Nothing of it is left on the runner.
    eventually("the spool is gone", secs(10), || async {
        let left: Vec<_> = std::fs::read_dir(cluster.runners[0].state_dir.join("recordings"))?.collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;

    let cli = Cli::new(&cluster)?;
    let verified = cli.json(0, &["recording", "verify", &recording]).await?;
    ensure!(verified["verified"] == true && verified["complete"] == true, "{verified}");
    if server != "xtigervnc" {
        // Films are made of recordings, whoever drew them.
        return cluster.shutdown().await;
    }
    let film = cluster.dir().join("desk.mp4");
    let film = film.to_str().context("path is not UTF-8")?;
    let exported = cli.json(0, &["recording", "export", &recording, "--mp4", film]).await?;
    let probed = process::run(
        Path::new("ffprobe"),
        &[
            "-v",
            "error",
            "-count_frames",
            "-show_entries",
            "stream=width,height,nb_read_frames,duration",
            "-of",
            "json",
            film,
        ],
        &[],
        secs(60),
    )
    .await?;
    let probed: Value = serde_json::from_slice(&probed.stdout).context("ffprobe says nothing")?;
    let stream = &probed["streams"][0];
    ensure!(stream["width"] == 640 && stream["height"] == 400, "{probed}");
    ensure!(stream["nb_read_frames"].as_str() == Some(&*exported["pictures"].to_string()), "{probed} {exported}");
    let lasts: f64 = stream["duration"].as_str().context("no duration")?.parse()?;
    let wanted = (detail.recording.duration_us - changes[0]) as f64 / 1e6;
    ensure!((lasts - wanted).abs() < 0.5, "the film lasts {lasts} s, the recording {wanted} s");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_survives_kills_up_to_the_last_second() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let (view, recording) = recorded(&cluster, "desk", &json!({"keep": "1d"})).await?;
    types(&api, &view, "echo before").await?;

    // agentd is gone: what is drawn is recorded all the same.
    cluster.runners[0].kill().await?;
    let workspace = std::path::PathBuf::from(view.workspace.clone().unwrap_or_default());
    x::fill(&view, 0x00_80_ff)?;
    let shown = truth(&view).await?;
    eventually("the picture is on the disk without agentd", secs(10), || async {
        let differ = recorded_by_now(&cluster, &recording).await?.differs_visibly(&shown, 40);
        ensure!(differ < 300, "{differ} pixels differ");
        Ok(())
    })
    .await?;

    // The recorder is killed a moment after something was drawn; agentd starts another when it is back.
    let killed = recorder(&cluster, &recording)?;
    process::signal_pid(killed, Signal::KILL)?;
    let kept = recorded_by_now(&cluster, &recording).await?;
    ensure!(kept.differs_visibly(&shown, 40) < 300, "what was drawn before the kill is lost");
    cluster.runners[0].start().await?;
    eventually("another recorder runs", secs(20), || async {
        ensure!(recorder(&cluster, &recording)? != killed, "the same");
        Ok(())
    })
    .await?;
    x::fill(&view, 0x20_c0_40)?;
    let last = truth(&view).await?;
    eventually("the new recorder records", secs(20), || async {
        let differ = recorded_by_now(&cluster, &recording).await?.differs_visibly(&last, 40);
        ensure!(differ < 300, "{differ} pixels differ");
        Ok(())
    })
    .await?;
    let detail = complete(&api, "desk", &recording).await?;
    for wanted in [&shown, &last] {
        let (differ, _) = nearest(&api, &detail, wanted).await?;
        ensure!(differ < 300, "{differ} pixels differ");
    }
    ensure!(detail.recording.gaps >= 1, "a kill is no gap: {:?}", detail.recording);
    ensure!(detail.recording.keep.to_string() == "1d", "{:?}", detail.recording);
    let cli = Cli::new(&cluster)?;
    ensure!(cli.json(0, &["recording", "verify", &recording]).await?["verified"] == true);
    ensure!(workspace.exists(), "the workspace is kept");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_misses_nothing() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let (view, recording) = recorded(&cluster, "desk", &json!(true)).await?;
    types(&api, &view, "echo before").await?;
    cluster.nats.kill().await?;
    // Segments are made as before, chunks wait.
    let spool = spool(&cluster, &recording);
    process::signal_pid(recorder(&cluster, &recording)?, Signal::KILL)?;
    eventually("a recorder goes on without a server", secs(30), || async {
        ensure!(spool.join("head.json").exists() && recorder(&cluster, &recording).is_ok(), "not yet");
        Ok(())
    })
    .await?;
    cluster.nats.restart().await?;
    eventually("the server is back", READY, || async {
        api.session("desk").await?;
        Ok(())
    })
    .await?;
    let detail = complete(&api, "desk", &recording).await?;
    ensure!(detail.recording.chunks == detail.chunk_list.len() as u32, "{:?}", detail.recording);
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_harms_only_its_own_recordings() -> Result<()> {
    let cluster = Cluster::builder()
        .runner(helix_tests::runner::RunnerSpec::new("r1"))
        .runner(helix_tests::runner::RunnerSpec::new("r2"))
        .start()
        .await?;
    let api = cluster.api()?;
    cluster.runners_online(&api, 2).await?;
    let (view, recording) = recorded(&cluster, "desk", &json!(true)).await?;
    let own = view.runner.as_ref().context("no runner")?.to_string();
    let other = cluster.runners.iter().find(|runner| runner.spec.id != own).context("no other runner")?;
    let same = cluster.runners.iter().find(|runner| runner.spec.id == own).context("no runner")?;
    let at = |session: &str, epoch: u64, number: u32| {
        format!("/api/v1/recordings/{recording}/chunks/{number}?session={session}&epoch={epoch}")
    };
    let epoch = view.epoch.0;
    eventually("the recording is there", secs(10), || async { manifest(&api, &recording).await }).await?;
    let bytes = chunk(&api, &recording, 0).await?;
    let put = async |api: &Api, path: String, bytes: Vec<u8>| {
        api.send(reqwest::Method::PUT, &path, Some(("application/octet-stream", bytes))).await
    };
    let stranger = api.with_token(&other.token()?);
    put(&stranger, at("desk", epoch, 1), bytes.clone()).await?.problem(403, "forbidden")?;
    put(&api, at("desk", epoch, 1), bytes.clone()).await?.problem(403, "forbidden")?;
    let runner = api.with_token(&same.token()?);
    put(&runner, at("other", epoch, 1), bytes.clone()).await?.problem(400, "invalid_request")?;
    put(&runner, at("desk", epoch + 1, 1), bytes.clone()).await?.problem(400, "invalid_request")?;
    // What is there is taken again; anything else in its place is not, nor what does not follow.
    ensure!(put(&runner, at("desk", epoch, 0), bytes.clone()).await?.status == 204);
    let mut changed = bytes.clone();
    *changed.last_mut().context("empty")? ^= 1;
    put(&runner, at("desk", epoch, 0), changed).await?.problem(409, "chunk_mismatch")?;
    put(&runner, at("desk", epoch, 99), bytes.clone()).await?.problem(409, "chunk_mismatch")?;
    put(&runner, at("desk", epoch, 0), vec![0; 4 << 20]).await?.problem(413, "body_too_large")?;
    // One that no session asked for.
    cluster.ready(&json!({"id": "plain", "kind": "terminal"})).await?;
    let plain = api.session("plain").await?;
    ensure!(plain.recording.is_none(), "recorded without being asked to");
    let id = helix_protocol::RecordingId::of(&plain.id, plain.epoch);
    let path = format!("/api/v1/recordings/{id}/chunks/0?session=plain&epoch={}", plain.epoch);
    for runner in &cluster.runners {
        put(&api.with_token(&runner.token()?), path.clone(), bytes.clone()).await?.problem(403, "forbidden")?;
    }
    // A session's token and a link see none.
    let link = api.link("desk").await?;
    let guest = api.with_token(link.url.split_once("#token=").context("no token")?.1);
    guest.get("/api/v1/recordings").await?.problem(403, "forbidden")?;
    guest.get(&format!("/api/v1/recordings/{recording}")).await?.problem(403, "forbidden")?;
    cluster.shutdown().await
}

/// Bytes of display records of a segment's start on, as an RFB client would get them.
#[tokio::test(flavor = "multi_thread")]
async fn every_segment_can_be_shown_alone() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let (view, recording) = recorded(&cluster, "desk", &json!(true)).await?;
    // A kill makes a new segment without the wait for one.
    types(&api, &view, "echo one").await?;
    process::signal_pid(recorder(&cluster, &recording)?, Signal::KILL)?;
    let shown = eventually("a second segment", secs(30), || async {
        types(&api, &view, "echo more").await?;
        let shown = truth(&view).await?;
        ensure!(recorder(&cluster, &recording).is_ok(), "no recorder");
        Ok(shown)
    })
    .await?;
    let detail = complete(&api, "desk", &recording).await?;
    let segments: Vec<_> = detail
        .chunk_list
        .iter()
        .flat_map(|entry| entry.segments.iter().map(move |segment| (entry.number, *segment)))
        .collect();
    ensure!(segments.len() >= 2, "{segments:?}");
    let (number, segment) = *segments.last().context("no segment")?;
    let (mut player, mut nearest) = (Player::default(), usize::MAX);
    for entry in detail.chunk_list.iter().filter(|entry| entry.number >= number) {
        let bytes = chunk(&api, &recording, entry.number).await?;
        for record in records(&bytes) {
            let record = record?;
            if entry.number == number && record.offset < segment.offset as usize {
                continue;
            }
            let begins = entry.number == number && record.offset == segment.offset as usize;
            ensure!(begins == (record.kind == RecordKind::Segment), "no segment begins at {}", segment.offset);
            if player.take(&record)? {
                nearest = nearest.min(frame(&player).differs_visibly(&shown, 40));
            }
        }
    }
    ensure!(nearest < 300, "the last segment alone shows something else: {nearest} pixels differ");
    cluster.shutdown().await
}

/// Whatever a display packs its pixels into: two colours, a few, many, and what looks like a photo.
#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_every_kind_are_recorded() -> Result<()> {
    let cluster = Cluster::small().await?;
    let (view, recording) = recorded(&cluster, "desk", &json!(true)).await?;
    let patterns: [fn(u32, u32) -> u32; 5] = [
        |x, y| if (x / 3 + y / 5) % 2 == 0 { 0xff_ff_ff } else { 0x10_20_30 },
        |x, y| [0xff_00_00, 0x00_ff_00, 0x00_00_ff, 0xff_ff_00, 0x00_00_00][((x / 4 + y / 4) % 5) as usize],
        |x, _| x % 200 * 0x01_01_01,
        // Noise, so large that what follows is a JPEG.
        |x, y| ((x * 7919) ^ (y * 104_729)).wrapping_mul(2_654_435_761) >> 8,
        |x, y| ((x * 255 / 640) << 16) | ((y * 255 / 400) << 8) | ((x + y) * 255 / 1040),
    ];
    for (number, pattern) in patterns.into_iter().enumerate() {
        x::paint(&view, pattern)?;
        let shown = truth(&view).await?;
        eventually(&format!("pattern {number} is recorded"), secs(20), || async {
            let differ = recorded_by_now(&cluster, &recording).await?.differs_visibly(&shown, 40);
            // The pointer.
            ensure!(differ < 400, "{differ} pixels differ");
            Ok(())
        })
        .await?;
    }
    cluster.shutdown().await
}
