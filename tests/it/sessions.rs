//! A session's whole life, as its owner sees it over HTTP.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use helix_protocol::SessionId;
use helix_protocol::api::{SessionLogs, SessionView, Timeline};
use helix_protocol::session::{Desired, SessionPhase};
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs, throughout};
use helix_tests::process::run;
use helix_tests::{Cluster, leftovers, programs, x};
use serde_json::json;

/// Every step of a start of kind `command` without a project.
const STEPS: [&str; 8] = ["accepted", "assigned", "received", "display", "window_manager", "forward", "agent", "ready"];

fn result_of(view: &SessionView) -> Result<(i32, &str)> {
    let result = view.result.as_ref().context("no result")?;
    Ok((result.exit_status, result.output_tail.as_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_session_lives_and_ends() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let input = "echo hello from $HELIX_SESSION_ID; env; touch made.txt; pwd; exit 3";
    let body = json!({"id": "life", "kind": "command", "input": input, "geometry": "800x600",
                      "env": {"EXTRA": "given"}, "labels": {"team": "a"}});
    let answer = api.post("/api/v1/sessions", &body).await?;
    ensure!(answer.status == 201, "{} {}", answer.status, answer.text);

    let ready = api.wait_phase("life", SessionPhase::Ready, READY).await?;
    cluster.remember(&ready);
    let done = api.wait_result("life", READY).await?;
    let (status, output) = result_of(&done)?;
    ensure!(status == 3, "{output}");
    for words in [
        "hello from life",
        "EXTRA=given",
        "HELIX_SESSION_ID=life",
        "HELIX_RUNNER_ID=r1",
        "DISPLAY=:",
        "WORKSPACE_DIR=",
        "XAUTHORITY=",
        "XDG_RUNTIME_DIR=",
        "HELIX_SLICE=",
    ] {
        ensure!(output.contains(words), "{words:?} is not in the output:\n{output}");
    }
    ensure!(!output.contains(cluster.admin_token()), "the admin token is in the session's environment");
    ensure!(!output.contains(&cluster.enrolment_token()?), "the enrolment token is in the session's environment");

    // The task is over, the session is not: its output stays on the screen.
    throughout("the session stays Ready", secs(1), || async {
        let view = api.session("life").await?;
        ensure!(view.phase == SessionPhase::Ready && view.desired == Desired::Running, "{}", view.phase);
        Ok(())
    })
    .await?;
    let display = done.display.as_ref().context("no display")?;
    ensure!(display.geometry.to_string() == "800x600", "{}", display.geometry);
    ensure!(
        done.endpoints.view.as_deref().is_some_and(|url| url.ends_with("/sessions/life/view")),
        "{:?}",
        done.endpoints
    );
    ensure!(done.endpoints.vnc.is_some() && done.endpoints.rdp.is_none(), "{:?}", done.endpoints);
    let workspace = done.workspace.clone().context("no workspace")?;
    ensure!(Path::new(&workspace).join("made.txt").is_file(), "the command did not run in {workspace}");

    let timeline: Timeline = api.get("/api/v1/sessions/life/timeline").await?.json()?;
    let steps: Vec<_> = timeline.timeline.iter().map(|step| step.step.as_str()).collect();
    for step in STEPS {
        ensure!(steps.contains(&step), "step {step} is not in {steps:?}");
    }
    ensure!(timeline.timeline.is_sorted_by_key(|step| step.at), "not in order: {:?}", timeline.timeline);
    let timed = ["display", "window_manager", "forward", "agent"];
    for step in timeline.timeline.iter().filter(|step| timed.contains(&step.step.as_str())) {
        ensure!(step.duration_ms.is_some(), "step {} is not timed", step.step);
    }

    let logs: SessionLogs = api.get("/api/v1/sessions/life/logs?lines=500").await?.json()?;
    ensure!(logs.lines.iter().any(|line| line.unit == "display"), "{:?}", logs.lines);

    let runners = api.runners().await?;
    ensure!(runners.iter().any(|runner| runner.id.as_str() == "r1" && runner.slots == 4), "{runners:?}");

    api.stop("life").await?;
    let stopped = api.wait_phase("life", SessionPhase::Stopped, READY).await?;
    ensure!(stopped.cause.as_ref().is_some_and(|cause| cause.code == "stopped_by_user"), "{:?}", stopped.cause);
    ensure!(result_of(&stopped)?.0 == 3, "the result is lost");
    ensure!(stopped.endpoints.vnc.is_none(), "an address that nothing answers: {:?}", stopped.endpoints);
    let key = SessionId::parse("life")?.unit_key();
    let slice = cluster.runners[0].state_dir.join("s").join(&key);
    leftovers::none(&slice)?;

    api.delete_session("life", READY).await?;
    ensure!(!Path::new(&workspace).exists(), "{workspace} is left after delete");
    ensure!(!slice.exists(), "{} is left after delete", slice.display());
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_is_the_same_session() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let body = json!({"id": "twice", "kind": "command", "input": "true"});
    let answers = try_join_all((0..8).map(|_| api.post("/api/v1/sessions", &body))).await?;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    ensure!(statuses == [200, 200, 200, 200, 200, 200, 200, 201], "{statuses:?}");
    let other = json!({"id": "twice", "kind": "command", "input": "false"});
    api.post("/api/v1/sessions", &other).await?.problem(409, "session_exists")?;
    ensure!(api.sessions().await?.len() == 1, "more than one session");

    // Made-up ids differ.
    let (one, two) = (
        api.create(&json!({"kind": "command", "input": "true"})).await?,
        api.create(&json!({"kind": "command", "input": "true"})).await?,
    );
    ensure!(one.id != two.id, "{}", one.id);
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_cloned_and_worked_on() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let repository = cluster.dir().join("project.git");
    let script = "git init -q -b main \"$0\" && cd \"$0\" && git config user.name T && git config user.email t@example.org \
        && mkdir sub && echo one >sub/file && git add -A && git commit -qm first \
        && git checkout -qb work && echo two >sub/file && git commit -qam second && git checkout -q main";
    let path = repository.to_str().context("path is not UTF-8")?;
    let made = run(&programs::installed("sh")?, &["-c", script, path], &[], secs(20)).await?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let task = "cat file && pwd && echo three >file && git -c user.name=S -c user.email=s@example.org commit -qam third \
        && git log -3 --format=%s";
    api.create(&json!({"id": "short", "kind": "command", "project": path, "input": "cat sub/file"})).await?;
    api.create(&json!({"id": "long", "kind": "command", "project": {"git": path, "branch": "work"},
                       "project_path": "sub", "input": task}))
        .await?;
    let short = api.wait_result("short", READY).await?;
    ensure!(result_of(&short)? == (0, "one\n"), "{:?}", short.result);
    let cloned = short.timeline.iter().find(|step| step.step == "workspace").context("no step workspace")?;
    ensure!(cloned.duration_ms.is_some(), "{cloned:?}");
    let long = api.wait_result("long", READY).await?;
    let (status, output) = result_of(&long)?;
    ensure!(status == 0, "{output}");
    ensure!(output.starts_with("two\n") && output.ends_with("third\nsecond\nfirst\n"), "{output}");
    let workspace = long.workspace.clone().context("no workspace")?;
    let commit =
        run(&programs::installed("git")?, &["-C", &workspace, "log", "-1", "--format=%s"], &[], secs(10)).await?;
    ensure!(commit.stdout == b"third\n", "{}", String::from_utf8_lossy(&commit.stderr));
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_escapes_is_ended_with_its_session() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    // A daemon without environment, session, parent or terminal, and one that ignores SIGTERM.
    let nap = format!("86{:05}", std::process::id() % 100_000);
    // Each says when it is away: a shell that ends takes along what still belongs to its terminal.
    let input = format!(
        "(setsid sh -c 'touch one; exec env -i sleep {nap}.5' </dev/null >/dev/null 2>&1 &)
         (setsid sh -c 'trap \"\" TERM HUP; touch two; sleep {nap}.25 & wait' &)
         until [ -e one ] && [ -e two ]; do sleep 0.05; done"
    );
    let view = cluster.ready(&json!({"id": "escape", "kind": "command", "input": input})).await?;
    api.wait_result("escape", READY).await?;
    eventually("the daemons run", secs(10), || async {
        let found = leftovers::processes_saying(&format!("sleep {nap}"))?;
        ensure!(found.len() >= 3, "{found:?}");
        Ok(())
    })
    .await?;
    let pid = view.pid.context("no pid")?;
    api.stop("escape").await?;
    api.wait_phase("escape", SessionPhase::Stopped, READY).await?;
    let left = leftovers::processes_saying(&nap)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(!helix_tests::process::runs(pid), "the agent is left");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_holds_on_until_ready() -> Result<()> {
    let cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let body = json!({"id": "waited", "kind": "terminal"});
    let view: SessionView = api.post("/api/v1/sessions?wait=ready&timeout=60", &body).await?.json()?;
    ensure!(view.phase == SessionPhase::Ready, "{}", view.phase);
    cluster.remember(&view);
    // A terminal's programs have a message bus of their own.
    ensure!(view.timeline.iter().any(|step| step.step == "dbus"), "{:?}", view.timeline);
    let environment = x::environment(view.pid.context("no pid")?)?;
    let bus = environment.get("DBUS_SESSION_BUS_ADDRESS").context("no message bus")?;
    let socket = bus.strip_prefix("unix:path=").context("not a socket")?;
    ensure!(std::os::unix::net::UnixStream::connect(socket).is_ok(), "nobody answers at {bus}");
    let failing = json!({"id": "failing", "kind": "terminal", "project": "/nonexistent/repository"});
    let view: SessionView = api.post("/api/v1/sessions?wait=ready&timeout=60", &failing).await?.json()?;
    ensure!(view.phase == SessionPhase::Failed, "{}", view.phase);
    cluster.shutdown().await
}
