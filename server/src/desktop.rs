//! Calls on desktops: each goes to the runner that has the session's display, over a socket that the runner dialled.
//!
//! Tasks: one [`line`] per session in use, which owns the socket. It is opened by the first call, serves every caller of
//! this process, and ends when nobody has called for a minute, when the socket ends, or with the process. A call that
//! was not sent is sent once more over a new line; one that was is never repeated: it may have been done.
//!
//! What a session may have under way is bounded by a semaphore here, so that callers are told at once; the runner has
//! the same bound. A caller that leaves is told to the runner, which then stops. What answers carry waits in memory for
//! their callers: [`Budget`] bounds it for the whole process.

mod line;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use helix_protocol::control::Viewer;
use helix_protocol::desktop::{CALL_SECONDS, MAX_CALLS, MAX_PICTURES, Reply, Request};
use helix_protocol::{Epoch, ErrorCode, RunnerId, SessionId};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::error::{Error, Result};
use crate::relay::Relay;
use line::{Asked, Begun, Command, Line};

/// For an answer: longer than a runner takes for any.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(CALL_SECONDS + 5);
/// Most that answers under way carry together, in KiB. One alone may carry as much.
const BUDGET_KIB: usize = 256 * 1024;
/// Commands that wait for a line's task.
const QUEUE: usize = 8;

/// Where a session's desktop is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The runner that has it.
    pub runner: RunnerId,
    /// The session that has it.
    pub session: SessionId,
    /// Of its assignment: another one is another desktop.
    pub epoch: Epoch,
}

/// An answer.
pub struct Answered {
    /// What came of the call.
    pub reply: Reply,
    /// Bytes of the pieces together.
    pub bytes: u64,
    /// What the answer carries, as it arrives. It ends early where the line breaks off.
    pub pieces: mpsc::UnboundedReceiver<Bytes>,
    /// Held until the pieces are sent on.
    pub turn: Turn,
}

/// A place among the calls of a session, of a picture among its pictures, and for what the answer carries.
pub struct Turn {
    _call: OwnedSemaphorePermit,
    _picture: Option<OwnedSemaphorePermit>,
    _bytes: Option<OwnedSemaphorePermit>,
}

/// Memory for what answers carry. Cheap to clone.
#[derive(Clone)]
struct Budget(Arc<Semaphore>);

impl Budget {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_KIB)))
    }

    /// Room for so many bytes; None where there is not so much now.
    fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        self.0.clone().try_acquire_many_owned(kib).ok()
    }
}

/// The desktops that this process has calls for. Cheap to clone.
#[derive(Clone)]
pub struct Desktops {
    inner: Arc<Inner>,
}

struct Inner {
    relay: Relay,
    shutdown: CancellationToken,
    budget: Budget,
    open: StdMutex<HashMap<SessionId, Arc<Door>>>,
}

/// One session's line, or the place where it will be.
struct Door {
    turns: Arc<Semaphore>,
    /// Fewer: what a picture's caller has not taken yet waits in memory.
    pictures: Arc<Semaphore>,
    next_id: AtomicU64,
    /// Held while a line is opened: whoever comes meanwhile gets the same one.
    line: Mutex<Option<(Place, mpsc::Sender<Command>)>>,
}

impl Desktops {
    /// None is in use.
    pub fn new(relay: Relay, shutdown: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { relay, shutdown, budget: Budget::new(), open: StdMutex::default() }) }
    }

    /// Asks the desktop there, in the name of `by`.
    pub async fn call(&self, place: &Place, by: Viewer, request: Request) -> Result<Answered> {
        let door = self.door(&place.session);
        let turn = door.turn(&place.session, matches!(request, Request::Screenshot(_)))?;
        let id = door.next_id.fetch_add(1, Ordering::Relaxed);
        // The second time only where the first was not sent.
        for _ in 0..2 {
            let line = self.line(&door, place).await?;
            let (answer, answered) = oneshot::channel();
            let asked = Asked { id, by: by.clone(), request: request.clone(), answer };
            if line.send(Command::Ask(Box::new(asked))).await.is_err() {
                continue;
            }
            let leaving = Leaving { line: &line, id, left: true };
            let answered = timeout(ANSWER_TIMEOUT, answered).await;
            if answered.is_ok() {
                leaving.stayed();
            }
            match answered {
                Ok(Ok(Ok(Begun { reply, bytes, pieces, room }))) => {
                    let turn = Turn { _bytes: Some(room), ..turn };
                    return Ok(Answered { reply, bytes, pieces, turn });
                }
                Ok(Ok(Err(line::Fault::Refused(code, detail)))) => return Err(Error::new(code, detail)),
                Ok(Ok(Err(line::Fault::NotSent))) => {}
                Ok(Ok(Err(line::Fault::Broken(why)))) => return Err(broken(place, &why)),
                Ok(Err(_)) => return Err(broken(place, "its connection broke off")),
                Err(_) => return Err(broken(place, "it did not answer in time")),
            }
        }
        Err(broken(place, "its connection broke off twice; try again"))
    }

    fn door(&self, session: &SessionId) -> Arc<Door> {
        let mut open = self.inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has no line, and nobody at it, is forgotten.
        open.retain(|_, door| Arc::strong_count(door) > 1 || door.is_in_use());
        let new = || {
            let (turns, pictures) = (Arc::new(Semaphore::new(MAX_CALLS)), Arc::new(Semaphore::new(MAX_PICTURES)));
            Arc::new(Door { turns, pictures, next_id: AtomicU64::new(1), line: Mutex::default() })
        };
        open.entry(session.clone()).or_insert_with(new).clone()
    }

    /// The line that is open to that place, or a new one.
    async fn line(&self, door: &Door, place: &Place) -> Result<mpsc::Sender<Command>> {
        let mut line = door.line.lock().await;
        if let Some((known, sender)) = &*line
            && known == place
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let socket = self.inner.relay.dial_calls(&place.runner, &place.session).await?;
        let (sender, commands) = mpsc::channel(QUEUE);
        let budget = self.inner.budget.clone();
        let task = Line::new(socket, self.inner.relay.track(), budget).await.run(commands, self.inner.shutdown.clone());
        let span = tracing::info_span!("desktop", session.id = %place.session, runner.id = %place.runner);
        tokio::spawn(task.instrument(span));
        *line = Some((place.clone(), sender.clone()));
        Ok(sender)
    }
}

impl Door {
    fn turn(&self, session: &SessionId, picture: bool) -> Result<Turn> {
        let take = |places: &Arc<Semaphore>, most: usize, what: &str| {
            places.clone().try_acquire_owned().map_err(|_| {
                let detail = format!("session {session} has {most} {what} under way; try again");
                Error::new(ErrorCode::TooManyRequests, detail)
            })
        };
        let call = take(&self.turns, MAX_CALLS, "calls")?;
        let picture = picture.then(|| take(&self.pictures, MAX_PICTURES, "screenshots")).transpose()?;
        Ok(Turn { _call: call, _picture: picture, _bytes: None })
    }

    fn is_in_use(&self) -> bool {
        let open = self.line.try_lock().map_or(true, |line| line.as_ref().is_some_and(|(_, line)| !line.is_closed()));
        open || self.turns.available_permits() < MAX_CALLS
    }
}

/// A caller that waits. Dropped before its answer has come, it tells the runner.
struct Leaving<'a> {
    line: &'a mpsc::Sender<Command>,
    id: u64,
    left: bool,
}

impl Leaving<'_> {
    fn stayed(mut self) {
        self.left = false;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.left {
            // A full queue: the call then goes on to its end.
            let _ = self.line.try_send(Command::Forget(self.id));
        }
    }
}

fn broken(place: &Place, why: &str) -> Error {
    let Place { runner, session, .. } = place;
    let detail = format!("the desktop of session {session} on runner {runner} cannot be reached: {why}");
    Error::new(ErrorCode::RunnerUnavailable, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_one_memory_together() {
        let budget = Budget::new();
        let half = BUDGET_KIB as u64 * 1024 / 2;
        let (first, second) = (budget.take(half).expect("room"), budget.clone().take(half - 1).expect("room"));
        assert!(budget.take(1).is_none(), "less than a KiB counts as one");
        drop(second);
        assert!(budget.take(half + 1).is_none());
        assert!(budget.take(half).is_some());
        drop(first);
        assert!(budget.take(u64::MAX).is_none());
    }
}
