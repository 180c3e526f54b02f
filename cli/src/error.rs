//! The one error of the CLI. Its [`Kind`] is the exit code; its text says what failed, where, why, and what to do next.

use std::fmt;

use helix_protocol::ErrorCode;
use serde::{Deserialize, Serialize};

/// What went wrong, as a class: the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The command was understood and did not succeed.
    Failed,
    /// The command line or a settings file is wrong.
    Usage,
    /// The server, or what it needs to answer, cannot be reached.
    Unreachable,
    /// The token is missing, not valid, or does not allow it.
    Refused,
    /// What was waited for did not come in time.
    TimedOut,
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Refused => 4,
            Self::TimedOut => 5,
        }
    }
}

/// A command that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CliError {
    /// Class: fixes the exit code.
    pub kind: Kind,
    /// What was to be done.
    pub what: String,
    /// Where: a URL, a file, a process.
    pub place: Option<String>,
    /// Why it was not done.
    pub why: Option<String>,
    /// What to do next: a command where there is one.
    pub next: Option<String>,
    /// The server's own code, where a server refused.
    pub code: Option<ErrorCode>,
}

/// Result of a command.
pub type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// An error of any kind.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), place: None, why: None, next: None, code: None }
    }

    /// An error of kind [`Kind::Failed`].
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what)
    }

    /// The same, with the place.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    /// The same, with the reason.
    #[must_use]
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn next(mut self, next: impl fmt::Display) -> Self {
        self.next = Some(next.to_string());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        for (label, text) in [("where", &self.place), ("why", &self.why), ("next", &self.next)] {
            let Some(text) = text else { continue };
            for (number, line) in text.lines().enumerate() {
                let head = if number == 0 { format!("{label}:") } else { String::new() };
                write!(f, "\n  {head:<6} {line}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for CliError {}

/// The chain of an error's causes in one line, which `Display` of most errors leaves out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors print their source themselves.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_why_and_next() {
        let error = CliError::new(Kind::Unreachable, "cannot list sessions")
            .at("http://127.0.0.1:8080/api/v1/sessions")
            .because("connection refused\nby the machine")
            .next("helixctl up");
        insta::assert_snapshot!(error, @r"
        error: cannot list sessions
          where: http://127.0.0.1:8080/api/v1/sessions
          why:   connection refused
                 by the machine
          next:  helixctl up
        ");
        assert_eq!(error.kind.exit_code(), 3);
    }

    #[test]
    fn parts_that_are_unknown_are_left_out() {
        insta::assert_snapshot!(CliError::failed("it did not work"), @"error: it did not work");
    }
}
