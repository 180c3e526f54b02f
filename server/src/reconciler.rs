//! The leader's one loop: desired against observed, level-triggered, on wake and on a timer.
//!
//! Four tasks, and [`scale`] where somebody is to be told what room is missing. [`leases`] holds the leader's lease and
//! says since when this process leads. [`Reconciler::run`] waits until it leads, the bus is up and the views are read,
//! and then makes a pass whenever a view changed, a runner's silence is due to be judged, or [`PASS_INTERVAL`] went by;
//! a long pass is followed by a pause. A pass takes no input: it looks at the views and writes what differs,
//! revision-checked. Whatever fails, or another server did first, is seen by the next pass. Two leaders
//! at once do no harm. [`conversations`] closes what ended sessions left open, beside the passes: it reads long logs.
//! [`reaper`](crate::reaper) looks for what has lost its owner.

mod assignments;
mod conversations;
mod leases;
mod moves;
mod names;
mod pools;
mod removal;
mod room;
mod runners;
mod scale;
mod time_limits;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::bus::Bus;
use crate::checkpoints::Checkpoints;
use crate::clock::Clock;
use crate::config::ServerConfig;
use crate::error::Result;
use crate::events::Events;
use crate::reaper::Reaper;
use crate::recordings::Recordings;
use crate::runners::Runners;
use crate::sessions::Sessions;
use crate::spec_tasks::SpecTasks;
use crate::store::Store;
use crate::threads::Threads;
use crate::tokens::Tokens;

/// A pass comes at least this often, whatever the watches say.
const PASS_INTERVAL: Duration = Duration::from_secs(5);
/// Before the next pass after one that failed.
const RETRY: Duration = Duration::from_millis(500);
/// A pass looks at all sessions. Of many it takes long, and meanwhile they change one by one: what changes is looked at
/// together then, after as long as the last pass took, but no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A pass that took no longer is followed by the next one at once.
const SHORT: Duration = Duration::from_millis(20);
/// Writes in flight at once.
const CONCURRENCY: usize = 64;

/// What the loop needs.
#[derive(Clone)]
pub struct Reconciler {
    /// NATS connection.
    pub bus: Bus,
    /// Durable records.
    pub store: Store,
    /// Lifecycle events.
    pub events: Events,
    /// Rules for sessions.
    pub sessions: Sessions,
    /// Who may still do what was granted.
    pub tokens: Tokens,
    /// Rules for runners.
    pub runners: Runners,
    /// Conversations of sessions.
    pub threads: Threads,
    /// Desktops with several names.
    pub spec_tasks: SpecTasks,
    /// Recordings, whose time may be up.
    pub recordings: Recordings,
    /// Checkpoints, whose sessions may be gone.
    pub checkpoints: Checkpoints,
    /// Removes what belongs to nothing known, beside the passes.
    pub reaper: Reaper,
    /// Held while a conversation gets its last word, and while it is removed with its session: no word comes after that.
    pub last_words: Arc<tokio::sync::Mutex<()>>,
    /// Id of this process.
    pub server_id: Arc<str>,
    /// Settings.
    pub config: Arc<ServerConfig>,
    /// Ages of stored times.
    pub clock: Arc<Mutex<Clock>>,
}

impl Reconciler {
    /// Starts the tasks. Should one end or panic before `shutdown`, `failed` is cancelled: the process must end, so
    /// that another one leads.
    pub fn spawn(self, tasks: &TaskTracker, shutdown: &CancellationToken, failed: &CancellationToken) {
        let leading = Arc::new(watch::Sender::new(None));
        let leadership = leases::Leadership {
            bus: self.bus.clone(),
            leases: self.store.leases.clone(),
            server_id: Arc::clone(&self.server_id),
            leading: Arc::clone(&leading),
        };
        let lead = leadership.run(shutdown.clone());
        tasks.spawn(guarded(lead, shutdown.clone(), failed.clone()).instrument(tracing::info_span!("leader")));
        let (stop, close) = (shutdown.clone(), Box::pin(self.clone().close_conversations(leading.subscribe())));
        let close = async move { stop.run_until_cancelled(close).await.unwrap_or_default() };
        let span = tracing::info_span!("conversations");
        tasks.spawn(guarded(close, shutdown.clone(), failed.clone()).instrument(span));
        if let Some(scale) = self.config.scale.clone() {
            let (stop, tell) = (shutdown.clone(), Box::pin(self.clone().tell_scale(scale, leading.subscribe())));
            let tell = async move { stop.run_until_cancelled(tell).await.unwrap_or_default() };
            let span = tracing::info_span!("scale");
            tasks.spawn(guarded(tell, shutdown.clone(), failed.clone()).instrument(span));
        }
        let (stop, reap) = (shutdown.clone(), Box::pin(self.reaper.clone().run(leading.subscribe())));
        let reap = async move { stop.run_until_cancelled(reap).await.unwrap_or_default() };
        let span = tracing::info_span!("reaper");
        tasks.spawn(guarded(reap, shutdown.clone(), failed.clone()).instrument(span));
        let stop = shutdown.clone();
        let reconcile =
            async move { stop.run_until_cancelled(Box::pin(self.run(leading.subscribe()))).await.unwrap_or_default() };
        let span = tracing::info_span!("reconciler");
        tasks.spawn(guarded(reconcile, shutdown.clone(), failed.clone()).instrument(span));
    }

    async fn run(self, mut leading: watch::Receiver<Option<Instant>>) {
        let (mut sessions, mut desired, mut observed, mut runners) = (
            self.store.sessions.view().changes(),
            self.store.desired.view().changes(),
            self.store.observed.view().changes(),
            self.store.runners.view().changes(),
        );
        let (mut spec_tasks, mut tokens) = (self.store.spec_tasks.view().changes(), self.store.tokens.view().changes());
        let mut pools = self.store.pools.view().changes();
        let mut health = self.bus.health();
        let mut disconnects = self.runners.disconnects().changes();
        loop {
            let Ok(Some(since)) = leading.wait_for(Option::is_some).await.map(|since| *since) else { return };
            let Ok(up) = health.wait_for(|health| health.up_since.is_some()).await.map(|health| *health) else {
                return;
            };
            self.store.synced(up.generation).await;
            // What changes from here on wakes the next pass.
            sessions.borrow_and_update();
            desired.borrow_and_update();
            observed.borrow_and_update();
            runners.borrow_and_update();
            spec_tasks.borrow_and_update();
            tokens.borrow_and_update();
            pools.borrow_and_update();
            disconnects.borrow_and_update();
            let steady_since = up.up_since.map_or(since, |up| up.max(since));
            let begun = Instant::now();
            let next = match self.pass(steady_since).await {
                Ok(due) => due.min(Instant::now() + PASS_INTERVAL),
                Err(err) => {
                    tracing::warn!(error = %err, source = ?err.source, "a pass failed; the next one goes on");
                    Instant::now() + RETRY
                }
            };
            let took = begun.elapsed();
            if took > SHORT {
                tokio::time::sleep(took.min(LONGEST_PAUSE)).await;
            }
            // Every arm is cancel safe: watches and a timer.
            let woken = tokio::select! {
                woken = sessions.changed() => woken,
                woken = desired.changed() => woken,
                woken = observed.changed() => woken,
                woken = runners.changed() => woken,
                woken = spec_tasks.changed() => woken,
                woken = tokens.changed() => woken,
                woken = pools.changed() => woken,
                woken = disconnects.changed() => woken,
                woken = leading.changed() => woken,
                woken = health.changed() => woken,
                () = tokio::time::sleep_until(next) => Ok(()),
            };
            if woken.is_err() {
                return;
            }
        }
    }

    /// One activation. Answers when silence is due to be judged next.
    async fn pass(&self, steady_since: Instant) -> Result<Instant> {
        let due = self.judge_runners(steady_since).await?;
        self.settle_names().await?;
        self.sessions.end_let_go().await?;
        self.sessions.free_control().await?;
        let expiry = self.end_expired(steady_since).await?;
        self.sessions.end_lapsed_grants(&self.tokens).await?;
        self.tokens.forget_ended().await?;
        let retry = self.keep_pools().await?;
        self.begin_moves().await?;
        self.finish_moves().await?;
        self.restart_lost().await?;
        self.assign_waiting().await?;
        self.repair_projection().await?;
        self.remove_deleted().await?;
        self.recordings.expire().await?;
        self.checkpoints.expire().await?;
        Ok([retry, expiry].into_iter().flatten().fold(due, Instant::min))
    }
}

/// Runs `task`; cancels `failed` if it ends or panics before `shutdown`.
async fn guarded(task: impl Future<Output = ()>, shutdown: CancellationToken, failed: CancellationToken) {
    let ended = AssertUnwindSafe(task).catch_unwind().await;
    if !shutdown.is_cancelled() {
        tracing::error!(panicked = ended.is_err(), "the task is dead; this process ends");
        failed.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_task_is_noticed_unless_it_shall_end() {
        let (shutdown, failed) = (CancellationToken::new(), CancellationToken::new());
        guarded(async { panic!("as a bug would") }, shutdown.clone(), failed.clone()).await;
        assert!(failed.is_cancelled());

        let failed = CancellationToken::new();
        guarded(async {}, shutdown.clone(), failed.clone()).await;
        assert!(failed.is_cancelled());

        let failed = CancellationToken::new();
        shutdown.cancel();
        guarded(async {}, shutdown, failed.clone()).await;
        assert!(!failed.is_cancelled());
    }
}
