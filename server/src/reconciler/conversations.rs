//! Conversations of sessions that have ended: nothing in them is left open.
//!
//! A task of the leader. What an agent had is failed, what waited is cancelled, each with the cause `stopped`, and the
//! session's log gets a last word, by which the next leader knows without reading it. Looked at twice, some moments
//! apart: a prompt may have been accepted while the session ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use helix_protocol::record::SessionRecord;
use helix_protocol::thread::{SESSION_THREAD, ThreadEvent, TurnCause, TurnState};
use helix_protocol::{ErrorCode, SessionId, ThreadId};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{PASS_INTERVAL, RETRY, Reconciler};
use crate::error::Result;
use crate::sessions::view::has_ended;
use crate::threads::model::{Conversation, Thread, Turn};
use crate::threads::turn::{Evidence, STOPPED, after};

/// Between the two looks.
const SECOND_LOOK: Duration = Duration::from_secs(10);
/// Word of an ended session's log.
const ENDED: &str = "ended";

/// Sessions that were looked at, by their record's epoch.
type Looked = HashMap<SessionId, (helix_protocol::Epoch, Look)>;

#[derive(Clone, Copy)]
enum Look {
    /// Once, then.
    Once(Instant),
    /// Often enough.
    Done,
}

impl Reconciler {
    pub(super) async fn close_conversations(self, mut leading: watch::Receiver<Option<Instant>>) {
        let (mut sessions, mut observed) = (self.store.sessions.view().changes(), self.store.observed.view().changes());
        let mut health = self.bus.health();
        let mut looked = Looked::new();
        loop {
            if leading.wait_for(Option::is_some).await.is_err() {
                return;
            }
            let Ok(up) = health.wait_for(|health| health.up_since.is_some()).await.map(|health| *health) else {
                return;
            };
            self.store.synced(up.generation).await;
            sessions.borrow_and_update();
            observed.borrow_and_update();
            let mut pause = PASS_INTERVAL;
            for record in self.to_look_at(&mut looked) {
                let was_closed = match self.close(&record).await {
                    Ok(was_closed) => was_closed,
                    Err(error) => {
                        tracing::debug!(session.id = %record.id, "a conversation is not closed yet: {error}");
                        pause = RETRY;
                        continue;
                    }
                };
                let again = looked.get(&record.id).is_some_and(|(epoch, _)| *epoch == record.epoch);
                let look = if again || was_closed { Look::Done } else { Look::Once(Instant::now()) };
                looked.insert(record.id.clone(), (record.epoch, look));
            }
            // Every arm is cancel safe: watches and a timer.
            let woken = tokio::select! {
                woken = sessions.changed() => woken,
                woken = observed.changed() => woken,
                woken = leading.changed() => woken,
                () = tokio::time::sleep(pause) => Ok(()),
            };
            if woken.is_err() {
                return;
            }
        }
    }

    fn to_look_at(&self, looked: &mut Looked) -> Vec<Arc<SessionRecord>> {
        let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
        looked.retain(|id, _| sessions.get(id.as_str()).is_some());
        let due = |record: &SessionRecord| match looked.get(&record.id) {
            Some((epoch, look)) if *epoch == record.epoch => {
                matches!(look, Look::Once(at) if at.elapsed() >= SECOND_LOOK)
            }
            _ => true,
        };
        let ended = sessions.iter().map(|(_, entry)| &entry.value).filter(|record| has_ended(record, &observed));
        ended.filter(|record| due(record)).map(Arc::clone).collect()
    }

    /// True where it was closed before.
    async fn close(&self, record: &SessionRecord) -> Result<bool> {
        let session = record.desktop_of.as_ref().unwrap_or(&record.id);
        let is_name = record.desktop_of.is_some();
        let _last_words = self.last_words.lock().await;
        if self.store.sessions.get(session.as_str()).await?.found().is_none() {
            // Removed meanwhile, with all that was said.
            return Ok(true);
        }
        match self.threads.hub.log().last(session).await? {
            None => return Ok(false),
            Some((_, Some(last))) if matches!(&last.event, ThreadEvent::Sync { state, .. } if state == ENDED) => {
                return Ok(true);
            }
            Some(_) => {}
        }
        let conversation = self.threads.hub.log().read(session, None).await?;
        for thread in conversation.threads() {
            // Of a session that is another name of a desktop, only its own threads end, and what runs goes on.
            if !is_name || thread.work_session.as_ref() == Some(&record.id) {
                self.close_thread(session, thread, is_name).await?;
            }
        }
        if !is_name {
            self.say_ended(session, &conversation).await?;
        }
        Ok(false)
    }

    async fn close_thread(&self, session: &SessionId, thread: &Thread, only_waiting: bool) -> Result<()> {
        let mut expected = thread.sequence;
        let open = |turn: &&Turn| !turn.state.is_final() && (!only_waiting || turn.state == TurnState::Queued);
        let moves = thread.turns.iter().filter(open).filter_map(|turn| {
            let state = after(turn.state, turn.cause.as_ref(), Evidence::SessionEnded)?;
            let cause = Some(TurnCause::new(STOPPED, why(turn.state)));
            let turn = turn.id.clone();
            Some(ThreadEvent::TurnMoved { turn, state, cause, usage: None, exit_status: None })
        });
        let questions = thread.questions.iter().filter(|question| !only_waiting && question.closed.is_none());
        let closed = questions.map(|question| ThreadEvent::QuestionClosed {
            question: question.id.clone(),
            status: "expired".to_owned(),
        });
        for event in moves.chain(closed) {
            expected = self.threads.hub.log().append(session, &thread.id, &event, expected).await?;
        }
        Ok(())
    }

    async fn say_ended(&self, session: &SessionId, conversation: &Conversation) -> Result<()> {
        let thread = ThreadId::parse(SESSION_THREAD).map_err(|error| {
            crate::error::Error::new(ErrorCode::Internal, "the session's own log has no valid name").because(error)
        })?;
        let event = ThreadEvent::Sync { state: ENDED.to_owned(), detail: None, in_doubt: Vec::new(), epoch: None };
        self.threads.hub.log().append(session, &thread, &event, conversation.session_sequence).await.map(|_| ())
    }
}

fn why(state: TurnState) -> &'static str {
    if state == TurnState::Queued {
        "the session ended before the prompt went to its agent; send it in another session"
    } else {
        "the session ended before the agent said that it was done"
    }
}
