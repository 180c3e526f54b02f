//! Real sessions without a server: reconciler, ledger and the process backend, with a desired set made by hand.
//! Needs Xtigervnc, openbox, xterm, dbus-daemon and git; a missing one fails the tests.

mod desktop;
mod dies;
mod forward;
mod forward_unit;
mod harness;
mod server;
mod zed;

use std::time::Duration;

use harness::{Ready as _, Runner, command, git, spec, terminal};
use helix_agentd::supervisor::UnitName;
use helix_protocol::resources::{Bytes, OnLost, Resources};
use helix_protocol::session::{Desired, Project, SessionPhase, SessionSpec};
use helix_protocol::{Epoch, Generation, KindName};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_shows_its_result_and_stays_until_stopped() {
    let mut runner = Runner::start();
    runner.want("s", 1, Desired::Running, command("echo to the log; pwd; git --version; exit 3"));
    let ready = runner.phase("s", SessionPhase::Ready).await;
    let steps: Vec<_> = ready.timeline.iter().map(|step| step.step.as_str()).collect();
    assert_eq!(steps, ["received", "display", "window_manager", "forward", "agent", "ready"]);
    harness::print_timeline("command", &ready);
    assert!(ready.display.is_some() && ready.pid.is_some() && ready.workspace.is_some());

    let done = runner.until("s", |observed| observed.result.is_some()).await;
    let result = done.result.expect("a result");
    assert_eq!(result.exit_status, 3);
    assert!(result.output_tail.contains("to the log"), "{}", result.output_tail);
    assert_eq!(done.phase, SessionPhase::Ready, "it stays Ready with its output on screen");

    runner.want("s", 1, Desired::Stopped, command("true"));
    let stopped = runner.phase("s", SessionPhase::Stopped).await;
    assert_eq!(stopped.cause.expect("a cause").code, "stopped_by_user");
    assert_eq!(stopped.result.expect("the result stays").exit_status, 3);
    runner.assert_nothing_runs("s");
    assert!(runner.workspace("s").is_dir(), "the workspace stays until the session is deleted");

    runner.delete("s");
    let last = runner.until("s", |observed| observed.forgotten).await;
    assert!(!runner.workspace("s").exists());
    runner.acknowledge(&last);
    runner.until_gone("s").await;
    assert_eq!(runner.ledger_files(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_ends_with_its_shell() {
    let mut runner = Runner::start();
    runner.want("s", 1, Desired::Running, terminal());
    let ready = runner.phase("s", SessionPhase::Ready).await;
    assert!(ready.timeline.iter().any(|step| step.step == "dbus"));
    harness::print_timeline("terminal", &ready);
    harness::end_shell(ready.pid.expect("the agent's process")).await;
    let ended = runner.until("s", |observed| observed.phase.is_terminal()).await;
    assert_eq!(ended.cause.expect("a cause").code, "agent_exited");
    runner.assert_nothing_runs("s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_clones_works_and_commits() {
    let mut runner = Runner::start();
    let origin = runner.dir().join("origin");
    git(None, &["init", "-q", "-b", "main", origin.to_str().expect("text")]);
    std::fs::write(origin.join("file"), "one\n").expect("written");
    git(Some(&origin), &["add", "."]);
    git(Some(&origin), &["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "one"]);
    let wanted = SessionSpec {
        project: Some(Project { git: origin.to_string_lossy().into_owned(), branch: Some("main".to_owned()) }),
        project_path: Some("/workspace/new/dir".to_owned()),
        ..command(
            "pwd; cd \"$WORKSPACE_DIR\" && echo two >> file && git commit -q -a -m two && git log --format='%an %s'",
        )
    };
    runner.want("s", 1, Desired::Running, wanted);
    let done = runner.until("s", |observed| observed.result.is_some() || observed.phase.is_terminal()).await;
    harness::print_timeline("clone", &done);
    let result = done.result.unwrap_or_else(|| panic!("no result: {:?}", done.cause));
    assert_eq!(result.exit_status, 0, "{}", result.output_tail);
    assert!(
        result.output_tail.contains("/s/new/dir") && result.output_tail.contains("Helix Agent two"),
        "{}",
        result.output_tail
    );
    assert_eq!(std::fs::read_to_string(runner.workspace("s").join("file")).expect("readable"), "one\ntwo\n");
    assert_eq!(std::fs::read_to_string(origin.join("file")).expect("readable"), "one\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_names_step_unit_and_last_lines() {
    let mut runner = Runner::start();
    let missing = Project { git: "/nonexistent/repository".to_owned(), branch: None };
    runner.want("clone", 1, Desired::Running, SessionSpec { project: Some(missing), ..command("true") });
    runner.want(
        "kind",
        1,
        Desired::Running,
        SessionSpec { kind: Some(KindName::parse("nonsense").expect("valid")), ..spec() },
    );
    let failed = runner.phase("clone", SessionPhase::Failed).await;
    let cause = failed.cause.expect("a cause");
    assert_eq!(
        (cause.code.as_str(), cause.step.as_deref(), cause.unit.as_deref()),
        ("workspace_failed", Some("workspace"), Some("workspace"))
    );
    assert!(cause.log_tail.iter().any(|line| line.contains("/nonexistent/repository")), "{:?}", cause.log_tail);
    runner.assert_nothing_runs("clone");
    let failed = runner.phase("kind", SessionPhase::Failed).await;
    assert_eq!(failed.cause.expect("a cause").code, "kind_unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_display_ends_the_session_a_dead_window_manager_does_not() {
    let mut runner = Runner::start();
    runner.want("s", 1, Desired::Running, command("true"));
    runner.phase("s", SessionPhase::Ready).await;
    let wm = runner.unit_pid("s", "wm").await.expect("a window manager");
    harness::kill(wm);
    harness::eventually("a new window manager", async || runner.unit_pid("s", "wm").await.is_some_and(|pid| pid != wm))
        .await;
    assert_eq!(runner.observed("s").phase, SessionPhase::Ready);
    harness::kill(runner.unit_pid("s", "display").await.expect("a display"));
    let failed = runner.phase("s", SessionPhase::Failed).await;
    assert_eq!(failed.cause.expect("a cause").code, "display_died");
    runner.assert_nothing_runs("s");
}

/// A display's clients may be reaped before it: its end is the cause although the agent's is told first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_display_is_the_cause_of_what_dies_with_it() {
    let mut runner = Runner::start();
    runner.want("s", 1, Desired::Running, terminal());
    runner.phase("s", SessionPhase::Ready).await;
    let display = runner.unit_pid("s", "display").await.expect("a display");
    harness::kill(runner.unit_pid("s", "app").await.expect("a terminal"));
    harness::eventually("the terminal's end", async || runner.unit_pid("s", "app").await.is_none()).await;
    harness::kill(display);
    let failed = runner.phase("s", SessionPhase::Failed).await;
    assert_eq!(failed.cause.expect("a cause").code, "display_died");
    runner.assert_nothing_runs("s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agentd_takes_its_sessions_over() {
    let mut runner = Runner::start();
    runner.want("ready", 1, Desired::Running, command("echo before; read line; exit 5"));
    let before = runner.phase("ready", SessionPhase::Ready).await;
    runner.restart();
    let after = runner.until("ready", |observed| observed.report > before.report).await;
    assert_eq!((after.phase, after.pid, after.ready()), (SessionPhase::Ready, before.pid, before.ready()));

    // Killed while nobody watches: found at the next start.
    let display = runner.unit_pid("ready", "display").await.expect("a display");
    runner.stop_daemon();
    harness::kill(display);
    runner.start_daemon();
    let failed = runner.phase("ready", SessionPhase::Failed).await;
    harness::print_timeline("display killed", &failed);
    assert_eq!(failed.cause.expect("a cause").code, "display_died");

    // Interrupted at each step of a start, it goes on where it was.
    for (round, step) in ["received", "display", "window_manager", "forward", "agent"].into_iter().enumerate() {
        let id = format!("half-{round}");
        runner.want(&id, 1, Desired::Running, command("true"));
        runner.until(&id, |observed| observed.timeline.iter().any(|known| known.step == step)).await;
        runner.restart();
        let observed = runner.until(&id, |observed| observed.phase != SessionPhase::Starting).await;
        harness::print_timeline(&format!("interrupted in {step}"), &observed);
        assert_eq!(observed.phase, SessionPhase::Ready, "interrupted in {step}: {:?}", observed.cause);
    }
    runner.assert_reaper_finds_only_known().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absence_is_no_order_and_old_epochs_are_refused() {
    let mut runner = Runner::start();
    runner.want("s", 2, Desired::Running, terminal());
    let first = runner.phase("s", SessionPhase::Ready).await;
    runner.want_nothing();
    let unclaimed = runner.until("s", |observed| observed.unclaimed.is_some()).await;
    assert_eq!((unclaimed.phase, unclaimed.unclaimed.expect("unclaimed").spec), (SessionPhase::Ready, terminal()));

    runner.want("s", 1, Desired::Stopped, terminal());
    let claimed = runner.until("s", |observed| observed.unclaimed.is_none()).await;
    assert_eq!(claimed.phase, SessionPhase::Ready, "an order of an old epoch was obeyed");

    runner.want("s", 3, Desired::Running, terminal());
    let anew = runner.until("s", |observed| observed.epoch == Epoch(3) && observed.phase == SessionPhase::Ready).await;
    assert_ne!(anew.pid, first.pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_is_not_noted_again() {
    let mut runner = Runner::start();
    runner.want("s", 1, Desired::Running, terminal());
    runner.phase("s", SessionPhase::Ready).await;
    runner.want("s", 1, Desired::Stopped, terminal());
    runner.phase("s", SessionPhase::Stopped).await;
    runner.delete("s");
    let last = runner.until("s", |observed| observed.forgotten).await;
    // The server has removed its record, and the acknowledgement is on the way.
    runner.want_nothing();
    // The start of another one takes longer than a word about this one.
    runner.want("other", 1, Desired::Running, terminal());
    runner.phase("other", SessionPhase::Ready).await;
    let now = runner.until("s", |_| true).await;
    assert_eq!((now.report, now.unclaimed), (last.report, None), "it is reported, and so noted, once more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_after_its_time() {
    let mut runner = Runner::start_with(|config| config.session_timeout = Duration::from_secs(1));
    runner.want("s", 1, Desired::Running, command("true"));
    let stopped = runner.phase("s", SessionPhase::Stopped).await;
    assert_eq!(stopped.cause.expect("a cause").code, "timeout");
    assert!(stopped.timeline.iter().any(|step| step.step == "ready"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_knows_is_reaped() {
    let mut runner = Runner::start();
    runner.want("s", 1, Desired::Running, terminal());
    runner.phase("s", SessionPhase::Ready).await;
    runner.stop_daemon();
    runner.remove_ledger();
    runner.want_nothing();
    runner.start_daemon();
    runner.until_nothing_found().await;
    runner.assert_nothing_runs("s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_also_when_the_ledger_cannot_be_written() {
    let mut runner = Runner::start();
    runner.want("s", 1, Desired::Running, command("true"));
    runner.phase("s", SessionPhase::Ready).await;
    runner.hide_ledger();
    runner.want("s", 1, Desired::Stopped, command("true"));
    runner.phase("s", SessionPhase::Stopped).await;
    runner.assert_nothing_runs("s");

    // Written when that is possible again: a restart knows the end.
    runner.show_ledger();
    harness::eventually("the end is in the ledger", async || runner.ledger_text("s").contains("stopped_by_user")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_answer_yet_is_adopted_later_and_its_missing_unit_started() {
    let mut runner = Runner::start();
    runner.want("s", 1, Desired::Running, command("true"));
    runner.phase("s", SessionPhase::Ready).await;
    // As if agentd had been killed in the middle of a restart of the window manager.
    runner.stop_daemon();
    runner.stop_unit("s", UnitName::Wm).await;
    assert_eq!(runner.unit_pid("s", "wm").await, None);
    runner.start_daemon();
    runner.phase("s", SessionPhase::Ready).await;
    harness::eventually("a new window manager", async || runner.unit_pid("s", "wm").await.is_some()).await;

    runner.stop_daemon();
    let before = runner.observed("s");
    let wm = runner.unit_pid("s", "wm").await.expect("a window manager");
    let root = runner.root("s");
    std::fs::rename(root.join("guest.sock"), root.join("hidden.sock")).expect("renamed");
    runner.start_daemon();
    // Longer than the first attempt takes.
    tokio::time::sleep(Duration::from_secs(4)).await;
    std::fs::rename(root.join("hidden.sock"), root.join("guest.sock")).expect("renamed");
    let after = runner.until("s", |observed| observed.report > before.report).await;
    assert_eq!(after.phase, SessionPhase::Ready);
    harness::kill(wm);
    harness::eventually("a watched session", async || runner.unit_pid("s", "wm").await.is_some_and(|pid| pid != wm))
        .await;
    assert_eq!(runner.observed("s").phase, SessionPhase::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_may_start_elsewhere_is_held_until_its_epoch_is_confirmed() {
    let mut runner = Runner::start();
    let counting = "while :; do echo . >> ticks; sleep 0.05; done";
    let restart = SessionSpec { on_lost: Some(OnLost::Restart), ..command(counting) };
    runner.want("moves", 1, Desired::Running, restart);
    runner.want("stays", 1, Desired::Running, command(counting));
    runner.phase("moves", SessionPhase::Ready).await;
    runner.phase("stays", SessionPhase::Ready).await;
    let ticks = |runner: &Runner, session: &str| {
        std::fs::metadata(runner.workspace(session).join("ticks")).map_or(0, |file| file.len())
    };
    let goes_on = async |runner: &Runner, session: &str| {
        let before = ticks(runner, session);
        harness::eventually("it goes on", async || ticks(runner, session) > before + 2).await;
    };
    goes_on(&runner, "moves").await;

    runner.cut_off.send_replace(true);
    runner.until("moves", |observed| observed.frozen).await;
    let held_at = ticks(&runner, "moves");
    goes_on(&runner, "stays").await;
    assert_eq!(ticks(&runner, "moves"), held_at, "it ran on although it was held");

    // Neither a restart of agentd nor an end of the silence alone lets it go on: its epoch must be confirmed.
    runner.restart();
    goes_on(&runner, "stays").await;
    assert_eq!(ticks(&runner, "moves"), held_at, "a restart of agentd let it go on");
    runner.cut_off.send_replace(false);
    goes_on(&runner, "moves").await;
    runner.until("moves", |observed| !observed.frozen).await;

    // Replaced while it was held: it ends without a moment more.
    runner.cut_off.send_replace(true);
    runner.until("moves", |observed| observed.frozen).await;
    let held_at = ticks(&runner, "moves");
    runner.want("moves", 2, Desired::Stopped, command(counting));
    runner.phase("moves", SessionPhase::Stopped).await;
    assert_eq!(ticks(&runner, "moves"), held_at, "it ran on before it ended");
    runner.assert_nothing_runs("moves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_come_from_spec_kind_and_runner_and_change_while_it_runs() {
    let memory = |mib: u64| Resources { memory: Some(Bytes(mib << 20)), ..Resources::default() };
    let mut runner = Runner::start_with(|config| {
        config.default_resources = Resources { tasks: Some(300), ..memory(500) };
        config.max_resources = memory(1000);
    });
    let spec = |mib| SessionSpec { resources: memory(mib), ..command("true") };
    runner.want("s", 1, Desired::Running, spec(700));
    let ready = runner.phase("s", SessionPhase::Ready).await;
    let limits = ready.limits.expect("limits");
    assert_eq!(limits.resources, Resources { tasks: Some(300), ..memory(700) });
    assert!(limits.enforced.is_empty() && !limits.missing.is_empty(), "the process backend claims to enforce");

    runner.amend("s", 2, &spec(900));
    let changed = runner.until("s", |observed| observed.generation == Generation(2)).await;
    assert_eq!(changed.phase, SessionPhase::Ready);
    runner
        .until("s", |observed| {
            observed.limits.as_ref().is_some_and(|limits| limits.resources.memory == memory(900).memory)
        })
        .await;

    // A restarted agentd with a lower maximum and without the kind touches nothing that runs.
    let before = runner.unit_pid("s", "app").await;
    runner.reconfigure(|config| config.max_resources = memory(100));
    runner.without_kinds = true;
    let report = runner.observed("s").report;
    runner.restart();
    // Numbers jump at a restart.
    runner.until("s", |observed| observed.report > report).await;
    runner.amend("s", 3, &spec(95));
    // Adopted: it takes new limits.
    let adopted = runner.until("s", |observed| observed.generation == Generation(3)).await;
    assert_eq!((adopted.phase, adopted.cause), (SessionPhase::Ready, None));
    assert_eq!(runner.unit_pid("s", "app").await, before);
    runner.without_kinds = false;
    runner.reconfigure(|config| config.max_resources = memory(1000));
    runner.restart();

    runner.want("large", 1, Desired::Running, spec(2000));
    let refused = runner.phase("large", SessionPhase::Failed).await.cause.expect("a cause");
    assert_eq!(refused.code, "limit_refused");
    assert!(refused.message.contains("maximum of 1000MiB"), "{}", refused.message);
}
