//! Logs: to journald where it is what reads our output, to stderr otherwise.
//!
//! Fields follow the journal's form: `HELIX_RUNNER` on every entry, `HELIX_SESSION` on the entries of a session's
//! span, so that `journalctl HELIX_SESSION=…` shows one session.
//! Each names its service itself: journald looks that up when it takes an entry, and finds nothing once the writer has
//! ended, so that a service's last words would be missing from `journalctl -u`.

use std::io::IsTerminal as _;
use std::os::fd::AsFd;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Config;

/// Installs the subscriber. Call once, after the settings are read.
pub fn init(config: &Config) -> anyhow::Result<()> {
    let registry = tracing_subscriber::registry().with(filter(&config.log_level)?);
    let journal = is_journal(&std::io::stderr()).then(|| tracing_journald::layer().ok()).flatten();
    if let Some(layer) = journal {
        let unit = own_unit();
        // Believed of root; `journalctl -u` looks for it (systemd.journal-fields(7)).
        let unit = unit.iter().map(|unit| ("OBJECT_SYSTEMD_UNIT", unit.as_str()));
        let fields = [("HELIX_RUNNER", config.runner.as_str())].into_iter().chain(unit);
        registry.with(layer.with_field_prefix(None).with_custom_fields(fields)).try_init()?;
    } else {
        let ansi = std::io::stderr().is_terminal();
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false);
        registry.with(layer).try_init()?;
    }
    Ok(())
}

/// Whether this goes to the journal: systemd names that stream's device and inode. The variable alone says nothing, it
/// is inherited by processes whose output goes elsewhere, where entries in the journal would be missed.
fn is_journal(output: &impl AsFd) -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(output).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The service in whose cgroup this process is.
fn own_unit() -> Option<String> {
    unit_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// Of lines `0::/path` (cgroups(7)): their innermost service.
fn unit_of(cgroups: &str) -> Option<String> {
    let mut names = cgroups.lines().filter_map(|line| line.rsplit('/').find(|name| name.ends_with(".service")));
    names.next().map(str::to_owned)
}

/// A level for everything of ours, or a whole filter (`helix_agentd=debug,info`).
pub(crate) fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    // A level is ours; libraries only warn. The NATS client tells every connection event, and every refused attempt as
    // an error; the link says the same with its meaning.
    let whole = level.contains(['=', ',']);
    let text = if whole { level.to_owned() } else { format!("warn,async_nats=off,helix_agentd={level}") };
    EnvFilter::builder().parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_knows_its_name() {
        for (cgroups, unit) in [
            ("0::/agentd.slice/agentd-hold@agentd.service\n", Some("agentd-hold@agentd.service")),
            ("1:name=systemd:/agentd.slice/agentd.service/agentd\n0::/\n", Some("agentd.service")),
            ("0::/user.slice/user-0.slice/session-3.scope\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroups).as_deref(), unit, "{cgroups}");
        }
    }
}
