//! Logs: to journald where it is what reads our output, to stderr otherwise.
//!
//! Fields follow the journal's form: `HELIX_RUNNER` on every entry, `HELIX_SESSION` on the entries of a session's
//! span, so that `journalctl HELIX_SESSION=…` shows one session.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Config;

/// Installs the subscriber. Call once, after the settings are read.
pub fn init(config: &Config) -> anyhow::Result<()> {
    let registry = tracing_subscriber::registry().with(filter(&config.log_level)?);
    // systemd sets JOURNAL_STREAM for services whose output goes to the journal; elsewhere entries that went to a
    // journal would be missing where people look.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    if let Some(layer) = journal {
        let fields = [("HELIX_RUNNER", config.runner.as_str())];
        registry.with(layer.with_field_prefix(None).with_custom_fields(fields)).try_init()?;
    } else {
        let ansi = std::io::stderr().is_terminal();
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false);
        registry.with(layer).try_init()?;
    }
    Ok(())
}

/// A level for everything of ours, or a whole filter (`helix_agentd=debug,info`).
pub(crate) fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    // A level is ours; libraries only warn. The NATS client tells every connection event, and every refused attempt as
    // an error; the link says the same with its meaning.
    let whole = level.contains(['=', ',']);
    let text = if whole { level.to_owned() } else { format!("warn,async_nats=off,helix_agentd={level}") };
    EnvFilter::builder().parse(text)
}
