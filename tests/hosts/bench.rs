//! Measurements on a whole system, beside the peers that there are for the same work: T9, T12, T13, T14, and starts under
//! systemd. `make bench` runs them (`HELIX_TEST_HOSTS=bench`) and gets Markdown on standard output;
//! `HELIX_BENCH_ROUNDS` sets the rounds. docs/benchmarks.md says how each is measured.

mod exposure;
mod lost;
mod provisioning;
mod recovery;
mod starts;

use std::io::Write;

use anyhow::Result;

use crate::harness::{Case, Host};

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::bench("bench::recovery", recovery::recovery),
        Case::bench("bench::lost", lost::lost),
        Case::bench("bench::exposure", exposure::exposure),
        Case::bench("bench::starts", starts::starts),
        Case::bench("bench::provisioning", provisioning::provisioning),
    ]
}

/// Parts of the report that belong together, in one go: cases may run at once.
fn report(lines: &[String]) {
    let _ = writeln!(std::io::stdout(), "\n{}", lines.join("\n"));
}

/// Rounds of every alternating measurement.
fn rounds() -> u32 {
    std::env::var("HELIX_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// What produced the figures.
async fn versions(host: &Host) -> Result<String> {
    let line = "systemctl --version | head -1; dpkg-query -W -f '${Package} ${Version}\\n' \
        supervisor xvfb x11vnc openbox xterm tigervnc-standalone-server";
    Ok(format!("- {}, {}", host.run_ok("nproc; echo processors").await?.replace('\n', " "), host.run_ok(line).await?)
        .replace('\n', ", "))
}
