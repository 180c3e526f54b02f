//! What is done on one connection, until it is over. Futures of one task, not tasks: they end together.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use helix_protocol::ErrorCode;
use helix_protocol::link::{Message, Nudge, PROTOCOL, Reply, Request, is_understood};
use helix_protocol::runner::Heartbeat;
use helix_protocol::session::ObservedSession;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::connection::{Change, Connection, RequestError};
use super::{Link, LinkStatus};
use crate::condition::Condition;
use crate::dial::DialNudge;
use crate::fence::Fence;

/// Between two syncs when nobody nudges.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);
/// Until the server names its own.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
const LOST_TIMEOUT: Duration = Duration::from_secs(30);
/// Unanswered heartbeats in a row after which a connection that seems up is renewed.
const DEAF_HEARTBEATS: u32 = 3;
/// A member of a cluster through which nobody registers us for so long is left for another one. A server that starts anew is
/// there sooner.
const LEAVE_AFTER: Duration = Duration::from_secs(10);
/// Reports on their way at once.
const REPORTS_AT_ONCE: usize = 8;

/// Shared by the futures of one connection.
struct Serving<'a> {
    link: &'a Link,
    connection: Connection,
    /// Counts the times that the connection came up; what was said before the last is forgotten.
    ups: watch::Sender<u64>,
    /// Heartbeat interval of the server that registered us; None while nobody has.
    registered: watch::Sender<Option<Duration>>,
    /// Silence after which that server calls us lost.
    lost_timeout: watch::Sender<Duration>,
    sync: Notify,
}

impl Link {
    /// Serves until the connection is over or of no use; answers why.
    pub(super) async fn serve(&self, connection: Connection, changes: mpsc::Receiver<Change>) -> String {
        let serving = Serving {
            link: self,
            connection,
            ups: watch::Sender::new(1),
            registered: watch::Sender::new(None),
            lost_timeout: watch::Sender::new(LOST_TIMEOUT),
            sync: Notify::new(),
        };
        let mut token = self.token.changes();
        tokio::select! {
            () = serving.follow(changes) => "the connection to NATS is lost".to_owned(),
            () = serving.hear_nudges() => "the subscription to nudges ended".to_owned(),
            refused = serving.register() => refused,
            _ = token.changed() => "this runner has a new token".to_owned(),
            never = serving.heartbeat() => match never {},
            never = serving.fetch_desired() => match never {},
            never = serving.send_reports() => match never {},
        }
    }
}

impl Serving<'_> {
    /// Follows the connection; ends when it is over.
    async fn follow(&self, mut changes: mpsc::Receiver<Change>) {
        // `open` returned after the first Up.
        let mut first = true;
        while let Some(change) = changes.recv().await {
            match change {
                Change::Up if std::mem::take(&mut first) => {}
                Change::Up => self.ups.send_modify(|ups| *ups += 1),
                Change::Down => {
                    self.registered.send_replace(None);
                    // Ordinary: credentials expire every hour, and the client is back within a second.
                    tracing::info!("the connection to NATS is interrupted");
                    let reason = "the connection to NATS is interrupted".to_owned();
                    self.link.status.send_replace(LinkStatus::Away(reason));
                }
                Change::Over => return,
            }
        }
    }

    /// Registers after every Up, and again when a server says that it does not know us. Ends when refused.
    async fn register(&self) -> String {
        let mut ups = self.ups.subscribe();
        let mut registered = self.registered.subscribe();
        let (mut backoff, mut silent_since) = (Backoff::default(), None);
        loop {
            ups.mark_unchanged();
            let facts = Box::new(self.link.facts.clone());
            match self.connection.request(Request::Register { facts, protocol: PROTOCOL }).await {
                Ok(Reply::Registered { heartbeat_interval_ms, lost_timeout_ms, protocol }) => {
                    if !is_understood(protocol) {
                        // A server that does not refuse what it does not know.
                        return format!(
                            "the server speaks version {protocol} of the link, this agentd {PROTOCOL}: upgrade one"
                        );
                    }
                    backoff.reset();
                    silent_since = None;
                    self.lost_timeout.send_replace(Duration::from_millis(lost_timeout_ms));
                    // The server may have lost what it acknowledged (its store was emptied).
                    self.link.reports.repeat_all();
                    self.registered.send_replace(Some(Duration::from_millis(heartbeat_interval_ms.max(100))));
                    self.link.status.send_replace(LinkStatus::Registered);
                    tracing::info!("registered");
                    tokio::select! {
                        _ = ups.changed() => {}
                        _ = registered.wait_for(Option::is_none) => {}
                    }
                }
                Err(RequestError::NotConnected) => _ = ups.changed().await,
                // The store was emptied while we were connected, or this runner was removed: enrol again.
                Err(RequestError::Refused { code: ErrorCode::RunnerNotFound | ErrorCode::TokenInvalid, detail }) => {
                    return format!("the registration is refused: {detail}");
                }
                other => {
                    if matches!(other, Err(RequestError::TimedOut | RequestError::NoServer)) {
                        let since = *silent_since.get_or_insert_with(Instant::now);
                        if self.connection.has_members() && since.elapsed() >= LEAVE_AFTER {
                            silent_since = None;
                            self.connection.renew().await;
                        }
                    } else {
                        silent_since = None;
                    }
                    self.link.away(&format!("cannot register: {}", failure(other)));
                    let wait = tokio::time::sleep(backoff.pause_below(self.link.longest_pause()));
                    tokio::select! {
                        _ = ups.changed() => {}
                        () = wait => {}
                    }
                }
            }
        }
    }

    async fn heartbeat(&self) -> Infallible {
        let mut registered = self.registered.subscribe();
        let mut draining = self.link.draining.clone();
        let mut unanswered = 0;
        let mut condition = Condition::of(&self.link.config.workspace_dir);
        loop {
            let interval = self.when_registered(&mut registered).await;
            let heartbeat = Heartbeat {
                active_tasks: self.link.reports.active(),
                slots: self.link.facts.slots,
                draining: *draining.borrow_and_update(),
                usage: self.link.usage.all(),
                images: self.link.images.report(),
                viewed: self.link.gates.viewed(),
                leftovers: self.link.leftovers.told(),
                degraded: condition.told(),
                at: Some(Timestamp::now()),
            };
            let sent_at = Fence::now();
            let viewers = self.link.viewers.pending();
            let request = Request::Heartbeat { heartbeat: Box::new(heartbeat), viewers: viewers.clone() };
            match self.connection.request(request).await {
                Ok(Reply::HeartbeatAck { viewers: told }) => {
                    unanswered = 0;
                    self.link.viewers.acknowledge(&viewers, told.unwrap_or_default());
                    self.link.fence.heard(sent_at, *self.lost_timeout.borrow());
                    self.link.status.send_if_modified(|status| {
                        let was = std::mem::replace(status, LinkStatus::Registered);
                        was != LinkStatus::Registered
                    });
                }
                Err(RequestError::Refused { code, detail }) => {
                    tracing::warn!(%code, detail, "heartbeat refused, registering again");
                    self.registered.send_replace(None);
                    continue;
                }
                Err(RequestError::TimedOut) => {
                    unanswered += 1;
                    self.link.away("no server answers heartbeats");
                    if unanswered >= DEAF_HEARTBEATS {
                        unanswered = 0;
                        self.connection.renew().await;
                    }
                }
                // With one nats-server there is nobody else to ask: servers come back to it.
                Err(RequestError::NoServer) if self.connection.has_members() => {
                    unanswered += 1;
                    self.link.away("no server is connected to this member of NATS");
                    if unanswered >= DEAF_HEARTBEATS {
                        unanswered = 0;
                        self.connection.renew().await;
                    }
                }
                // Said by whoever saw the connection go.
                Err(RequestError::NotConnected) => {}
                other => self.link.away(&failure(other)),
            }
            tokio::select! {
                () = tokio::time::sleep(interval.unwrap_or(HEARTBEAT_INTERVAL)) => {}
                _ = draining.changed() => {}
                () = self.link.viewers.news() => {}
            }
        }
    }

    async fn fetch_desired(&self) -> Infallible {
        let mut registered = self.registered.subscribe();
        loop {
            self.when_registered(&mut registered).await;
            let asked_at = Fence::now();
            match self.connection.request(Request::Sync {}).await {
                Ok(Reply::DesiredSet { sessions, rotate, images }) => {
                    self.link.images.have_ahead(&images);
                    self.link.rotate.send_if_modified(|old| std::mem::replace(old, rotate.clone()) != rotate);
                    let sessions = Arc::new(sessions);
                    self.link.desired.send_if_modified(|old| {
                        let changed = old.as_ref() != Some(&sessions);
                        *old = Some(sessions);
                        changed
                    });
                    self.link.fence.synced(asked_at);
                }
                Err(RequestError::Refused { code, detail }) => tracing::warn!(%code, detail, "desired set refused"),
                other => tracing::debug!(reason = failure(other), "no desired set"),
            }
            tokio::select! {
                () = tokio::time::sleep(SYNC_INTERVAL) => {}
                () = self.sync.notified() => {}
                () = self.link.fence.sync_wanted() => {}
                // Registered anew: what was nudged meanwhile is lost.
                _ = registered.changed() => {}
            }
        }
    }

    async fn send_reports(&self) -> Infallible {
        let mut registered = self.registered.subscribe();
        let mut changes = self.link.reports.watch();
        let mut backoff = Backoff::default();
        loop {
            self.when_registered(&mut registered).await;
            changes.mark_unchanged();
            let pending = self.link.reports.pending();
            if pending.is_empty() {
                backoff.reset();
                // The sender lives in the reports that we hold.
                let _ = changes.changed().await;
                continue;
            }
            let sent = futures::stream::iter(pending)
                .map(|observed| self.report(observed))
                .buffer_unordered(REPORTS_AT_ONCE)
                .fold(true, |all, one| async move { all && one });
            if sent.await {
                backoff.reset();
            } else {
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }

    async fn report(&self, observed: ObservedSession) -> bool {
        let wanted = observed.session.clone();
        match self.connection.request(Request::Report { observed: Box::new(observed) }).await {
            Ok(Reply::ReportAck { session, epoch, report }) if session == wanted => {
                self.link.reports.acknowledge(&session, epoch, report);
                true
            }
            other => {
                tracing::debug!(HELIX_SESSION = %wanted, reason = failure(other), "report not acknowledged");
                false
            }
        }
    }

    async fn hear_nudges(&self) {
        let mut nudges = match self.connection.nudges().await {
            Ok(nudges) => nudges,
            Err(error) => {
                tracing::error!("cannot subscribe to nudges; the timer alone keeps this runner in step: {error}");
                return std::future::pending().await;
            }
        };
        while let Some(message) = nudges.next().await {
            match serde_json::from_slice::<Message<Nudge>>(&message.payload) {
                Ok(Message { runner, .. }) if runner != self.link.config.runner => {
                    tracing::warn!(%runner, "nudge for another runner dropped");
                }
                Ok(Message { body: Nudge::Sync {}, .. }) => self.sync.notify_one(),
                Ok(Message { body: Nudge::Dial { server }, .. }) => {
                    let nudge = DialNudge { connection: self.connection.clone(), server };
                    if self.link.dials.try_send(nudge).is_err() {
                        // Its viewer gets a 503 in a few seconds and may try again.
                        tracing::warn!("nudge to dial dropped: too many wait");
                    }
                }
                Err(error) => tracing::warn!(subject = %message.subject, "nudge dropped: {error}"),
            }
        }
    }

    /// Waits until registered; answers the server's heartbeat interval.
    async fn when_registered(&self, registered: &mut watch::Receiver<Option<Duration>>) -> Option<Duration> {
        // The sender is in `self`, so waiting cannot fail.
        registered.wait_for(Option::is_some).await.ok().and_then(|interval| *interval)
    }
}

fn failure(result: Result<Reply, RequestError>) -> String {
    match result {
        Ok(reply) => format!("the answer is of the wrong type: {}", kind_of(&reply)),
        Err(error) => error.to_string(),
    }
}

fn kind_of(reply: &Reply) -> &'static str {
    match reply {
        Reply::Registered { .. } => "registered",
        Reply::HeartbeatAck { .. } => "heartbeat_ack",
        Reply::DesiredSet { .. } => "desired_set",
        Reply::ReportAck { .. } => "report_ack",
        Reply::Dials { .. } => "dials",
        Reply::Refused { .. } => "refused",
    }
}
