//! A runner in this process: everything of agentd but the link, and a server for the agents of its sessions.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use helix_agentd::checkpoint::Courier;
use helix_agentd::config::{Config, Environment, RunArgs};
use helix_agentd::daemon;
use helix_agentd::desktop::Desktops;
use helix_agentd::forward::host::Servers;
use helix_agentd::gate::Gates;
use helix_agentd::images::{Fetcher, Images};
use helix_agentd::kinds::{Kinds, Machine};
use helix_agentd::ledger::Ledger;
use helix_agentd::leftovers::LeftoverBoard;
use helix_agentd::link::reports::Reports;
use helix_agentd::link::token::OwnToken;
use helix_agentd::reconciler::{Inputs, Reconciler};
use helix_agentd::recorder::notes::Notes;
use helix_agentd::recorder::upload::Uploads;
use helix_agentd::session::Context;
use helix_agentd::session::probe::ReadyLines;
use helix_agentd::supervisor::process::{ProcessConfig, ProcessSupervisor, reap_all};
use helix_agentd::supervisor::{Supervisor as _, UnitName};
use helix_agentd::tools::host::Board;
use helix_agentd::viewers::Viewers;
use helix_mesa::Places;
use helix_protocol::assignment::{DesiredSession, SessionAccess};
use helix_protocol::session::{Desired, ObservedSession, SessionPhase, SessionSpec};
use helix_protocol::{Epoch, Generation, KindName, SessionId};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::server;

/// For anything that a loaded machine may need.
const DEADLINE: Duration = Duration::from_mins(1);
/// Between two looks at what has no event.
const LOOK: Duration = Duration::from_millis(20);

type DesiredSet = watch::Sender<Option<Arc<Vec<DesiredSession>>>>;

pub struct Runner {
    config: Arc<Config>,
    supervisor: ProcessSupervisor,
    pub gates: Gates,
    /// What belonged to no session.
    pub leftovers: LeftoverBoard,
    reports: Reports,
    desired: DesiredSet,
    daemon: Option<JoinHandle<()>>,
    stop_all: watch::Sender<bool>,
    /// As on a machine on which the programs of every kind are gone.
    pub without_kinds: bool,
    /// What the sessions that are wanted from now on get.
    pub access: Option<SessionAccess>,
    /// What the server asks their agents.
    inputs: server::Inputs,
    /// As [`helix_agentd::fence`] says it.
    pub cut_off: watch::Sender<bool>,
    // Last: removed after everything in it has ended.
    dir: tempfile::TempDir,
}

pub fn spec() -> SessionSpec {
    SessionSpec::default()
}

pub fn command(input: &str) -> SessionSpec {
    let kind = KindName::parse("command").expect("valid kind");
    SessionSpec { kind: Some(kind), input: Some(input.to_owned()), ..SessionSpec::default() }
}

pub fn terminal() -> SessionSpec {
    SessionSpec { kind: Some(KindName::parse("terminal").expect("valid kind")), ..SessionSpec::default() }
}

fn id(session: &str) -> SessionId {
    SessionId::parse(session).expect("valid id")
}

impl Runner {
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::Builder::new().prefix("helix-agentd-").tempdir().expect("temporary directory");
        let env = Environment::from([
            ("HOME".to_owned(), dir.path().to_string_lossy().into_owned()),
            ("RUNNER_ID".to_owned(), "test-runner".to_owned()),
        ]);
        let mut config = Config::load(&RunArgs::default(), &env).expect("valid settings");
        config.state_dir = dir.path().join("state");
        config.workspace_dir = dir.path().join("workspaces");
        config.slots = 8;
        config.kinds_dir = dir.path().join("kinds");
        std::fs::create_dir(&config.kinds_dir).expect("made");
        let inputs = server::Inputs::default();
        config.api_hosts = vec![inputs.serve()];
        change(&mut config);
        let supervisor = ProcessSupervisor::new(ProcessConfig {
            state_dir: config.state_dir.clone(),
            workspace_dir: config.workspace_dir.clone(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_agentd")),
        })
        .expect("a supervisor");
        let mut runner = Self {
            config: Arc::new(config),
            supervisor,
            reports: Reports::default(),
            gates: Gates::default(),
            leftovers: LeftoverBoard::default(),
            desired: watch::Sender::new(None),
            daemon: None,
            stop_all: watch::Sender::new(false),
            without_kinds: false,
            access: None,
            inputs,
            cut_off: watch::Sender::new(false),
            dir,
        };
        runner.start_daemon();
        runner
    }

    /// As a start of agentd: nothing is known but what is on disk.
    pub fn start_daemon(&mut self) {
        let (ledger, entries) = Ledger::open(&self.config.state_dir).expect("a ledger");
        let host = daemon::host(&daemon::environment(), PathBuf::from(env!("CARGO_BIN_EXE_agentd")));
        let notes = Notes::default();
        let context = Arc::new(Context {
            supervisor: self.supervisor.clone(),
            config: self.config.clone(),
            kinds: self.kinds(&host.path),
            host,
            ledger,
            reports: self.reports.clone(),
            ready: ReadyLines::new().expect("inotify"),
            ended: watch::Sender::new(0),
            servers: Arc::new(Servers::new(&self.config.api_hosts)),
            gates: self.gates.clone(),
            tools: Board::default(),
            notes: notes.clone(),
            uploads: Uploads::new(&self.config.state_dir),
            checkpoints: self.courier(),
            images: self.images(),
            viewers: Viewers::new(self.supervisor.clone(), self.gates.clone(), notes, false),
            leftovers: self.leftovers.clone(),
        });
        let inputs = Inputs {
            desired: self.desired.subscribe(),
            runner_stops: self.stop_all.subscribe(),
            cut_off: self.cut_off.subscribe(),
        };
        let reconciler = Reconciler::new(context, inputs, entries);
        self.daemon = Some(tokio::spawn(async move {
            let failed = reconciler.run().await;
            panic!("{failed}");
        }));
    }

    fn courier(&self) -> Courier {
        Courier::new(self.config.clone(), OwnToken::open(&self.config.state_dir).expect("a token"))
    }

    fn images(&self) -> Images {
        // As main does. Fails only if one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let token = OwnToken::open(&self.config.state_dir).expect("a token");
        let fetcher = Fetcher::new(self.config.clone(), token).expect("a client");
        Images::new(&self.config.state_dir, fetcher, self.config.image_signers.clone(), self.config.images_keep, None)
    }

    fn kinds(&self, path: &str) -> Kinds {
        let path = if self.without_kinds { "/nonexistent" } else { path };
        let (zed, vulkan_icd) = (self.config.zed_binary.as_deref(), self.config.vulkan_icd.as_deref());
        let places = Places::new(&|_| None, false);
        let machine = Machine { path: path.as_ref(), zed, vulkan_icd, vulkan_places: &places };
        Kinds::load(std::slice::from_ref(&self.config.kinds_dir), &machine)
    }

    /// As `kill -9`: tasks end where they are.
    pub fn stop_daemon(&mut self) {
        self.daemon.take().expect("it runs").abort();
    }

    /// Other settings, for the next start.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = (*self.config).clone();
        change(&mut config);
        self.config = Arc::new(config);
    }

    pub fn restart(&mut self) {
        self.stop_daemon();
        self.start_daemon();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn workspace(&self, session: &str) -> PathBuf {
        self.supervisor.host_paths(&id(session)).workspace
    }

    pub fn want(&mut self, session: &str, epoch: u64, desired: Desired, spec: SessionSpec) {
        self.inputs.set(&id(session), spec.input.as_deref());
        let wanted = DesiredSession {
            session: id(session),
            epoch: Epoch(epoch),
            generation: Generation(1),
            desired,
            spec,
            control: helix_protocol::control::Control::default(),
            grants: 0,
            deleted: false,
            work: helix_protocol::checkpoint::WorkOrder::default(),
            access: self.access.clone().filter(|_| desired == Desired::Running),
        };
        self.edit(|set| {
            set.retain(|known| known.session != wanted.session);
            set.push(wanted);
        });
    }

    /// Another spec under the same epoch.
    pub fn amend(&self, session: &str, generation: u64, spec: &SessionSpec) {
        let session = id(session);
        self.edit(|set| {
            for known in set.iter_mut().filter(|known| known.session == session) {
                known.generation = Generation(generation);
                known.spec = spec.clone();
            }
        });
    }

    pub fn delete(&mut self, session: &str) {
        let session = id(session);
        self.edit(|set| set.iter_mut().filter(|known| known.session == session).for_each(|known| known.deleted = true));
    }

    pub fn want_nothing(&mut self) {
        self.edit(Vec::clear);
    }

    fn edit(&self, edit: impl FnOnce(&mut Vec<DesiredSession>)) {
        self.desired.send_modify(|set| {
            let mut sessions = set.as_deref().cloned().unwrap_or_default();
            edit(&mut sessions);
            *set = Some(Arc::new(sessions));
        });
    }

    /// As a server does.
    pub fn acknowledge(&self, observed: &ObservedSession) {
        self.reports.acknowledge(&observed.session, observed.epoch, observed.report);
    }

    pub fn observed(&self, session: &str) -> ObservedSession {
        self.reports.get(&id(session)).expect("it was reported")
    }

    pub async fn phase(&self, session: &str, phase: SessionPhase) -> ObservedSession {
        let reached = |observed: &ObservedSession| observed.phase == phase || observed.phase.is_terminal();
        let observed = self.until(session, reached).await;
        assert_eq!(observed.phase, phase, "{:#?}", observed.cause);
        observed
    }

    pub async fn until(&self, session: &str, holds: impl Fn(&ObservedSession) -> bool) -> ObservedSession {
        let mut changes = self.reports.watch();
        let wait = async {
            loop {
                changes.mark_unchanged();
                if let Some(observed) = self.reports.get(&id(session)).filter(|observed| holds(observed)) {
                    return observed;
                }
                changes.changed().await.expect("the reports live");
            }
        };
        let reached = tokio::time::timeout(DEADLINE, wait).await.ok();
        reached.unwrap_or_else(|| panic!("session {session} did not come there: {:#?}", self.reports.get(&id(session))))
    }

    pub async fn until_gone(&self, session: &str) {
        let mut changes = self.reports.watch();
        let gone = changes.wait_for(|_| self.reports.get(&id(session)).is_none());
        tokio::time::timeout(DEADLINE, gone).await.expect("in time").expect("the reports live");
    }

    pub fn ledger_files(&self) -> usize {
        std::fs::read_dir(self.config.state_dir.join("ledger")).expect("readable").count()
    }

    pub fn remove_ledger(&self) {
        std::fs::remove_dir_all(self.config.state_dir.join("ledger")).expect("removed");
    }

    /// From now on the ledger cannot be written.
    pub fn hide_ledger(&self) {
        let state = &self.config.state_dir;
        std::fs::rename(state.join("ledger"), state.join("hidden")).expect("renamed");
    }

    pub fn show_ledger(&self) {
        let state = &self.config.state_dir;
        std::fs::rename(state.join("hidden"), state.join("ledger")).expect("renamed");
    }

    pub fn ledger_text(&self, session: &str) -> String {
        let file = format!("ledger/{}.json", id(session).unit_key());
        std::fs::read_to_string(self.config.state_dir.join(file)).expect("readable")
    }

    /// As a server's calls find them. Each has a connection of its own to a display.
    pub fn desktops(&self) -> Desktops<ProcessSupervisor> {
        Desktops::new(self.supervisor.clone(), self.gates.clone(), Notes::default())
    }

    /// Number and cookie file of the session's display.
    pub fn x(&self, session: &str) -> (u32, PathBuf) {
        let paths = self.supervisor.host_paths(&id(session));
        (helix_agentd::display::number(&paths).expect("its number"), paths.xauthority)
    }

    /// Every file of the runner and its sessions with this text in it.
    pub fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let (mut dirs, mut found) = (vec![self.dir().to_owned()], Vec::new());
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable")) {
                let kind = entry.file_type().expect("known");
                if kind.is_dir() {
                    dirs.push(entry.path());
                } else if kind.is_file() {
                    let content = std::fs::read(entry.path()).expect("readable");
                    let has_it = content.windows(text.len()).any(|window| window == text.as_bytes());
                    found.extend(has_it.then(|| entry.path()));
                }
            }
        }
        found
    }

    pub fn root(&self, session: &str) -> PathBuf {
        self.supervisor.paths(&id(session)).root
    }

    pub async fn stop_unit(&self, session: &str, unit: UnitName) {
        self.supervisor.stop(&id(session), unit, Duration::from_secs(1)).await.expect("stopped");
    }

    pub async fn unit_pid(&self, session: &str, unit: &str) -> Option<u32> {
        let units = self.supervisor.units(&id(session)).await.ok()?;
        units.iter().find(|known| known.name.as_str() == unit)?.pid
    }

    /// No process has anything of the session in its environment, and no socket of it is left.
    pub fn assert_nothing_runs(&self, session: &str) {
        let needle = format!("HELIX_SESSION_ID={session}\0").into_bytes();
        let state = self.config.state_dir.to_string_lossy().into_owned().into_bytes();
        let contains = |text: &[u8], part: &[u8]| text.windows(part.len()).any(|window| window == part);
        let left: Vec<String> = std::fs::read_dir("/proc")
            .expect("readable")
            .filter_map(|process| {
                let environ = std::fs::read(process.ok()?.path().join("environ")).ok()?;
                (contains(&environ, &needle) && contains(&environ, &state))
                    .then(|| String::from_utf8_lossy(&environ).into_owned())
            })
            .collect();
        assert!(left.is_empty(), "{left:#?}");
        let paths = self.supervisor.paths(&id(session));
        assert!(!paths.vnc_socket.exists() && !paths.sync_socket.exists());
    }

    pub async fn assert_reaper_finds_only_known(&self) {
        let found = self.supervisor.found().await.expect("found");
        assert!(found.len() <= self.ledger_files(), "{found:?}");
    }

    pub async fn until_nothing_found(&self) {
        eventually("nothing found", async || self.supervisor.found().await.expect("found").is_empty()).await;
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.abort();
        }
        let reaped = reap_all(&self.config.state_dir, Some(&self.config.workspace_dir));
        if !std::thread::panicking() {
            reaped.expect("everything ends");
        }
    }
}

/// When a session became Ready, as its timeline says.
pub trait Ready {
    fn ready(&self) -> Option<Timestamp>;
}

impl Ready for ObservedSession {
    fn ready(&self) -> Option<Timestamp> {
        self.timeline.iter().find(|step| step.step == "ready").map(|step| step.at)
    }
}

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "{what}: not in time");
}

pub fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// Stops a process where it is, until [`go_on`].
pub fn hold(pid: u32) {
    signal(pid, rustix::process::Signal::STOP);
}

pub fn go_on(pid: u32) {
    signal(pid, rustix::process::Signal::CONT);
}

pub fn terminate(pid: u32) {
    signal(pid, rustix::process::Signal::TERM);
}

/// Kills the shell in a terminal. The terminal shows its window before it starts the shell, and a shell that is just
/// beginning may lose a signal that it means to catch.
pub async fn end_shell(terminal: u32) {
    let comm = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let own = comm(terminal);
    let mut shells = Vec::new();
    eventually("the terminal has a shell", async || {
        let children = std::fs::read_to_string(format!("/proc/{terminal}/task/{terminal}/children")).expect("it runs");
        shells = children.split_whitespace().map(|child| child.parse().expect("a pid")).collect::<Vec<u32>>();
        shells.iter().any(|shell| comm(*shell) != own)
    })
    .await;
    for shell in shells {
        signal(shell, rustix::process::Signal::KILL);
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("not 0");
    rustix::process::kill_process(pid, signal).expect("signalled");
}

pub fn git(dir: Option<&Path>, args: &[&str]) {
    let mut command = Command::new("git");
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    let output = command.args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").output().expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// For people who look at the test's output.
#[allow(clippy::print_stdout, reason = "a test's output")]
pub fn print_timeline(name: &str, observed: &ObservedSession) {
    let steps: Vec<_> = observed
        .timeline
        .iter()
        .map(|step| {
            format!("{} {}", step.step, step.duration_ms.map_or_else(|| "·".to_owned(), |ms| format!("{ms} ms")))
        })
        .collect();
    let total = observed.ready().zip(observed.timeline.first()).map(|(ready, first)| ready.duration_since(first.at));
    println!("{name}: {} | received → ready {total:?}", steps.join(", "));
}
