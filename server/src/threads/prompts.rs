//! What people and programs do to conversations: begin a thread, prompt, cancel, ask again, answer, rename.
//!
//! Every act is a small decision on the newest state of the conversation: it is done already, it is refused, or an
//! event is missing. The event is stored with the sequence that the decision was made on; where another writer was
//! faster, it is decided anew. So a repeat, a lost acknowledgement and two callers at once all come to the same end.
//! Nothing is sent to an agent here: the owner of the session's sync socket reads what was written.

pub mod check;

use std::ops::ControlFlow;

use helix_protocol::api::threads::{
    AnswerQuestion, CancelTurn, CreateThread, QuestionView, RenameThread, SendPrompt, ThreadCreated, ThreadView,
    TurnView,
};
use helix_protocol::ids::hex;
use helix_protocol::record::SessionRecord;
use helix_protocol::thread::{Origin, ThreadEvent, TurnCause, TurnState};
use helix_protocol::{ErrorCode, SessionId, ThreadId, TurnId};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::Threads;
use super::live::Live;
use super::model::{Conversation, Thread, Turn};
use super::views::{question_view, thread_view, turn_view};
use crate::auth::Principal;
use crate::bus::{REQUEST_TIMEOUT, unavailable};
use crate::error::{Error, Result};
use crate::keys::random_id;
use crate::sessions::Found;

/// How often a decision is made anew after another writer was faster.
const MAX_TRIES: usize = 10;

/// What a decision comes to: it is done, or this event of this thread is missing.
type Decision<T> = ControlFlow<T, ThreadEvent>;

/// What was asked of the agent, whoever asked it in which way.
struct Asked {
    prompt: String,
    interrupt: bool,
    attachments: Vec<String>,
    resend_of: Option<TurnId>,
}

impl Asked {
    fn event(&self, by: &Principal, turn: &TurnId) -> ThreadEvent {
        ThreadEvent::TurnQueued {
            turn: turn.clone(),
            origin: Origin::Api,
            by: Some(by.name.clone()),
            prompt: self.prompt.clone(),
            interrupt: self.interrupt,
            attachments: self.attachments.clone(),
            resend_of: self.resend_of.clone(),
        }
    }

    /// The turn of the same id was asked for in another way.
    fn differs(&self, turn: &Turn) -> bool {
        self.prompt != turn.prompt || self.interrupt != turn.interrupt || self.attachments != turn.attachments
    }
}

impl Threads {
    /// A thread and its first prompt; durable when this returns. False when the same request had made it before.
    pub async fn create(&self, by: &Principal, at: &Found, request: CreateThread) -> Result<(ThreadCreated, bool)> {
        check::takes_prompts(at)?;
        let CreateThread { prompt, agent, title, attachments, idempotency_key } = request;
        check::prompt(&prompt, &attachments)?;
        check::agent(agent.as_deref())?;
        check::title(title.as_deref())?;
        check::key(idempotency_key.as_deref())?;
        let id = thread_id(&at.desktop, idempotency_key.as_deref())?;
        let turn = turn_id(&at.desktop, &id, idempotency_key.as_deref())?;
        let asked = Asked { prompt, interrupt: false, attachments, resend_of: None };
        let started = ThreadEvent::ThreadStarted {
            origin: Origin::Api,
            by: Some(by.name.clone()),
            agent: agent.clone(),
            title,
            work_session: at.other_name(),
        };
        let mut fresh = false;
        let created = self
            .act(&at.desktop, at.since, &id, |conversation, wrote| {
                let Some(thread) = conversation.thread(&id) else { return Ok(Decision::Continue(started.clone())) };
                let Some(found) = thread.turn(&turn) else {
                    return Ok(Decision::Continue(asked.event(by, &turn)));
                };
                // The title may have been changed since.
                if thread.agent != agent || asked.differs(found) {
                    return Err(used_before("thread", id.as_str()));
                }
                fresh = wrote > 0;
                let thread_view = thread_view(&at.desktop, thread);
                Ok(Decision::Break(ThreadCreated { thread: thread_view, turn: turn_view(&id, found) }))
            })
            .await?;
        Ok((created, fresh))
    }

    /// A prompt for a thread that there is; durable when this returns.
    pub async fn prompt(&self, by: &Principal, at: &Found, thread: &ThreadId, request: SendPrompt) -> Result<TurnView> {
        check::takes_prompts(at)?;
        let SendPrompt { prompt, interrupt, attachments, idempotency_key } = request;
        check::prompt(&prompt, &attachments)?;
        check::key(idempotency_key.as_deref())?;
        let turn = turn_id(&at.desktop, thread, idempotency_key.as_deref())?;
        let asked = Asked { prompt, interrupt, attachments, resend_of: None };
        self.act(&at.desktop, at.since, thread, |conversation, _| {
            let found = thread_in(conversation, &at.view.id, thread)?;
            match found.turn(&turn) {
                None => Ok(Decision::Continue(asked.event(by, &turn))),
                Some(found) if asked.differs(found) => Err(used_before("turn", turn.as_str())),
                Some(found) => Ok(Decision::Break(turn_view(thread, found))),
            }
        })
        .await
    }

    /// Ends a turn: one that waits at once, one that the agent has by asking its owner.
    pub async fn cancel(&self, by: &Principal, at: &Found, thread: &ThreadId, request: CancelTurn) -> Result<TurnView> {
        let mut target = request.turn;
        self.act(&at.desktop, at.since, thread, |conversation, wrote| {
            let found = thread_in(conversation, &at.view.id, thread)?;
            let turn = match &target {
                Some(id) => turn_in(found, id)?,
                None => next_to_end(found)?,
            };
            target = Some(turn.id.clone());
            Ok(match turn.state {
                TurnState::Queued => Decision::Continue(ThreadEvent::TurnMoved {
                    turn: turn.id.clone(),
                    state: TurnState::Cancelled,
                    cause: Some(TurnCause::new("cancelled", format!("{} cancelled it before it began", by.name))),
                    usage: None,
                    exit_status: None,
                }),
                state if state.is_active() && !turn.cancel_requested => {
                    Decision::Continue(ThreadEvent::CancelRequested { turn: turn.id.clone(), by: by.name.clone() })
                }
                state if state.is_final() && wrote == 0 => return Err(over(turn)),
                _ => Decision::Break(turn_view(thread, turn)),
            })
        })
        .await
    }

    /// Asks again what a turn asked that came to nothing. While the new turn is not over, the same again is it.
    pub async fn resend(&self, by: &Principal, at: &Found, thread: &ThreadId, of: &TurnId) -> Result<TurnView> {
        check::takes_prompts(at)?;
        let fresh = turn_id(&at.desktop, thread, None)?;
        self.act(&at.desktop, at.since, thread, |conversation, _| {
            let found = thread_in(conversation, &at.view.id, thread)?;
            let former = turn_in(found, of)?;
            let again =
                |turn: &&Turn| turn.id == fresh || turn.resend_of.as_ref() == Some(of) && !turn.state.is_final();
            if let Some(turn) = found.turns.iter().rev().find(again) {
                return Ok(Decision::Break(turn_view(thread, turn)));
            }
            if former.state == TurnState::Completed {
                let detail = format!("turn {of} is completed; send a new prompt to go on from there");
                return Err(Error::new(ErrorCode::TurnOver, detail));
            }
            if !former.state.is_final() {
                let detail = format!("turn {of} is {}; it can be asked again once it is over", former.state);
                return Err(Error::new(ErrorCode::TurnNotOver, detail));
            }
            let asked = Asked {
                prompt: former.prompt.clone(),
                interrupt: false,
                attachments: former.attachments.clone(),
                resend_of: Some(of.clone()),
            };
            Ok(Decision::Continue(asked.event(by, &fresh)))
        })
        .await
    }

    /// Answers a question of the agent's. The first answer counts, whoever gives it.
    pub async fn answer(
        &self,
        by: &Principal,
        at: &Found,
        thread: &ThreadId,
        question: &str,
        request: AnswerQuestion,
    ) -> Result<QuestionView> {
        check::takes_prompts(at)?;
        let AnswerQuestion { action, content } = request;
        check::content(action, &content)?;
        self.act(&at.desktop, at.since, thread, |conversation, wrote| {
            let thread = thread_in(conversation, &at.view.id, thread)?;
            let asked = thread.question(question).ok_or_else(|| {
                let shown: String = question.chars().take(80).collect();
                let detail = format!("thread {} has no question {shown:?}", thread.id);
                Error::new(ErrorCode::QuestionNotFound, detail)
            })?;
            if wrote > 0 {
                return Ok(Decision::Break(question_view(asked)));
            }
            if let Some(answer) = &asked.answer {
                let detail = format!("{} answered it already; the first answer counts", answer.by);
                return Err(Error::new(ErrorCode::QuestionAnswered, detail));
            }
            if let Some(status) = &asked.closed {
                let detail = format!("the agent does not wait for it any more: it is {status}");
                return Err(Error::new(ErrorCode::QuestionAnswered, detail));
            }
            check::required(action, &content, &asked.schema)?;
            Ok(Decision::Continue(ThreadEvent::QuestionAnswered {
                question: question.to_owned(),
                action,
                content: content.clone(),
                by: by.name.clone(),
            }))
        })
        .await
    }

    /// Gives a thread another title.
    pub async fn rename(&self, at: &Found, thread: &ThreadId, request: RenameThread) -> Result<ThreadView> {
        check::title(Some(&request.title))?;
        self.act(&at.desktop, at.since, thread, |conversation, wrote| {
            let found = thread_in(conversation, &at.view.id, thread)?;
            if wrote > 0 || found.title.as_ref() == Some(&request.title) {
                return Ok(Decision::Break(thread_view(&at.desktop, found)));
            }
            Ok(Decision::Continue(ThreadEvent::ThreadRenamed { title: request.title.clone() }))
        })
        .await
    }

    /// Continues a thread with the input of a session that joins its desktop. The ids are derived: once only.
    pub async fn continue_with(&self, desktop: &SessionRecord, thread: &ThreadId, queued: &ThreadEvent) -> Result<()> {
        let ThreadEvent::TurnQueued { turn, .. } = queued else { return Ok(()) };
        self.act(&desktop.id, desktop.created_at, thread, |conversation, _| {
            match thread_in(conversation, &desktop.id, thread)?.turn(turn) {
                Some(_) => Ok(Decision::Break(())),
                None => Ok(Decision::Continue(queued.clone())),
            }
        })
        .await
    }

    /// Decides until it is done. `decide` is given the newest state and how many events this act has stored.
    async fn act<T>(
        &self,
        session: &SessionId,
        since: Timestamp,
        thread: &ThreadId,
        mut decide: impl FnMut(&Conversation, usize) -> Result<Decision<T>>,
    ) -> Result<T> {
        let live = self.hub.open_of(session, since).await?;
        let (mut wrote, mut lost) = (0, 0);
        loop {
            let decided = |conversation: &Conversation| {
                decide(conversation, wrote).map(|decision| (decision, conversation.sequence_of(thread)))
            };
            let (decision, expected) = self.hub.look(&live, decided).await??;
            let event = match decision {
                Decision::Break(done) => return Ok(done),
                Decision::Continue(event) => event,
            };
            match self.hub.log().append(session, thread, &event, expected).await {
                Ok(sequence) => {
                    wrote += 1;
                    applied(&live, sequence).await?;
                }
                Err(error) if error.code == ErrorCode::Conflict && lost + 1 < MAX_TRIES => {
                    lost += 1;
                    self.hub.catch_up(&live).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits until the fold has an event that is stored.
async fn applied(live: &Live, sequence: u64) -> Result<()> {
    let mut places = live.places();
    let there = places.wait_for(|place| place.applied >= sequence);
    tokio::time::timeout(REQUEST_TIMEOUT, there).await.map_err(unavailable)?.map_err(unavailable)?;
    Ok(())
}

/// The thread of a session.
pub(super) fn thread_in<'a>(conversation: &'a Conversation, session: &SessionId, id: &ThreadId) -> Result<&'a Thread> {
    conversation.thread(id).ok_or_else(|| no_thread(session, id.as_str()))
}

/// Nothing is known of the thread.
pub fn no_thread(session: &SessionId, id: &str) -> Error {
    let id: String = id.chars().take(80).collect();
    Error::new(ErrorCode::ThreadNotFound, format!("session {session} has no thread {id:?}; list them at …/threads"))
}

/// The turn of a thread.
pub(super) fn turn_in<'a>(thread: &'a Thread, id: &TurnId) -> Result<&'a Turn> {
    let detail = || format!("thread {} has no turn {id}", thread.id);
    thread.turn(id).ok_or_else(|| Error::new(ErrorCode::TurnNotFound, detail()))
}

/// The turn that the agent has, else the next in the queue.
fn next_to_end(thread: &Thread) -> Result<&Turn> {
    let queued = || thread.turns.iter().find(|turn| turn.state == TurnState::Queued);
    let detail = || format!("no turn of thread {} runs or waits", thread.id);
    thread.active_turn().or_else(queued).ok_or_else(|| Error::new(ErrorCode::TurnOver, detail()))
}

fn over(turn: &Turn) -> Error {
    Error::new(ErrorCode::TurnOver, format!("turn {} is over: it is {}", turn.id, turn.state))
}

fn used_before(what: &str, id: &str) -> Error {
    let detail = format!("the idempotency key made {what} {id} with another body; use a fresh key for another prompt");
    Error::new(ErrorCode::PromptExists, detail)
}

/// `thr_` and 24 hex digits: of the key, or random.
fn thread_id(session: &SessionId, key: Option<&str>) -> Result<ThreadId> {
    ThreadId::parse(made_up("thr", session.as_str(), "new", key)?).map_err(impossible)
}

/// `int_` and 24 hex digits: of the key, or random.
fn turn_id(session: &SessionId, thread: &ThreadId, key: Option<&str>) -> Result<TurnId> {
    TurnId::parse(made_up("int", session.as_str(), thread.as_str(), key)?).map_err(impossible)
}

fn made_up(prefix: &str, session: &str, place: &str, key: Option<&str>) -> Result<String> {
    let digits = match key {
        // Neither ids nor "new" have a NUL, so no two places and keys read the same.
        Some(key) => hex(&Sha256::digest(format!("{prefix}\0{session}\0{place}\0key\0{key}"))[..12]),
        None => random_id()
            .map_err(|error| Error::new(ErrorCode::Internal, "the system gives no random bytes").because(error))?,
    };
    Ok(format!("{prefix}_{digits}"))
}

fn impossible(error: helix_protocol::IdError) -> Error {
    Error::new(ErrorCode::Internal, "a made-up id is not valid").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_one_prompt_of_one_thread_and_no_key_names_none() {
        let [one, two] = ["one", "two"].map(|id| SessionId::parse(id).expect("valid id"));
        let thread = |session, key| thread_id(session, key).expect("an id");
        assert_eq!(thread(&one, Some("k")), thread(&one, Some("k")));
        assert_ne!(thread(&one, Some("k")), thread(&two, Some("k")));
        assert_ne!(thread(&one, Some("k")), thread(&one, Some("l")));
        assert_ne!(thread(&one, None), thread(&one, None));
        let turn = |thread: &ThreadId, key| turn_id(&one, thread, key).expect("an id");
        let [a, b] = [thread(&one, Some("a")), thread(&one, Some("b"))];
        assert_eq!(turn(&a, Some("k")), turn(&a, Some("k")));
        assert_ne!(turn(&a, Some("k")), turn(&b, Some("k")));
        assert_eq!((a.as_str().len(), turn(&a, None).as_str().len()), (28, 28));
    }
}
