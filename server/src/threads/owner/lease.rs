//! Who is the owner: lease `sync.<session>`, held by the server with the newest socket.
//!
//! A newer socket takes it from whoever has it. Lost leases are noticed at the next renewal, or at once where the
//! taker says so. An owner that does not know yet that it is none any more does no harm: what it writes is refused
//! where another one wrote before.

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::api::SyncStatus;
use helix_protocol::assignment::Lease;
use helix_protocol::{ErrorCode, SessionId, subject};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::error::Result;
use crate::store::{Bucket, Lookup};

/// Life of the lease without renewal.
const TTL: Duration = Duration::from_secs(10);
/// Between renewals, and looks of who waits for it.
const RENEWAL: Duration = Duration::from_secs(3);
/// Before the next try after one that failed.
const RETRY: Duration = Duration::from_millis(500);
/// Tries of one claim.
const MAX_TRIES: usize = 5;

/// This server's part in one session's lease.
#[derive(Clone)]
pub struct SyncLease {
    leases: Bucket<Lease>,
    key: String,
    server_id: Arc<str>,
    /// Revision of what this server wrote last, while it is the owner.
    held: Option<u64>,
    /// What was written last.
    told: SyncStatus,
    due: Instant,
}

impl SyncLease {
    /// Not held yet.
    pub fn new(leases: Bucket<Lease>, session: &SessionId, server_id: Arc<str>) -> Self {
        let key = subject::sync_lease_key(session);
        Self { leases, key, server_id, held: None, told: SyncStatus::default(), due: Instant::now() }
    }

    /// True while this server is the owner, as far as it knows.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// When to look at it next.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// To be looked at now.
    pub fn doubt(&mut self) {
        self.due = Instant::now();
    }

    /// True where `status` is not what was written.
    pub fn is_news(&self, status: &SyncStatus) -> bool {
        self.held.is_some() && self.told != *status
    }

    /// Takes it from whoever has it. Answers the server that had it.
    pub async fn claim(&mut self, status: &SyncStatus) -> Result<Option<String>> {
        self.due = Instant::now() + RETRY;
        for _ in 0..MAX_TRIES {
            let lookup = self.leases.get(&self.key).await?;
            let revision = lookup.revision();
            let former = lookup.found().map(|entry| entry.value.server.clone());
            if self.write(status, revision).await? {
                return Ok(former.filter(|former| **former != *self.server_id));
            }
        }
        // Somebody else claims it as often: one of both has it.
        self.held = None;
        Ok(None)
    }

    /// Renews it, notices that another server has it, or takes it where nobody, or an older socket, has it.
    pub async fn renew(&mut self, status: &SyncStatus) -> Result<()> {
        self.due = Instant::now() + RETRY;
        if let Some(revision) = self.held
            && self.write(status, revision).await?
        {
            return Ok(());
        }
        match self.leases.get(&self.key).await? {
            Lookup::Found(entry) if entry.value.server != *self.server_id => {
                let theirs = entry.value.sync.as_ref().and_then(|sync| sync.connected_at);
                if theirs >= status.connected_at {
                    self.held = None;
                    self.due = Instant::now() + RENEWAL;
                    return Ok(());
                }
                self.write(status, entry.revision).await?;
            }
            other => {
                self.write(status, other.revision()).await?;
            }
        }
        Ok(())
    }

    /// Gives it back, so that an older socket's server need not wait.
    pub async fn release(&mut self) {
        if let Some(revision) = self.held.take() {
            // Failing is fine: it expires, or is another's by now.
            let _ = self.leases.delete(&self.key, revision).await;
        }
    }

    /// False where another writer was faster.
    async fn write(&mut self, status: &SyncStatus, revision: u64) -> Result<bool> {
        let lease = Lease {
            server: self.server_id.to_string(),
            renewed_at: Timestamp::now(),
            heartbeat: None,
            sync: Some(status.clone()),
            scale: None,
        };
        match self.leases.lease(&self.key, &lease, revision, TTL).await {
            Ok(revision) => {
                self.held = Some(revision);
                self.told = status.clone();
                self.due = Instant::now() + RENEWAL;
                Ok(true)
            }
            Err(error) if error.code == ErrorCode::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }
}
