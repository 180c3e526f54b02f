//! The connection to systemd over the system bus: calls, jobs, and what systemd tells.
//!
//! One task ([`keep`]) holds the connection. It subscribes before anybody can use the connection, so no job is started
//! whose end would not be heard; hands ends of jobs to whoever waits ([`Bus::job`]); and tells everything about units
//! to one listener ([`Told`]), in the order in which systemd said it: whoever has heard the end of a job finds the
//! listener up to date. When the bus goes away (its daemon was
//! restarted) or systemd itself does (`systemctl daemon-reexec`), it connects again and says [`Told::Anew`]: signals
//! may have been lost, so whoever watches looks again. Those who wait for a job hear [`BusError::Lost`] and look, too.
//!
//! Calls wait for a connection for a bounded time and fail with [`BusError::Away`] after it. Only so many are open at
//! once as the bus allows.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use zbus::message::Type;
use zbus::proxy::CacheProperties;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant, connection};
use zbus_systemd::systemd1::ManagerProxy;

/// Its name on the bus.
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// Parent of all units' objects.
const UNIT_PATHS: &str = "/org/freedesktop/systemd1/unit/";

/// systemd answers within moments; what takes longer is a machine in trouble.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// For a connection that is being made again.
const AWAY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Attempts for the first connection begin within this time: a machine that is just coming up is slow, and its bus is
/// not there yet.
const FIRST_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls at once. The bus refuses more than 128 open ones of a connection.
const MOST_CALLS: usize = 48;

/// systemd's manager object.
pub type Manager = ManagerProxy<'static>;

/// Properties by name.
pub type Properties = HashMap<String, OwnedVariant>;

/// Why something could not be done over the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is no connection.
    #[error("the system bus does not answer; see `systemctl status dbus`")]
    Away,
    /// The connection was lost while a job ran: how it ended must be looked up.
    #[error("the connection to the system bus was lost meanwhile")]
    Lost,
    /// There is no such unit.
    #[error("there is no such unit")]
    NoSuchUnit,
    /// A unit of that name is there already.
    #[error("the unit exists already")]
    Exists,
    /// systemd or the bus refused.
    #[error("{0}")]
    Refused(String),
}

impl From<zbus::Error> for BusError {
    fn from(error: zbus::Error) -> Self {
        match &error {
            zbus::Error::MethodError(name, text, _) => match name.as_str() {
                "org.freedesktop.systemd1.NoSuchUnit" => Self::NoSuchUnit,
                "org.freedesktop.systemd1.UnitExists" => Self::Exists,
                name => Self::Refused(text.clone().unwrap_or_else(|| name.to_owned())),
            },
            zbus::Error::FDO(error) => match error.as_ref() {
                zbus::fdo::Error::UnknownObject(_)
                | zbus::fdo::Error::UnknownInterface(_)
                | zbus::fdo::Error::UnknownProperty(_) => Self::NoSuchUnit,
                // systemd or the bus is just being started anew.
                zbus::fdo::Error::Disconnected(_)
                | zbus::fdo::Error::NoReply(_)
                | zbus::fdo::Error::ServiceUnknown(_)
                | zbus::fdo::Error::NameHasNoOwner(_)
                | zbus::fdo::Error::NoServer(_)
                | zbus::fdo::Error::TimedOut(_)
                | zbus::fdo::Error::Timeout(_) => Self::Lost,
                error => Self::Refused(error.to_string()),
            },
            zbus::Error::InputOutput(_) => Self::Lost,
            _ => Self::Refused(error.to_string()),
        }
    }
}

/// What systemd told about a unit.
#[derive(Debug)]
pub enum Told {
    /// Properties of one interface changed.
    Changed {
        /// Unit name.
        unit: String,
        /// Those of the interface that systemd tells changes of.
        properties: Properties,
    },
    /// systemd has forgotten the unit.
    Removed {
        /// Unit name.
        unit: String,
    },
    /// The connection is new: anything may have happened.
    Anew,
}

/// One that waits for jobs of a unit: job and result of each.
type Waiter = mpsc::UnboundedSender<(OwnedObjectPath, String)>;

/// The bus. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    link: watch::Sender<Option<Link>>,
    /// Questions that may be open at once.
    turns: Semaphore,
    /// By unit, then by a number of their own.
    waiters: Mutex<HashMap<String, HashMap<u64, Waiter>>>,
    next: AtomicU64,
}

/// A connection that is subscribed.
#[derive(Debug, Clone)]
struct Link {
    connection: Connection,
    manager: Manager,
    /// Names of the variables that systemd gives to every service.
    environment: Arc<BTreeSet<String>>,
    version: Arc<str>,
}

impl Bus {
    /// Connects, and goes on connecting until the guard is dropped. Fails if the first attempt does. `listen` must
    /// not wait: it runs between two messages.
    pub async fn connect(
        listen: impl Fn(&Bus, Told) + Send + Sync + 'static,
    ) -> Result<(Self, DropGuard), zbus::Error> {
        let (link, _) = watch::channel(None);
        let bus = Self {
            shared: Arc::new(Shared {
                link,
                turns: Semaphore::new(MOST_CALLS),
                waiters: Mutex::default(),
                next: AtomicU64::new(0),
            }),
        };
        let first = first_streams().await?;
        bus.shared.link.send_replace(Some(first.link.clone()));
        let stop = CancellationToken::new();
        let (stopped, kept) = (stop.clone(), bus.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(keep(&kept, first, listen)).await });
        Ok((bus, stop.drop_guard()))
    }

    async fn link(&self) -> Result<Link, BusError> {
        let mut link = self.shared.link.subscribe();
        let found = tokio::time::timeout(AWAY_TIMEOUT, link.wait_for(Option::is_some)).await;
        found.ok().and_then(Result::ok).and_then(|link| link.clone()).ok_or(BusError::Away)
    }

    /// systemd's version as it says it (`252.39-1~deb12u2`).
    pub async fn version(&self) -> Result<Arc<str>, BusError> {
        self.link().await.map(|link| link.version)
    }

    /// Names of the variables that systemd gives to every service.
    pub async fn manager_environment(&self) -> Result<Arc<BTreeSet<String>>, BusError> {
        self.link().await.map(|link| link.environment)
    }

    /// Calls the manager, in its turn.
    pub async fn call<T, F>(&self, call: impl FnOnce(Manager) -> F) -> Result<T, BusError>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        let link = self.link().await?;
        let _turn = self.turn().await?;
        Ok(call(link.manager).await?)
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, BusError> {
        self.shared.turns.acquire().await.map_err(|_| BusError::Away)
    }

    /// Enqueues a job for `unit` with `call` and waits until it is done: its result as systemd says it (`done`,
    /// `failed`, `canceled`, `timeout`, `dependency`).
    pub async fn job<F>(&self, unit: &str, call: impl FnOnce(Manager) -> F) -> Result<String, BusError>
    where
        F: Future<Output = zbus::Result<OwnedObjectPath>>,
    {
        let (sender, mut ends) = mpsc::unbounded_channel();
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.waiters(|waiters| waiters.entry(unit.to_owned()).or_default().insert(id, sender));
        let _waits = Waits { bus: self, unit, id };
        let job = self.call(call).await?;
        while let Some((ended, result)) = ends.recv().await {
            if ended == job {
                return Ok(result);
            }
        }
        Err(BusError::Lost)
    }

    /// Properties of a unit, all asked for side by side. None where systemd does not have them.
    pub async fn read<const N: usize>(
        &self,
        unit: &str,
        wanted: [(&str, &str); N],
    ) -> Result<[Option<OwnedVariant>; N], BusError> {
        let link = self.link().await?;
        let path = unit_path(unit);
        let get = async |(interface, name): (&str, &str)| {
            let interface = format!("{SYSTEMD}.{interface}");
            let (wanted, path) = ((interface, name), path.as_str());
            let _turn = self.turn().await?;
            let call = link.connection.call_method(Some(SYSTEMD), path, Some(PROPERTIES), "Get", &wanted);
            match call.await.map_err(BusError::from) {
                Ok(reply) => Ok(Some(reply.body().deserialize::<OwnedVariant>()?)),
                // Only a clear word is an answer: what is not known may not be taken for an end.
                Err(BusError::NoSuchUnit) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let answers = futures::future::try_join_all(wanted.map(get)).await?;
        answers.try_into().map_err(|_| BusError::Refused("too few answers".to_owned()))
    }

    fn waiters<T>(&self, change: impl FnOnce(&mut HashMap<String, HashMap<u64, Waiter>>) -> T) -> T {
        change(&mut self.shared.waiters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn job_ended(&self, job: &OwnedObjectPath, unit: &str, result: &str) {
        self.waiters(|waiters| {
            for waiter in waiters.get(unit).into_iter().flat_map(HashMap::values) {
                // One that has gone away needs no answer.
                let _ = waiter.send((job.clone(), result.to_owned()));
            }
        });
    }
}

/// Ends the waiting when dropped.
struct Waits<'a> {
    bus: &'a Bus,
    unit: &'a str,
    id: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.bus.waiters(|waiters| {
            if let Some(of_unit) = waiters.get_mut(self.unit) {
                of_unit.remove(&self.id);
                if of_unit.is_empty() {
                    waiters.remove(self.unit);
                }
            }
        });
    }
}

/// A connection and what is heard on it.
struct Streams {
    link: Link,
    systemd: MessageStream,
    /// When systemd comes and goes.
    owner: MessageStream,
}

impl Streams {
    async fn open() -> zbus::Result<Self> {
        let connection = connection::Builder::system().method_timeout(CALL_TIMEOUT).build().await?;
        let signals = || MatchRule::builder().msg_type(Type::Signal);
        let of_systemd = signals().sender(SYSTEMD).path_namespace(MANAGER_PATH).build()?;
        let of_owner = signals()
            .sender("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(0, SYSTEMD)
            .build()?;
        let systemd = MessageStream::for_match_rule(of_systemd, &connection, None).await?;
        let owner = MessageStream::for_match_rule(of_owner, &connection, None).await?;
        let manager = ManagerProxy::builder(&connection).cache_properties(CacheProperties::No).build().await?;
        manager.subscribe().await?;
        let environment = manager.environment().await?;
        let names = environment.iter().filter_map(|pair| Some(pair.split_once('=')?.0.to_owned())).collect();
        let version = manager.version().await?.into();
        Ok(Self { link: Link { connection, manager, environment: Arc::new(names), version }, systemd, owner })
    }
}

/// The first connection, as soon as there can be one. Without a bus's socket it fails at once.
async fn first_streams() -> zbus::Result<Streams> {
    let deadline = Instant::now() + FIRST_TIMEOUT;
    let mut pause = FIRST_PAUSE;
    loop {
        match Streams::open().await {
            Ok(streams) => return Ok(streams),
            Err(zbus::Error::InputOutput(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(zbus::Error::InputOutput(error));
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(error) => tracing::debug!("systemd cannot be reached yet: {error}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Reads everything that is said, and connects again when the connection ends.
async fn keep(bus: &Bus, first: Streams, listen: impl Fn(&Bus, Told)) {
    let mut streams = first;
    loop {
        pump(bus, &mut streams, &listen).await;
        bus.shared.link.send_replace(None);
        bus.waiters(HashMap::clear);
        tracing::warn!("connection to systemd lost, connecting again");
        let mut pause = FIRST_PAUSE;
        streams = loop {
            tokio::time::sleep(pause).await;
            match Streams::open().await {
                Ok(streams) => break streams,
                Err(error) => tracing::debug!("systemd cannot be reached yet: {error}"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        tracing::info!("connected to systemd again");
        bus.shared.link.send_replace(Some(streams.link.clone()));
        listen(bus, Told::Anew);
    }
}

/// Until the connection, or systemd, is gone.
async fn pump(bus: &Bus, streams: &mut Streams, listen: &impl Fn(&Bus, Told)) {
    loop {
        let message = tokio::select! {
            message = streams.systemd.next() => message,
            _ = streams.owner.next() => return,
        };
        let Some(Ok(message)) = message else { return };
        if let Some(told) = understand(bus, &message) {
            listen(bus, told);
        }
    }
}

fn understand(bus: &Bus, message: &Message) -> Option<Told> {
    let header = message.header();
    let body = message.body();
    match (header.interface()?.as_str(), header.member()?.as_str()) {
        (MANAGER, "JobRemoved") => {
            let (_, job, unit, result): (u32, OwnedObjectPath, String, String) = body.deserialize().ok()?;
            bus.job_ended(&job, &unit, &result);
            None
        }
        (MANAGER, "UnitRemoved") => {
            let (unit, _): (String, OwnedObjectPath) = body.deserialize().ok()?;
            Some(Told::Removed { unit })
        }
        (PROPERTIES, "PropertiesChanged") => {
            let unit = unit_name(header.path()?.as_str())?;
            if !unit.starts_with("helix-s") {
                // Everything else that happens on this machine is told, too.
                return None;
            }
            let (_, properties, _): (String, Properties, Vec<String>) = body.deserialize().ok()?;
            Some(Told::Changed { unit, properties })
        }
        _ => None,
    }
}

/// The object of a unit: what is no letter or digit is written as `_` and its hex value.
fn unit_path(unit: &str) -> String {
    let mut path = UNIT_PATHS.to_owned();
    for (index, byte) in unit.bytes().enumerate() {
        let plain = byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit());
        if plain {
            path.push(byte.into());
        } else {
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

/// The unit of an object.
fn unit_name(path: &str) -> Option<String> {
    let mut rest = path.strip_prefix(UNIT_PATHS)?;
    let mut name = String::new();
    while let Some(first) = rest.chars().next() {
        if first == '_' {
            name.push(u8::from_str_radix(rest.get(1..3)?, 16).ok()?.into());
            rest = &rest[3..];
        } else {
            name.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_their_objects_are_found_from_each_other() {
        let unit = "helix-s0123456789abcdef-app.service";
        let path = unit_path(unit);
        assert_eq!(path, "/org/freedesktop/systemd1/unit/helix_2ds0123456789abcdef_2dapp_2eservice");
        assert_eq!(unit_name(&path).as_deref(), Some(unit));
        assert_eq!(unit_name("/org/freedesktop/systemd1/job/7"), None);
        assert_eq!(unit_name("/org/freedesktop/systemd1/unit/a_2"), None);
    }
}
