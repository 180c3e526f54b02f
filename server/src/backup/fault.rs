//! Why a backup was not made or not restored: what, where, why, and what to do next. The kind is the exit code.

use std::fmt;

/// As helixctl's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It did not succeed.
    Failed,
    /// The file, or the command line, is not what is needed.
    Usage,
    /// NATS cannot be reached.
    Unreachable,
    /// Something has to be decided first.
    Refused,
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Refused => 4,
        }
    }
}

/// A command that did not succeed.
#[derive(Debug)]
pub struct Fault {
    /// Exit code.
    pub kind: Kind,
    what: String,
    place: Option<String>,
    why: Option<String>,
    next: Option<String>,
}

impl Fault {
    /// One that has no place and no next step of its own.
    pub fn of(error: &anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }

    pub(super) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), place: None, why: None, next: None }
    }

    pub(super) fn failed(what: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what)
    }

    pub(super) fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    pub(super) fn because(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    pub(super) fn next(mut self, next: impl fmt::Display) -> Self {
        self.next = Some(next.to_string());
        self
    }
}

/// As helixctl prints its own.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        for (label, text) in [("where:", &self.place), ("why:", &self.why), ("next:", &self.next)] {
            let Some(text) = text else { continue };
            for (number, line) in text.lines().enumerate() {
                write!(f, "\n  {:<6} {line}", if number == 0 { label } else { "" })?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
