//! T15: what a person waits for at the prompt: `--help`, and `status` of a fleet with a thousand sessions. Peers: `ansible
//! --version` and `supervisorctl --help`, where they are installed; what they cost is their start.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use serde_json::json;

use crate::measure::summary;
use crate::product::{Product, binary};
use crate::simulated::{KIND, Simulated};
use crate::{report, rounds, say};

const SESSIONS: u64 = 1000;
const RUNNERS: u32 = 20;

pub async fn run() -> Result<()> {
    let product = Product::start(1, &[])?;
    let fleet = Simulated::start(&product, RUNNERS, SESSIONS as u32 / RUNNERS + 8).await?;
    let posts = futures::stream::iter(0..SESSIONS).map(|number| {
        let body = json!({"id": format!("s-{number}"), "kind": KIND});
        product.call(Method::POST, "/api/v1/sessions", Some(body))
    });
    posts.buffer_unordered(64).try_for_each(|_| async { Ok(()) }).await?;
    fleet.placed(SESSIONS).await;
    let helixctl = || binary("helixctl").map(Command::new);
    let rounds = rounds() * 3;
    let [mut help, mut status, mut json_status, mut ansible, mut supervisorctl] = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        help.push(timed(helixctl()?.arg("--help"))?.context("helixctl --help")?);
        for (more, into) in [(None, &mut status), (Some("--json"), &mut json_status)] {
            let mut command = helixctl()?;
            command.args(["status", "--state-dir"]).arg(product.dir()).args(more);
            into.push(timed(&mut command)?.context("helixctl status")?);
        }
        ansible.extend(timed(Command::new("ansible").arg("--version"))?);
        supervisorctl.extend(timed(Command::new("supervisorctl").arg("--help"))?);
    }
    say("commands done");
    report(&format!("\n## T15 · command line, a fleet of {SESSIONS} sessions on {RUNNERS} simulated runners"));
    report(&format!("- helixctl --help: {}", summary(&help, "ms")));
    report(&format!("- helixctl status: {}; --json: {}", summary(&status, "ms"), summary(&json_status, "ms")));
    for (name, took) in [("ansible --version", ansible), ("supervisorctl --help", supervisorctl)] {
        let figures = if took.is_empty() { "not installed".to_owned() } else { summary(&took, "ms") };
        report(&format!("- {name}: {figures}"));
    }
    Ok(())
}

/// Milliseconds from start to end; none where it is not installed.
fn timed(command: &mut Command) -> Result<Option<f64>> {
    let begun = Instant::now();
    match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Ok(Some(begun.elapsed().as_secs_f64() * 1e3)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{command:?}")),
    }
}
