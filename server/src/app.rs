//! What every handler and task of one server process shares.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::config::ServerConfig;
use crate::events::Events;
use crate::keys::Keys;
use crate::relay::Relay;
use crate::runners::Runners;
use crate::sessions::Sessions;
use crate::store::Store;
use crate::tokens::Tokens;

/// One server process. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Validated settings.
    pub config: Arc<ServerConfig>,
    /// Random id of this process: names its leases, its dials and its answers.
    pub server_id: Arc<str>,
    /// Secrets derived from the server key.
    pub keys: Arc<Keys>,
    /// NATS connection.
    pub bus: Bus,
    /// Durable records.
    pub store: Store,
    /// Rules for sessions.
    pub sessions: Sessions,
    /// Rules for runners.
    pub runners: Runners,
    /// Bearer tokens and one-use tickets.
    pub tokens: Tokens,
    /// Lifecycle events.
    pub events: Events,
    /// Viewers waiting for a runner to dial back.
    pub relay: Relay,
    /// Cancelled when the process shall end: stop accepting, drain, leave.
    pub shutdown: CancellationToken,
}
