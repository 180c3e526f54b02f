//! systemd backend, the production way: one slice of transient units per session, made over D-Bus.
//!
//! ```text
//! helix.slice
//! └ helix-s<key>.slice                 limits of the session
//!   └ helix-s<key>-{workspace,display,dbus,wm,forward,app,guest}.service    one user per session, hardened
//! ```
//!
//! systemd is the parent of everything and keeps every exit status; agentd may come and go. What systemd cannot be
//! asked is in the session's directory ([`record`], [`outcome`]), which is built under another name and renamed, so it
//! exists whole or not at all. Identity is the slice's InvocationID.
//!
//! | part | job |
//! |---|---|
//! | [`bus`] | the connection: one task that makes it again when it is lost, and hears everything |
//! | [`events`] | from what systemd tells to what a session is told |
//! | `open`, `start`, `end` | the operations |
//! | [`layout`], [`tree`], [`slots`] | directories and whom they belong to |
//! | [`hardening`] | what a unit may do |
//! | `requirements` | what a machine must have |
//! | [`journal`] | logs |
//!
//! Tasks: one for the bus, one for outcomes, one for kills at memory limits, and one per session that is watched. They
//! end with the last clone of the supervisor. When the bus is away, operations wait for it and then fail with
//! [`SupervisorError::Unreachable`]; receivers stay open meanwhile and hear afterwards what they missed.

pub mod bus;
mod end;
pub mod events;
pub mod hardening;
pub mod journal;
pub mod layout;
mod lives;
mod mark;
mod open;
pub mod outcome;
mod proc_mount;
pub mod record;
mod requirements;
pub mod slots;
mod start;
pub mod tree;
pub mod unit;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use helix_protocol::link::LogLine;
use helix_protocol::reap::Reaped;
use helix_protocol::resources::{Resources, Usage};
use helix_protocol::{RecordingId, RunnerId, SessionId};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use self::bus::{Bus, BusError, Manager};
use self::events::{OomCount, Watch};
use self::layout::{Layout, PARENT_SLICE};
use self::lives::{Life, Lives};
use self::mark::Mark;
use self::outcome::Outcomes;
use self::record::Record;
pub use self::requirements::SystemdError;
use self::requirements::{may_start, new_enough};
use self::slots::Slots;
use self::unit::read_slice;
use super::{
    Adopted, Enforcement, HostPaths, Identity, Result, SessionPaths, SliceEvent, SliceSpec, Supervisor,
    SupervisorError, UnitName, UnitSpec, UnitStatus,
};
use crate::cgroup::{Cgroups, OomEvents};

/// For every process of a session to be held, or let go.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the backend keeps its things, and whom its sessions run as.
#[derive(Debug, Clone)]
pub struct SystemdConfig {
    /// agentd's state directory; sessions are in `s/` below it.
    pub state_dir: PathBuf,
    /// Parent of the sessions' workspaces.
    pub workspace_dir: PathBuf,
    /// The agentd program, as sessions can run it.
    pub program: PathBuf,
    /// Whose sessions these are.
    pub runner: RunnerId,
    /// Users of the slots: `<prefix><first>` and the following.
    pub slot_users: SlotUsers,
}

/// Users that sessions run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotUsers {
    /// Their names before the number.
    pub prefix: String,
    /// Number of the first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// The systemd backend. Clones share everything.
#[derive(Debug, Clone)]
pub struct SystemdSupervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: SystemdConfig,
    mark: Mark,
    bus: Bus,
    watch: Watch,
    lives: Lives,
    slots: Slots,
    cgroups: Cgroups,
    oom: OomEvents,
    outcomes: Outcomes,
    _connection: DropGuard,
}

impl SystemdSupervisor {
    /// Checks everything that sessions need, makes the directories (0700) and connects. Each error names its fix.
    pub async fn new(mut config: SystemdConfig) -> Result<Self, SystemdError> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(SystemdError::NotBooted);
        }
        if let Some(option) = proc_mount::hides_processes().map_err(SystemdError::Watch)? {
            return Err(SystemdError::HiddenProcesses { option });
        }
        let cgroups = Cgroups::detect().map_err(SystemdError::Watch)?;
        let faults = cgroups.faults();
        if !faults.is_empty() {
            return Err(SystemdError::Controllers { faults });
        }
        for dir in [&mut config.state_dir, &mut config.workspace_dir] {
            *dir = make_dir(dir).map_err(|source| SystemdError::Directory { path: dir.clone(), source })?;
        }
        make_dir(&layout::sessions_dir(&config.state_dir))
            .map_err(|source| SystemdError::Directory { path: layout::sessions_dir(&config.state_dir), source })?;
        let SlotUsers { prefix, first, count } = &config.slot_users;
        let slots = Slots::resolve(prefix, *first, *count)?;
        let watch = Watch::default();
        let listener = watch.clone();
        let (bus, connection) = Bus::connect(move |bus, told| listener.hear(bus, told))
            .await
            .map_err(|error| SystemdError::NoBus(Box::new(error)))?;
        let version = bus.version().await.map_err(|error| SystemdError::Permission(error.to_string()))?;
        new_enough(&version)?;
        may_start(&bus).await.map_err(|error| SystemdError::Permission(error.to_string()))?;

        let heard = watch.clone();
        let outcomes = Outcomes::new(move |layout, result| heard.outcome(layout.key(), result, true));
        let inner = Inner {
            mark: Mark::new(&config.runner, &config.state_dir),
            cgroups,
            oom: OomEvents::new().map_err(SystemdError::Watch)?,
            outcomes: outcomes.map_err(SystemdError::Watch)?,
            config,
            bus,
            watch,
            lives: Lives::default(),
            slots,
            _connection: connection,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn layout(&self, session: &SessionId) -> Layout {
        Layout::new(&self.config.state_dir, &self.config.workspace_dir, session)
    }

    async fn record(&self, layout: &Layout) -> io::Result<Option<Record>> {
        let path = layout.record();
        blocking(move || Record::load(&path)).await
    }

    async fn save(&self, layout: &Layout, record: &Record) -> io::Result<()> {
        let (path, record) = (layout.record(), record.clone());
        blocking(move || record.save(&path)).await
    }

    /// Changes the record. Nothing happens where there is none any more.
    async fn change_record(
        &self,
        life: &Life,
        layout: &Layout,
        change: impl FnOnce(&mut Record) + Send + 'static,
    ) -> io::Result<()> {
        let (path, turn) = (layout.record(), life.turn());
        blocking(move || {
            let _turn = turn.lock();
            let Some(mut record) = Record::load(&path)? else { return Ok(()) };
            let before = record.clone();
            change(&mut record);
            if record == before { Ok(()) } else { record.save(&path) }
        })
        .await
    }

    /// Names of the session's units that systemd has anything of.
    async fn listed(&self, layout: &Layout) -> Result<Vec<String>, BusError> {
        let units = self.list(&layout.unit_name("*")).await?;
        Ok(units.into_iter().map(|unit| unit.name).collect())
    }

    async fn list(&self, pattern: &str) -> Result<Vec<Listed>, BusError> {
        let list = async |manager: Manager| manager.list_units_by_patterns(Vec::new(), vec![pattern.to_owned()]).await;
        let units = self.bus.call(list).await?;
        let units = units.into_iter().map(|unit| (unit.0, unit.1, unit.2, unit.3));
        // One that is only named by another is not there.
        let there = units.filter(|(_, _, load, _)| load != "not-found");
        Ok(there.map(|(name, description, _, active)| Listed { name, description, active }).collect())
    }

    fn group(layout: &Layout) -> String {
        format!("/{PARENT_SLICE}/{}", layout.slice_name())
    }

    async fn events(self: &Arc<Self>, session: &SessionId) -> Result<mpsc::Receiver<SliceEvent>> {
        let layout = self.layout(session);
        let slice = read_slice(&self.bus, &layout.slice_name()).await.map_err(|error| unreachable(session, error))?;
        let slice = slice.ok_or_else(|| unreachable(session, "its slice is gone"))?;
        let receiver = self.watch.subscribe(layout.key(), slice.invocation);
        // From here on everything is heard; what was before is looked at, so that it is not taken for news.
        self.units(session).await?;
        self.watch_oom(&layout);
        self.watch_outcome(&layout);
        Ok(receiver)
    }

    fn watch_oom(&self, layout: &Layout) {
        let (cgroups, group) = (self.cgroups.clone(), Self::group(layout));
        let (count, counted) = (cgroups.clone(), group.clone());
        let count = OomCount(Arc::new(move || count.usage(&counted).oom_kills));
        let mut seen = (count.0)().unwrap_or(0);
        self.watch.count_oom(layout.key(), count);
        let (oom, watch, key) = (self.oom.clone(), self.watch.clone(), layout.key().to_owned());
        let task = tokio::spawn(async move {
            // Ends where the machine does not tell, and when the group is gone.
            while let Ok(kills) = oom.next(&cgroups, &group, seen).await {
                seen = kills;
                watch.look_for_oom(&key);
            }
        });
        self.watch.attach(layout.key(), task.abort_handle());
    }

    fn watch_outcome(&self, layout: &Layout) {
        if let Err(error) = self.outcomes.watch(layout) {
            tracing::warn!(unit_key = layout.key(), "an outcome will be seen late: {error}");
        }
        if let Some(result) = outcome::read(&layout.ready_file(layout::GUEST)) {
            self.watch.outcome(layout.key(), result, true);
        }
    }

    async fn listen(&self, session: &SessionId, unit: UnitName) -> Result<UnixListener> {
        let failed = |reason: String| SupervisorError::Listen { session: session.clone(), reason };
        let layout = self.layout(session);
        let record = self.record(&layout).await.map_err(|error| failed(error.to_string()))?;
        let record = record.ok_or_else(|| failed("it is not open".to_owned()))?;
        let slot = if unit == UnitName::Recorder {
            self.slots.recorder().map_err(failed)?.clone()
        } else {
            let slot = self.slots.by_number(record.slot);
            slot.ok_or_else(|| failed(format!("its slot {} does not exist", record.slot)))?
        };
        // At once: whoever ends the session meanwhile must not find half of it.
        tree::listen(&layout, &slot, unit).map_err(|error| failed(chain(&error)))
    }

    async fn limit(&self, session: &SessionId, resources: &Resources) -> Result<()> {
        let failed = |reason: String| SupervisorError::Limit { session: session.clone(), reason };
        let name = self.layout(session).slice_name();
        let properties = hardening::slice_properties(resources);
        let properties = properties.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let set = async |manager: Manager| manager.set_unit_properties(name, true, properties).await;
        self.bus.call(set).await.map_err(|error| failed(error.to_string()))
    }
}

/// A unit in a list.
struct Listed {
    name: String,
    description: String,
    active: String,
}

impl Supervisor for SystemdSupervisor {
    fn backend(&self) -> &'static str {
        "systemd"
    }

    fn enforcement(&self) -> Enforcement {
        self.inner.cgroups.enforcement()
    }

    fn paths(&self, _: &SessionId) -> SessionPaths {
        Layout::session_paths()
    }

    fn spool(&self, _: &RecordingId) -> PathBuf {
        PathBuf::from(layout::inside::SPOOL)
    }

    fn host_paths(&self, session: &SessionId) -> HostPaths {
        self.inner.layout(session).host_paths()
    }

    async fn open(&self, session: &SessionId, spec: &SliceSpec) -> Result<Identity> {
        self.inner.open(session, spec).await
    }

    async fn adopt(&self, session: &SessionId, identity: &Identity) -> Result<Adopted> {
        self.inner.adopt(session, identity).await
    }

    async fn events(&self, session: &SessionId) -> Result<mpsc::Receiver<SliceEvent>> {
        self.inner.events(session).await
    }

    async fn listen(&self, session: &SessionId, unit: UnitName) -> Result<UnixListener> {
        self.inner.listen(session, unit).await
    }

    async fn start(&self, session: &SessionId, unit: &UnitSpec) -> Result<UnitStatus> {
        self.inner.start(session, unit).await
    }

    async fn stop(&self, session: &SessionId, unit: UnitName, grace: Duration) -> Result<()> {
        self.inner.stop(session, unit, grace).await
    }

    async fn units(&self, session: &SessionId) -> Result<Vec<UnitStatus>> {
        self.inner.units(session).await
    }

    async fn limit(&self, session: &SessionId, resources: &Resources) -> Result<()> {
        self.inner.limit(session, resources).await
    }

    async fn usage(&self, session: &SessionId) -> Result<Usage> {
        let (cgroups, group) = (self.inner.cgroups.clone(), Inner::group(&self.inner.layout(session)));
        Ok(blocking(move || cgroups.usage(&group)).await)
    }

    async fn freeze(&self, session: &SessionId, frozen: bool) -> Result<()> {
        let (cgroups, group) = (self.inner.cgroups.clone(), Inner::group(&self.inner.layout(session)));
        let done = blocking(move || cgroups.freeze(&group, frozen, FREEZE_TIMEOUT)).await;
        done.map_err(|error| unreachable(session, error))
    }

    async fn kill(&self, session: &SessionId) -> Result<()> {
        let left = |left| SupervisorError::LeftBehind { session: session.clone(), left };
        self.inner.end(&self.inner.layout(session)).await.map_err(left)
    }

    async fn logs(&self, session: &SessionId, unit: Option<UnitName>, lines: u32) -> Result<Vec<LogLine>> {
        let key = session.unit_key();
        journal::last_lines(&key, &words(unit), lines).await.map_err(|error| unreachable(session, error))
    }

    async fn follow_logs(
        &self,
        session: &SessionId,
        unit: Option<UnitName>,
        lines: u32,
    ) -> Result<mpsc::Receiver<LogLine>> {
        let layout = self.inner.layout(session);
        let life = self.inner.lives.of(layout.key());
        let there = self.inner.record(&layout).await.map_err(|error| unreachable(session, error))?.is_some();
        let gone = async move {
            if there {
                life.over().await;
            }
        };
        let lines = journal::follow(layout.key(), &words(unit), lines, gone).await;
        lines.map_err(|error| unreachable(session, error))
    }

    async fn forget(&self, session: &SessionId) -> Result<()> {
        self.inner.forget(session).await
    }

    async fn found(&self) -> Result<Vec<String>> {
        self.inner.found().await.map_err(|reason| SupervisorError::Search { reason })
    }

    async fn reap(&self, unit_key: &str) -> Result<Reaped> {
        let left = |left| SupervisorError::Reap { unit_key: unit_key.to_owned(), left };
        if !layout::is_key(unit_key) {
            // Nothing else is ever joined to a path or a unit's name.
            return Err(left("it is no unit key".to_owned()));
        }
        let layout = Layout::of_key(&self.inner.config.state_dir, unit_key);
        let there = self.inner.there(&layout).await.map_err(left)?;
        self.inner.end(&layout).await.map_err(left)?;
        Ok(there)
    }

    async fn discard(&self, workspace: &Path) -> io::Result<()> {
        let workspace = workspace.to_owned();
        blocking(move || tree::discard(&workspace)).await.map_err(|error| io::Error::other(chain(&error)))
    }
}

/// Units whose logs are meant.
fn words(unit: Option<UnitName>) -> Vec<&'static str> {
    unit.map_or_else(|| UnitName::ALL.map(UnitName::as_str).to_vec(), |unit| vec![unit.as_str()])
}

fn unreachable(session: &SessionId, reason: impl Display) -> SupervisorError {
    SupervisorError::Unreachable { session: session.clone(), reason: reason.to_string() }
}

/// Runs what waits for files on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// An error with everything that led to it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Which boot of the machine this is.
fn boot_id() -> io::Result<String> {
    crate::supervisor::process::procfs::boot_id()
}

fn make_dir(path: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::canonicalize(path)
}
