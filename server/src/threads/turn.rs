//! Pure: how a turn may move, and by what evidence.
//!
//! `queued → dispatched → running → completed | failed | interrupted | cancelled | unknown`. Nothing but the agent's
//! word, a time-out or the end of the session moves a turn that was handed over. A final state stays, with two
//! exceptions: `unknown` says that nobody could prove what became of the turn, so later evidence counts; and what
//! the agent called failed while it went on streaming was not.

use helix_protocol::thread::{TurnCause, TurnState};

/// Code of a turn that ended with its session.
pub const STOPPED: &str = "stopped";

/// What is known to have happened to a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evidence {
    /// It is handed to the agent now, for the first time or again because the agent provably does not have it.
    HandedOver,
    /// The agent works on it.
    Progress,
    /// The agent says that it is done.
    Done,
    /// The agent says that it cannot be done.
    GivenUp,
    /// The agent says that it does not know the thread any more: nothing ran, a new thread will.
    ThreadGone,
    /// It ended because a later prompt interrupted it.
    Interrupted,
    /// The agent says that it was cancelled.
    Cancelled,
    /// It was called off, and the agent provably does not have it.
    CalledOff,
    /// Nothing was heard of it for too long.
    Silence,
    /// The session is over.
    SessionEnded,
}

impl Evidence {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::HandedOver,
        Self::Progress,
        Self::Done,
        Self::GivenUp,
        Self::ThreadGone,
        Self::Interrupted,
        Self::Cancelled,
        Self::CalledOff,
        Self::Silence,
        Self::SessionEnded,
    ];
}

/// Where a turn goes; `None` where the evidence changes nothing. `cause` is that of its state.
pub fn after(state: TurnState, cause: Option<&TurnCause>, evidence: Evidence) -> Option<TurnState> {
    use Evidence as E;
    use TurnState as S;
    match state {
        S::Queued => match evidence {
            E::HandedOver => Some(S::Dispatched),
            E::CalledOff | E::SessionEnded => Some(S::Cancelled),
            E::Progress | E::Done | E::GivenUp | E::ThreadGone | E::Interrupted | E::Cancelled | E::Silence => None,
        },
        S::Dispatched => match evidence {
            E::HandedOver => Some(S::Dispatched),
            E::Progress => Some(S::Running),
            E::ThreadGone => Some(S::Queued),
            E::CalledOff => Some(S::Cancelled),
            E::Done | E::GivenUp | E::Interrupted | E::Cancelled | E::Silence | E::SessionEnded => over(evidence),
        },
        S::Running => match evidence {
            E::HandedOver => Some(S::Dispatched),
            E::Progress => None,
            // It ran: to run it again under another thread could do the same twice.
            E::ThreadGone => Some(S::Failed),
            E::CalledOff => Some(S::Cancelled),
            E::Done | E::GivenUp | E::Interrupted | E::Cancelled | E::Silence | E::SessionEnded => over(evidence),
        },
        S::Unknown => match evidence {
            E::Progress => Some(S::Running),
            E::Done | E::GivenUp | E::Interrupted | E::Cancelled => over(evidence),
            E::HandedOver | E::ThreadGone | E::CalledOff | E::Silence | E::SessionEnded => None,
        },
        S::Failed => match evidence {
            E::Progress if by_agent(cause) => Some(S::Running),
            E::Done if by_agent(cause) => Some(S::Completed),
            E::HandedOver
            | E::Progress
            | E::Done
            | E::GivenUp
            | E::ThreadGone
            | E::Interrupted
            | E::Cancelled
            | E::CalledOff
            | E::Silence
            | E::SessionEnded => None,
        },
        S::Completed | S::Interrupted | S::Cancelled => None,
    }
}

/// How the agent's last word, or its absence, ends a turn that it has.
fn over(evidence: Evidence) -> Option<TurnState> {
    use Evidence as E;
    match evidence {
        E::Done => Some(TurnState::Completed),
        E::GivenUp | E::SessionEnded => Some(TurnState::Failed),
        E::Interrupted => Some(TurnState::Interrupted),
        E::Cancelled => Some(TurnState::Cancelled),
        E::Silence => Some(TurnState::Unknown),
        E::HandedOver | E::Progress | E::ThreadGone | E::CalledOff => None,
    }
}

/// True where the agent called it failed; false where its session ended.
fn by_agent(cause: Option<&TurnCause>) -> bool {
    cause.is_none_or(|cause| cause.code != STOPPED)
}

#[cfg(test)]
mod tests;
