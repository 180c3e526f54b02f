//! Why a session is as it is: causes with the last lines of the unit that they are about.

use helix_protocol::session::Cause;

use super::{Ending, Exit, LOG_TAIL_LINES, OUT_OF_MEMORY, Session};
use crate::supervisor::{Supervisor, UnitName};

impl<S: Supervisor> Session<S> {
    pub(super) async fn display_died(&self, exit: Exit) -> Ending {
        let message = format!("the display ended ({exit})");
        self.cause(exit.code_or("display_died"), message, UnitName::Display).await.into()
    }

    /// A process of the session was killed at its memory limit: told at once, though the session may well go on.
    pub(super) fn note_out_of_memory(&self) {
        let limit = self.entry().limits.as_ref().and_then(|limits| limits.resources.memory);
        let limit = limit.map_or_else(|| "its memory limit".to_owned(), |limit| format!("its memory limit of {limit}"));
        let message = format!(
            "a process was killed because the session had used up {limit}; \
             give it more: helixctl session limit {} --memory SIZE",
            self.id()
        );
        tracing::warn!(message, "out of memory");
        self.note_cause(Cause::new(OUT_OF_MEMORY, message));
    }

    /// Tells a cause of a session that goes on, once.
    pub(super) fn note_cause(&self, cause: Cause) {
        if self.entry().cause.as_ref() != Some(&cause) {
            self.change(|entry| entry.cause = Some(cause));
        }
    }

    /// A cause with the last lines of the unit that it is about.
    pub(super) async fn cause(&self, code: &str, message: impl Into<String>, unit: UnitName) -> Cause {
        let mut cause = Cause::new(code, message);
        cause.unit = Some(unit.as_str().to_owned());
        match self.context.supervisor.logs(&self.id(), Some(unit), LOG_TAIL_LINES).await {
            Ok(lines) => cause.log_tail = lines.into_iter().map(|line| line.text).collect(),
            Err(error) => tracing::warn!("cannot read the log of a unit: {error}"),
        }
        cause
    }
}
