//! The runner's link to the servers, over NATS. Carries; decides nothing.
//!
//! One task ([`run`]): enrol where needed → connect → serve the connection until it is over → again, after 1, 2, 4 …
//! 60 s with jitter. While connected: `register` at every (re)connect, then heartbeats, `sync` (on a nudge, after
//! registering, every 10 s), reports until acknowledged ([`reports`]), and dials handed to [`crate::dial`]. The
//! desired set goes to the reconciler through a watch channel; requests end after 3 s, so nothing here blocks for long
//! and no session task waits for any of it.
//!
//! What the NATS client (async-nats 0.51) does when this runner's user JWT expires or the server kicks it, read in its
//! source and seen against nats-server 2.15:
//! - At expiry the server sends `-ERR 'User Authentication Expired'` and closes; a server that kicks or dies closes.
//!   The client tells `ServerError`, `Disconnected`, then reconnects by itself with the same options: our token is
//!   still good, so the callout answers with a fresh JWT, and the subscriptions are made again (seen: back after 0.5
//!   to 1.0 s, which is our delay). Nudges of that moment are lost: hence register and sync.
//! - The client's default first reconnect has no delay, and attempts are counted from zero after every success: a
//!   server that accepts and kicks would be asked in a tight loop. Hence [`connection`]'s own delay.
//! - A refused token (the store was emptied, or no helix-server answers the callout for 2 s: both are "authorization
//!   violation") is retried forever inside the client, told only as a text, and dropping the client does not end
//!   that. Hence `max_reconnects`: the client tries each address of the cluster once by itself and then gives up, and
//!   this task, which can enrol again and learn a new address, does the rest.
//! - While it is down its command queue is not read: requests would wait there and be sent, stale, on return. Hence
//!   [`connection::Connection`] refuses them while not connected.

pub mod backoff;
pub mod connection;
pub mod enrol;
pub mod reports;
pub mod rotate;
mod serve;
pub mod token;

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::assignment::DesiredSession;
use helix_protocol::link::RotateToken;
use helix_protocol::runner::RunnerFacts;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::backoff::Backoff;
use self::connection::Connection;
use self::enrol::EnrolError;
use self::reports::Reports;
use self::token::OwnToken;
use crate::config::Config;
use crate::dial::DialNudge;
use crate::fence::Fence;
use crate::gate::Gates;
use crate::images::Images;
use crate::leftovers::LeftoverBoard;
use crate::usage::UsageBoard;
use crate::viewers::told::Told;

/// A connection that lasted this long was a success: the next failure starts a new row of waiting times.
const STEADY: Duration = Duration::from_mins(1);

/// How the link is, for health, status and readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStatus {
    /// No server knows that we are here; why, for people.
    Away(String),
    /// Registered.
    Registered,
}

/// What the link carries between servers and the rest of agentd.
#[derive(Debug)]
pub struct Link {
    /// Settings.
    pub config: Arc<Config>,
    /// This runner's own token.
    pub token: OwnToken,
    /// What it offers.
    pub facts: RunnerFacts,
    /// What it sees.
    pub reports: Reports,
    /// The last desired set; None until the first one of this process.
    pub desired: watch::Sender<Option<Arc<Vec<DesiredSession>>>>,
    /// Where to tell that a server wants a new token of this runner.
    pub rotate: watch::Sender<Option<RotateToken>>,
    /// True while it takes nothing new.
    pub draining: watch::Receiver<bool>,
    /// Where to tell how the link is.
    pub status: watch::Sender<LinkStatus>,
    /// Where contact is told.
    pub fence: Fence,
    /// What sessions use.
    pub usage: UsageBoard,
    /// What belonged to no session.
    pub leftovers: LeftoverBoard,
    /// Its images, for the heartbeat.
    pub images: Images,
    /// Who looks at which desktop, for the heartbeat.
    pub gates: Gates,
    /// Who came to its desktops, for the audit trail.
    pub viewers: Told,
    /// Nudges to dial a server.
    pub dials: mpsc::Sender<DialNudge>,
}

/// Runs until `stop`.
pub async fn run(link: Link, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = link.keep_connected() => {}
    }
}

impl Link {
    async fn keep_connected(&self) {
        let mut backoff = Backoff::default();
        let mut known = enrol::last_answer(&self.config.state_dir, &self.config.runner);
        // True when the last answer may be out of date: always at the first start, and after any failure to connect.
        let mut ask = known.is_none();
        loop {
            let mut trouble = String::new();
            let token = self.token.current();
            if ask {
                match enrol::enrol(&self.config, &token).await {
                    Ok(enrolled) => {
                        tracing::info!(nats = %connection::without_user(&enrolled.nats_url), "enrolled");
                        known = Some(enrolled);
                        ask = false;
                    }
                    // An enrolled runner needs the enrolment token no more.
                    Err(EnrolError::NoToken) if known.is_some() => {}
                    Err(error) => trouble = error.to_string(),
                }
            }
            if let Some(enrolled) = &known {
                let address = self.config.nats_url.as_ref().unwrap_or(&enrolled.nats_url);
                let begun = Instant::now();
                let ca = self.config.nats_ca_file.clone().or_else(|| enrol::ca_file(&self.config.state_dir, enrolled));
                match Connection::open(address, ca, &self.config.runner, &token).await {
                    Ok((connection, changes)) => {
                        trouble = self.serve(connection, changes).await;
                        if begun.elapsed() >= STEADY {
                            backoff.reset();
                        }
                    }
                    Err(error) if trouble.is_empty() => trouble = error.to_string(),
                    Err(error) => trouble = format!("{error}; {trouble}"),
                }
                if token != self.token.current() {
                    // No trouble, and nothing that a server would have to be asked about.
                    continue;
                }
                ask = true;
            }
            self.away(&trouble);
            let wait = backoff.pause_below(self.longest_pause());
            tracing::debug!(wait_ms = wait.as_millis() as u64, "waiting before the next attempt to connect");
            tokio::time::sleep(wait).await;
        }
    }

    /// After an outage servers call a runner lost that is not back within the lost-timeout, and give its sessions to others.
    /// The first attempt to come back may be refused: servers may not vouch for anybody yet. So there must be time for several.
    fn longest_pause(&self) -> Duration {
        self.fence.lost_timeout().map_or(Duration::MAX, |timeout| timeout / 4)
    }

    fn away(&self, why: &str) {
        let status = LinkStatus::Away(why.to_owned());
        // The same reason every minute is one line, not many.
        if *self.status.borrow() != status {
            tracing::warn!(reason = why, "no link to a server; sessions run on");
        }
        self.status.send_replace(status);
    }
}
