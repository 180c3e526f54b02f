//! One task per session: starts it, watches it, ends it, and reports every change.
//!
//! [`SessionHandle::spawn`] makes the task; [`Order`]s reach it through a watch channel (the latest counts), its
//! [`Entry`] goes to the ledger and to [`Reports`]. [`plan`] says what to start, [`state`] what may follow what,
//! `start`, `watch` and `end` are the three phases. A restarted agentd spawns the task with the entry of the
//! ledger: starting is idempotent, so a half-started session goes on where it was, and a ready one is watched again.
//! Dropping a handle ends the task and leaves the session alone.

mod adjust;
mod attach;
mod causes;
mod checkpoint;
mod direct;
mod end;
mod image;
mod outlet;
pub mod plan;
pub mod probe;
mod recording;
mod start;
pub mod state;
mod tools;
mod watch;
pub mod workspace;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::assignment::DesiredSession;
use helix_protocol::session::{Cause, Desired, TimelineStep};
use jiff::Timestamp;
use tokio::sync::{Notify, watch as watch_channel};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use self::adjust::Done;
use self::attach::Live;
use self::plan::Host;
use self::probe::ReadyLines;
use self::state::{Event, Outcome, State};
use crate::checkpoint::Courier;
use crate::config::Config;
use crate::forward::Reservation;
use crate::forward::host::Servers;
use crate::gate::Gates;
use crate::images::{Hold, Images};
use crate::kinds::Kinds;
use crate::ledger::{Entry, Ledger};
use crate::leftovers::LeftoverBoard;
use crate::link::reports::Reports;
use crate::recorder::notes::Notes;
use crate::recorder::upload::Uploads;
use crate::supervisor::{Supervisor, UnitStatus};
use crate::tools::host::Board;
use crate::viewers::Viewers;

/// Cause of whatever the memory limit did.
const OUT_OF_MEMORY: &str = "out_of_memory";
/// Lines of a unit's log in a cause.
const LOG_TAIL_LINES: u32 = 20;
/// Between two attempts at what an order changes.
const ADJUST_AGAIN: Duration = Duration::from_millis(500);
/// Between two attempts at something that must succeed in the end (ledger full, process that cannot be killed).
const RETRY: Duration = Duration::from_secs(5);

/// What every session task needs.
#[derive(Debug)]
pub struct Context<S> {
    /// Starts and ends units.
    pub supervisor: S,
    /// Settings.
    pub config: Arc<Config>,
    /// What can run.
    pub kinds: Kinds,
    /// The machine.
    pub host: Host,
    /// Where entries are kept.
    pub ledger: Ledger,
    /// Where reports go.
    pub reports: Reports,
    /// Readiness lines.
    pub ready: ReadyLines,
    /// Sessions that ended in this process's life.
    pub ended: watch_channel::Sender<u32>,
    /// What their agents may reach.
    pub servers: Arc<Servers>,
    /// Who may type in them.
    pub gates: Gates,
    /// Where their tools can be asked for.
    pub tools: Board,
    /// Where it is noted what others do in those that are recorded.
    pub notes: Notes,
    /// What takes recordings to the server.
    pub uploads: Uploads,
    /// What takes their work to the server and brings it back.
    pub checkpoints: Courier,
    /// Images that their agents run in.
    pub images: Images,
    /// Who serves the viewers that come to their ports.
    pub viewers: Viewers<S>,
    /// What belonged to no session.
    pub leftovers: LeftoverBoard,
}

/// What a session shall be, as the reconciler last knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The last that a server said.
    pub desired: DesiredSession,
    /// The desired set does not name it any more.
    pub unclaimed: bool,
    /// The runner stops with its sessions.
    pub runner_stops: bool,
    /// This runner may have been called lost, and no server has confirmed this order since.
    pub hold: bool,
}

/// Why and how a session ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ending {
    pub outcome: Outcome,
    /// Boxed: it travels through many results.
    pub cause: Box<Cause>,
}

impl Ending {
    fn stopped(code: &str, message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Stopped, cause: Box::new(Cause::new(code, message)) }
    }

    fn failed(code: &str, message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, cause: Box::new(Cause::new(code, message)) }
    }
}

impl From<Cause> for Ending {
    fn from(cause: Cause) -> Self {
        Self { outcome: Outcome::Failed, cause: Box::new(cause) }
    }
}

/// How a unit ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    /// As a shell tells it.
    pub code: i32,
    pub out_of_memory: bool,
}

impl Exit {
    /// None while it runs.
    fn of(status: &UnitStatus) -> Option<Self> {
        Some(Self { code: status.exit_status?, out_of_memory: status.out_of_memory })
    }

    /// The word for a cause: a unit that was killed for its memory has that one.
    fn code_or(self, code: &'static str) -> &'static str {
        if self.out_of_memory { OUT_OF_MEMORY } else { code }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = if self.out_of_memory { ", killed at the memory limit" } else { "" };
        write!(f, "status {}{why}", self.code)
    }
}

/// The reconciler's hold on a session task.
#[derive(Debug)]
pub struct SessionHandle {
    orders: watch_channel::Sender<Order>,
    task: JoinHandle<()>,
}

impl SessionHandle {
    /// Starts the task of a session: new, or out of the ledger.
    pub fn spawn<S: Supervisor>(context: Arc<Context<S>>, entry: Entry) -> Self {
        let order = Order {
            desired: entry.desired.clone(),
            unclaimed: entry.unclaimed,
            runner_stops: false,
            hold: entry.holding,
        };
        let (orders, receiver) = watch_channel::channel(order);
        let span = tracing::info_span!("session", HELIX_SESSION = %entry.session());
        let held = watch_channel::Sender::new(None);
        // Before anything is removed: the session may run in it.
        let image = entry.desired.spec.image_digest().filter(|_| !entry.is_ended());
        let image = image.map(|digest| context.images.hold(digest));
        context.gates.begin(&entry.desired);
        let session = Session {
            context,
            entry: Mutex::new(entry),
            unwritten: Notify::new(),
            held,
            image: Mutex::new(image),
            outlet: watch_channel::Sender::new(false),
            reservation: Mutex::new(None),
            asked: watch_channel::Sender::new(0),
            saving: tokio::sync::Mutex::new(()),
        };
        let task = tokio::spawn(session.run(receiver).instrument(span));
        Self { orders, task }
    }

    /// Changes the order; the task wakes only if it differs.
    pub fn order(&self, change: impl FnOnce(&mut Order)) {
        self.orders.send_if_modified(|order| {
            let before = order.clone();
            change(order);
            *order != before
        });
    }

    /// True when the task is over: the session is forgotten, or the task panicked.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A new entry for an order.
pub fn new_entry<S>(context: &Context<S>, desired: DesiredSession) -> Entry {
    let default = || context.kinds.default_kind(context.config.default_kind.as_ref());
    let kind = desired.spec.kind.clone().unwrap_or_else(default);
    Entry::new(desired, kind, Timestamp::now())
}

struct Session<S> {
    context: Arc<Context<S>>,
    entry: Mutex<Entry>,
    /// The entry could not be written: [`Session::write_later`] does it.
    unwritten: Notify,
    /// Whether it is held still, as this agentd made it; None where that is not known.
    held: watch_channel::Sender<Option<bool>>,
    /// Keeps the image that it runs in.
    image: Mutex<Option<Hold>>,
    /// Whether its agent's connections are passed on.
    outlet: watch_channel::Sender<bool>,
    /// Its port: nobody is given it by chance while its forward is not there.
    reservation: Mutex<Option<Reservation>>,
    /// How many checkpoints were asked for.
    asked: watch_channel::Sender<u64>,
    /// Held while one is made.
    saving: tokio::sync::Mutex<()>,
}

impl<S: Supervisor> Session<S> {
    async fn run(self, orders: watch_channel::Receiver<Order>) {
        tokio::select! {
            () = self.live(orders) => {}
            never = self.write_later() => match never {},
            never = self.let_out() => match never {},
            never = self.let_in() => match never {},
            never = self.let_note() => match never {},
            never = self.open_ports() => match never {},
            never = self.keep_work() => match never {},
        }
    }

    async fn live(&self, mut orders: watch_channel::Receiver<Order>) {
        if self.entry().report == 0 {
            // New: before anything is done for it. What its files say of the port must still be so after a restart.
            let port = self.choose_port().ok();
            self.commit(|entry| {
                entry.forward_port = port;
                // Above whatever a former life of it under this epoch has reported: a store that was put back to an earlier
                // time may know that one, and order this one.
                entry.report = u64::try_from(entry.received_at.as_millisecond()).unwrap_or(0);
            })
            .await;
        } else {
            // Out of the ledger: written again because its report number jumped.
            self.commit_or_later(|_| {}).await;
        }
        let mut live: Option<Live> = None;
        loop {
            let state = self.entry().state;
            match state {
                State::Starting => {
                    let step = tokio::select! {
                        biased;
                        ending = self.ordered_to_end(&mut orders) => Err(ending),
                        started = self.start() => started,
                    };
                    match step {
                        Ok(started) => live = Some(started),
                        Err(ending) => self.begin_end(ending).await,
                    }
                }
                State::Ready => {
                    let ending = tokio::select! {
                        biased;
                        ending = self.ordered_to_end(&mut orders) => ending,
                        ending = self.time_out() => ending,
                        ending = self.watch(live.take()) => ending,
                    };
                    self.begin_end(ending).await;
                }
                State::Stopping(_) => self.end().await,
                State::Ended(_) => {
                    self.let_image_go();
                    if self.rest(&mut orders).await.is_break() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until an order ends this run of the session.
    async fn ordered_to_end(&self, orders: &mut watch_channel::Receiver<Order>) -> Ending {
        loop {
            let order = orders.borrow_and_update().clone();
            let own = self.entry().desired.epoch;
            self.note_claim(order.unclaimed);
            if order.runner_stops {
                return Ending::stopped("runner_stopped", "the runner was stopped together with its sessions");
            }
            if order.desired.epoch < own {
                tracing::warn!(epoch = %order.desired.epoch, %own, "order of an old epoch refused");
            } else if order.desired.desired == Desired::Stopped {
                // The end is reported under the epoch that ordered it.
                self.change(|entry| take_order(entry, &order.desired));
                if order.desired.work.moves {
                    return Ending::stopped("moved", "it goes on elsewhere, or from a checkpoint");
                }
                return Ending::stopped("stopped_by_user", "stopped on request");
            } else if order.desired.epoch > own {
                let message = format!("replaced by a newer assignment (epoch {})", order.desired.epoch);
                return Ending::stopped("replaced", message);
            }
            let pause = match self.adjust(&order).await {
                Done::Yes => Duration::MAX,
                Done::Again => ADJUST_AGAIN,
            };
            let Ok(changed) = tokio::time::timeout(pause, orders.changed()).await else { continue };
            if changed.is_err() {
                // The daemon ends; the session does not.
                return std::future::pending().await;
            }
        }
    }

    /// Waits for the time-out, counted from the recorded time so that it survives restarts.
    async fn time_out(&self) -> Ending {
        let limit = self.context.config.session_timeout;
        let Some(ready_at) = self.entry().ready_at.filter(|_| !limit.is_zero()) else {
            return std::future::pending().await;
        };
        loop {
            let age = Duration::try_from(Timestamp::now().duration_since(ready_at)).unwrap_or_default();
            let Some(left) = limit.checked_sub(age).filter(|left| !left.is_zero()) else {
                let message = format!("stopped after {} s, the runner's SESSION_TIMEOUT", limit.as_secs());
                return Ending::stopped("timeout", message);
            };
            // In pieces: a machine that was suspended has an older session than its monotonic clock says.
            tokio::time::sleep(left.min(Duration::from_mins(1))).await;
        }
    }

    async fn begin_end(&self, ending: Ending) {
        tracing::info!(code = ending.cause.code, why = ending.cause.message, "session ends");
        self.commit_or_later(|entry| {
            if let Some(state) = entry.state.after(Event::End(ending.outcome)) {
                entry.state = state;
                entry.cause = Some(*ending.cause);
                begin_step(entry, "stopping");
            }
        })
        .await;
    }

    fn note_claim(&self, unclaimed: bool) {
        let (was, forgotten) = {
            let entry = self.entry();
            (entry.unclaimed, entry.forgotten)
        };
        // One that is forgotten is missing there on purpose, and is being buried: noted now, it would be in the ledger again.
        if was != unclaimed && !forgotten {
            tracing::info!(unclaimed, "the desired set changed its mind about this session");
            self.change(|entry| entry.unclaimed = unclaimed);
        }
    }

    fn id(&self) -> SessionId {
        self.entry().session().clone()
    }

    fn entry(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the entry, notes it and reports it.
    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let entry = self.changed(change);
        self.context.ledger.note(&entry);
        self.report(&entry);
    }

    /// Changes the entry and returns when that is on disk; then reports it. A disk that cannot be written stops the
    /// session here, visibly in the log, until it can: only for what must be known before a process is started.
    async fn commit(&self, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.changed(change);
        while let Err(error) = self.context.ledger.save(&entry).await {
            tracing::error!("the ledger cannot be written; waiting before this session goes on: {error}");
            tokio::time::sleep(RETRY).await;
            entry = self.entry().clone();
        }
        self.report(&entry);
    }

    /// The same for everything else: a disk that cannot be written does not keep a session from ending. What is lost
    /// with agentd then is found again: starting and ending are idempotent.
    async fn commit_or_later(&self, change: impl FnOnce(&mut Entry)) {
        let entry = self.changed(change);
        if let Err(error) = self.context.ledger.save(&entry).await {
            tracing::error!("the ledger cannot be written; the session goes on without: {error}");
            self.unwritten.notify_one();
        }
        self.report(&entry);
    }

    /// Writes the entry as it is then, for whoever could not wait for it.
    async fn write_later(&self) -> std::convert::Infallible {
        loop {
            self.unwritten.notified().await;
            tokio::time::sleep(RETRY).await;
            let entry = self.entry().clone();
            if self.context.ledger.save(&entry).await.is_err() {
                self.unwritten.notify_one();
            }
        }
    }

    fn changed(&self, change: impl FnOnce(&mut Entry)) -> Entry {
        let mut entry = self.entry();
        change(&mut entry);
        entry.report += 1;
        entry.clone()
    }

    fn report(&self, entry: &Entry) {
        self.context.reports.put(entry.observed(&self.context.config.runner));
    }
}

/// Takes over what an order says about a session that will not run (again) under it.
fn take_order(entry: &mut Entry, order: &DesiredSession) {
    entry.desired.epoch = order.epoch;
    entry.desired.desired = order.desired;
    entry.desired.deleted = order.deleted;
    (entry.desired.work.moves, entry.desired.work.keep) = (order.work.moves, order.work.keep);
}

/// Adds a step, unless a former agentd began it: then its time stays.
fn begin_step(entry: &mut Entry, step: &str) {
    if !entry.timeline.iter().any(|known| known.step == step) {
        let step = TimelineStep { step: step.to_owned(), at: Timestamp::now(), duration_ms: None, detail: None };
        entry.timeline.push(step);
    }
}

/// Gives a step its duration, once.
fn finish_step(entry: &mut Entry, step: &str, detail: Option<String>) {
    let found = entry.timeline.iter_mut().find(|known| known.step == step && known.duration_ms.is_none());
    if let Some(step) = found {
        let took = Timestamp::now().duration_since(step.at).as_millis();
        step.duration_ms = Some(u64::try_from(took).unwrap_or(0));
        step.detail = detail;
    }
}
