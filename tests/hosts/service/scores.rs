//! What `systemd-analyze security` says of every unit of live sessions, and of agentd: T14.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::secs;
use serde_json::json;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Host, Suite, say};
use crate::units::Units;

/// A kind that brings a sandbox of its own, such as a browser.
const BOXED: &str = "description = \"As a browser\"\ncommand = [\"sleep\", \"infinity\"]\n\
    input = \"required\"\nreadiness = \"none\"\nrestart = \"no\"\non_exit = \"keep\"\ntask = true\ndbus = true\n\
    own_sandbox = true\n\
    [[files]]\npath = \"input\"\nmode = \"0600\"\ncontent = \"{{ input }}\"\n";
/// Something to be fetched, so that there is a workspace unit.
const PROJECT: &str = "git init -q /opt/git/project && cd /opt/git/project && echo x >x && git add x && \
    git -c user.name=t -c user.email=t@t commit -qm x && \
    systemd-run -q --unit=project -p Type=exec git daemon --base-path=/opt/git --export-all --listen=127.0.0.1";

/// One unit's exposure: 0 is none, 10 is all.
#[derive(Debug, Clone)]
pub struct Score {
    /// What it is.
    pub what: String,
    /// As systemd-analyze counts.
    pub points: f64,
    /// What it may be at most; none for a peer.
    pub most: Option<f64>,
}

pub async fn units_expose_little_on_bookworm() -> Result<()> {
    units_expose_little(Suite::Bookworm).await
}

pub async fn units_expose_little_on_trixie() -> Result<()> {
    units_expose_little(Suite::Trixie).await
}

async fn units_expose_little(suite: Suite) -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().suite(suite).start())?;
    let scores = of_ours(&fleet, &host).await?;
    let mut table = format!("systemd-analyze security, {}", suite.name());
    for Score { what, points, most } in &scores {
        let _ = write!(table, "\n  {what:36} {points:.1}  (at most {:.1})", most.unwrap_or(10.0));
    }
    say(&table);
    for word in ["workspace", "display", "wm", "dbus", "forward", "guest", "app", "tools"] {
        ensure!(scores.iter().any(|score| score.what.contains(word)), "no {word} was scored\n{table}");
    }
    ensure!(scores.iter().all(|score| score.most.is_none_or(|most| score.points <= most)), "too open\n{table}");
    host.stop().await?;
    fleet.stop().await
}

/// Starts sessions of every sort on a host without a runner, and scores all that runs.
pub async fn of_ours(fleet: &Fleet, host: &Host) -> Result<Vec<Score>> {
    host.run_ok(PROJECT).await?;
    host.write("/etc/helix/kinds.d/boxed.toml", BOXED, 0o644).await?;
    fleet.join(host, &RunnerSettings::default()).await?;
    let agentd = Score { what: "agentd".to_owned(), points: of(host, "agentd.service").await?, most: Some(3.5) };
    let mut scores = vec![agentd];
    for (what, own_sandbox, body) in [
        ("network host", false, json!({ "kind": "terminal", "project": { "git": "git://127.0.0.1/project" } })),
        ("network none", false, json!({ "kind": "command", "input": "true", "network": "none" })),
        ("own sandbox", true, json!({ "kind": "boxed", "input": "true" })),
    ] {
        let mut body = body;
        let id = what.replace(' ', "-");
        body["id"] = json!(id);
        fleet.ready(&body, secs(60)).await?;
        // Which starts its tools.
        fleet.api()?.get(&format!("/api/v1/sessions/{id}/terminals")).await?.expect(200)?;
        let key = Units::of(host, &id).key()?;
        let list = format!("systemctl list-units --all --plain --no-legend 'helix-s{key}-*.service' | cut -d' ' -f1");
        let units = host.run_ok(&list).await?;
        ensure!(units.lines().count() >= 4, "{what}: units are {units}");
        for unit in units.lines() {
            let word = unit.trim_start_matches(&format!("helix-s{key}-")).trim_end_matches(".service");
            let most = if own_sandbox && word == "app" { 2.5 } else { 2.0 };
            scores.push(Score { what: format!("{what}: {word}"), points: of(host, unit).await?, most: Some(most) });
        }
    }
    Ok(scores)
}

/// A unit's points.
pub async fn of(host: &Host, unit: &str) -> Result<f64> {
    let said = host.run_ok(&format!("systemd-analyze security --no-pager {unit}")).await?;
    let overall = said.lines().find_map(|line| line.split_once("Overall exposure level for ")?.1.split_once(": "));
    let points = overall.and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    points.with_context(|| format!("no points for {unit} in:\n{said}"))
}
