//! A session's own `input` as the first turn of its first thread.
//!
//! Whoever creates a session appends it; where a crash came between, the owner of its sync socket does. The ids are
//! derived, so both write the same, and what is there already stays.

use helix_protocol::ids::hex;
use helix_protocol::record::SessionRecord;
use helix_protocol::thread::{Origin, ThreadEvent};
use helix_protocol::{ErrorCode, SessionId, ThreadId, TurnId};
use sha2::{Digest as _, Sha256};

use super::log::Log;
use crate::error::{Error, Result};

/// How often it is tried again after another writer was faster.
const MAX_TRIES: usize = 5;

/// A thread with one turn, as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct InitialTurn {
    /// Session in whose log it is: the one with the desktop.
    pub session: SessionId,
    /// The thread.
    pub thread: ThreadId,
    /// Its first turn.
    pub turn: TurnId,
    /// `ThreadStarted`, then `TurnQueued`.
    pub events: [ThreadEvent; 2],
}

/// The first turn of a session that was asked for with this input.
pub fn initial_turn(session: &SessionId, input: &str) -> Result<InitialTurn> {
    initial(session, None, input, None)
}

/// The same for a stored session, in the log of its desktop; `None` where it has no input.
pub fn initial_turn_of(record: &SessionRecord) -> Result<Option<InitialTurn>> {
    let Some(input) = record.spec.input.as_deref().filter(|input| !input.trim().is_empty()) else { return Ok(None) };
    initial(&record.id, record.desktop_of.as_ref(), input, Some(&record.owner)).map(Some)
}

fn initial(session: &SessionId, desktop: Option<&SessionId>, input: &str, by: Option<&str>) -> Result<InitialTurn> {
    let impossible = |error| Error::new(ErrorCode::Internal, "a derived id is not valid").because(error);
    let thread = ThreadId::parse(derived("thr", session)).map_err(impossible)?;
    let turn = TurnId::parse(derived("int", session)).map_err(impossible)?;
    let by = by.map(str::to_owned);
    let started = ThreadEvent::ThreadStarted {
        origin: Origin::Input,
        by: by.clone(),
        agent: None,
        title: None,
        work_session: desktop.map(|_| session.clone()),
    };
    let queued = ThreadEvent::TurnQueued {
        turn: turn.clone(),
        origin: Origin::Input,
        by,
        prompt: input.to_owned(),
        interrupt: false,
        attachments: Vec::new(),
        resend_of: None,
    };
    Ok(InitialTurn { session: desktop.unwrap_or(session).clone(), thread, turn, events: [started, queued] })
}

fn derived(prefix: &str, session: &SessionId) -> String {
    let digest = Sha256::digest(format!("{prefix}\0{session}\0input"));
    format!("{prefix}_{}", hex(&digest[..12]))
}

impl InitialTurn {
    /// Appends what is missing of it. Durable when this returns; the same again changes nothing.
    pub async fn append_missing(&self, log: &Log) -> Result<()> {
        let [started, queued] = &self.events;
        // Nearly always it is new: then nothing needs to be read.
        let mut last = match log.append(&self.session, &self.thread, started, 0).await {
            Ok(sequence) => Some(sequence),
            Err(error) if error.code == ErrorCode::Conflict => None,
            Err(error) => return Err(error),
        };
        for _ in 0..MAX_TRIES {
            let expected = if let Some(sequence) = last.take() {
                sequence
            } else {
                let stored = log.read(&self.session, Some(&self.thread)).await?;
                if stored.turn(&self.turn).is_some() {
                    return Ok(());
                }
                stored.sequence_of(&self.thread)
            };
            match log.append(&self.session, &self.thread, queued, expected).await {
                Err(error) if error.code == ErrorCode::Conflict => {}
                other => return other.map(|_| ()),
            }
        }
        let detail = format!("thread {} of session {} changes too fast; repeat the request", self.thread, self.session);
        Err(Error::new(ErrorCode::Conflict, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_session_has_the_same_ids_and_another_has_others() {
        let [one, two] = ["one", "two"].map(|id| SessionId::parse(id).expect("valid id"));
        let first = initial_turn(&one, "make").expect("a turn");
        assert_eq!(first, initial_turn(&one, "make").expect("a turn"));
        assert_eq!((first.thread.as_str().len(), first.turn.as_str().len()), (28, 28));
        let second = initial_turn(&two, "make").expect("a turn");
        assert!(first.thread != second.thread && first.turn != second.turn);
    }
}
