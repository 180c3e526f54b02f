//! T7: a key pressed in a viewer, until the pixels that it changed are there: at the display's own socket, and through
//! both hops of the relay.
//!
//! Peer: x11vnc at its own socket, in front of Xvfb with the same window manager and terminal.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use helix_tests::rfb::Rfb;

use crate::measure::{quantile, summary};
use crate::peer::Peer;
use crate::product::Product;
use crate::relay::socket_of;
use crate::{report, rounds, say};

/// Of each kind in one round: they fit into the terminal's line.
const KEYS: usize = 60;
/// Before them, not counted: the first changes that a new viewer of x11vnc sees are the pointer's.
const WARM_UP: usize = 10;
/// Between two keys of a person, who does not type as fast as they come through.
const BETWEEN: Duration = Duration::from_millis(30);
/// For the peer's desktop, which tells nobody that it is there.
const START: Duration = Duration::from_secs(10);
const DISPLAY: u32 = 77;
const KEY_A: u32 = 0x61;
const KEY_RETURN: u32 = 0xff0d;

pub async fn run() -> Result<()> {
    let product = Product::start(2, &[])?;
    let session = product.create_ready().await?;
    let socket = socket_of(&product)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let peer = Peer::script_desktop(DISPLAY, port)?;
    ready(&peer).await.context("the peer")?;
    let (mut direct, mut hops, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds() {
        direct.extend(echoes(Rfb::unix(&socket).await?).await.context("the display's own socket")?);
        let ticket = product.ticket(session.id.as_str()).await?;
        hops.extend(echoes(Rfb::ticket(&ticket.url).await?).await.context("two hops")?);
        theirs.extend(echoes(Rfb::unix(&peer.vnc_socket()).await?).await.context("x11vnc")?);
        let [one, two, three] = [&direct, &hops, &theirs].map(|samples| quantile(samples, 0.5));
        say(&format!("round {round}: direct {one:.1} ms, two hops {two:.1} ms, x11vnc {three:.1} ms"));
    }
    report("\n## T7 · a key pressed until its pixels are at the viewer (1080p terminal, raw)");
    report(&format!("- helix, the display's own socket: {}", summary(&direct, "ms")));
    report(&format!("- helix, two hops: {}", summary(&hops, "ms")));
    report(&format!("- x11vnc -nonap, its own socket: {}", summary(&theirs, "ms")));
    Ok(())
}

/// Waits until the peer has a viewer's socket and a terminal that hears the keyboard. Its script starts window manager
/// and terminal at once, and of a window that openbox finds when it starts, or is told of while it does, it now and then
/// gives no focus to the one and does not show the other before the next event: so it is told again.
async fn ready(peer: &Peer) -> Result<()> {
    let begun = Instant::now();
    while let Err(error) = Rfb::unix(&peer.vnc_socket()).await.map(drop).and_then(|()| focus()) {
        ensure!(begun.elapsed() < START, error);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Shows the peer's terminal and gives it the focus, as a person would. xdotool alone would wait for ever.
fn focus() -> Result<()> {
    let status = Command::new("timeout")
        .args(["1", "xdotool", "search", "--class", "xterm", "windowmap", "windowactivate", "--sync"])
        .env("DISPLAY", format!(":{DISPLAY}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run xdotool: packaging/setup.sh bench brings it")?;
    ensure!(status.success(), "its terminal does not get the focus");
    Ok(())
}

/// Milliseconds of each key.
pub async fn echoes(mut viewer: Rfb) -> Result<Vec<f64>> {
    let mut taken = Vec::with_capacity(WARM_UP + KEYS);
    for key in 0..WARM_UP + KEYS {
        tokio::time::sleep(BETWEEN).await;
        // Nothing of the key before is still to come.
        viewer.full_frame().await?;
        let begun = Instant::now();
        viewer.key(KEY_A).await?;
        viewer.change().await.with_context(|| format!("key {key}"))?;
        taken.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    viewer.key(KEY_RETURN).await?;
    // It has come through before the viewer leaves.
    viewer.change().await?;
    Ok(taken.split_off(WARM_UP))
}
