//! Time limits with a real server, runner and desktops: what nobody uses ends with the reason, and what somebody looks at
//! or works on does not.

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::rfb::Rfb;
use helix_tests::{Api, Cluster};
use serde_json::{Value, json};

use crate::cli::Cli;

/// Waits until it has ended, and by which limit.
async fn ended_idle(api: &Api, id: &str) -> Result<SessionView> {
    let view = api.wait_phase(id, SessionPhase::Stopped, READY).await?;
    let cause = view.cause.clone().context("no cause")?;
    ensure!((cause.code.as_str(), cause.message.as_str()) == ("idle_timeout", "idle for 10s"), "{id}: {cause:?}");
    Ok(view)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_ends_and_what_is_looked_at_or_worked_on_does_not() -> Result<()> {
    let cluster = Cluster::small().await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    // Long enough for the others to be idle meanwhile.
    let task = json!({"id": "work", "kind": "command", "input": "sleep 20; echo done", "idle_timeout": "10s"});
    cluster.ready(&task).await?;
    cluster.ready(&json!({"id": "desk", "kind": "terminal", "idle_timeout": "10s"})).await?;
    let viewer = Rfb::ticket(&api.ticket("desk").await?.url).await?;
    let line = ["session", "create", "--id", "left", "--kind", "terminal", "--idle-timeout", "10s", "--wait"];
    let made = cli.run(&line).await?;
    ensure!(made.code == 0, "{}", made.stderr);
    cluster.remember(&api.session("left").await?);

    let shown: Value = serde_json::from_str(&cli.run(&["session", "show", "left", "--json"]).await?.stdout)?;
    ensure!(shown["idle_since"].is_string() && shown["expires_at"].is_string(), "{shown}");
    let page = cli.run(&["session", "show", "left"]).await?.stdout;
    ensure!(page.contains("stops at") && page.contains("idle_timeout 10s"), "{page}");
    ended_idle(&api, "left").await?;
    for id in ["desk", "work"] {
        let view = api.session(id).await?;
        ensure!(view.phase == SessionPhase::Ready, "{id} is {} although it is used: {:?}", view.phase, view.cause);
    }

    // The viewer leaves, the task ends: so do the sessions, in their time.
    drop(viewer);
    ended_idle(&api, "desk").await?;
    let work = ended_idle(&api, "work").await?;
    let result = work.result.context("the task has no result")?;
    ensure!(result.exit_status == 0 && result.output_tail.contains("done"), "{result:?}");

    for bad in ["9s", "soon", "0m"] {
        let refused = cli.run(&["session", "create", "--idle-timeout", bad]).await?;
        ensure!(refused.code == 2 && refused.stderr.contains("time limit"), "{bad}: {}", refused.stderr);
        let answer = api.post("/api/v1/sessions", &json!({"lifetime": bad})).await?;
        answer.problem(400, "invalid_request")?;
    }
    cluster.shutdown().await
}
