//! What was looked at and what was found, for people and as JSON: `doctor`, of this machine or another, and what stands in
//! the way of `provision`.

use serde::Serialize;

use crate::error::{CliError, Result};
use crate::ui::Ui;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Something is not offered or could not be looked at; the rest works.
    Warn,
    /// Something does not work.
    Fail,
}

impl State {
    /// As people see it.
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    /// How it ended.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do next: a command where there is one.
    pub next: Option<String>,
}

impl Check {
    fn new(name: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { name, state, found: found.into(), next: None }
    }

    /// As it should be.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, State::Ok, found)
    }

    /// Not offered, or not looked at.
    pub fn warn(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, State::Warn, found)
    }

    /// It does not work.
    pub fn fail(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, State::Fail, found)
    }

    /// True for what does not work.
    pub fn is_fault(&self) -> bool {
        self.state == State::Fail
    }

    /// What an error of another command says about it.
    pub fn failed(name: &'static str, error: CliError) -> Self {
        let why = error.why.map_or_else(String::new, |why| format!(": {why}"));
        let place = error.place.map_or_else(String::new, |place| format!(" ({place})"));
        let found = format!("{}{why}{place}", error.what);
        Self { next: error.next, ..Self::fail(name, found) }
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct Report(Vec<Check>);

impl From<Vec<Check>> for Report {
    fn from(checks: Vec<Check>) -> Self {
        Self(checks)
    }
}

/// What `doctor --json` prints.
#[derive(Debug, Serialize)]
pub struct Told<'a> {
    healthy: bool,
    checks: &'a [Check],
}

impl Report {
    /// One more.
    pub fn add(&mut self, check: Check) {
        self.0.push(check);
    }

    /// Nothing failed.
    pub fn healthy(&self) -> bool {
        self.0.iter().all(|check| check.state != State::Fail)
    }

    /// Each of them.
    pub fn checks(&self) -> &[Check] {
        &self.0
    }

    /// As JSON.
    pub fn told(&self) -> Told<'_> {
        Told { healthy: self.healthy(), checks: &self.0 }
    }

    /// As lines.
    pub fn show(&self, ui: &Ui) -> Result<()> {
        ui.line(&self.text())
    }

    /// One line for each, and one for what to do.
    pub fn text(&self) -> String {
        let width = self.0.iter().map(|check| check.name.len()).max().unwrap_or_default();
        let mut lines = Vec::new();
        for check in &self.0 {
            lines.push(format!("{:<4}  {:<width$}  {}", check.state.word(), check.name, check.found));
            lines.extend(check.next.iter().map(|next| format!("{:width$}        next: {next}", "")));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_a_line_and_its_next_command_stands_below() {
        let mut report = Report::default();
        report.add(Check::ok("git", "2.39.5"));
        report.add(Check::warn("zed-binary", "not supplied").next("helixctl doctor --zed PATH"));
        assert!(report.healthy());
        let error =
            CliError::failed("cannot find nats-server").at("/x").because("there is none").next("packaging/setup.sh");
        report.add(Check::failed("nats-server", error));
        report.add(Check::failed("x", CliError::failed("it is late").at("/y")));
        assert!(!report.healthy());
        insta::assert_snapshot!(report.text(), @r"
        ok    git          2.39.5
        warn  zed-binary   not supplied
                           next: helixctl doctor --zed PATH
        FAIL  nats-server  cannot find nats-server: there is none (/x)
                           next: packaging/setup.sh
        FAIL  x            it is late (/y)
        ");
        insta::assert_json_snapshot!(report.told(), @r#"
        {
          "healthy": false,
          "checks": [
            {
              "name": "git",
              "state": "ok",
              "found": "2.39.5",
              "next": null
            },
            {
              "name": "zed-binary",
              "state": "warn",
              "found": "not supplied",
              "next": "helixctl doctor --zed PATH"
            },
            {
              "name": "nats-server",
              "state": "fail",
              "found": "cannot find nats-server: there is none (/x)",
              "next": "packaging/setup.sh"
            },
            {
              "name": "x",
              "state": "fail",
              "found": "it is late (/y)",
              "next": null
            }
          ]
        }
        "#);
    }
}
