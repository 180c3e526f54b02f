//! The life of a session as a table: pure, no clock, no I/O.
//!
//! The one rule it keeps: nothing ends without passing [`State::Stopping`], where everything of the session is killed
//! and that is proved. A session whose units never started passes it too: between an order and its first unit agentd
//! may have died, so nobody can say that nothing runs.

use helix_protocol::session::SessionPhase;
use serde::{Deserialize, Serialize};

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As wanted: by order, by time-out, by its agent's own end.
    Stopped,
    /// By a fault.
    Failed,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Ordered; units are being started.
    Starting,
    /// Desktop and agent are up.
    Ready,
    /// Being killed; ends as the outcome says.
    Stopping(Outcome),
    /// Nothing of it runs.
    Ended(Outcome),
}

/// What can happen to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The last start step is done.
    AgentReady,
    /// It shall end, or cannot go on.
    End(Outcome),
    /// Proved: no process of it is left.
    NothingRuns,
}

impl State {
    /// The state after `event`; None where the event means nothing here (it came too late).
    pub fn after(self, event: Event) -> Option<Self> {
        match (self, event) {
            (Self::Starting, Event::AgentReady) => Some(Self::Ready),
            (Self::Starting | Self::Ready, Event::End(outcome)) => Some(Self::Stopping(outcome)),
            // A fault while stopping (something cannot be killed) makes it a failure; an order does not heal one.
            (Self::Stopping(first), Event::End(second)) => Some(Self::Stopping(first.max(second))),
            (Self::Stopping(outcome), Event::NothingRuns) => Some(Self::Ended(outcome)),
            (Self::Starting | Self::Ready, Event::NothingRuns)
            | (Self::Ready | Self::Stopping(_), Event::AgentReady)
            | (Self::Ended(_), Event::AgentReady | Event::End(_) | Event::NothingRuns) => None,
        }
    }

    /// The word in reports.
    pub fn phase(self) -> SessionPhase {
        match self {
            Self::Starting => SessionPhase::Starting,
            Self::Ready => SessionPhase::Ready,
            Self::Stopping(_) => SessionPhase::Stopping,
            Self::Ended(Outcome::Stopped) => SessionPhase::Stopped,
            Self::Ended(Outcome::Failed) => SessionPhase::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OUTCOMES: [Outcome; 2] = [Outcome::Stopped, Outcome::Failed];

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::AgentReady),
            prop::sample::select(&OUTCOMES[..]).prop_map(Event::End),
            Just(Event::NothingRuns),
        ]
    }

    #[test]
    fn the_plain_life() {
        let path = [Event::AgentReady, Event::End(Outcome::Stopped), Event::NothingRuns];
        let phases: Vec<_> = path
            .iter()
            .scan(State::Starting, |state, event| {
                *state = state.after(*event)?;
                Some(state.phase())
            })
            .collect();
        assert_eq!(phases, [SessionPhase::Ready, SessionPhase::Stopping, SessionPhase::Stopped]);
    }

    #[test]
    fn a_fault_is_not_healed_by_an_order() {
        let failing = State::Stopping(Outcome::Failed);
        assert_eq!(failing.after(Event::End(Outcome::Stopped)), Some(failing));
        let stopping = State::Stopping(Outcome::Stopped);
        assert_eq!(stopping.after(Event::End(Outcome::Failed)), Some(failing));
    }

    proptest! {
        #[test]
        fn no_path_skips_stopping(events in prop::collection::vec(event(), 0..40)) {
            let mut state = State::Starting;
            for event in events {
                let Some(next) = state.after(event) else { continue };
                if let State::Ended(outcome) = next {
                    prop_assert_eq!(state, State::Stopping(outcome), "ended from {:?}", state);
                }
                prop_assert!(!matches!((state, next), (State::Ended(_), _)), "left the end");
                state = next;
            }
        }
    }
}
