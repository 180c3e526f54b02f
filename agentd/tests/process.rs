//! The process backend against the shared suite, and what only it has: a guest that can be killed, the task, and
//! what is left on disk.
#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../src/supervisor/conformance.rs"]
mod conformance;

use std::path::{Path, PathBuf};

use conformance::{Fixture, PATIENCE, bridge, checks, exit_status, next_event, open, ready, server, session, shell};
use helix_agentd::supervisor::process::procfs;
use helix_agentd::supervisor::process::sweep::markers;
use helix_agentd::supervisor::process::{ConfigError, ProcessConfig, ProcessSupervisor, reap_all, runner_mark};
use helix_agentd::supervisor::{Adopted, GuestIdentity, Identity, SliceEvent, Stdout, Supervisor as _, UnitName};
use helix_protocol::SessionId;
use helix_protocol::session::{OUTPUT_TAIL_BYTES, SessionResult};
use rustix::process::{Signal, kill_process};
use tokio::sync::mpsc::Receiver;

const AGENTD: &str = env!("CARGO_BIN_EXE_agentd");

/// Directories of one runner. Whatever a failed test leaves running is ended with it.
struct Runner {
    dir: tempfile::TempDir,
}

impl Runner {
    fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("helix").tempdir().unwrap() }
    }

    fn config(&self) -> ProcessConfig {
        ProcessConfig {
            program: AGENTD.into(),
            ..ProcessConfig::new(self.dir.path().join("state"), self.dir.path().join("workspaces"))
        }
    }
}

impl Runner {
    /// A backend without waiting: what only this one has.
    fn backend(&self) -> ProcessSupervisor {
        ProcessSupervisor::new(self.config()).unwrap()
    }
}

impl Fixture for Runner {
    type Backend = ProcessSupervisor;

    const ENVIRONMENT: &'static str = "HELIX_SLICE PATH PWD";
    const GONE: &'static str = "slice_gone";
    const FLOOD: u32 = 1_000_000;

    async fn supervisor(&self) -> ProcessSupervisor {
        self.backend()
    }

    fn program(&self) -> PathBuf {
        AGENTD.into()
    }

    fn outside(&self, _: &SessionId, inside: &Path) -> PathBuf {
        inside.to_owned()
    }

    fn log_bytes(&self, session: &SessionId) -> Vec<u64> {
        let logs = std::fs::read_dir(self.backend().paths(session).root.join("log")).unwrap();
        logs.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
    }

    fn processes(&self, session: &SessionId) -> Vec<String> {
        let state = std::fs::canonicalize(self.dir.path().join("state")).unwrap();
        let mark = format!("{}{}.", runner_mark(&state), session.unit_key());
        let all = procfs::processes().unwrap().into_iter().filter(|process| process.alive);
        let marked = all.filter(|process| {
            procfs::environment_value(process.pid, "HELIX_SLICE").is_some_and(|marker| marker.starts_with(&mark))
        });
        marked
            .map(|process| std::fs::read_to_string(format!("/proc/{}/comm", process.pid)).unwrap_or_default())
            .collect()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Err(error) = reap_all(&self.dir.path().join("state"), None)
            && !std::thread::panicking()
        {
            panic!("{error:#}");
        }
    }
}

/// One test per check, for the fixture that the expression makes.
macro_rules! conformance {
    ($fixture:expr; $($check:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $check() {
                let fixture = $fixture;
                tokio::time::timeout(4 * conformance::PATIENCE, conformance::$check(&fixture))
                    .await
                    .expect("the check takes too long");
            }
        )+
    };
}

checks!(conformance!(Runner::new();));

fn guest(identity: &Identity) -> &GuestIdentity {
    match identity {
        Identity::Guest(guest) => guest,
        Identity::Slice(_) => panic!("{identity:?} is no guest"),
    }
}

fn kill(identity: &Identity, signal: Signal) {
    kill_process(procfs::pid(guest(identity).pid).unwrap(), signal).unwrap();
}

async fn gone(events: &mut Receiver<SliceEvent>) {
    while !matches!(next_event(events).await, SliceEvent::SliceGone(_)) {}
}

async fn task_result(events: &mut Receiver<SliceEvent>) -> SessionResult {
    loop {
        if let SliceEvent::TaskFinished(result) = next_event(events).await {
            return result;
        }
    }
}

/// Runs `script` as the session's task, without a desktop: its terminal is the log.
async fn run_task(runner: &Runner, name: &str, script: &str) -> (Identity, SessionResult) {
    let identity = open(&runner.backend(), &session(name)).await;
    (identity, run_task_in(runner, name, script).await)
}

/// The same in a session that is open.
async fn run_task_in(runner: &Runner, name: &str, script: &str) -> SessionResult {
    let (supervisor, session) = (runner.backend(), session(name));
    let mut events = supervisor.events(&session).await.unwrap();
    let paths = supervisor.paths(&session);
    let url = server(script).await;
    let unit = bridge(AGENTD.as_ref(), &paths, &url);
    supervisor.start(&session, &unit).await.unwrap();
    let result = task_result(&mut events).await;
    let units = supervisor.units(&session).await.unwrap();
    assert!(units[0].pid.is_some(), "the task did not stay: {units:?}");
    result
}

#[tokio::test]
async fn a_killed_guest_is_told_and_nothing_of_its_session_survives() {
    let runner = Runner::new();
    let (supervisor, session) = (runner.backend(), session("orphans"));
    let identity = open(&supervisor, &session).await;
    let mut events = supervisor.events(&session).await.unwrap();
    let paths = supervisor.paths(&session);
    let script = "trap '' TERM; (setsid sh -c 'sleep 1000 & sleep 1000' &); (env -i sleep 1000 &); echo up; sleep 1000";
    let mut app = shell(UnitName::App, script);
    app.stdout = Stdout::Ready;
    supervisor.start(&session, &app).await.unwrap();
    ready(&supervisor, &session, UnitName::App).await;

    kill(&identity, Signal::KILL);
    gone(&mut events).await;
    let adopted = supervisor.adopt(&session, &identity).await.unwrap();
    assert!(matches!(adopted, Adopted::Gone { code: "slice_gone", .. }), "{adopted:?}");
    assert!(supervisor.units(&session).await.is_err());
    assert!(!runner.processes(&session).is_empty(), "nothing to prove: no orphan is left");

    supervisor.kill(&session).await.unwrap();
    assert_eq!(runner.processes(&session), Vec::<String>::new());
    assert!(!paths.home.exists());
}

#[tokio::test]
async fn orphans_that_end_are_collected() {
    let runner = Runner::new();
    let (supervisor, session) = (runner.backend(), session("zombies"));
    let opened = open(&supervisor, &session).await;
    let mut events = supervisor.events(&session).await.unwrap();
    // Each of them is left by its parent and comes to the guest.
    let script = "for i in 1 2 3 4 5 6 7 8; do (sh -c 'exit 1' &); done; (sleep 0.1; echo late) | cat";
    supervisor.start(&session, &shell(UnitName::App, script)).await.unwrap();
    exit_status(&mut events, UnitName::App).await;
    let children =
        || procfs::processes().unwrap().into_iter().filter(|process| process.ppid == guest(&opened).pid).count();
    let none_left = async {
        while children() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, none_left).await.expect("zombies are left");
    supervisor.kill(&session).await.unwrap();
}

#[tokio::test]
async fn a_session_whose_guest_was_killed_is_opened_without_a_rest() {
    let runner = Runner::new();
    let (supervisor, session) = (runner.backend(), session("reopen"));
    let first = open(&supervisor, &session).await;
    let mut events = supervisor.events(&session).await.unwrap();
    let orphan = supervisor.start(&session, &shell(UnitName::App, "exec sleep 1000")).await.unwrap();
    kill(&first, Signal::KILL);
    gone(&mut events).await;

    let second = open(&supervisor, &session).await;
    assert_ne!(first, second);
    assert!(procfs::process(orphan.pid.unwrap()).is_none_or(|process| !process.alive), "the orphan lives");
    assert!(supervisor.units(&session).await.unwrap().is_empty());
    supervisor.kill(&session).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_does_not_answer_is_ended_by_force() {
    let runner = Runner::new();
    let (supervisor, session) = (runner.backend(), session("hung"));
    let identity = open(&supervisor, &session).await;
    supervisor.start(&session, &shell(UnitName::App, "exec sleep 1000")).await.unwrap();
    kill(&identity, Signal::STOP);
    supervisor.kill(&session).await.unwrap();
    assert_eq!(runner.processes(&session), Vec::<String>::new());
}

#[tokio::test]
async fn a_display_that_was_killed_leaves_no_socket() {
    let runner = Runner::new();
    let (supervisor, session) = (runner.backend(), session("display"));
    let identity = open(&supervisor, &session).await;
    let mut events = supervisor.events(&session).await.unwrap();
    let paths = supervisor.paths(&session);
    let mut display = shell(UnitName::Display, "");
    display.argv = ["Xtigervnc", "-displayfd", "1", "-SecurityTypes", "None", "-rfbport", "-1", "-nolisten", "tcp"]
        .map(str::to_owned)
        .to_vec();
    display.argv.extend(["-rfbunixpath".to_owned(), paths.vnc_socket.display().to_string()]);
    display.stdout = Stdout::Ready;
    supervisor.start(&session, &display).await.unwrap();
    let number = ready(&supervisor, &session, UnitName::Display).await;
    let socket = PathBuf::from(format!("/tmp/.X11-unix/X{}", number.trim()));
    assert!(socket.exists(), "{}", socket.display());

    kill(&identity, Signal::KILL);
    gone(&mut events).await;
    supervisor.kill(&session).await.unwrap();
    assert!(!socket.exists() && !paths.vnc_socket.exists(), "{} is left", socket.display());
}

#[tokio::test]
async fn a_tasks_outcome_survives_agentd_and_guest() {
    let runner = Runner::new();
    let script = "pwd; [ -t 1 ] && echo terminal; echo complaint >&2; exit 3";
    let (identity, result) = run_task(&runner, "task", script).await;
    let workspace = runner.backend().paths(&session("task")).workspace;
    assert_eq!(result.exit_status, 3);
    assert_eq!(result.output_tail, format!("{}\nterminal\ncomplaint\n", workspace.display()));
    assert!(!result.output_truncated);
    let shown = conformance::log(&runner.backend(), &session("task"), UnitName::App).await;
    assert!(shown.iter().any(|line| line.contains("terminal")), "{shown:?}");

    let supervisor = runner.backend();
    let Adopted::Alive { result: Some(adopted), .. } = supervisor.adopt(&session("task"), &identity).await.unwrap()
    else {
        panic!("no result");
    };
    assert_eq!(adopted, result);
    let mut events = supervisor.events(&session("task")).await.unwrap();
    kill(&identity, Signal::KILL);
    gone(&mut events).await;
    let Adopted::Gone { result: Some(recorded), .. } = supervisor.adopt(&session("task"), &identity).await.unwrap()
    else {
        panic!("no recorded result");
    };
    assert_eq!(recorded, result);
    supervisor.kill(&session("task")).await.unwrap();
    let gone = supervisor.adopt(&session("task"), &identity).await.unwrap();
    assert!(matches!(gone, Adopted::Gone { result: Some(_), .. }), "the result went with the session");
}

#[tokio::test]
async fn a_tasks_outcome_is_repeated_until_it_can_be_written() {
    let runner = Runner::new();
    let (supervisor, session) = (runner.backend(), session("full"));
    open(&supervisor, &session).await;
    // The guest cannot write its record while this is in the way.
    let obstacle = supervisor.paths(&session).root.join("guest.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    let log = async {
        let complained = async || {
            conformance::log(&supervisor, &session, UnitName::App).await.iter().any(|l| l.contains("not recorded"))
        };
        while !complained().await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        std::fs::remove_dir(&obstacle).unwrap();
    };
    let (result, ()) = tokio::join!(run_task_in(&runner, "full", "echo done; exit 4"), log);
    assert_eq!((result.exit_status, result.output_tail.as_str()), (4, "done\n"));
    supervisor.kill(&session).await.unwrap();
}

#[tokio::test]
async fn a_tasks_output_is_cut_to_its_end_and_made_text() {
    let runner = Runner::new();
    let (_, result) = run_task(&runner, "long", "seq 1 200000; printf 'bad \\377 byte'; kill -9 $$").await;
    assert_eq!(result.exit_status, 128 + 9);
    assert!(result.output_truncated && result.output_tail.len() <= OUTPUT_TAIL_BYTES);
    assert!(result.output_tail.ends_with("199999\n200000\nbad \u{fffd} byte"), "{:?}", result.output_tail);
}

#[tokio::test]
async fn a_task_leaves_its_background_processes_to_the_session() {
    let runner = Runner::new();
    let (_, result) = run_task(&runner, "background", "(while :; do echo more; done) & echo started").await;
    assert_eq!(result.exit_status, 0);
    assert!(result.output_tail.contains("started"));
    runner.backend().kill(&session("background")).await.unwrap();
    assert_eq!(runner.processes(&session("background")), Vec::<String>::new());
}

#[tokio::test]
async fn a_script_longer_than_any_argument_runs() {
    let runner = Runner::new();
    let script = format!(": {}\necho done", "ä".repeat(100_000));
    let (_, result) = run_task(&runner, "script", &script).await;
    assert_eq!((result.exit_status, result.output_tail.as_str()), (0, "done\n"));
}

#[tokio::test]
async fn reap_all_ends_every_session_and_keeps_work() {
    let runner = Runner::new();
    let supervisor = runner.backend();
    for name in ["one", "two", "three"] {
        let session = session(name);
        let identity = open(&supervisor, &session).await;
        supervisor.start(&session, &shell(UnitName::App, "trap '' TERM; sleep 1000 & wait")).await.unwrap();
        if name == "two" {
            kill(&identity, Signal::KILL);
        }
        if name == "three" {
            // A directory that was deleted under a running session: only its processes are left.
            std::fs::remove_dir_all(supervisor.paths(&session).root).unwrap();
        }
    }
    std::fs::write(supervisor.paths(&session("one")).workspace.join("work"), "").unwrap();
    let (state, workspaces) = (runner.dir.path().join("state"), runner.dir.path().join("workspaces"));
    let reaped = tokio::task::spawn_blocking(move || reap_all(&state, Some(&workspaces)));
    tokio::time::timeout(PATIENCE, reaped).await.unwrap().unwrap().unwrap();
    for name in ["one", "two", "three"] {
        assert_eq!(runner.processes(&session(name)), Vec::<String>::new(), "{name}");
    }
    assert!(supervisor.paths(&session("one")).workspace.join("work").exists());
    assert!(!supervisor.paths(&session("two")).workspace.exists(), "an empty workspace is left");
}

#[tokio::test]
async fn reap_all_finds_processes_whose_state_directory_is_gone() {
    let runner = Runner::new();
    let session = session("lost");
    open(&runner.backend(), &session).await;
    runner.backend().start(&session, &shell(UnitName::App, "exec sleep 1000")).await.unwrap();
    let state = runner.dir.path().join("state");
    let mark = runner_mark(&std::fs::canonicalize(&state).unwrap());
    std::fs::remove_dir_all(&state).unwrap();
    assert!(!markers(&mark).unwrap().is_empty());
    tokio::task::spawn_blocking(move || reap_all(&state, None)).await.unwrap().unwrap();
    assert!(markers(&mark).unwrap().is_empty());
}

#[test]
fn a_state_directory_whose_sockets_would_not_fit_is_refused() {
    let runner = Runner::new();
    let long = runner.dir.path().join("x".repeat(80));
    let config = ProcessConfig { state_dir: long, ..runner.config() };
    let error = ProcessSupervisor::new(config).unwrap_err();
    assert!(matches!(error, ConfigError::SocketPathTooLong { .. }), "{error}");
    assert!(error.to_string().contains("107"), "{error}");
}
