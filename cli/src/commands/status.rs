//! `helixctl status`: server, NATS, runners, pools and sessions on one screen. Exit code 0 healthy, 1 degraded, 3 not
//! reachable.
//!
//! It can stay and show what changes, or wait until all is well: it looks again with every event of the fleet's feed, and
//! every [`STEP`] since not everything has an event. A server that is not there, or that is away, is waited for.

mod leftovers;
mod store;

use std::process::ExitCode;
use std::time::Duration;

use futures::FutureExt as _;
use helix_protocol::ErrorCode;
use helix_protocol::api::SessionView;
use helix_protocol::api::status::FleetStatus;
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::feed::Feed;
use crate::ui::Ui;

/// A week is as good as for ever.
const MOST_SECONDS: u64 = 7 * 24 * 60 * 60;
/// Most sessions shown; the counts cover all.
const SHOWN: usize = 20;

/// Longest time between two looks.
const STEP: Duration = Duration::from_secs(5);
/// Before the next try where no server answers.
const RETRY: Duration = Duration::from_millis(500);
/// What happens within it is one picture.
const BURST: Duration = Duration::from_millis(200);

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Stay, and show it again whenever something has changed; with --json an object per line
    #[arg(long, short)]
    watch: bool,
    /// Return as soon as everything is healthy; exit code 5 where that is not in time
    #[arg(long, conflicts_with = "watch")]
    wait_ready: bool,
    /// How many seconds --wait-ready waits
    #[arg(long, default_value_t = 120, requires = "wait_ready", value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(..=MOST_SECONDS))]
    timeout: u64,
}

/// What `status --json` prints.
#[derive(PartialEq, Serialize)]
struct Status {
    /// Nothing below is wrong.
    healthy: bool,
    /// What is wrong, for people.
    problems: Vec<String>,
    /// What is for people to decide, and makes nothing degraded.
    warnings: Vec<String>,
    /// The server that was asked.
    url: String,
    #[serde(flatten)]
    fleet: FleetStatus,
    /// Sessions that have not ended, newest first, at most [`SHOWN`].
    running: Vec<SessionView>,
}

/// Asks and judges.
pub async fn run(client: &Client, args: &StatusArgs, ui: &Ui) -> Result<ExitCode> {
    let status = if args.watch {
        return watch(client, ui).await;
    } else if args.wait_ready {
        until_healthy(client, Duration::from_secs(args.timeout), ui).await?
    } else {
        look(client).await?
    };
    ui.answer(&status, || show(ui, &status))?;
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn watch(client: &Client, ui: &Ui) -> Result<ExitCode> {
    let (mut feed, mut shown, mut said) = (None, None, String::new());
    loop {
        match look(client).await {
            Ok(status) if shown.as_ref() == Some(&status) => {}
            Ok(status) => {
                let is_read = if ui.json { ui.stream_json(&status)? } else { ui.clear()? };
                if !is_read {
                    return Ok(ExitCode::SUCCESS);
                }
                if !ui.json {
                    show(ui, &status)?;
                }
                (shown, said) = (Some(status), String::new());
            }
            Err(error) if may_pass(&error) => {
                // Once, however often it is tried.
                let text = error.to_string();
                if said != text {
                    ui.error(&error);
                    (shown, said) = (None, text);
                }
            }
            Err(error) => return Err(error),
        }
        news(client, &mut feed, shown.is_some()).await;
    }
}

async fn until_healthy(client: &Client, patience: Duration, ui: &Ui) -> Result<Status> {
    let (deadline, progress, mut feed) = (Instant::now() + patience, ui.progress(), None);
    let mut trouble = format!("{} has not answered", client.connection.url);
    loop {
        let answered = match timeout_at(deadline, look(client)).await {
            Ok(Ok(status)) if status.healthy => return Ok(status),
            Ok(Ok(status)) => {
                trouble = status.problems.join("; ");
                true
            }
            Ok(Err(error)) if may_pass(&error) => {
                trouble = error.why.unwrap_or(error.what);
                false
            }
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => false,
        };
        progress.now(&trouble);
        // Events that come faster than they are looked at would be news for ever.
        if timeout_at(deadline, news(client, &mut feed, answered)).await.is_err() || Instant::now() >= deadline {
            let seconds = patience.as_secs();
            return Err(CliError::new(Kind::TimedOut, format!("the fleet is not healthy after {seconds} s"))
                .because(trouble)
                .next("helixctl status"));
        }
    }
}

/// A server that starts, or whose store does, is well in a moment. What is no answer of a Helix server stays so.
fn may_pass(error: &CliError) -> bool {
    matches!(error.kind, Kind::Unreachable | Kind::TimedOut) || error.kind == Kind::Failed && error.code.is_some()
}

/// Returns when something may have changed, and after a while.
async fn news(client: &Client, feed: &mut Option<Feed>, answered: bool) {
    let ends = Instant::now() + if answered { STEP } else { RETRY };
    if let Some(open) = feed {
        if timeout_at(ends, open.happened()).await.is_ok() {
            sleep(BURST).await;
            // All that came with it is one picture.
            while !open.is_broken() && open.happened().now_or_never().is_some() {}
        }
        // Opened anew, not resumed: the next look shows what was missed.
        if open.is_broken() {
            *feed = None;
        }
    } else if let Ok(Ok(open)) = timeout_at(ends, Feed::open(&client.connection)).await {
        // What happened before is seen by the look that follows at once.
        *feed = Some(open);
    } else {
        sleep_until(ends).await;
    }
}

async fn look(client: &Client) -> Result<Status> {
    let fleet = match client.status().await {
        Ok(fleet) => fleet,
        // The server itself answered, and cannot reach its store: degraded, not unreachable.
        Err(mut error) if error.code == Some(ErrorCode::StoreUnavailable) => {
            error.kind = Kind::Failed;
            error.next = Some("look at the bus: log/nats.log in the state directory of `helixctl up`".to_owned());
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let mut filter = vec![("limit", SHOWN.to_string())];
    let live = SessionPhase::ALL.iter().filter(|phase| !phase.is_terminal());
    filter.extend(super::session::list("phase", live.map(ToString::to_string)));
    let running = client.sessions(&filter).await?.sessions;
    let (problems, warnings) = (problems(&fleet), leftovers::warnings(&fleet));
    let (healthy, url) = (problems.is_empty(), client.connection.url.to_string());
    Ok(Status { healthy, problems, warnings, url, fleet, running })
}

/// Why the fleet is not healthy.
fn problems(fleet: &FleetStatus) -> Vec<String> {
    let mut problems = store::problems(fleet.store.as_ref());
    if !fleet.runners.iter().any(|runner| runner.liveness == Liveness::Online) {
        problems.push("no runner is online: sessions wait".to_owned());
    }
    for runner in fleet.runners.iter().filter(|runner| runner.liveness != Liveness::Online) {
        problems.push(format!("runner {} is {}", runner.id, format!("{:?}", runner.liveness).to_lowercase()));
    }
    for runner in &fleet.runners {
        for degraded in &runner.degraded {
            problems.push(format!("runner {} takes nothing new: {}", runner.id, degraded.detail));
        }
    }
    for pool in fleet.pools.iter().filter(|pool| pool.ready < pool.spec.min_ready) {
        // On the way there is not wrong.
        if let Some(why) = super::pool::why(pool) {
            problems.push(format!("pool {} has {} of {} ready: {why}", pool.name, pool.ready, pool.spec.min_ready));
        }
    }
    if let Some(scale) = fleet.scale.as_ref().filter(|scale| scale.failures > 0) {
        let why = scale.error.as_deref().unwrap_or("nobody said why");
        problems.push(format!("the scale hook failed {} times in a row: {why}", scale.failures));
    }
    let lost = fleet.sessions.get("Lost").copied().unwrap_or_default();
    if lost > 0 {
        problems.push(format!("{lost} sessions are lost: their runner is not heard"));
    }
    problems
}

fn show(ui: &Ui, status: &Status) -> Result<()> {
    let health = if status.healthy { "healthy" } else { "degraded" };
    ui.line(&format!("server {} {} version {}", status.url, health, status.fleet.version))?;
    if let Some(store) = &status.fleet.store {
        ui.line(&store::line(store))?;
    }
    for problem in &status.problems {
        ui.line(&format!("  {problem}"))?;
    }
    for warning in &status.warnings {
        ui.line(&format!("  warning: {warning}"))?;
    }
    if let Some(line) = leftovers::line(&status.fleet) {
        ui.line(&format!("  {line}"))?;
    }
    ui.line("")?;
    super::runner::table(ui, &status.fleet.runners)?;
    for runner in &status.fleet.runners {
        for pull in &runner.images.pulls {
            ui.line(&format!("{} fetches image {}", runner.id, super::runner::show::far(pull)))?;
        }
        for lacking in &runner.images.lacking {
            ui.warn(&format!("{} lacks image {}", runner.id, super::runner::show::lack(lacking)));
        }
    }
    ui.line("")?;
    if !status.fleet.pools.is_empty() {
        super::pool::table(ui, &status.fleet.pools)?;
        ui.line("")?;
    }
    let counts: Vec<_> = status.fleet.sessions.iter().map(|(phase, count)| format!("{phase} {count}")).collect();
    if counts.is_empty() {
        return ui.line("no sessions yet: helixctl session create --help");
    }
    ui.line(&format!("sessions: {}", counts.join(", ")))?;
    let waiting = status.fleet.sessions.get("Pending").copied().unwrap_or_default();
    if waiting > 0 {
        ui.line(&format!("queue: {waiting} sessions wait; why: helixctl session explain ID"))?;
    }
    if status.running.is_empty() { Ok(()) } else { super::session::table(ui, &status.running) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_without_runners_is_degraded() {
        let fleet: FleetStatus = serde_json::from_str(
            r#"{"version":"1","server":"s","runners":[],"sessions":{"Lost":2},"scale":{"number":7,
                "at":"2026-01-01T00:00:00Z","done":false,"failures":2,"error":"/x ended with exit status: 1",
                "retry_at":null,"wanted":{"shortages":[],"idle_runners":[]}}}"#,
        )
        .expect("a status");
        insta::assert_snapshot!(problems(&fleet).join("\n"), @r"
        NATS does not answer: nothing can be changed, and sessions run on
        no runner is online: sessions wait
        the scale hook failed 2 times in a row: /x ended with exit status: 1
        2 sessions are lost: their runner is not heard
        ");
    }
}
