//! T8: a click and a screenshot through the API, from the client's call to its answer, on a 1080p terminal.
//!
//! Peers on the same display: xdotool and scrot, each started anew as scripts do it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use reqwest::Method;
use serde_json::json;

use crate::measure::summary;
use crate::product::Product;
use crate::{report, rounds, say};

/// Of each kind in one round.
const CLICKS: usize = 20;
const PICTURES: usize = 5;

/// Formats of the API, and what is read of them.
const FORMATS: [&str; 4] = ["raw", "jpeg", "png", "webp"];

pub async fn run() -> Result<()> {
    let product = Product::start(2, &[])?;
    let session = product.create_ready().await?;
    let at = |rest: &str| format!("/api/v1/sessions/{}/{rest}", session.id);
    // Something to look at.
    let actions = json!({"actions": [{"type": "text", "text": "seq 2000; ls -l /usr/bin | head -400\n"}]});
    product.call(Method::POST, &at("input"), Some(actions)).await?;
    product.call(Method::POST, &at("wait"), Some(json!({"for": "settle"}))).await?;
    let peers = Peers::new(&session)?;
    let dir = tempfile::tempdir()?;

    let (mut click, mut peer_click) = (Vec::new(), Vec::new());
    let (mut pictures, mut unchanged, mut peer_picture) = (vec![Vec::new(); FORMATS.len()], Vec::new(), Vec::new());
    let mut sizes = [0; FORMATS.len()];
    for round in 0..rounds() {
        for number in 0..CLICKS {
            let (x, y) = (100 + number, 200 + number);
            let begun = Instant::now();
            let actions = json!({"actions": [{"type": "click", "x": x, "y": y}]});
            product.call(Method::POST, &at("input"), Some(actions)).await?;
            click.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        for number in 0..PICTURES {
            let (x, y) = (100 + number, 200 + number);
            let begun = Instant::now();
            peers.run("xdotool", &["mousemove", &x.to_string(), &y.to_string(), "click", "1"])?;
            peer_click.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        for (format, (samples, size)) in FORMATS.iter().zip(pictures.iter_mut().zip(&mut sizes)) {
            for _ in 0..PICTURES {
                let begun = Instant::now();
                let (bytes, _) = product.fetch(&at(&format!("screenshot?format={format}")), None).await?;
                samples.push(begun.elapsed().as_secs_f64() * 1e3);
                *size = bytes;
            }
        }
        let (_, etag) = product.fetch(&at("screenshot?format=png"), None).await?;
        for _ in 0..PICTURES {
            let begun = Instant::now();
            let (bytes, _) = product.fetch(&at("screenshot?format=png"), Some(&etag)).await?;
            ensure!(bytes == 0, "something was drawn");
            unchanged.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        for _ in 0..PICTURES {
            let begun = Instant::now();
            peers.run("scrot", &["-o", &dir.path().join("screen.png").display().to_string()])?;
            peer_picture.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        say(&format!("round {round} done"));
    }
    report("\n## T8 · desktop API: from the client's call to its answer, 1920x1080");
    report(&format!("- click: helix {}; xdotool {}", summary(&click, "ms"), summary(&peer_click, "ms")));
    for ((format, samples), size) in FORMATS.iter().zip(&pictures).zip(sizes) {
        report(&format!("- screenshot {format}, {} KiB: helix {}", size / 1024, summary(samples, "ms")));
    }
    report(&format!("- screenshot when nothing has changed (304): helix {}", summary(&unchanged, "ms")));
    report(&format!("- screenshot to a PNG file: scrot {}", summary(&peer_picture, "ms")));
    Ok(())
}

/// Programs on the session's own display.
struct Peers {
    display: String,
    authority: String,
}

impl Peers {
    fn new(session: &SessionView) -> Result<Self> {
        let number = session.display.as_ref().context("the session has no display")?.number;
        let environment = helix_tests::x::environment(session.pid.context("the session has no process")?)?;
        let authority = environment.get("XAUTHORITY").context("XAUTHORITY is not set in the session")?.clone();
        ensure!(Path::new(&authority).exists(), "{authority} is missing");
        Ok(Self { display: format!(":{number}"), authority })
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let status = Command::new(program)
            .args(args)
            .env("DISPLAY", &self.display)
            .env("XAUTHORITY", &self.authority)
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("cannot run {program}: packaging/setup.sh bench brings it"))?;
        ensure!(status.success(), "{program} {args:?}: {status}");
        Ok(())
    }
}
