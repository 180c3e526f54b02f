//! Logs: to journald with fields where the process runs under systemd, else to stderr.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging at `level`: a level for everything of ours, or a whole filter (`helix_server=debug,info`).
pub fn init(level: &str) -> anyhow::Result<()> {
    // A level is ours; libraries only warn. At debug the NATS client would write whole records, secrets included; what
    // it says of its connection the bus says with its meaning.
    let whole = level.contains(['=', ',']);
    let text = if whole { level.to_owned() } else { format!("warn,async_nats=off,helix_server={level}") };
    let filter = EnvFilter::try_new(text).map_err(|err| {
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
