//! `helixctl test-agents`: a session of each kind on the configured server, its start and its own check.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use helix_protocol::api::CreateSession;
use helix_protocol::{KindName, RunnerId};
use serde::Serialize;

use super::session::wait::{Goal, Watch};
use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::ui::{Hosts, Ui, span};

/// The kind that needs no model and no key: its task proves the way of a prompt.
const COMMAND: &str = "command";

/// Arguments of `test-agents`.
#[derive(Debug, Args)]
pub struct TestAgentsArgs {
    /// Kind to test; may be repeated [default: all that the server's runners have]
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<KindName>,
    /// The runner to test on
    #[arg(long, value_name = "ID")]
    runner: Option<RunnerId>,
    /// Sessions of each kind at once [env: NUM_AGENTS]
    #[arg(long, default_value_t = 1, value_name = "N", env = "NUM_AGENTS", hide_env = true)]
    agents: u32,
    /// Longest wait for a session, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// How a session of a kind did.
#[derive(Debug, Serialize)]
struct Tested {
    kind: KindName,
    ok: bool,
    ready_ms: Option<u128>,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<CliError>,
}

/// Tests; exit code 1 when a kind failed.
pub async fn run(client: &Client, args: &TestAgentsArgs, ui: &Ui) -> Result<ExitCode> {
    let mut kinds = args.kinds.clone();
    if kinds.is_empty() {
        let runners = client.runners().await?.runners;
        let wanted = |id: &RunnerId| args.runner.as_ref().is_none_or(|wanted| wanted == id);
        kinds = runners
            .into_iter()
            .filter(|runner| wanted(&runner.id))
            .filter_map(|runner| runner.facts)
            .flat_map(|facts| facts.kinds)
            .collect();
        kinds.sort();
        kinds.dedup();
    }
    if kinds.is_empty() {
        return Err(CliError::new(Kind::Unreachable, "there is nothing to test")
            .at(&client.connection.url)
            .because("no runner of that server has any kind")
            .next("helixctl up --detach, or helixctl runner list"));
    }
    let lines = ui.hosts();
    let wanted = kinds.iter().flat_map(|kind| (0..args.agents).map(move |_| kind));
    let tests = wanted.map(|kind| test(client, kind, args, &lines, ui));
    let tested = futures::future::join_all(tests).await;
    drop(lines);
    ui.answer(&serde_json::json!({ "ok": tested.iter().all(|test| test.ok), "tests": tested }), || {
        let row = |test: &Tested| {
            let ready = test
                .ready_ms
                .map_or_else(String::new, |ms| span(Duration::from_millis(u64::try_from(ms).unwrap_or(0))));
            vec![test.kind.to_string(), if test.ok { "ok" } else { "FAIL" }.to_owned(), ready, test.found.clone()]
        };
        ui.table(&["KIND", "STATE", "READY", "FOUND"], &tested.iter().map(row).collect::<Vec<_>>())
    })?;
    for error in tested.iter().filter_map(|test| test.error.as_ref()) {
        ui.error(error);
    }
    Ok(if tested.iter().all(|test| test.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn test(client: &Client, kind: &KindName, args: &TestAgentsArgs, lines: &Hosts, ui: &Ui) -> Tested {
    let line = lines.line(kind.as_str());
    let mut ready_ms = None;
    line.step("starting");
    let found = start(client, kind, args, ui, &mut ready_ms).await;
    let (ok, found, error) = match found {
        Ok(found) => (true, found, None),
        Err(error) => (false, error.what.clone(), Some(error)),
    };
    line.end(&found);
    Tested { kind: kind.clone(), ok, ready_ms, found, error }
}

/// A session from its creation to its end; what was found in between.
async fn start(
    client: &Client,
    kind: &KindName,
    args: &TestAgentsArgs,
    ui: &Ui,
    ready_ms: &mut Option<u128>,
) -> Result<String> {
    let is_command = kind.as_str() == COMMAND;
    let request = CreateSession {
        kind: Some(kind.clone()),
        runner: args.runner.clone(),
        input: is_command.then(|| "echo helix".to_owned()),
        labels: [("helix.test".to_owned(), "test-agents".to_owned())].into(),
        ..CreateSession::default()
    };
    let begun = Instant::now();
    let mut watch = Watch::open(client, Duration::from_secs(args.timeout)).await?;
    let id = client.create_session(&request).await?.id;
    let quiet = Ui::new(ui.json, true);
    let checked = async {
        watch.until(&id, Goal::Ready, &quiet).await?;
        *ready_ms = Some(begun.elapsed().as_millis());
        if is_command {
            let session = watch.until(&id, Goal::Result, &quiet).await?;
            let status = session.result.map(|result| result.exit_status);
            let wrong = || CliError::failed(format!("the command ended with {status:?}")).at(format!("session {id}"));
            return if status == Some(0) { Ok("a command ran".to_owned()) } else { Err(wrong()) };
        }
        let windows = client.windows(&id).await?.windows.len();
        if windows == 0 {
            return Err(CliError::failed("no window is on the desktop").at(format!("session {id}")));
        }
        Ok(format!("{windows} windows"))
    };
    let checked = checked.await;
    // It goes whatever was found; what it said is in the error.
    let ended = async {
        client.stop_session(&id).await?;
        watch.until(&id, Goal::Ended, &quiet).await
    };
    let ended = ended.await;
    let found = checked?;
    ended.map(|_| found)
}
