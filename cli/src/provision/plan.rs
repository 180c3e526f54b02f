//! What would change on a host: the exact list, empty when nothing is to change. Pure.

use serde::Serialize;

use super::facts::Facts;
use super::wanted::WantedFile;

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChange {
    /// It is not there.
    New,
    /// It is another one.
    Content,
    /// Its permissions are others.
    Mode,
}

/// What would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packages that are installed.
    pub packages: Vec<String>,
    /// Files that are put.
    pub files: Vec<(WantedFile, FileChange)>,
    /// The signing key is pinned: the host has none yet.
    pub pin: bool,
    /// It enrols, with a token that is made for it.
    pub enrol: bool,
    /// agentd is started, and at every boot.
    pub start: bool,
}

/// A change for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// `package`, `file`, `key`, `enrol`, `service`.
    pub what: &'static str,
    /// Which.
    pub name: String,
    /// How.
    pub how: &'static str,
}

/// Compares. `known` says that the server knows the runner.
pub fn plan(facts: &Facts, wanted: Vec<WantedFile>, known: bool, leave_packages: bool) -> Plan {
    let files = wanted.into_iter().filter_map(|file| {
        let change = match facts.files.get(&file.path) {
            None => FileChange::New,
            Some(fact) if fact.sha256 != file.sha256 => FileChange::Content,
            Some(fact) if fact.mode != file.mode => FileChange::Mode,
            Some(_) => return None,
        };
        Some((file, change))
    });
    Plan {
        packages: if leave_packages { Vec::new() } else { facts.missing_packages.clone() },
        files: files.collect(),
        pin: facts.signer.is_none(),
        // agentd wants the file to be there, spent or not.
        enrol: facts.enrolled.is_none() || !known || !facts.files.contains_key(super::wanted::TOKEN),
        start: !facts.unit.enabled || !facts.unit.is_active(),
    }
}

impl Plan {
    /// Nothing would change.
    pub fn is_empty(&self) -> bool {
        let Self { packages, files, pin, enrol, start } = self;
        packages.is_empty() && files.is_empty() && !pin && !enrol && !start
    }

    /// What is left once the packages are there.
    #[must_use]
    pub fn without_packages(&self) -> Self {
        Self { packages: Vec::new(), ..self.clone() }
    }

    /// The changes, in the order in which they are made.
    pub fn lines(&self) -> Vec<Line> {
        let packages = self.packages.iter().map(|name| Line { what: "package", name: name.clone(), how: "install" });
        let mut lines: Vec<_> = packages.collect();
        if self.pin {
            lines.push(Line { what: "key", name: super::signing::ALLOWED_SIGNERS.to_owned(), how: "pin" });
        }
        lines.extend(self.files.iter().map(|(file, change)| {
            let how = match change {
                FileChange::New => "new",
                FileChange::Content => "change",
                FileChange::Mode => "mode",
            };
            Line { what: "file", name: file.path.clone(), how }
        }));
        if self.enrol {
            lines.push(Line { what: "enrol", name: "agentd".to_owned(), how: "with a token of its own" });
        }
        if self.start {
            lines.push(Line { what: "service", name: "agentd.service".to_owned(), how: "enable and start" });
        } else if !self.files.is_empty() {
            lines.push(Line { what: "service", name: "agentd.service".to_owned(), how: "restart" });
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{agentd, good, settings};
    use super::super::facts::{FileFact, Unit};
    use super::super::wanted;
    use super::*;

    /// Makes one difference.
    type Spoil = fn(&mut Facts);

    fn provisioned() -> Facts {
        let files = wanted::files(&agentd(), &settings()).into_iter();
        let files = files.chain([wanted::token_file("spent")]);
        let files = files.map(|file| (file.path, FileFact { sha256: file.sha256, mode: file.mode })).collect();
        let (signer, enrolled) = (Some("ssh-ed25519 AAAA".to_owned()), Some("r1".to_owned()));
        let unit = Unit { loaded: true, enabled: true, active: "active".to_owned(), ..Unit::default() };
        Facts { files, signer, unit, enrolled, ..good() }
    }

    fn of(facts: &Facts, known: bool) -> Plan {
        plan(facts, wanted::files(&agentd(), &settings()), known, false)
    }

    #[test]
    fn a_bare_host_gets_everything_and_a_provisioned_one_nothing() {
        let bare = of(&good(), false);
        assert_eq!(bare.files.len(), wanted::files(&agentd(), &settings()).len());
        assert!(bare.pin && bare.enrol && bare.start);
        let done = of(&provisioned(), true);
        assert!(done.is_empty() && done.lines().is_empty(), "{:?}", done.lines());
    }

    #[test]
    fn each_difference_is_one_line() {
        let lines = |change: fn(&mut Facts), known| {
            let mut facts = provisioned();
            change(&mut facts);
            of(&facts, known)
                .lines()
                .into_iter()
                .map(|line| format!("{} {} {}", line.what, line.name, line.how))
                .collect()
        };
        let restart = "service agentd.service restart";
        let cases: [(Spoil, bool, Vec<&str>); 6] = [
            (|facts| drop(facts.files.remove("/usr/bin/agentd")), true, vec!["file /usr/bin/agentd new", restart]),
            (
                |facts| facts.files.get_mut("/etc/helix/agentd.toml").expect("there").mode = 0o644,
                true,
                vec!["file /etc/helix/agentd.toml mode", restart],
            ),
            (|facts| facts.unit.active = "failed".to_owned(), true, vec!["service agentd.service enable and start"]),
            (|_| {}, false, vec!["enrol agentd with a token of its own"]),
            (|facts| facts.missing_packages.push("xrdp".to_owned()), true, vec!["package xrdp install"]),
            (|facts| facts.signer = None, true, vec!["key /etc/helix/allowed_signers pin"]),
        ];
        for (change, known, expected) in cases {
            let found: Vec<String> = lines(change, known);
            assert_eq!(found, expected);
        }
    }
}
