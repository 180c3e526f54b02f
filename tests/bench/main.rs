//! helix-bench: the product and its peers in one run, alternating, with versions, command lines and sample counts.
//!
//! `helix-bench [NAME…]` runs the named parts, all where none is named; `HELIX_BENCH_ROUNDS` sets the rounds. Figures go to stdout as
//! Markdown, progress to stderr. Wall times on a shared machine are noisy: the ratios are the claim.

mod burst;
mod claims;
mod cold_start;
mod command_line;
mod control_plane;
mod conversation;
mod desktop;
mod display;
mod fan_out;
mod images;
mod measure;
mod memory;
mod peer;
mod product;
mod rdp;
mod recording;
mod recovery;
mod relay;
mod replay;
mod simulated;
mod typing;
mod viewer;

use std::io::Write;
use std::process::Command;

use anyhow::{Result, bail};

/// A line for the person watching.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A line of the report.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Rounds of every alternating measurement.
pub fn rounds() -> usize {
    std::env::var("HELIX_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let own_name = std::env::args().next().unwrap_or_default();
    if own_name.ends_with("Xtigervnc") {
        return display::run();
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    versions();
    let parts = [
        "cold_start",
        "burst",
        "claims",
        "control_plane",
        "fan_out",
        "command_line",
        "memory",
        "relay",
        "recovery",
        "conversation",
        "typing",
        "rdp",
        "desktop",
        "recording",
        "replay",
        "images",
    ];
    if let Some(unknown) = wanted.iter().find(|name| !parts.contains(&name.as_str())) {
        bail!("no part {unknown:?}; there are: {}", parts.join(", "));
    }
    for part in parts.into_iter().filter(|part| wanted.is_empty() || wanted.iter().any(|name| name == part)) {
        say(&format!("== {part}"));
        match part {
            "cold_start" => runtime.block_on(cold_start::run())?,
            "burst" => runtime.block_on(burst::run())?,
            "claims" => runtime.block_on(claims::run())?,
            "control_plane" => runtime.block_on(control_plane::run())?,
            "fan_out" => runtime.block_on(fan_out::run())?,
            "command_line" => runtime.block_on(command_line::run())?,
            "memory" => runtime.block_on(memory::run())?,
            "relay" => runtime.block_on(relay::run())?,
            "recovery" => runtime.block_on(recovery::run())?,
            "conversation" => runtime.block_on(conversation::run())?,
            "typing" => runtime.block_on(typing::run())?,
            "rdp" => runtime.block_on(rdp::run())?,
            "recording" => runtime.block_on(recording::run())?,
            "replay" => runtime.block_on(replay::run())?,
            "images" => runtime.block_on(images::run())?,
            _ => runtime.block_on(desktop::run())?,
        }
    }
    Ok(())
}

/// What produced the figures.
fn versions() {
    let line = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().find(|line| !line.trim().is_empty()).unwrap_or("missing").trim().to_owned()
    };
    report(&format!("- {} cores, kernel {}", num_cpus(), line("uname", &["-r"])));
    report(&format!("- {}", line("Xtigervnc", &["-version"])));
    report(&format!("- Xvfb {}", line("dpkg-query", &["-W", "-f", "${Version}", "xvfb"])));
    report(&format!("- x11vnc: {}", line("x11vnc", &["-version"])));
    report(&format!("- websockify {}", line("dpkg-query", &["-W", "-f", "${Version}", "websockify"])));
    report(&format!("- xdotool {}", line("dpkg-query", &["-W", "-f", "${Version}", "xdotool"])));
    report(&format!("- {}", line("scrot", &["--version"])));
    report(&format!("- mmdebstrap {}", line("dpkg-query", &["-W", "-f", "${Version}", "mmdebstrap"])));
    report(&format!("- debootstrap {}", line("dpkg-query", &["-W", "-f", "${Version}", "debootstrap"])));
    report(&format!("- {}", line("buildah", &["--version"])));
    report(&format!("- openbox {}", line("dpkg-query", &["-W", "-f", "${Version}", "openbox"])));
}

fn num_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
