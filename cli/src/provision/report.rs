//! What became of each host, for people and programs, and of the run: its exit code is the worst host's.

use serde::Serialize;

use super::plan::Line;
use crate::checks::Check;
use crate::error::{CliError, Kind, Result};
use crate::ui::{HostLine, Ui};

/// How a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was as wanted.
    Unchanged,
    /// It was only looked at, and something would change.
    WouldChange,
    /// It was changed, and is proved to work.
    Changed,
    /// Something stands in the way, or somebody refuses; nothing was changed.
    Refused,
    /// It was changed back: it is as it was before.
    Reverted,
    /// The change stays or nothing was begun; the error says which.
    Failed,
    /// Too many before it had failed.
    NotBegun,
}

impl Outcome {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::WouldChange => "would change",
            Self::Changed => "changed",
            Self::Refused => "refused",
            Self::Reverted => "reverted",
            Self::Failed => "failed",
            Self::NotBegun => "not begun",
        }
    }
}

/// What became of one host.
#[derive(Debug, Serialize)]
pub struct HostReport {
    /// As it was named.
    pub host: String,
    /// Its runner, once that is known.
    pub runner: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Version of agentd there, as the server hears it.
    pub version: Option<String>,
    /// The same before.
    pub version_before: Option<String>,
    /// What was changed, or would be.
    pub changes: Vec<Line>,
    /// What was noticed.
    pub findings: Vec<Check>,
    /// Times that an answer of the host's shell was waited for.
    pub round_trips: u32,
    /// From a session's creation to its first frame, where that was tried.
    pub first_frame_ms: Option<u64>,
    /// In all.
    pub took_ms: u64,
    /// Differences of text files, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diffs: Vec<String>,
    /// Why it did not succeed.
    pub error: Option<CliError>,
}

/// What became of all.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// In the order in which they were named.
    pub hosts: Vec<HostReport>,
}

impl HostReport {
    /// Nothing is known yet.
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            runner: None,
            version: None,
            version_before: None,
            outcome: Outcome::Failed,
            changes: Vec::new(),
            findings: Vec::new(),
            round_trips: 0,
            first_frame_ms: None,
            took_ms: 0,
            diffs: Vec::new(),
            error: None,
        }
    }

    /// Puts the end on its line.
    pub fn tell(&self, line: &HostLine) {
        line.end(&match &self.error {
            Some(error) => format!("{}: {}", self.outcome.word(), error.what),
            None => format!("{} ({} changes)", self.outcome.word(), self.changes.len()),
        });
    }
}

impl RunReport {
    /// The exit code: of the hosts that failed the one that most needs somebody.
    pub fn exit_code(&self) -> u8 {
        worst(self.hosts.iter().filter_map(|host| host.error.as_ref().map(|error| error.kind)))
    }

    /// For people: each host's words, then one table.
    pub fn print(&self, ui: &Ui) -> Result<()> {
        for host in &self.hosts {
            for diff in &host.diffs {
                ui.raw(diff.as_bytes())?;
            }
            // What fails is in the error.
            for check in host.findings.iter().filter(|check| !check.is_fault() || host.error.is_none()) {
                let next = check.next.as_ref().map_or_else(String::new, |next| format!("; {next}"));
                ui.warn(&format!("{}: {}{next}", host.host, check.found));
            }
            if let Some(error) = &host.error {
                ui.error(error);
            }
        }
        let rows: Vec<_> = self.hosts.iter().map(row).collect();
        ui.table(&["host", "runner", "outcome", "version", "changes", "round trips", "first frame", "took"], &rows)
    }
}

fn row(host: &HostReport) -> Vec<String> {
    let ms = |ms: u64| crate::ui::span(std::time::Duration::from_millis(ms));
    vec![
        host.host.clone(),
        host.runner.clone().unwrap_or_default(),
        host.outcome.word().to_owned(),
        versions(host),
        host.changes.len().to_string(),
        host.round_trips.to_string(),
        host.first_frame_ms.map(ms).unwrap_or_default(),
        ms(host.took_ms),
    ]
}

fn versions(host: &HostReport) -> String {
    match (&host.version_before, &host.version) {
        (Some(before), Some(now)) if before != now => format!("{before} to {now}"),
        (_, now) => now.clone().unwrap_or_default(),
    }
}

/// The exit code of many hosts.
pub fn worst(kinds: impl Iterator<Item = Kind>) -> u8 {
    kinds.max_by_key(|kind| weight(*kind)).map_or(0, Kind::exit_code)
}

/// A host that was touched and does not work comes before one that was never reached.
fn weight(kind: Kind) -> u8 {
    match kind {
        Kind::Failed => 5,
        Kind::TimedOut => 4,
        Kind::Refused => 3,
        Kind::Unreachable => 2,
        Kind::Usage => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(kind: Option<Kind>) -> HostReport {
        HostReport { error: kind.map(|kind| CliError::new(kind, "it failed")), ..HostReport::new("box") }
    }

    #[test]
    fn the_worst_host_is_the_exit_code() {
        let code = |kinds: &[Option<Kind>]| RunReport { hosts: kinds.iter().copied().map(ended).collect() }.exit_code();
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&[None, None]), 0);
        assert_eq!(code(&[None, Some(Kind::Unreachable)]), 3);
        assert_eq!(code(&[Some(Kind::Unreachable), Some(Kind::Failed), Some(Kind::Refused)]), 1);
    }
}
