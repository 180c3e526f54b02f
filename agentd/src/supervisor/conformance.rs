//! What every backend of [`Supervisor`] must do, against the real thing: included by the backends' integration tests
//! (`agentd/tests/`), not part of the library. [`conformance!`] makes one test of each check.
//!
//! Units are shells that say what they find. Nothing is slept for: every wait is for an event and bounded.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use helix_agentd::supervisor::{
    Adopted, SliceEvent, Stdout, Supervisor, SupervisorError, UnitName, UnitSpec, UnitStatus,
};
use helix_protocol::SessionId;
use tokio::sync::mpsc::Receiver;

/// Longer than any of these events takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What a unit gets to end by itself.
const GRACE: Duration = Duration::from_secs(20);

/// A backend with directories of its own.
pub trait Fixture {
    /// The backend.
    type Backend: Supervisor;

    /// A new one on the same directories: what a restarted agentd has.
    fn supervisor(&self) -> Self::Backend;

    /// Names of processes that still belong to the session.
    fn processes(&self, session: &SessionId) -> Vec<String>;
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
pub(crate) use conformance;

pub fn session(name: &str) -> SessionId {
    SessionId::parse(name).unwrap()
}

/// A unit that runs `script` in a shell.
pub fn shell(name: UnitName, script: &str) -> UnitSpec {
    UnitSpec {
        name,
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        cwd: "/".into(),
        stdout: Stdout::Log,
    }
}

pub async fn next_event(events: &mut Receiver<SliceEvent>) -> SliceEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("no event").expect("the events have ended")
}

/// Waits for the end of `unit` and answers its exit status.
pub async fn exit_status(events: &mut Receiver<SliceEvent>, unit: UnitName) -> i32 {
    loop {
        match next_event(events).await {
            SliceEvent::UnitExited(UnitStatus { name, exit_status: Some(status), pid: None }) if name == unit => {
                return status;
            }
            SliceEvent::SliceGone(reason) => panic!("the slice is gone: {reason}"),
            _ => {}
        }
    }
}

/// Lines of one unit's log.
pub async fn log<S: Supervisor>(supervisor: &S, session: &SessionId, unit: UnitName) -> Vec<String> {
    let lines = supervisor.logs(session, 10_000).await.unwrap();
    lines.into_iter().filter(|line| line.unit == unit.as_str()).map(|line| line.text).collect()
}

/// Opens the session, runs a script as its app to the end and answers what it wrote.
async fn run<S: Supervisor>(supervisor: &S, session: &SessionId, script: &str) -> Vec<String> {
    supervisor.open(session).await.unwrap();
    let mut events = supervisor.events(session).await.unwrap();
    supervisor.start(session, &shell(UnitName::App, script)).await.unwrap();
    exit_status(&mut events, UnitName::App).await;
    log(supervisor, session, UnitName::App).await
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub async fn open_is_idempotent_and_makes_private_directories(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("open"));
    let other = fixture.supervisor();
    let (first, second) = tokio::join!(supervisor.open(&session), other.open(&session));
    let first = first.unwrap();
    assert_eq!(first, second.unwrap(), "two guests were started");
    assert_eq!(first, fixture.supervisor().open(&session).await.unwrap());
    let paths = supervisor.paths(&session);
    for dir in [&paths.root, &paths.home, &paths.tmp, &paths.runtime, &paths.ready, &paths.workspace] {
        assert_eq!(mode(dir), 0o700, "{}", dir.display());
    }
    assert!(supervisor.units(&session).await.unwrap().is_empty());
    assert_eq!(supervisor.found().await.unwrap(), [session.unit_key()]);
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_unit_inherits_nothing(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("inherit"));
    // Leaked on purpose, as some programs do to what they start.
    let leaked = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let script = "env | cut -d= -f1 | sort | tr '\\n' ' '; echo; ls /proc/self/fd | wc -l; umask; \
                  grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let lines = run(&supervisor, &session, script).await;
    // The shell adds PWD and the like itself; ls has its directory open beside the three standard streams.
    assert_eq!(lines[0].trim(), "HELIX_SLICE PATH PWD _".trim_end_matches(" _"), "{lines:?}");
    assert_eq!(lines[1..3], ["4", "0077"], "{lines:?}");
    for line in &lines[3..] {
        let mask = u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
        // Signals 32 and 33 are the C library's own: nobody can set them.
        assert_eq!(mask & !(3 << 31), 0, "{lines:?}");
    }
    supervisor.kill(&session).await.unwrap();
}

pub async fn start_is_idempotent_and_ends_are_told(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("start"));
    supervisor.open(&session).await.unwrap();
    let mut events = supervisor.events(&session).await.unwrap();

    let wm = shell(UnitName::Wm, "exec sleep 1000");
    let first = supervisor.start(&session, &wm).await.unwrap();
    assert!(first.pid.is_some() && first.exit_status.is_none());
    assert_eq!(supervisor.start(&session, &wm).await.unwrap(), first);

    supervisor.start(&session, &shell(UnitName::App, "exit 3")).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::App).await, 3);
    let again = supervisor.start(&session, &shell(UnitName::App, "exit 4")).await.unwrap();
    assert_eq!(again, UnitStatus { name: UnitName::App, pid: None, exit_status: Some(3) });

    supervisor.start(&session, &shell(UnitName::Dbus, "kill -SEGV $$")).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::Dbus).await, 128 + 11);
    assert_eq!(supervisor.units(&session).await.unwrap().len(), 3);
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_unit_that_cannot_start_says_why(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("missing"));
    supervisor.open(&session).await.unwrap();
    let mut unit = shell(UnitName::App, "");
    unit.argv = vec!["no-such-program".to_owned()];
    let error = supervisor.start(&session, &unit).await.unwrap_err();
    assert!(matches!(error, SupervisorError::Start { unit: "app", .. }), "{error}");
    assert!(error.to_string().contains("no-such-program") && error.to_string().contains("PATH"), "{error}");
    unit = shell(UnitName::App, "");
    unit.cwd = "/no/such/directory".into();
    let error = supervisor.start(&session, &unit).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/directory"), "{error}");
    // Nothing of it stands in the way of a right one.
    supervisor.start(&session, &shell(UnitName::App, "true")).await.unwrap();
    supervisor.kill(&session).await.unwrap();
}

pub async fn stop_asks_then_forces_and_the_unit_can_start_anew(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("stop"));
    supervisor.open(&session).await.unwrap();
    let mut events = supervisor.events(&session).await.unwrap();

    let polite = "trap 'echo asked; exit 7' TERM; echo up >$HOME/ready; while :; do sleep 0.05; done";
    let mut unit = shell(UnitName::App, polite);
    unit.env.insert("HOME".to_owned(), supervisor.paths(&session).ready.display().to_string());
    unit.stdout = Stdout::Log;
    // What starts with the trap set has written its file; the helper unit ends when it is there.
    supervisor.start(&session, &unit).await.unwrap();
    let wait = format!("until [ -s {}/ready ]; do sleep 0.02; done", supervisor.paths(&session).ready.display());
    supervisor.start(&session, &shell(UnitName::Workspace, &wait)).await.unwrap();
    exit_status(&mut events, UnitName::Workspace).await;
    supervisor.stop(&session, UnitName::App, GRACE).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::App).await, 7);
    let said = log(&supervisor, &session, UnitName::App).await;
    assert_eq!(said.last().map(String::as_str), Some("asked"), "{said:?}");
    supervisor.stop(&session, UnitName::App, GRACE).await.expect("stopping what is gone is no error");

    let deaf = "trap '' TERM; while :; do sleep 1000; done";
    let deaf = supervisor.start(&session, &shell(UnitName::App, deaf)).await.unwrap();
    assert!(deaf.pid.is_some(), "it was not started anew");
    supervisor.stop(&session, UnitName::App, Duration::from_millis(200)).await.unwrap();
    let status = exit_status(&mut events, UnitName::App).await;
    assert!(status == 128 + 9 || status == 128 + 15, "{status}");
    assert!(!supervisor.units(&session).await.unwrap().iter().any(|unit| unit.name == UnitName::App));
    supervisor.kill(&session).await.unwrap();
}

pub async fn readiness_goes_to_its_file(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("ready"));
    supervisor.open(&session).await.unwrap();
    let mut events = supervisor.events(&session).await.unwrap();
    let mut unit = shell(UnitName::Display, "echo 42; echo noise >&2");
    unit.stdout = Stdout::Ready;
    supervisor.start(&session, &unit).await.unwrap();
    exit_status(&mut events, UnitName::Display).await;
    let ready = supervisor.paths(&session).ready.join("display");
    assert_eq!(std::fs::read_to_string(ready).unwrap(), "42\n");
    assert_eq!(log(&supervisor, &session, UnitName::Display).await, ["noise"]);
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_log_is_bounded_and_keeps_its_end(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("log"));
    let lines = run(&supervisor, &session, "seq 1 1000000; echo the end").await;
    assert_eq!(lines.last().map(String::as_str), Some("the end"));
    assert_eq!(supervisor.logs(&session, 5).await.unwrap().len(), 5);
    let logs = supervisor.paths(&session).root.join("log");
    let sizes = std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    for size in sizes {
        assert!(size <= 1024 * 1024, "{size}");
    }
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_restarted_agentd_finds_everything(fixture: &impl Fixture) {
    let session = session("adopt");
    let former = fixture.supervisor();
    let identity = former.open(&session).await.unwrap();
    let mut former_events = former.events(&session).await.unwrap();
    let wm = former.start(&session, &shell(UnitName::Wm, "exec sleep 1000")).await.unwrap();
    former.start(&session, &shell(UnitName::App, "exit 5")).await.unwrap();
    exit_status(&mut former_events, UnitName::App).await;
    drop((former, former_events));

    let supervisor = fixture.supervisor();
    let mut events = supervisor.events(&session).await.unwrap();
    let Adopted::Alive { units, result: None } = supervisor.adopt(&session, &identity).await.unwrap() else {
        panic!("it was not found");
    };
    let app = UnitStatus { name: UnitName::App, pid: None, exit_status: Some(5) };
    assert_eq!(units, [wm, app]);
    supervisor.stop(&session, UnitName::Wm, GRACE).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::Wm).await, 128 + 15);

    let mut foreign = identity.clone();
    foreign.start_time += 1;
    assert!(matches!(supervisor.adopt(&session, &foreign).await.unwrap(), Adopted::Gone { code: "guest_died", .. }));
    foreign = identity.clone();
    "another boot".clone_into(&mut foreign.boot_id);
    let gone = supervisor.adopt(&session, &foreign).await.unwrap();
    assert!(matches!(gone, Adopted::Gone { code: "host_rebooted", .. }), "{gone:?}");
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_second_subscription_ends_the_first(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("events"));
    supervisor.open(&session).await.unwrap();
    let mut first = supervisor.events(&session).await.unwrap();
    let mut second = supervisor.events(&session).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, first.recv()).await.unwrap(), None);
    supervisor.start(&session, &shell(UnitName::App, "exit 9")).await.unwrap();
    assert_eq!(exit_status(&mut second, UnitName::App).await, 9);
    supervisor.kill(&session).await.unwrap();
}

/// Shells that do all they can to survive: they ignore SIGTERM, leave their session, fork twice and fork on.
const STUBBORN: &str = "trap '' TERM HUP INT; \
    (setsid sh -c 'trap \"\" TERM; (sleep 1000 &) ; exec sleep 1000' &) ; \
    (env -i setsid sleep 1000 &) ; \
    (while :; do (sleep 0.01; sleep 0.01) & sleep 0.005; done) & \
    echo up; while :; do sleep 1000; done";

pub async fn kill_leaves_nothing_but_logs_and_workspace(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("kill"));
    supervisor.open(&session).await.unwrap();
    let mut events = supervisor.events(&session).await.unwrap();
    let mut stubborn = shell(UnitName::App, STUBBORN);
    stubborn.stdout = Stdout::Ready;
    supervisor.start(&session, &stubborn).await.unwrap();
    supervisor.start(&session, &shell(UnitName::Wm, "echo said; exec sleep 1000")).await.unwrap();
    let paths = supervisor.paths(&session);
    let wait = format!("until [ -s {}/app ]; do sleep 0.02; done", paths.ready.display());
    supervisor.start(&session, &shell(UnitName::Workspace, &wait)).await.unwrap();
    exit_status(&mut events, UnitName::Workspace).await;
    assert!(fixture.processes(&session).len() > 3);
    // As module caches are: not even the owner may write.
    let sealed = paths.home.join("sealed");
    std::fs::create_dir(&sealed).unwrap();
    std::fs::write(sealed.join("file"), "").unwrap();
    std::fs::set_permissions(&sealed, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    std::fs::write(paths.workspace.join("work"), "kept").unwrap();

    supervisor.kill(&session).await.unwrap();
    assert_eq!(fixture.processes(&session), Vec::<String>::new());
    for gone in [&paths.home, &paths.tmp, &paths.runtime, &paths.ready, &paths.vnc_socket, &paths.xauthority] {
        assert!(!gone.exists(), "{} is left", gone.display());
    }
    assert_eq!(std::fs::read_to_string(paths.workspace.join("work")).unwrap(), "kept");
    assert_eq!(log(&supervisor, &session, UnitName::Wm).await, ["said"]);
    supervisor.kill(&session).await.expect("killing what is gone is no error");

    supervisor.forget(&session).await.unwrap();
    assert!(!paths.root.exists() && !paths.workspace.exists());
    assert_eq!(supervisor.found().await.unwrap(), Vec::<String>::new());
    supervisor.forget(&session).await.expect("forgetting what is gone is no error");
    supervisor.kill(&session).await.expect("killing what is forgotten is no error");
}

pub async fn kill_works_while_units_are_starting(fixture: &impl Fixture) {
    for round in 0..5 {
        let (supervisor, session) = (fixture.supervisor(), session(&format!("race{round}")));
        supervisor.open(&session).await.unwrap();
        let starts = UnitName::ALL.map(|name| {
            let (supervisor, session) = (supervisor.clone(), session.clone());
            tokio::spawn(async move { supervisor.start(&session, &shell(name, "sleep 1000 & sleep 1000")).await })
        });
        supervisor.kill(&session).await.unwrap();
        for start in starts {
            // Started and ended, or refused: both are right.
            let _ = start.await.unwrap();
        }
        assert_eq!(fixture.processes(&session), Vec::<String>::new());
    }
}

pub async fn a_killed_session_can_be_opened_again(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("again"));
    assert_eq!(run(&supervisor, &session, "echo one").await, ["one"]);
    let first = supervisor.open(&session).await.unwrap();
    supervisor.kill(&session).await.unwrap();
    assert_eq!(run(&supervisor, &session, "echo two").await, ["one", "two"]);
    assert_ne!(supervisor.open(&session).await.unwrap(), first);
    supervisor.kill(&session).await.unwrap();
}

pub async fn reap_ends_what_nobody_knows(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor(), session("unknown"));
    supervisor.open(&session).await.unwrap();
    supervisor.start(&session, &shell(UnitName::App, "sleep 1000")).await.unwrap();
    let found = supervisor.found().await.unwrap();
    assert_eq!(found, [session.unit_key()]);
    fixture.supervisor().reap(&found[0]).await.unwrap();
    assert_eq!(fixture.processes(&session), Vec::<String>::new());
    assert_eq!(supervisor.found().await.unwrap(), Vec::<String>::new());
    assert!(supervisor.paths(&session).workspace.exists(), "the workspace is the user's");
    for wrong in ["..", "", "0123456789abcdeg"] {
        assert!(supervisor.reap(wrong).await.is_err(), "{wrong:?} was accepted");
    }
}
