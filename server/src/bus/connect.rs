//! A connection to NATS as the servers' user, and how it comes back.

use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions};
use tokio::time::Instant;

use super::REQUEST_TIMEOUT;
use crate::config::{ServerConfig, is_tls};

/// First NATS with per-key TTL, limit markers and what else the schema needs.
const MIN_VERSION: (u64, u64) = (2, 11);

/// How this program connects: as the servers' user, over TLS where the address says so.
pub fn options(config: &ServerConfig, name: &str) -> ConnectOptions {
    let nats = &config.nats;
    let options = ConnectOptions::with_user_and_password(nats.user.clone(), config.secrets.nats_password.clone())
        .name(name)
        .require_tls(is_tls(&nats.url))
        // The settings name all of a cluster, by the names that their certificates have.
        .ignore_discovered_servers()
        .connection_timeout(Duration::from_secs(3))
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(Duration::from_secs(5))
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay);
    match &nats.ca {
        Some(ca) => options.add_root_certificates(ca.file.clone()),
        None => options,
    }
}

/// At once, then 0.1, 0.2, 0.4 … 60 s, each with jitter so that servers do not come back in one moment. Sooner than
/// runners, which begin with a second: NATS refuses a runner whose token no server can vouch for yet, after two
/// seconds. The client asks before the very first connect too.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let full = Duration::from_millis(100 << (attempts - 2).min(10)).min(Duration::from_mins(1));
    let mut random = [0_u8; 1];
    // Without randomness the delay is merely not spread.
    let _ = getrandom::fill(&mut random);
    full.mul_f64(0.5 + f64::from(random[0]) / 512.0)
}

/// Connects, with a deadline, and checks the version.
pub async fn within(
    config: &ServerConfig,
    options: impl Fn() -> ConnectOptions,
    patience: Duration,
) -> anyhow::Result<Client> {
    let url = &config.nats.url;
    let addresses: Vec<&str> = url.split(',').collect();
    let deadline = Instant::now() + patience;
    let mut delay = Duration::from_millis(100);
    loop {
        let err = match options().connect(&addresses).await {
            Ok(client) => {
                check_version(&client.server_info().version, url)?;
                return Ok(client);
            }
            Err(err) => err,
        };
        if matches!(err.kind(), ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation) {
            anyhow::bail!(
                "NATS at {url} refuses user {:?}: {err}; fix: make [nats] password_file hold the password of that \
                 user in nats.conf (helix-server nats-config writes a matching one)",
                config.nats.user
            );
        }
        if Instant::now() + delay >= deadline {
            let why = causes(&err);
            let fix = if why.contains("certificate") {
                "let [nats] ca_file name the certificate of who signed nats-server's, and url its name in there"
            } else {
                "start nats-server, or correct [nats] url (environment NATS_SERVER_HOST, NATS_SERVER_PORT)"
            };
            anyhow::bail!("cannot connect to NATS at {url} within {patience:?}: {why}; fix: {fix}");
        }
        tracing::warn!(nats.url = %url, error = causes(&err), "NATS cannot be reached yet; trying again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(1));
    }
}

/// The error with its causes; some print theirs themselves.
fn causes(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

fn check_version(version: &str, url: &str) -> anyhow::Result<()> {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    let found = parts.next().flatten().zip(parts.next().flatten());
    if found.is_some_and(|found| found >= MIN_VERSION) {
        return Ok(());
    }
    let (major, minor) = MIN_VERSION;
    anyhow::bail!(
        "nats-server at {url} is version {version:?}; {major}.{minor} or newer is needed, because older ones silently \
         drop the time-outs that leases depend on; fix: install nats-server {major}.{minor} or newer and restart it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused_by_name_with_the_fix() {
        for good in ["2.11.0", "2.15.1", "3.0.0-beta", "2.11.0-RC.1"] {
            assert!(check_version(good, "nats://x").is_ok(), "{good}");
        }
        for bad in ["2.9.10", "2.10.27", "1.4.1", "", "x.y"] {
            let err = check_version(bad, "nats://x").expect_err(bad).to_string();
            assert!(err.contains(bad) && err.contains("install nats-server 2.11"), "{err}");
        }
    }

    #[test]
    fn reconnects_wait_longer_each_time_but_never_above_a_minute() {
        for (attempt, seconds) in [(1, 0.0), (2, 0.1), (3, 0.2), (4, 0.4), (12, 60.0), (100, 60.0)] {
            let delay = reconnect_delay(attempt).as_secs_f64();
            assert!(delay >= 0.5 * seconds && delay <= seconds, "{attempt}: {delay}");
        }
    }
}
