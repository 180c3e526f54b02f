//! A unit like one of a session's, with changes: the same settings, read from systemd, through `systemd-run`.
//!
//! A replica is in no session's slice, so that limits of the session are the one protection that every control lacks.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::table::Edit;
use crate::harness::Host;

/// Settings that say how a unit is run, and not what it may do.
const NOT_COPIED: [&str; 25] = [
    "Description",
    "BindsTo",
    "After",
    "Slice",
    "Type",
    "ExecStart",
    "ExecStartEx",
    "RemainAfterExit",
    "CollectMode",
    "OOMPolicy",
    "OOMScoreAdjust",
    "LogExtraFields",
    "SyslogIdentifier",
    "StandardOutput",
    "StandardError",
    "UnsetEnvironment",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "TimeoutStartUSec",
    "TimeoutStopUSec",
    "TimeoutAbortSec",
    "KillMode",
    "Restart",
    "RestartSec",
    // Others cannot enter it, which would end them before they begin.
    "WorkingDirectory",
];

/// Settings of a unit, in order; a name may come several times.
#[derive(Debug, Clone)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Of a unit that lives.
    pub async fn of(host: &Host, unit: &str) -> Result<Self> {
        let text = host.run_ok(&format!("systemctl cat {unit}")).await?;
        let settings = text.lines().filter(|line| !line.starts_with(['#', '[', ';'])).filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            (!NOT_COPIED.contains(&name)).then(|| (name.to_owned(), value.to_owned()))
        });
        let settings = Self(settings.collect());
        for needed in ["User", "PrivateUsers", "BindPaths", "SystemCallFilter", "TemporaryFileSystem"] {
            ensure!(settings.get(needed).next().is_some(), "{unit} has no {needed}:\n{text}");
        }
        Ok(settings)
    }

    fn get<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// With changes. One that changes nothing is an error: the control would not lack what it claims to lack.
    pub fn edited(&self, edits: &[Edit], victim: &Self, known: &BTreeMap<String, String>) -> Result<Self> {
        let mut settings = self.clone();
        for edit in edits {
            let before = settings.0.clone();
            match *edit {
                Edit::Drop(name) => settings.0.retain(|(other, _)| other != name),
                Edit::Set(name, value) => {
                    settings.0.retain(|(other, _)| other != name);
                    settings.0.push((name.to_owned(), filled(value, known)?));
                }
                Edit::Omit(name, end) => {
                    let goes = |word: &&str| {
                        let plain = word.trim_end_matches(":norbind").trim_end_matches(":rbind");
                        plain.ends_with(end)
                    };
                    for (_, value) in settings.0.iter_mut().filter(|(other, _)| other == name) {
                        *value = value.split(' ').filter(|word| !goes(word)).collect::<Vec<_>>().join(" ");
                    }
                    // Empty, it would take back the other lines of the same setting.
                    settings.0.retain(|(other, value)| other != name || !value.is_empty());
                }
                Edit::Victims(name) => {
                    settings.0.retain(|(other, _)| other != name);
                    settings.0.extend(victim.get(name).map(|value| (name.to_owned(), value.to_owned())));
                }
            }
            ensure!(before != settings.0, "{edit:?} changes nothing of {before:#?}");
        }
        Ok(settings)
    }

    /// `systemd-run` with these settings and this environment; the rest of the command line is the caller's.
    pub fn command(&self, more: &str, environment: &BTreeMap<String, String>, program: &str) -> String {
        let mut line = format!("systemd-run --quiet --collect -p RuntimeMaxSec=60 {more}");
        for (name, value) in &self.0 {
            line = format!("{line} -p {}", quoted(&format!("{name}={value}")));
        }
        for (name, value) in environment {
            line = format!("{line} -E {}", quoted(&format!("{name}={value}")));
        }
        format!("{line} /usr/bin/python3 /opt/attacks/{program}")
    }
}

/// A word for a shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// With what is known in place of `{NAME}`.
pub fn filled(text: &str, known: &BTreeMap<String, String>) -> Result<String> {
    let mut parts = text.split('{');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').with_context(|| format!("{text}: no closing bracket"))?;
        filled.push_str(known.get(name).with_context(|| format!("{text}: nobody knows {name}"))?);
        filled.push_str(rest);
    }
    Ok(filled)
}
