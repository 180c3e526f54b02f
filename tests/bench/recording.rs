//! What a recording costs: a terminal that scrolls, recorded, beside the same terminal under `ffmpeg -f x11grab`.
//!
//! Rounds alternate: nobody records, the recorder, ffmpeg at five pictures a second. CPU is by scheduler nanoseconds, of
//! the recorder or of ffmpeg, and of the display; what the display takes when nobody records is not the recording's.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use helix_protocol::api::SessionView;
use reqwest::Method;
use serde_json::json;

use crate::measure::{program, quantile, scheduler_seconds};
use crate::product::Product;
use crate::{report, rounds, say};

/// One measurement.
const SECONDS: u64 = 20;
/// Before it, so that the burst is spent.
const SETTLE: Duration = Duration::from_mins(1);
/// Thirty lines a second, for as long as it takes.
pub const SCROLL: &str =
    "while :; do printf '%s the quick brown fox jumps over the lazy dog %s\\n' $RANDOM $RANDOM; sleep 0.033; done\n";

pub async fn run() -> Result<()> {
    let product = Product::start(2, &[])?;
    let plain = product.create(&json!({"kind": "terminal", "geometry": "1280x720"})).await?;
    let recorded = product.create(&json!({"kind": "terminal", "geometry": "1280x720", "recording": true})).await?;
    let (mut nothing, mut ours, mut grab) = (Vec::new(), Vec::new(), Vec::new());
    let (mut recorder_size, mut grab_size) = (Vec::new(), Vec::new());
    let idle = {
        let pids = [recorder_of(&recorded)?, display_of(&recorded)?];
        used(&pids, Duration::from_secs(SECONDS)).await
    };
    for session in [&plain, &recorded] {
        let actions = json!({"actions": [{"type": "text", "text": SCROLL}]});
        product.call(Method::POST, &format!("/api/v1/sessions/{}/input", session.id), Some(actions)).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let (spool, lasts) = (spool_of(&recorded)?, Duration::from_secs(SECONDS));
    for round in 0..rounds().min(3) {
        let display = display_of(&plain)?;
        nothing.push(used(&[display], lasts).await);
        let before = written(&product, &recorded, &spool).await?;
        let pids = [recorder_of(&recorded)?, display_of(&recorded)?];
        ours.push(used(&pids, lasts).await);
        let after = written(&product, &recorded, &spool).await?;
        recorder_size.push((after - before) as f64 * 60.0 / SECONDS as f64 / 1e6);
        let film = tempfile::NamedTempFile::new()?;
        let mut ffmpeg = grabs(&plain, film.path())?;
        grab.push(used(&[ffmpeg.id(), display], lasts).await);
        ffmpeg.kill()?;
        ffmpeg.wait()?;
        grab_size.push(film.as_file().metadata()?.len() as f64 * 60.0 / SECONDS as f64 / 1e6);
        say(&format!("round {round} done"));
    }
    let middle = |samples: &[f64]| quantile(samples, 0.5);
    let base = middle(&nothing);
    report("\n## Recording: a terminal of 1280x720 that scrolls thirty lines a second");
    report(&format!("- nobody records: display {base:.1} % of a core"));
    report(&format!(
        "- helix: {:.1} % of a core more (recorder and display), {:.2} MB a minute",
        middle(&ours) - base,
        middle(&recorder_size)
    ));
    report(&format!(
        "- ffmpeg x11grab, 5 pictures a second, x264 veryfast crf 28: {:.1} % of a core more, {:.2} MB a minute",
        middle(&grab) - base,
        middle(&grab_size)
    ));
    report(&format!("- helix, a desktop at rest: {idle:.2} % of a core"));
    Ok(())
}

/// Percent of a core that these processes use for so long.
async fn used(pids: &[u32], lasts: Duration) -> f64 {
    let before = scheduler_seconds(pids);
    tokio::time::sleep(lasts).await;
    (scheduler_seconds(pids) - before) * 100.0 / lasts.as_secs_f64()
}

fn environment(session: &SessionView) -> Result<Vec<(String, String)>> {
    let number = session.display.as_ref().context("the session has no display")?.number;
    let environment = helix_tests::x::environment(session.pid.context("the session has no process")?)?;
    let authority = environment.get("XAUTHORITY").context("XAUTHORITY is not set in the session")?.clone();
    Ok(vec![("DISPLAY".to_owned(), format!(":{number}")), ("XAUTHORITY".to_owned(), authority)])
}

fn grabs(session: &SessionView, film: &Path) -> Result<Child> {
    let environment = environment(session)?;
    Command::new("ffmpeg")
        .args(["-loglevel", "error", "-nostdin", "-y", "-f", "x11grab", "-draw_mouse", "1", "-framerate", "5"])
        .args(["-video_size", "1280x720", "-i", &environment[0].1, "-c:v", "libx264", "-preset", "veryfast"])
        .args(["-crf", "28", "-pix_fmt", "yuv420p", "-threads", "1", "-f", "matroska"])
        .arg(film)
        .envs(environment)
        .stdout(Stdio::null())
        .spawn()
        .context("cannot run ffmpeg: packaging/setup.sh bench brings it")
}

fn recorder_of(session: &SessionView) -> Result<u32> {
    let words = format!("--session={}", session.id);
    let found = helix_tests::leftovers::processes_saying(&words)?;
    found.into_iter().find(|pid| program(*pid) == "agentd").context("no recorder")
}

fn display_of(session: &SessionView) -> Result<u32> {
    let environment = environment(session)?;
    let wanted = helix_tests::leftovers::processes_saying(&environment[1].1)?;
    wanted.into_iter().find(|pid| program(*pid) == "Xtigervnc").context("no display")
}

/// Where the recorder writes, by its own command line.
fn spool_of(session: &SessionView) -> Result<PathBuf> {
    let line = std::fs::read(format!("/proc/{}/cmdline", recorder_of(session)?))?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let spool = line.split('\0').find_map(|word| word.strip_prefix("--spool=")).context("no spool")?;
    Ok(PathBuf::from(spool))
}

/// Bytes that were recorded so far: those that the server has, and those that wait for it.
async fn written(product: &Product, session: &SessionView, spool: &Path) -> Result<u64> {
    let recording = session.recording.as_ref().context("it is not recorded")?;
    let detail = product.call(Method::GET, &format!("/api/v1/recordings/{recording}"), None).await?;
    let mut bytes = detail["bytes"].as_u64().context("no size")?;
    for entry in std::fs::read_dir(spool)? {
        let entry = entry?;
        if entry.file_name() != "head.json" {
            bytes += entry.metadata().map_or(0, |metadata| metadata.len());
        }
    }
    Ok(bytes)
}
