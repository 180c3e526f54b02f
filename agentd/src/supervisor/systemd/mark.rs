//! Whose a slice is: its description, which systemd keeps for it and which is read where no file is left.
//!
//! Two runners on one machine never take each other's slices: the runner's id and state directory are part of it.

use std::path::Path;

use helix_protocol::{RunnerId, SessionId};

use super::layout::Layout;

/// The runner's end of every description.
#[derive(Debug, Clone)]
pub struct Mark {
    tail: String,
}

/// What a description says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Whose slice it is.
    pub session: SessionId,
    /// Number of its slot user.
    pub slot: u32,
}

impl Mark {
    /// Of the runner with this state directory.
    pub fn new(runner: &RunnerId, state_dir: &Path) -> Self {
        Self { tail: format!(", runner {runner}, state {}", state_dir.display()) }
    }

    /// Description of a session's slice.
    pub fn describe(&self, session: &SessionId, slot: u32) -> String {
        format!("Helix session {session}, slot {slot}{}", self.tail)
    }

    /// True for the description that systemd gives to a slice that nobody described: somebody started it by hand.
    pub fn is_unmarked(description: &str, layout: &Layout) -> bool {
        !description.starts_with("Helix session ") && description.contains(layout.key())
    }

    /// Reads a description; None where it is another runner's.
    pub fn read(&self, description: &str) -> Option<Marked> {
        let own = description.strip_suffix(&self.tail)?.strip_prefix("Helix session ")?;
        let (session, slot) = own.split_once(", slot ")?;
        Some(Marked { session: SessionId::parse(session).ok()?, slot: slot.parse().ok()? })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn a_runner_knows_its_own_slices_only() {
        let (session, runner) = (SessionId::parse("s1").unwrap(), RunnerId::parse("r1").unwrap());
        let own = Mark::new(&runner, Path::new("/var/lib/helix"));
        let text = own.describe(&session, 7);
        assert_eq!(own.read(&text), Some(Marked { session, slot: 7 }));
        assert_eq!(Mark::new(&runner, Path::new("/var/lib/helix-2")).read(&text), None);
        assert_eq!(own.read("helix-s0123456789abcdef.slice"), None);
    }
}
