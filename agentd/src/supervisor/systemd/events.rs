//! From what systemd tells ([`Watch::hear`]) to the events of sessions.
//!
//! For each session it remembers what has been told of each unit, so that nothing is told twice and what was lost with
//! a connection is told after it ([`Watch::observe`] takes signals and readings alike). Hearing
//! never waits: readings are tasks of their own. A receiver stays open until another takes its place,
//! the session is ended, or its slice is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use helix_protocol::session::SessionResult;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::bus::{Bus, BusError, Told};
use super::layout::{parse_slice_name, parse_unit_name, slice_name, unit_name};
use super::unit::{MainProcess, Service, read_service, read_slice};
use crate::supervisor::{SliceEvent, UnitName, UnitStatus};

/// Events that wait for a slow session task: a session has six units.
const EVENT_BUFFER: usize = 64;
/// A process that ends by SIGKILL within this time after somebody in the session was killed for lack of memory is
/// the one that was.
const OOM_WINDOW: Duration = Duration::from_secs(2);

/// What all sessions are watched with. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    sessions: Arc<Mutex<HashMap<String, Watched>>>,
}

#[derive(Debug, Default)]
struct Watched {
    sender: Option<mpsc::UnboundedSender<SliceEvent>>,
    /// An [`SliceEvent::OutOfMemory`] waits: a session that is killed again and again would fill the queue.
    oom_waits: Arc<AtomicBool>,
    /// InvocationID of the slice that the receiver is about.
    slice: String,
    units: BTreeMap<UnitName, Seen>,
    /// Main processes of units that we have stopped: what is still said of them is no news.
    past: BTreeMap<UnitName, MainProcess>,
    /// Units that we start at the moment: a new main process of theirs is no surprise.
    starting: BTreeSet<UnitName>,
    outcome: Option<SessionResult>,
    oom: Option<Oom>,
    /// Tasks that end with the watching.
    helpers: Vec<AbortHandle>,
    look: Look,
}

/// Whether a session's units are being looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Look {
    #[default]
    Not,
    Now,
    /// Something was said meanwhile: once more.
    Again,
}

/// A unit as it was told.
#[derive(Debug, Clone)]
struct Seen {
    main: MainProcess,
    status: UnitStatus,
}

/// Kills for lack of memory in one slice.
#[derive(Debug, Clone)]
struct Oom {
    /// Reads their number.
    count: OomCount,
    known: u64,
    at: Option<Instant>,
}

/// Reads how many processes of a slice were killed for lack of memory.
#[derive(Clone)]
pub struct OomCount(pub Arc<dyn Fn() -> Option<u64> + Send + Sync>);

impl std::fmt::Debug for OomCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OomCount")
    }
}

impl Oom {
    /// True if the number has grown since it was last looked at.
    fn grew(&mut self) -> bool {
        let Some(now) = (self.count.0)().filter(|now| *now > self.known) else { return false };
        (self.known, self.at) = (now, Some(Instant::now()));
        true
    }

    fn just_happened(&self) -> bool {
        self.at.is_some_and(|at| at.elapsed() < OOM_WINDOW)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.helpers.iter().for_each(AbortHandle::abort);
    }
}

impl Watched {
    fn tell(&self, event: SliceEvent) {
        if let Some(sender) = &self.sender {
            // Nobody listens any more; whoever subscribes next reads the state.
            let _ = sender.send(event);
        }
    }

    fn observe(&mut self, name: UnitName, service: &Service) {
        let Some(mut status) = service.status(name).filter(|_| !self.is_past(name, service)) else { return };
        let former = self.units.get(&name).cloned();
        let same = former.as_ref().is_some_and(|seen| seen.main == service.main);
        if former.as_ref().is_some_and(|seen| same && (seen.status.exit_status.is_some() || seen.status == status)) {
            return;
        }
        if status.exit_status == Some(128 + 9) {
            // Whichever is heard first, the end or the reason: both are told, and once.
            self.look_for_oom();
            status.out_of_memory |= self.oom.as_ref().is_some_and(Oom::just_happened);
        }
        if former.is_some() && !same && !self.starting.contains(&name) {
            self.tell(SliceEvent::UnitReplaced(UnitStatus {
                name,
                pid: Some(service.main.pid),
                exit_status: None,
                out_of_memory: false,
            }));
        }
        if status.exit_status.is_some() {
            self.tell(SliceEvent::UnitExited(status.clone()));
        }
        self.units.insert(name, Seen { main: service.main, status });
    }

    fn look_for_oom(&mut self) {
        if self.oom.as_mut().is_some_and(Oom::grew) && !self.oom_waits.swap(true, Ordering::Relaxed) {
            self.tell(SliceEvent::OutOfMemory);
        }
    }

    fn is_past(&self, name: UnitName, service: &Service) -> bool {
        self.past.get(&name) == Some(&service.main)
    }

    /// systemd has no such unit any more: it ended well, or it would have been kept.
    fn vanished(&mut self, name: UnitName) {
        if let Some(seen) = self.units.get_mut(&name).filter(|seen| seen.status.exit_status.is_none()) {
            seen.status = UnitStatus { pid: None, exit_status: Some(0), ..seen.status.clone() };
            let status = seen.status.clone();
            self.tell(SliceEvent::UnitExited(status));
        }
    }
}

impl Watch {
    /// Subscribes to the events of a slice. The former receiver ends.
    pub fn subscribe(&self, key: &str, slice: String) -> mpsc::Receiver<SliceEvent> {
        let (sender, mut events) = mpsc::unbounded_channel();
        let (bounded, receiver) = mpsc::channel(EVENT_BUFFER);
        let oom_waits = Arc::<AtomicBool>::default();
        let waits = oom_waits.clone();
        // systemd is never made to wait for a session's task.
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let last = matches!(event, SliceEvent::SliceGone(_));
                let Ok(place) = bounded.reserve().await else { return };
                if event == SliceEvent::OutOfMemory {
                    waits.store(false, Ordering::Relaxed);
                }
                place.send(event);
                if last {
                    return;
                }
            }
        });
        self.with(key, |watched| {
            let (starting, past) = (std::mem::take(&mut watched.starting), std::mem::take(&mut watched.past));
            *watched = Watched::default();
            (watched.sender, watched.slice, watched.oom_waits) = (Some(sender), slice, oom_waits);
            (watched.starting, watched.past) = (starting, past);
        });
        receiver
    }

    /// Ends the receiver and forgets everything.
    pub fn forget(&self, key: &str) {
        self.lock(|sessions| sessions.remove(key));
    }

    /// Adds a task that ends when the session is not watched any more.
    pub fn attach(&self, key: &str, helper: AbortHandle) {
        self.with(key, |watched| watched.helpers.push(helper));
    }

    /// Makes kills for lack of memory known, counted from now on.
    pub fn count_oom(&self, key: &str, count: OomCount) {
        let known = (count.0)().unwrap_or(0);
        self.with(key, |watched| watched.oom = Some(Oom { count, known, at: None }));
    }

    /// Somebody in the slice was killed for lack of memory, perhaps.
    pub fn look_for_oom(&self, key: &str) {
        self.known(key, Watched::look_for_oom);
    }

    /// Until [`Watch::started`], what is heard of the unit is our doing.
    pub fn starting(&self, key: &str, name: UnitName) {
        self.with(key, |watched| watched.starting.insert(name));
    }

    /// The start is over. What was read of the unit, if anything; answers how it is.
    pub fn started(&self, key: &str, name: UnitName, service: Option<&Service>) -> Option<UnitStatus> {
        self.with(key, |watched| {
            if let Some(service) = service {
                watched.observe(name, service);
            }
            watched.starting.remove(&name);
            watched.units.get(&name).map(|seen| seen.status.clone())
        })
    }

    /// The unit was stopped by us and may be started anew.
    pub fn stopped(&self, key: &str, name: UnitName) {
        self.known(key, |watched| {
            watched.vanished(name);
            if let Some(seen) = watched.units.remove(&name) {
                watched.past.insert(name, seen.main);
            }
        });
    }

    /// How a unit is that was there before: only what comes after this is told.
    pub fn baseline(&self, key: &str, name: UnitName, service: &Service) {
        self.known(key, |watched| {
            if let Some(status) = service.status(name).filter(|_| !watched.is_past(name, service)) {
                watched.units.entry(name).or_insert(Seen { main: service.main, status });
            }
        });
    }

    /// True for a unit that we have stopped, and of which systemd still has something.
    pub fn is_past(&self, key: &str, name: UnitName, service: &Service) -> bool {
        self.known(key, |watched| watched.is_past(name, service)).unwrap_or(false)
    }

    /// The same status with what is known beyond systemd's own words.
    pub fn refine(&self, key: &str, status: UnitStatus) -> UnitStatus {
        let known = self.known(key, |watched| watched.units.get(&status.name).map(|seen| seen.status.clone()));
        known.flatten().filter(|known| known.exit_status == status.exit_status).unwrap_or(status)
    }

    /// The task's outcome as it is on disk now.
    pub fn outcome(&self, key: &str, outcome: SessionResult, tell: bool) {
        self.known(key, |watched| {
            if watched.outcome.as_ref() != Some(&outcome) {
                if tell {
                    watched.tell(SliceEvent::TaskFinished(outcome.clone()));
                }
                watched.outcome = Some(outcome);
            }
        });
    }

    /// The slice is not the one that the receiver is about.
    pub fn gone(&self, key: &str, reason: &str) {
        self.known(key, |watched| {
            if let Some(sender) = watched.sender.take() {
                let _ = sender.send(SliceEvent::SliceGone(reason.to_owned()));
            }
        });
    }

    /// Takes what systemd tells.
    pub fn hear(&self, bus: &Bus, told: Told) {
        match told {
            Told::Changed { unit, properties } => match session_unit(&unit) {
                Some((key, name)) => {
                    if let Some(service) = Service::changed(&properties) {
                        self.known(key, |watched| watched.observe(name, &service));
                    }
                }
                None => self.look_at_slice(bus, &unit),
            },
            // Also said of everything that comes back a moment later (daemon-reload, daemon-reexec): no proof of an end.
            Told::Removed { unit } => match session_unit(&unit) {
                Some((key, name)) if self.runs(key, name) => self.look_again_later(bus, key.to_owned()),
                Some(_) => {}
                None => self.look_at_slice(bus, &unit),
            },
            Told::Anew => {
                let keys: Vec<String> = self.lock(|sessions| sessions.keys().cloned().collect());
                for key in keys {
                    self.look_again_later(bus, key);
                }
            }
        }
    }

    fn runs(&self, key: &str, name: UnitName) -> bool {
        let runs = |watched: &mut Watched| watched.units.get(&name).is_some_and(|s| s.status.exit_status.is_none());
        self.known(key, runs).unwrap_or(false)
    }

    fn look_at_slice(&self, bus: &Bus, unit: &str) {
        if let Some(key) = parse_slice_name(unit) {
            self.look_again_later(bus, key.to_owned());
        }
    }

    /// Reads everything of a session again and tells what has changed.
    pub async fn look_again(&self, bus: &Bus, key: &str) -> Result<(), BusError> {
        let (slice, names) = self
            .known(key, |watched| (watched.slice.clone(), watched.units.keys().copied().collect::<Vec<_>>()))
            .unwrap_or_default();
        if slice.is_empty() {
            return Ok(());
        }
        for name in names {
            let service = read_service(bus, &unit_name(key, name.as_str())).await?;
            self.known(key, |watched| match &service {
                Some(loaded) => watched.observe(name, &loaded.service),
                None => watched.vanished(name),
            });
        }
        if read_slice(bus, &slice_name(key)).await?.is_none_or(|now| now.invocation != slice) {
            // A subscription to its successor may have been made meanwhile.
            let still = self.known(key, |watched| watched.slice == slice).unwrap_or(false);
            if still {
                self.gone(key, "the session's slice was stopped by somebody else");
            }
        }
        Ok(())
    }

    fn look_again_later(&self, bus: &Bus, key: String) {
        // One look at a time: systemd tells the same of a slice several times over.
        let looks = self.known(&key, |watched| {
            let looks = watched.look != Look::Not;
            watched.look = if looks { Look::Again } else { Look::Now };
            looks
        });
        if looks != Some(false) {
            return;
        }
        let (watch, bus) = (self.clone(), bus.clone());
        tokio::spawn(async move {
            loop {
                if let Err(error) = watch.look_again(&bus, &key).await {
                    // A new connection brings the next look.
                    tracing::warn!(unit_key = key, "cannot look after a session's units: {error}");
                }
                let again = watch.known(&key, |watched| {
                    let again = watched.look == Look::Again;
                    watched.look = if again { Look::Now } else { Look::Not };
                    again
                });
                if again != Some(true) {
                    return;
                }
            }
        });
    }

    fn lock<T>(&self, change: impl FnOnce(&mut HashMap<String, Watched>) -> T) -> T {
        change(&mut self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with<T>(&self, key: &str, change: impl FnOnce(&mut Watched) -> T) -> T {
        self.lock(|sessions| change(sessions.entry(key.to_owned()).or_default()))
    }

    fn known<T>(&self, key: &str, change: impl FnOnce(&mut Watched) -> T) -> Option<T> {
        self.lock(|sessions| sessions.get_mut(key).map(change))
    }
}

fn session_unit(unit: &str) -> Option<(&str, UnitName)> {
    let (key, word) = parse_unit_name(unit)?;
    Some((key, UnitName::parse(word)?))
}

#[cfg(test)]
mod tests;
