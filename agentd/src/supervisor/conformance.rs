//! What every backend of [`Supervisor`] must do, against the real thing. Not part of the library: included by
//! `agentd/tests/process.rs`, which makes one test of each check, and by `tests/backend/`, a program
//! that runs inside a host with systemd. [`checks!`] is the list for both.
//!
//! Units are shells that say what they find. Every wait is for an event, or for a file that a unit writes, and bounded.

#[path = "conformance/life.rs"]
mod life;
#[path = "conformance/output.rs"]
mod output;
#[path = "conformance/server.rs"]
mod server;
#[path = "conformance/units.rs"]
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helix_agentd::supervisor::{
    Identity, SessionPaths, SliceEvent, SliceSpec, Stdout, Supervisor, UnitName, UnitSpec, UnitStatus,
};
use helix_protocol::SessionId;
use tokio::sync::mpsc::Receiver;

pub use self::life::*;
pub use self::output::*;
pub use self::server::*;
pub use self::units::*;

/// Longer than any of these events takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What a unit gets to end by itself.
const GRACE: Duration = Duration::from_secs(20);

/// A backend with directories of its own.
pub trait Fixture {
    /// The backend.
    type Backend: Supervisor;

    /// Variables that a unit has beside its own, and those that a shell adds, in order.
    const ENVIRONMENT: &'static str;
    /// How an adoption calls a slice that somebody else ended.
    const GONE: &'static str;
    /// Lines that one unit can write at once without losing any.
    const FLOOD: u32;

    /// A new one on the same directories: what a restarted agentd has.
    fn supervisor(&self) -> impl Future<Output = Self::Backend>;

    /// The agentd program, as a session can run it.
    fn program(&self) -> PathBuf;

    /// Where on this machine a path of a session's own view is.
    fn outside(&self, session: &SessionId, inside: &Path) -> PathBuf;

    /// Names of processes that still belong to the session.
    fn processes(&self, session: &SessionId) -> Vec<String>;

    /// Bytes of the session's log files, where it has its own.
    fn log_bytes(&self, session: &SessionId) -> Vec<u64>;
}

/// Every check, handed to a macro after what it is given itself.
macro_rules! checks {
    ($each:ident!($($given:tt)*)) => {
        $each! { $($given)*
            open_is_idempotent_and_makes_private_directories,
            a_unit_inherits_nothing,
            start_is_idempotent_and_ends_are_told,
            a_unit_that_cannot_start_says_why,
            stop_asks_then_forces_and_the_unit_can_start_anew,
            readiness_goes_to_its_file,
            a_log_is_bounded_and_keeps_its_end,
            a_restarted_agentd_finds_everything,
            a_second_subscription_ends_the_first,
            kill_leaves_nothing_but_logs_and_workspace,
            kill_works_while_units_are_starting,
            a_killed_session_can_be_opened_again,
            reap_ends_what_nobody_knows,
            files_are_there_before_the_first_unit,
            hostile_words_reach_a_unit_as_they_are,
            logs_are_told_by_unit_and_followed,
            limits_usage_and_freezing_say_what_is_there,
            a_frozen_session_can_be_killed,
            a_tasks_outcome_is_told_and_kept,
            an_agent_reaches_agentd_and_the_next_one,
        }
    };
}
pub(crate) use checks;

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
        image: None,
        has_task: false,
    }
}

/// A unit that runs the bridge for shell commands, which asks the server at `url`. Its terminal is the log.
pub fn bridge(program: &Path, paths: &SessionPaths, url: &str) -> UnitSpec {
    let (root, state) = (paths.root.display().to_string(), paths.home.join("bridge").display().to_string());
    let program = program.display().to_string();
    let mut unit = shell(UnitName::App, "");
    unit.argv = [&program, "acp-bridge", "--shell", "--result", &root, "--state", &state].map(str::to_owned).to_vec();
    unit.env.insert("ZED_HELIX_URL".to_owned(), url.to_owned());
    unit.env.insert("HELIX_SESSION_ID".to_owned(), "test".to_owned());
    unit.cwd.clone_from(&paths.workspace);
    unit.has_task = true;
    unit
}

/// A unit that has ended.
pub fn ended(name: UnitName, exit_status: i32) -> UnitStatus {
    UnitStatus { name, pid: None, exit_status: Some(exit_status), out_of_memory: false }
}

pub async fn next_event(events: &mut Receiver<SliceEvent>) -> SliceEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("no event").expect("the events have ended")
}

/// Waits for the end of `unit` and answers its exit status.
pub async fn exit_status(events: &mut Receiver<SliceEvent>, unit: UnitName) -> i32 {
    loop {
        match next_event(events).await {
            SliceEvent::UnitExited(UnitStatus { name, exit_status: Some(status), pid: None, .. }) if name == unit => {
                return status;
            }
            SliceEvent::SliceGone(reason) => panic!("the slice is gone: {reason}"),
            _ => {}
        }
    }
}

/// Lines of one unit's log.
pub async fn log<S: Supervisor>(supervisor: &S, session: &SessionId, unit: UnitName) -> Vec<String> {
    let lines = supervisor.logs(session, Some(unit), 10_000).await.unwrap();
    assert!(lines.iter().all(|line| line.unit == unit.as_str()), "{lines:?}");
    lines.into_iter().map(|line| line.text).collect()
}

/// Waits until the unit has written a line to its readiness file, and answers the file.
pub async fn ready<S: Supervisor>(supervisor: &S, session: &SessionId, unit: UnitName) -> String {
    let file = supervisor.host_paths(session).ready.join(unit.as_str());
    let written = async {
        loop {
            match std::fs::read_to_string(&file) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("the unit is not ready")
}

/// Opens the session with nothing in it.
pub async fn open<S: Supervisor>(supervisor: &S, session: &SessionId) -> Identity {
    supervisor.open(session, &SliceSpec::default()).await.unwrap()
}

/// Opens the session and subscribes to it.
pub async fn open_watched<S: Supervisor>(supervisor: &S, session: &SessionId) -> Receiver<SliceEvent> {
    open(supervisor, session).await;
    supervisor.events(session).await.unwrap()
}

/// Opens the session, runs a script as its app to the end and answers what it wrote.
async fn run<S: Supervisor>(supervisor: &S, session: &SessionId, script: &str) -> Vec<String> {
    let mut events = open_watched(supervisor, session).await;
    supervisor.start(session, &shell(UnitName::App, script)).await.unwrap();
    exit_status(&mut events, UnitName::App).await;
    log(supervisor, session, UnitName::App).await
}
