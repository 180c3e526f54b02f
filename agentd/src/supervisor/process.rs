//! Process backend: one detached [`crate::guest`] per session is parent and subreaper of all its processes.
//!
//! The supervisor itself keeps no state but its subscriptions: every operation is one request on the session's
//! `guest.sock`, and a restarted agentd needs nothing but the state directory. What a guest that was killed left
//! is found by its marker ([`sweep`]).
//!
//! For callers:
//! - [`Supervisor::open`] makes every directory of [`SessionPaths`].
//! - `HELIX_SLICE` is set by the guest in each unit; programs are searched in the PATH of the unit's environment.
//! - [`Supervisor::stop`] forgets the unit, so that [`Supervisor::start`] starts it anew: that is a restart.
//! - Subscribe with [`Supervisor::events`] before asking for the state: what ends after that is delivered.
//! - [`Supervisor::reap`] also removes logs: nobody could ask for them without knowing the session.
//!
//! No isolation between sessions or from the operator: all share one uid.

mod client;
pub mod display_files;
mod end;
mod files;
mod follow;
pub mod layout;
pub mod lock;
mod logs;
pub mod procfs;
mod reap;
pub mod sweep;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use helix_protocol::link::LogLine;
use helix_protocol::reap::Reaped;
use helix_protocol::resources::{Resources, Usage};
use helix_protocol::session::SessionResult;
use helix_protocol::{RecordingId, SessionId};
use rustix::process::Signal;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub use self::end::runner_mark;
use self::layout::{Layout, MAX_SOCKET_PATH, longest_socket_path, sessions_dir};
use self::lock::Lock;
pub use self::reap::reap_all;
use self::sweep::Mark;
use super::{
    Adopted, Enforcement, GuestIdentity, HostPaths, Identity, Result, SessionPaths, SliceEvent, SliceSpec, Supervisor,
    SupervisorError, UnitName, UnitSpec, UnitStatus,
};
use crate::guest::wire::{Answer, Event, Record, Request};
use crate::guest::{GuestArgs, detached_command};
use crate::images::enter;
use crate::recorder::shelf;

/// A guest answers at once unless the machine is in trouble.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Making the directories and starting the guest, after ending what a former life left.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// A guest that has closed its socket is gone within moments.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// What a stop may take beyond its grace.
const STOP_MARGIN: Duration = Duration::from_secs(5);
/// Events that wait for a slow session task: a session has six units.
const EVENT_BUFFER: usize = 64;

/// Where the backend keeps its things.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// agentd's state directory; sessions are in `s/` below it.
    pub state_dir: PathBuf,
    /// Parent of the sessions' workspaces.
    pub workspace_dir: PathBuf,
    /// The agentd program.
    pub program: PathBuf,
}

impl ProcessConfig {
    /// With the running program as guest, which stays right when its file is replaced by an upgrade.
    pub fn new(state_dir: impl Into<PathBuf>, workspace_dir: impl Into<PathBuf>) -> Self {
        let program = crate::guest::own_program();
        Self { state_dir: state_dir.into(), workspace_dir: workspace_dir.into(), program }
    }
}

/// Why the backend cannot work with its directories.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A directory cannot be made or read.
    #[error("cannot use directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its sockets could not be bound.
    #[error(
        "state directory {} is too long: the path of a unix socket in it would have {length} bytes, \
         {MAX_SOCKET_PATH} are possible; choose a state directory of at most {} bytes",
        path.display(), MAX_SOCKET_PATH - (length - path.as_os_str().len())
    )]
    SocketPathTooLong {
        /// The state directory.
        path: PathBuf,
        /// Bytes of the longest socket path.
        length: usize,
    },
}

/// The process backend. Clones share their subscriptions.
#[derive(Debug, Clone)]
pub struct ProcessSupervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ProcessConfig,
    /// The task that reads a session's events, by unit key.
    subscriptions: Mutex<HashMap<String, AbortHandle>>,
}

impl ProcessSupervisor {
    /// Makes the directories (0700) where they are missing and checks that sockets fit into them.
    pub fn new(mut config: ProcessConfig) -> Result<Self, ConfigError> {
        for dir in [&mut config.state_dir, &mut config.workspace_dir] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            *dir = made
                .and_then(|()| fs::canonicalize(&dir))
                .map_err(|source| ConfigError::Directory { path: dir.clone(), source })?;
        }
        let length = longest_socket_path(&config.state_dir);
        if length > MAX_SOCKET_PATH {
            return Err(ConfigError::SocketPathTooLong { path: config.state_dir, length });
        }
        Ok(Self { inner: Arc::new(Inner { config, subscriptions: Mutex::default() }) })
    }

    fn workspace(&self, session: &SessionId) -> PathBuf {
        self.inner.config.workspace_dir.join(session.as_str())
    }

    /// Beginning of the markers of the session's processes.
    fn mark(&self, session: &SessionId) -> String {
        end::session_mark(&self.inner.config.state_dir, &session.unit_key())
    }

    fn layout(&self, session: &SessionId) -> Layout {
        Layout::new(sessions_dir(&self.inner.config.state_dir).join(session.unit_key()))
    }

    async fn call(&self, session: &SessionId, request: &Request, timeout: Duration) -> Result<Answer> {
        let socket = self.layout(session).guest_socket();
        client::call(&socket, request, timeout).await.map_err(|error| unreachable(session, &error))
    }

    async fn state(&self, session: &SessionId) -> Result<(GuestIdentity, Vec<UnitStatus>, Option<SessionResult>)> {
        match self.call(session, &Request::List, ANSWER_TIMEOUT).await? {
            Answer::State { guest, units, result } => Ok((guest, units, result)),
            other => Err(unexpected(session, &other)),
        }
    }

    async fn end(&self, unit_key: &str) -> io::Result<Result<(), String>> {
        self.unsubscribe(unit_key, None);
        let (state_dir, key) = (self.inner.config.state_dir.clone(), unit_key.to_owned());
        blocking(move || Ok(end::end_slice(&state_dir, &key))).await
    }

    /// Ends the former reader of the session's events and keeps the new one.
    fn unsubscribe(&self, unit_key: &str, new: Option<AbortHandle>) {
        let mut subscriptions = self.inner.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        let former = match new {
            Some(new) => subscriptions.insert(unit_key.to_owned(), new),
            None => subscriptions.remove(unit_key),
        };
        if let Some(former) = former {
            former.abort();
        }
    }
}

impl Supervisor for ProcessSupervisor {
    fn backend(&self) -> &'static str {
        "process"
    }

    fn enforcement(&self) -> Enforcement {
        let isolation = "none: sessions run as the operator's own user and can reach each other's processes and files";
        let limits = "not enforced: a session can use all memory and processors of the machine";
        let missing = "every limit: the process backend enforces none; run agentd as a systemd service";
        Enforcement {
            isolation: isolation.to_owned(),
            limits: limits.to_owned(),
            enforced: Vec::new(),
            missing: vec![missing.to_owned()],
        }
    }

    fn paths(&self, session: &SessionId) -> SessionPaths {
        self.layout(session).session_paths(self.workspace(session))
    }

    fn spool(&self, recording: &RecordingId) -> PathBuf {
        shelf::spool(&self.inner.config.state_dir, recording)
    }

    fn host_paths(&self, session: &SessionId) -> HostPaths {
        self.layout(session).host_paths(self.workspace(session))
    }

    async fn open(&self, session: &SessionId, spec: &SliceSpec) -> Result<Identity> {
        let failed = |reason: String| SupervisorError::Open { session: session.clone(), reason };
        let paths = self.paths(session);
        let args = GuestArgs {
            root: paths.root,
            workspace: paths.workspace,
            session: session.clone(),
            mark: self.mark(session),
        };
        let mut command = detached_command(self.inner.config.program.as_os_str());
        command.env(sweep::VARIABLE, format!("{}{}", args.mark, sweep::OPENER));
        command.args(args.to_arguments("open")).current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped());
        // Not killed when this future is dropped: it holds the lock until everything is in place.
        let output = tokio::process::Command::from(command).output();
        let output = tokio::time::timeout(OPEN_TIMEOUT, output)
            .await
            .map_err(|_| failed(format!("agentd guest did not start within {} s", OPEN_TIMEOUT.as_secs())))?
            .map_err(|error| failed(format!("agentd guest cannot be run: {error}")))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let guest: GuestIdentity = serde_json::from_slice(&output.stdout)
            .map_err(|error| failed(format!("agentd guest answered: {error}")))?;
        let (paths, files, recording) = (self.paths(session), spec.files.clone(), spec.recording.clone());
        let state_dir = self.inner.config.state_dir.clone();
        let lock = self.layout(session).open_lock();
        let write = move || {
            // Two that open at once must not make two cookies.
            let _lock = Lock::wait(&lock)?;
            if let Some(recording) = &recording {
                shelf::make_spool(&state_dir, recording)?;
            }
            files::write(&paths, &files)
        };
        blocking(write).await.map_err(|error| failed(error.to_string()))?;
        Ok(Identity::Guest(guest))
    }

    async fn adopt(&self, session: &SessionId, identity: &Identity) -> Result<Adopted> {
        let Identity::Guest(identity) = identity else {
            let message = "the session was started by another backend of agentd, which this one cannot take over";
            return Ok(Adopted::Gone { code: "backend_changed", message: message.to_owned(), result: None });
        };
        let (asked, answered) = (identity.clone(), self.state(session).await);
        if let Ok((guest, units, result)) = &answered
            && guest == identity
        {
            return Ok(Adopted::Alive { units: units.clone(), result: result.clone() });
        }
        let record_path = self.layout(session).record();
        let look = move || {
            let same_boot = procfs::boot_id()? == asked.boot_id;
            // A process that is being killed closes its sockets a moment before it is gone.
            let alive = same_boot && !procfs::wait_for_end(&asked, EXIT_TIMEOUT);
            let record = match Record::load(&record_path) {
                // A record that a power cut destroyed says nothing about whether the guest lives.
                Err(error) if !alive => {
                    tracing::warn!("the record of a guest that is gone cannot be read: {error}");
                    None
                }
                record => record?,
            };
            Ok((record, same_boot, alive))
        };
        let (record, same_boot, alive) = blocking(look).await.map_err(|error| unreachable(session, &error))?;
        if alive {
            // It lives and yet does not answer: that is no proof of an end.
            let hung = io::Error::new(io::ErrorKind::TimedOut, format!("guest process {} hangs", identity.pid));
            return Err(answered.err().unwrap_or_else(|| unreachable(session, &hung)));
        }
        let record = record.filter(|record| record.guest == *identity);
        let (code, message) = if !same_boot {
            ("host_rebooted", "the machine was restarted, which ended the session".to_owned())
        } else if record.as_ref().is_some_and(|record| record.ended) {
            ("slice_ended", "the session's processes were ended on request".to_owned())
        } else {
            ("slice_gone", format!("the session's guest process {} is gone: something killed it", identity.pid))
        };
        Ok(Adopted::Gone { code, message, result: record.and_then(|record| record.result) })
    }

    async fn events(&self, session: &SessionId) -> Result<mpsc::Receiver<SliceEvent>> {
        let socket = self.layout(session).guest_socket();
        let mut stream =
            client::connect(&socket, &Request::Subscribe).await.map_err(|error| unreachable(session, &error))?;
        let first = tokio::time::timeout(ANSWER_TIMEOUT, client::next(&mut stream)).await;
        match first.map_err(io::Error::from).flatten().map_err(|error| unreachable(session, &error))? {
            Some(Answer::State { .. }) => {}
            Some(other) => return Err(unexpected(session, &other)),
            None => return Err(unreachable(session, &io::Error::from(io::ErrorKind::UnexpectedEof))),
        }
        let (sender, receiver) = mpsc::channel(EVENT_BUFFER);
        let reader = tokio::spawn(async move {
            loop {
                let event = match client::next(&mut stream).await {
                    Ok(Some(Answer::Event { event: Event::UnitExited { unit } })) => SliceEvent::UnitExited(unit),
                    Ok(Some(Answer::Event { event: Event::TaskFinished { result } })) => {
                        SliceEvent::TaskFinished(result)
                    }
                    Ok(Some(_)) => continue,
                    Ok(None) => SliceEvent::SliceGone("the session's guest process has ended".to_owned()),
                    Err(error) => SliceEvent::SliceGone(format!("the session's guest process is gone: {error}")),
                };
                let last = matches!(event, SliceEvent::SliceGone(_));
                if sender.send(event).await.is_err() || last {
                    return;
                }
            }
        });
        self.unsubscribe(&session.unit_key(), Some(reader.abort_handle()));
        Ok(receiver)
    }

    async fn listen(&self, session: &SessionId, unit: UnitName) -> Result<UnixListener> {
        let failed = |reason: String| SupervisorError::Listen { session: session.clone(), reason };
        // The marker goes with the session.
        if !self.layout(session).slice().exists() {
            return Err(failed("it is not open".to_owned()));
        }
        // At once: whoever ends the session meanwhile must not find half of it.
        let SessionPaths { sync_socket, tools_socket, notes_socket, rdp_socket, .. } = self.paths(session);
        listen(match unit {
            UnitName::Tools => &tools_socket,
            UnitName::Recorder => &notes_socket,
            UnitName::Rdp => &rdp_socket,
            _ => &sync_socket,
        })
        .map_err(|error| failed(error.to_string()))
    }

    async fn start(&self, session: &SessionId, unit: &UnitSpec) -> Result<UnitStatus> {
        let (config, paths) = (&self.inner.config, self.paths(session));
        let started = enter::unit(&config.state_dir, &config.program, &paths, unit);
        match self.call(session, &Request::Start { unit: started }, ANSWER_TIMEOUT).await? {
            Answer::Unit { unit } => Ok(unit),
            Answer::Failed { reason } => {
                let program = unit.argv.first().cloned().unwrap_or_default();
                Err(SupervisorError::Start { unit: unit.name.as_str(), program, reason })
            }
            other => Err(unexpected(session, &other)),
        }
    }

    async fn stop(&self, session: &SessionId, unit: UnitName, grace: Duration) -> Result<()> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        match self.call(session, &Request::Stop { unit, grace_ms }, grace + STOP_MARGIN).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(session, &other)),
        }
    }

    async fn units(&self, session: &SessionId) -> Result<Vec<UnitStatus>> {
        self.state(session).await.map(|(_, units, _)| units)
    }

    async fn limit(&self, _session: &SessionId, _resources: &Resources) -> Result<()> {
        // Nothing is enforced, which `enforcement` says.
        Ok(())
    }

    async fn usage(&self, _session: &SessionId) -> Result<Usage> {
        Ok(Usage::default())
    }

    async fn freeze(&self, session: &SessionId, frozen: bool) -> Result<()> {
        let (guest, ..) = self.state(session).await?;
        let (layout, mark) = (self.layout(session), self.mark(session));
        let how = if frozen { Signal::STOP } else { Signal::CONT };
        blocking(move || sweep::signal_all(&Mark::load(&layout, mark), guest.pid, how))
            .await
            .map_err(|error| unreachable(session, &error))
    }

    async fn kill(&self, session: &SessionId) -> Result<()> {
        let left = |left| SupervisorError::LeftBehind { session: session.clone(), left };
        self.end(&session.unit_key()).await.map_err(|error| unreachable(session, &error))?.map_err(left)
    }

    async fn logs(&self, session: &SessionId, unit: Option<UnitName>, lines: u32) -> Result<Vec<LogLine>> {
        let layout = self.layout(session);
        let read = move || {
            let mut all = Vec::new();
            for unit in UnitName::ALL.into_iter().filter(|name| unit.is_none_or(|unit| unit == *name)) {
                let tail = logs::tail(&layout.log(unit), &layout.rotated_log(unit), lines as usize)?;
                all.extend(tail.into_iter().map(|text| LogLine { unit: unit.as_str().to_owned(), text }));
            }
            if unit.is_some_and(|unit| unit != UnitName::App) {
                return Ok(all);
            }
            // What a command wrote went to the terminal on the desktop: its end is in the result.
            let output =
                Record::load(&layout.record())?.and_then(|record| record.result).map(|result| result.output_tail);
            let output: Vec<&str> = output.iter().flat_map(|output| output.lines()).collect();
            let output = output[output.len().saturating_sub(lines as usize)..].iter();
            all.extend(
                output.map(|text| LogLine { unit: UnitName::App.as_str().to_owned(), text: (*text).to_owned() }),
            );
            Ok(all)
        };
        blocking(read).await.map_err(|error| unreachable(session, &error))
    }

    async fn follow_logs(
        &self,
        session: &SessionId,
        unit: Option<UnitName>,
        lines: u32,
    ) -> Result<mpsc::Receiver<LogLine>> {
        // Watched first: what is written after the last lines were read is told.
        let follow = follow::Follow::new(&self.layout(session), unit).map_err(|error| unreachable(session, &error))?;
        let last = self.logs(session, unit, lines).await?;
        Ok(follow.run(last))
    }

    async fn forget(&self, session: &SessionId) -> Result<()> {
        let paths = self.paths(session);
        let remove = move || sweep::remove_tree(&paths.workspace).and_then(|()| sweep::remove_tree(&paths.root));
        let left = |error: io::Error| SupervisorError::LeftBehind { session: session.clone(), left: error.to_string() };
        blocking(remove).await.map_err(left)
    }

    async fn found(&self) -> Result<Vec<String>> {
        let state_dir = self.inner.config.state_dir.clone();
        blocking(move || end::found(&state_dir))
            .await
            .map_err(|error| SupervisorError::Search { reason: error.to_string() })
    }

    async fn reap(&self, unit_key: &str) -> Result<Reaped> {
        let left = |left| SupervisorError::Reap { unit_key: unit_key.to_owned(), left };
        if !end::is_unit_key(unit_key) {
            return Err(left("this is not a unit key".to_owned()));
        }
        let (state_dir, key) = (self.inner.config.state_dir.clone(), unit_key.to_owned());
        let there =
            blocking(move || Ok(end::there(&state_dir, &key))).await.map_err(|error| left(error.to_string()))?;
        self.end(unit_key).await.map_err(|error| left(error.to_string()))?.map_err(left)?;
        let root = sessions_dir(&self.inner.config.state_dir).join(unit_key);
        blocking(move || sweep::remove_tree(&root)).await.map_err(|error| left(error.to_string()))?;
        Ok(there)
    }

    async fn discard(&self, workspace: &Path) -> io::Result<()> {
        let workspace = workspace.to_owned();
        blocking(move || sweep::remove_tree(&workspace)).await
    }
}

/// Bound under another name first: whoever can see the socket can connect to it.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let draft = path.with_extension("new");
    if let Err(error) = fs::remove_file(&draft)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    fs::rename(&draft, path)?;
    Ok(listener)
}

/// Runs `work`, which waits for files or processes, outside the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn unreachable(session: &SessionId, error: &io::Error) -> SupervisorError {
    SupervisorError::Unreachable { session: session.clone(), reason: error.to_string() }
}

fn unexpected(session: &SessionId, answer: &Answer) -> SupervisorError {
    let reason = match answer {
        Answer::Failed { reason } => reason.clone(),
        other => format!("unexpected answer {other:?}"),
    };
    SupervisorError::Unreachable { session: session.clone(), reason }
}
