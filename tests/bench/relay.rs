//! T6: what the relay's two hops carry and cost.
//!
//! The desktop's RFB socket is served from memory ([`crate::display`]), so that the relay is what is measured.
//! Peer: websockify, one hop, in front of the same stand-in.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::display::FRAME_BYTES;
use crate::measure::{cpu_seconds, memory_mib, quantile, summary, tree};
use crate::product::Product;
use crate::viewer::Viewer;
use crate::{report, rounds, say};

const FRAMES: usize = 60;
const KEYS: usize = 200;
const IDLE_VIEWERS: usize = 50;

pub async fn run() -> Result<()> {
    let stand_in = tempfile::Builder::new().prefix("hxd").tempdir()?;
    symlink(std::env::current_exe()?, stand_in.path().join("Xtigervnc"))?;
    let path = format!("{}:{}", stand_in.path().display(), std::env::var("PATH").unwrap_or_default());
    let product = Product::start(8, &[("PATH", &path)])?;
    let session = product.create_ready().await?;
    let socket = socket_of(&product)?;
    let (peer, peer_url) = websockify(&socket).await?;

    let hops = [product.pid("server"), product.pid("agentd")];
    let mut ours = Figures::default();
    let mut theirs = Figures::default();
    for round in 0..rounds() {
        let url = product.ticket(session.id.as_str()).await?.url;
        ours.measure(&url, &hops).await?;
        theirs.measure(&peer_url, &[peer.0.id()]).await?;
        say(&format!("round {round}: helix {:.0} MB/s, websockify {:.0} MB/s", last(&ours.rate), last(&theirs.rate)));
    }
    let before = memory_mib(&hops, "Rss");
    let mut viewers = Vec::new();
    for _ in 0..IDLE_VIEWERS {
        viewers.push(Viewer::connect(&product.ticket(session.id.as_str()).await?.url).await?);
    }
    let per_viewer = (memory_mib(&hops, "Rss") - before) * 1024.0 / IDLE_VIEWERS as f64;
    report("\n## T6 · relay: viewer ↔ server ↔ agentd ↔ display");
    report(&format!("- helix, two hops: {}", ours.line(2.0)));
    report(&format!("- websockify, one hop: {}", theirs.line(1.0)));
    report(&format!("- helix: {per_viewer:.0} KiB RSS per idle viewer in both hops together, {IDLE_VIEWERS} viewers"));
    Ok(())
}

#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    cpu: Vec<f64>,
    first: Vec<f64>,
    handshake: Vec<f64>,
    echo: Vec<f64>,
}

impl Figures {
    async fn measure(&mut self, url: &str, processes: &[u32]) -> Result<()> {
        let begun = Instant::now();
        let mut viewer = Viewer::connect(url).await?;
        self.handshake.push(begun.elapsed().as_secs_f64() * 1e3);
        self.first.push(viewer.first_bytes.as_secs_f64() * 1e3);
        viewer.frame().await?;
        let (cpu, begun) = (cpu_seconds(&tree(processes)), Instant::now());
        for _ in 0..FRAMES {
            viewer.frame().await?;
        }
        let gigabytes = (FRAMES * FRAME_BYTES) as f64 / 1e9;
        self.rate.push(gigabytes * 1e3 / begun.elapsed().as_secs_f64());
        self.cpu.push((cpu_seconds(&tree(processes)) - cpu) / gigabytes);
        let mut keys = Vec::new();
        for _ in 0..KEYS {
            let begun = Instant::now();
            viewer.key_echo(0x61, false).await?;
            // Press and release are one round trip each.
            keys.push(begun.elapsed().as_secs_f64() * 1e3 / 2.0);
        }
        self.echo.push(quantile(&keys, 0.5));
        Ok(())
    }

    fn line(&self, hops: f64) -> String {
        format!(
            "{}; {:.2} CPU-s/GB per hop; first 12 bytes {}; whole handshake {}; echo {}",
            summary(&self.rate, "MB/s"),
            quantile(&self.cpu, 0.5) / hops,
            summary(&self.first, "ms"),
            summary(&self.handshake, "ms"),
            summary(&self.echo, "ms"),
        )
    }
}

fn last(samples: &[f64]) -> f64 {
    samples.last().copied().unwrap_or_default()
}

/// RFB socket of the session: the only one under the runner's state.
pub fn socket_of(product: &Product) -> Result<std::path::PathBuf> {
    let sessions = product.dir().join("agentd/s");
    let session = std::fs::read_dir(&sessions)?.next().context("no session directory")??;
    Ok(session.path().join("vnc.sock"))
}

/// Ends its child on drop.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn websockify(socket: &Path) -> Result<(Ended, String)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("websockify")
        .arg(format!("--unix-target={}", socket.display()))
        .arg(format!("127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start websockify")?;
    let child = Ended(child);
    let begun = Instant::now();
    // The peer has no readiness event: ask again soon.
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(10), "websockify does not listen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok((child, format!("ws://127.0.0.1:{port}/websockify")))
}
