//! Many desktops for a while: viewers come and go in every way, drivers type and look through the API, and afterwards
//! everything that was typed is there, once and in order, every recording is whole and can be played, and nothing has
//! grown: no descriptor, no process, no memory beyond what an allocator keeps, of any program of the fleet ([`used`]). `HELIX_SOAK_DESKTOPS` and `HELIX_SOAK_SECONDS` set how many and how long, and draw
//! another seed; `HELIX_CHAOS_SEED` replays one.

mod used;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use helix_protocol::api::SessionView;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::Socket;
use helix_tests::random::Random;
use helix_tests::rfb::Rfb;
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster};
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use self::used::Use;
use crate::cli::Cli;
use crate::recording;

const DESKTOPS: u64 = 4;
const SECONDS: u64 = 20;
/// Of a run that nothing else was asked of.
const SEED: u64 = 1;
/// Every fifth desktop is drawn by the second display server, from the fourth on.
fn display_server(number: u64) -> &'static str {
    if number % 5 == 3 { "xvfb" } else { "xtigervnc" }
}

fn setting(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn desktops_in_use_lose_and_leak_nothing() -> Result<()> {
    let desktops = setting("HELIX_SOAK_DESKTOPS", DESKTOPS)?;
    let whole = secs(setting("HELIX_SOAK_SECONDS", SECONDS)?);
    let drawn = if std::env::var_os("HELIX_SOAK_SECONDS").is_some() {
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64
    } else {
        SEED
    };
    let seed = setting("HELIX_CHAOS_SEED", drawn)?;
    println!("replay with HELIX_CHAOS_SEED={seed}");
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").slots(desktops as u32 + 1)).start().await?;
    let api = cluster.api()?;
    let mut views = Vec::new();
    for number in 0..desktops {
        let body = json!({
            "id": format!("desk-{number}"), "kind": "terminal", "geometry": "640x480",
            "display_server": display_server(number), "recording": true,
        });
        views.push(cluster.ready(&body).await?);
    }
    // Whatever is made at the first use is there before anything is counted.
    try_join_all(views.iter().map(|view| use_once(&api, view))).await?;
    let before = settled(&cluster, None).await?;
    println!("before:\n{before:?}");

    let quarter = whole / 4;
    let mut typed = vec![0; views.len()];
    let mut baseline = before;
    for (round, time) in [quarter, whole.saturating_sub(quarter)].into_iter().enumerate() {
        let until = Instant::now() + time;
        let random = |place: usize| Random::seeded(seed ^ ((round * 1000 + place) as u64).wrapping_mul(0x9E37));
        let drivers = views.iter().zip(&mut typed).enumerate();
        let drivers = drivers.map(|(place, (view, typed))| drive(&api, view, typed, random(place), until));
        let viewers = (0..views.len().div_ceil(2)).map(|place| watch(&api, &views, random(500 + place), until));
        let (_, watched) = tokio::try_join!(try_join_all(drivers), try_join_all(viewers))?;
        println!(
            "{} viewers came and went, {} lines were typed",
            watched.iter().sum::<u64>(),
            typed.iter().sum::<u64>()
        );
        let after = settled(&cluster, Some(&baseline)).await?;
        println!("after:\n{after:?}");
        // What the first quarter brought is what use costs; the rest may add nothing to it.
        baseline = after;
    }
    for (view, lines) in views.iter().zip(typed) {
        let expected = (1..=lines).fold(String::new(), |text, line| text + &line.to_string() + "\n");
        let file = workspace(view).join("typed.txt");
        eventually(&format!("{} has all that was typed", view.id), secs(60), || async {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            ensure!(text == expected, "{lines} lines were typed, and {} are there: {text:.200}", text.lines().count());
            Ok(())
        })
        .await?;
    }
    let (cli, mut changes) = (Cli::new(&cluster)?, 0);
    for view in &views {
        let recording = view.recording.as_ref().context("it is not recorded")?.as_str();
        let detail = recording::complete(&api, view.id.as_str(), recording).await?;
        cli.plain(0, &["recording", "verify", recording]).await?;
        let of_this = recording::play(&api, &detail).await?;
        ensure!(of_this > 1, "the recording of {} shows nothing", view.id);
        changes += of_this;
    }
    println!("{} recordings are whole, with {changes} pictures", views.len());
    cluster.shutdown().await
}

fn workspace(view: &SessionView) -> PathBuf {
    Path::new(view.workspace.as_deref().unwrap_or_default()).to_owned()
}

/// One look of each sort.
async fn use_once(api: &Api, view: &SessionView) -> Result<()> {
    let id = view.id.as_str();
    Rfb::ticket(&api.ticket(id).await?.url).await?.full_frame().await?;
    let path = format!("/api/v1/sessions/{id}/screenshot?format=jpeg");
    let answer = api.get(&path).await?;
    ensure!(answer.status == 200, "{path}: {}", answer.status);
    through_tools(api, id, 0).await
}

/// A file there and back, and a command.
async fn through_tools(api: &Api, id: &str, number: u64) -> Result<()> {
    let (at, text) = (format!("/api/v1/sessions/{id}"), format!("{number:0>4096}"));
    let put =
        api.send(Method::PUT, &format!("{at}/files?path=soak.txt"), Some(("text/plain", text.clone().into()))).await?;
    ensure!(put.status.is_success(), "{at}/files: {} {}", put.status, put.text);
    let got = api.get(&format!("{at}/files?path=soak.txt")).await?;
    ensure!(got.text == text, "{at}/files: another file came back: {} {:.200}", got.status, got.text);
    let said = api.post(&format!("{at}/exec"), &json!({"command": ["cat", "soak.txt"]})).await?.expect(200)?;
    ensure!(said["stdout"] == text, "{at}/exec: {said}");
    Ok(())
}

/// Everything that was opened is closed again: waits until no more is used than `before`, then says what is.
async fn settled(cluster: &Cluster, before: Option<&Use>) -> Result<Use> {
    let Some(before) = before else { return Use::of(cluster) };
    eventually("what is used is what was used before", secs(60), || async {
        let now = Use::of(cluster)?;
        let grown = now.grown(before);
        ensure!(grown.is_empty(), "{}\nbefore:\n{before:?}\nnow:\n{now:?}", grown.join("; "));
        Ok(now)
    })
    .await
}

/// A program that types numbered lines, clicks and looks, until then.
async fn drive(api: &Api, view: &SessionView, typed: &mut u64, mut random: Random, until: Instant) -> Result<()> {
    let at = format!("/api/v1/sessions/{}", view.id);
    while Instant::now() < until {
        match random.below(7) {
            0..3 => {
                let line = *typed + 1;
                let text = format!("echo {line} >>typed.txt\n");
                api.post(&format!("{at}/input"), &json!({"actions": [{"type": "text", "text": text}]}))
                    .await?
                    .expect(200)?;
                *typed = line;
            }
            3 => {
                let (x, y) = (random.below(640), random.below(480));
                let actions = json!([{"type": "click", "x": x, "y": y}, {"type": "scroll", "x": x, "y": y, "dy": 1}]);
                api.post(&format!("{at}/input"), &json!({"actions": actions})).await?.expect(200)?;
            }
            4 => {
                let format = ["png", "jpeg", "webp", "raw"][random.below(4) as usize];
                let answer = api.get(&format!("{at}/screenshot?format={format}&scale=0.5")).await?;
                ensure!(answer.status == 200, "{at}/screenshot: {}", answer.status);
            }
            5 => through_tools(api, view.id.as_str(), random.draw()).await?,
            _ => {
                let wait = json!({"for": "settle", "timeout_ms": 2000, "quiet_ms": 50});
                api.post(&format!("{at}/wait"), &wait).await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.below(300))).await; // a program that thinks
    }
    Ok(())
}

/// One viewer after the other, each at another desktop: some look, some are silent, some talk nonsense.
async fn watch(api: &Api, views: &[SessionView], mut random: Random, until: Instant) -> Result<u64> {
    let mut count = 0;
    while Instant::now() < until {
        let view = &views[random.below(views.len() as u64) as usize];
        let url = api.ticket(view.id.as_str()).await?.url;
        count += 1;
        if random.below(8) == 0 {
            let (mut socket, _): (Socket, _) = tokio_tungstenite::connect_async(&url).await?;
            let nonsense: Vec<u8> = (0..random.below(400)).map(|_| random.draw() as u8).collect();
            // Whether it is closed before it has said everything does not matter.
            let _ = futures::SinkExt::send(&mut socket, Message::Binary(nonsense.into())).await;
            continue;
        }
        let mut rfb = Rfb::ticket(&url).await.with_context(|| format!("a viewer of {}", view.id))?;
        let colours = rfb.full_frame().await?.colours();
        ensure!(colours > 1, "{} is empty", view.id);
        for _ in 0..random.below(8) {
            let patience = Duration::from_millis(100 + random.below(900));
            // Nothing may happen there for a while.
            let _ = tokio::time::timeout(patience, rfb.change()).await;
        }
        if random.below(4) == 0 {
            // It asked for more and takes nothing of it.
            tokio::time::sleep(Duration::from_millis(random.below(2000))).await;
        }
    }
    Ok(count)
}
