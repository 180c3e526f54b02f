//! Whether there is room in the store: what NATS says of its use, and whether the last record was refused for want of it.
//!
//! Leases are renewed every few seconds, so the last record is never old while a runner is connected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::ErrorCode as NatsCode;
use async_nats::jetstream::context::PublishError;
use helix_protocol::api::status::{StoreMember, StoreStatus};
use helix_protocol::{ErrorCode, subject};

use super::Bus;
use crate::error::Error;

/// A member of a cluster speaks to the leader once a second. One that was killed is called offline by the others only
/// minutes later.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
const FULL: &str = "NATS stores nothing more: its disk or max_file_store is full; nothing was done, and sessions run on. Make room \
                    there, or raise max_file_store in nats.conf and reload it";

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Room(Arc<AtomicBool>);

impl Room {
    /// A record was stored.
    pub fn found(&self) {
        if self.0.swap(false, Ordering::Relaxed) {
            tracing::info!("NATS has room again");
        }
    }

    /// A record was refused for want of it.
    pub fn missing(&self, err: PublishError) -> Error {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %err, "{FULL}");
        }
        Error::new(ErrorCode::StoreUnavailable, FULL).because(err)
    }
}

impl Bus {
    /// The store, for people; None while it does not answer.
    pub async fn store_status(&self) -> Option<StoreStatus> {
        let (account, members) = tokio::join!(self.jetstream.query_account(), self.members());
        let account = account.ok()?;
        Some(StoreStatus {
            members: members.unwrap_or_default(),
            nats: self.client.server_info().version,
            bytes: account.storage,
            // -1 where it has no limit of its own.
            limit_bytes: account.limits.max_storage.and_then(|most| u64::try_from(most).ok()),
            full: self.room.0.load(Ordering::Relaxed),
        })
    }

    /// Who keeps the sessions; nobody where there is one nats-server alone.
    async fn members(&self) -> Option<Vec<StoreMember>> {
        let stream = self.jetstream.get_stream(format!("KV_{}", subject::BUCKET_SESSIONS)).await.ok()?;
        let cluster = stream.cached_info().cluster.clone()?;
        let leader = cluster.leader.into_iter().map(|name| StoreMember {
            name,
            leader: true,
            online: true,
            current: true,
            lag: 0,
        });
        let others = cluster.replicas.into_iter().map(|peer| StoreMember {
            name: peer.name,
            leader: false,
            online: !peer.offline && peer.active < HEARD_WITHIN,
            current: peer.current,
            lag: peer.lag.unwrap_or_default(),
        });
        let mut members: Vec<_> = leader.chain(others).collect();
        members.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Some(if members.len() > 1 { members } else { Vec::new() })
    }
}

/// A stream's bound is reached, or that of all JetStream.
pub fn is_full(error: &PublishError) -> bool {
    let source =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    source.is_some_and(|source| match source.error_code() {
        NatsCode::ACCOUNT_RESOURCES_EXCEEDED
        | NatsCode::INSUFFICIENT_RESOURCES
        | NatsCode::STORAGE_RESOURCES_EXCEEDED => true,
        // Of several reasons for which a stream stores nothing.
        NatsCode::STREAM_STORE_FAILED => source.to_string().contains("maximum bytes"),
        _ => false,
    })
}
