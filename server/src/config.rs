//! Settings: one TOML file + environment + flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Validated settings of the server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where it listens. Off loopback only with TLS.
    pub listen: SocketAddr,
    /// Base URL under which browsers and CLIs reach the fleet, without a slash at the end.
    pub public_url: String,
    /// Base URL under which runners reach this very replica.
    pub advertise_url: String,
    /// NATS address told to runners at enrolment.
    pub runner_nats_url: String,
    /// 32-byte server key, 0600.
    pub key_file: PathBuf,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Documents' `EXTERNAL_AGENT_ENABLED`: false = the `/external-agents` group answers 404.
    pub external_agents_enabled: bool,
    /// Between heartbeats.
    pub heartbeat_interval: Duration,
    /// Silence after which a runner is suspect.
    pub suspect_timeout: Duration,
    /// Silence after which it is lost.
    pub lost_timeout: Duration,
}
