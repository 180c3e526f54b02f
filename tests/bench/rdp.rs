//! A real RDP client, xfreerdp through `helixctl session rdp`, on a display of its own: from its start to the desktop's
//! picture, from a key at its display until the pixels are there, and what it costs on the runner.
//!
//! It shows what serving RDP by xrdp adds to VNC (part `typing`): whether another way would be worth having.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use helix_tests::own_display::OwnDisplay;
use helix_tests::programs;
use helix_tests::rfb::Rfb;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::measure::{memory_mib, summary};
use crate::product::{Product, binary};
use crate::typing::echoes;
use crate::{report, rounds, say};

const SIZE: &str = "1280x720";
/// Of the terminal: most of the picture has it.
const BACKGROUND: u32 = 0x0016_181d;
const PATIENCE: Duration = Duration::from_secs(30);

/// Milliseconds, milliseconds, MiB.
#[derive(Default)]
struct Taken {
    pictures: Vec<f64>,
    keys: Vec<f64>,
    memory: Vec<f64>,
}

pub async fn run() -> Result<()> {
    let product = Product::start(2, &[])?;
    let session = product.create(&json!({"kind": "terminal", "geometry": SIZE})).await?;
    let mut taken = Taken::default();
    for round in 0..rounds() {
        look(&product, session.id.as_str(), &mut taken).await?;
        say(&format!("round {round} done"));
    }
    report("\n## RDP: xfreerdp through the relay and xrdp (1280x720)");
    report(&format!("- the desktop's picture, from the client's start: {}", summary(&taken.pictures, "ms")));
    report(&format!("- a key until its pixels are on the client's display: {}", summary(&taken.keys, "ms")));
    report(&format!("- memory of each client on the runner (PSS): {}", summary(&taken.memory, "MiB")));
    Ok(())
}

/// One client, from its start to its end.
async fn look(product: &Product, session: &str, taken: &mut Taken) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let display = OwnDisplay::start(dir.path(), SIZE).await?;
    let (_opened, told) = port(product, session).await?;
    let alone: BTreeSet<u32> = product.processes().into_iter().collect();
    let begun = Instant::now();
    let _client = client(&display, &told, dir.path())?;
    loop {
        let screen = display.screen().await?;
        let shown = screen.pixels.iter().filter(|pixel| **pixel & 0x00ff_ffff == BACKGROUND).count();
        if shown * 2 > screen.pixels.len() {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "the client shows no desktop");
    }
    taken.pictures.push(begun.elapsed().as_secs_f64() * 1e3);
    taken.keys.extend(echoes(Rfb::unix(&display.socket).await?).await?);
    let more: Vec<u32> = product.processes().into_iter().filter(|pid| !alone.contains(pid)).collect();
    taken.memory.push(memory_mib(&more, "Pss"));
    display.end().await
}

/// `helixctl session rdp` while it runs, and what it prints.
async fn port(product: &Product, session: &str) -> Result<(Child, Value)> {
    let mut child = Command::new(binary("helixctl")?)
        .args(["--url", product.url(), "session", "rdp", session, "--json"])
        .env("HELIX_TOKEN", product.token())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??.context("it says nothing")?;
    Ok((child, serde_json::from_str(&line)?))
}

fn client(display: &OwnDisplay, told: &Value, home: &Path) -> Result<Child> {
    let text = |key: &str| told[key].as_str().context(told.to_string());
    let client = Command::new(programs::installed("xfreerdp")?)
        .args([
            format!("/v:{}", text("address")?),
            format!("/u:{}", text("username")?),
            format!("/p:{}", text("password")?),
        ])
        .args(["/d:", "/cert:ignore", "/sec:tls", "-decorations", &format!("/size:{SIZE}")])
        .envs(display.environment())
        .env("HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(client)
}
