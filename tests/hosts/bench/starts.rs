//! The start of a session in one host, three ways in turn: units of systemd (r1), processes of one agentd (r2), and the
//! supervisord stack. Servers and NATS are outside of the host; their processor time is not counted.

use std::time::Instant;

use anyhow::{Context, Result};
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::secs;
use serde_json::json;

use super::{report, rounds, versions};
use crate::figures::Figures;
use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Host, lab, say};

const TERMINAL: &str = include_str!("../../../packaging/kinds/terminal.toml");
const STACK: &str = include_str!("stack.conf");
const STACK_SCRIPT: &str = include_str!("stack.py");
/// docs/systemd.md: what sessions without units of their own need of agentd's. As root, xterm sets its groups.
const DROP_IN: &str = "[Service]\nPrivateTmp=no\nReadWritePaths=/tmp\nMemoryDenyWriteExecute=no\nRestrictNamespaces=no\n\
    CapabilityBoundingSet=CAP_SETGID CAP_SETUID\n\
    SystemCallFilter=\nSystemCallFilter=@system-service\n";

/// Times and processor times of one way.
#[derive(Default)]
struct Way {
    took: Vec<f64>,
    used: Vec<f64>,
}

impl Way {
    fn line(self, what: &str) -> String {
        format!("| {what} | {} | {} |", Figures::of(self.took, "ms"), Figures::of(self.used, "ms"))
    }
}

/// The second runner, without units: only it knows the kind `plain`, only the first one `unit`.
async fn join_plain(fleet: &Fleet, host: &Host) -> Result<()> {
    let text = format!(
        "api_host = \"http://{at}:{server}\"\nnats_url = \"nats://{at}:{nats}\"\n\
         api_token_file = \"/etc/helix/enrolment.token\"\nrunner_id = \"r2\"\nconcurrency = 4\nbackend = \"process\"\n\
         kinds_dir = \"/etc/helix/kinds-plain.d\"\nhealth_port = 0\n",
        at = lab::SERVER,
        server = fleet.cluster.servers.first().context("no server")?.port(),
        nats = fleet.cluster.nats.port(),
    );
    host.write("/etc/helix/agentd-plain.toml", &text, 0o600).await?;
    host.write("/etc/helix/kinds-plain.d/plain.toml", TERMINAL, 0o644).await?;
    host.write("/etc/systemd/system/agentd@plain.service.d/process.conf", DROP_IN, 0o644).await?;
    host.run_ok("systemctl daemon-reload && systemctl start agentd@plain").await?;
    fleet.online("r2").await
}

async fn session(fleet: &Fleet, host: &Host, kind: &str, way: &mut Way) -> Result<()> {
    let api = fleet.api()?;
    let before = host.processor_ms()?;
    let begun = Instant::now();
    let body = json!({ "kind": kind, "geometry": "1920x1080" });
    let view: SessionView = api.post("/api/v1/sessions?wait=ready&timeout=60", &body).await?.json()?;
    way.took.push(begun.elapsed().as_secs_f64() * 1e3);
    way.used.push(host.processor_ms()? - before);
    anyhow::ensure!(view.phase == SessionPhase::Ready, "{view:?}");
    api.delete_session(view.id.as_str(), secs(30)).await
}

async fn stack(host: &Host, way: &mut Way) -> Result<()> {
    let before = host.processor_ms()?;
    way.took.push(host.run_ok("python3 /root/stack.py").await?.parse()?);
    way.used.push(host.processor_ms()? - before);
    // Killed outright, x11vnc leaves its shared memory behind, and Xvfb its lock.
    host.run_ok("systemctl stop stack; rm -f /tmp/.X70-lock /tmp/.X11-unix/X70").await?;
    Ok(())
}

pub async fn starts() -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    host.write("/etc/helix/kinds.d/unit.toml", TERMINAL, 0o644).await?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    join_plain(&fleet, &host).await?;
    host.write("/etc/stack.conf", STACK, 0o644).await?;
    host.write("/root/stack.py", STACK_SCRIPT, 0o700).await?;
    let [mut units, mut processes, mut peer] = [(); 3].map(|()| Way::default());
    for round in 0..rounds() {
        session(&fleet, &host, "unit", &mut units).await?;
        session(&fleet, &host, "plain", &mut processes).await?;
        stack(&host, &mut peer).await?;
        let last = |way: &Way| way.took.last().copied().unwrap_or_default();
        say(&format!(
            "start {round}: units {:.0} ms, processes {:.0} ms, stack {:.0} ms",
            last(&units),
            last(&processes),
            last(&peer)
        ));
    }
    report(&[
        "## Start of a session under systemd, 1080p, in one container host (alternating rounds)".to_owned(),
        versions(&host).await?,
        "\n| | time | CPU in the host |\n|---|---|---|".to_owned(),
        units.line("Helix, systemd backend: POST to Ready"),
        processes.line("Helix, process backend: POST to Ready"),
        peer.line("supervisord, Xvfb, x11vnc, openbox, xterm as one service: start to VNC ServerInit"),
    ]);
    host.stop().await?;
    fleet.stop().await
}
