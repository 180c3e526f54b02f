//! Who leads: one lease, renewed while this process lives, taken over as soon as it expires or is given back.

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::ErrorCode;
use helix_protocol::assignment::Lease;
use helix_protocol::subject::LEADER_LEASE_KEY;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::error::Result;
use crate::store::{Bucket, Lookup};

/// Life of the lease without renewal. Leadership only saves work, so a short one is right.
const TTL: Duration = Duration::from_secs(3);
/// Between renewals.
const RENEWAL: Duration = Duration::from_secs(1);

/// Holds or awaits the leader's lease.
pub struct Leadership {
    /// NATS connection.
    pub bus: Bus,
    /// Bucket of leases.
    pub leases: Bucket<Lease>,
    /// Id of this process.
    pub server_id: Arc<str>,
    /// Since when this process leads.
    pub leading: Arc<watch::Sender<Option<Instant>>>,
}

impl Leadership {
    /// Runs until `shutdown`, then gives the lease back.
    pub async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.hold()).await;
        self.give_back().await;
    }

    async fn hold(&self) {
        let mut health = self.bus.health();
        let mut renewed = Instant::now();
        loop {
            if health.wait_for(|health| health.up_since.is_some()).await.is_err() {
                return;
            }
            let mut changes = self.leases.view().changes();
            match self.try_renew().await {
                Ok(true) => {
                    renewed = Instant::now();
                    self.set(true);
                }
                Ok(false) => self.set(false),
                Err(err) => {
                    tracing::debug!(error = %err, "cannot renew the leader's lease");
                    if renewed.elapsed() >= TTL {
                        self.set(false);
                    }
                }
            }
            let follows = self.leading.borrow().is_none();
            // Both arms are cancel safe: a watch and a timer.
            tokio::select! {
                () = self.lease_gone(&mut changes), if follows => {}
                () = tokio::time::sleep(RENEWAL) => {}
            }
        }
    }

    /// Completes when the leader's lease goes, or on any news where there is none.
    async fn lease_gone(&self, changes: &mut watch::Receiver<u64>) {
        loop {
            let held = self.leases.view().get(LEADER_LEASE_KEY).is_some();
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            if !held || self.leases.view().get(LEADER_LEASE_KEY).is_none() {
                return;
            }
        }
    }

    async fn try_renew(&self) -> Result<bool> {
        let lookup = self.leases.get(LEADER_LEASE_KEY).await?;
        let revision = lookup.revision();
        if let Lookup::Found(entry) = lookup
            && entry.value.server != *self.server_id
        {
            return Ok(false);
        }
        let lease = Lease {
            server: self.server_id.to_string(),
            renewed_at: Timestamp::now(),
            heartbeat: None,
            sync: None,
            scale: None,
        };
        match self.leases.lease(LEADER_LEASE_KEY, &lease, revision, TTL).await {
            Ok(_) => Ok(true),
            Err(err) if err.code == ErrorCode::Conflict => Ok(false),
            Err(err) => Err(err),
        }
    }

    async fn give_back(&self) {
        if self.leading.send_replace(None).is_none() {
            return;
        }
        if let Ok(Lookup::Found(entry)) = self.leases.get(LEADER_LEASE_KEY).await
            && entry.value.server == *self.server_id
        {
            // Failing is fine: the lease expires.
            let _ = self.leases.delete(LEADER_LEASE_KEY, entry.revision).await;
        }
    }

    fn set(&self, leads: bool) {
        let changed = self.leading.send_if_modified(|since| {
            let changed = since.is_some() != leads;
            if changed {
                *since = leads.then(Instant::now);
            }
            changed
        });
        if changed {
            tracing::info!(leads, "leadership changed");
        }
    }
}
