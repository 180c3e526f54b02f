//! Logs: to journald with fields where the process runs under systemd, else to stderr.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging at `level` (`info`, or a filter such as `helix_server=debug,info`).
pub fn init(level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).map_err(|err| {
        anyhow::anyhow!("log level {level:?} is not valid: {err}; use error, warn, info, debug or trace")
    })?;
    // systemd sets JOURNAL_STREAM when stderr is the journal already: then only the native protocol keeps fields.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let stderr = journal
        .is_none()
        .then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false));
    tracing_subscriber::registry().with(filter).with(journal).with(stderr).try_init()?;
    Ok(())
}
