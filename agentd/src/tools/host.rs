//! agentd's end: hands out connections to a unit of sessions' that is started at its first use (`tools`, `rdp`), and starts those that are not there.
//!
//! A session's task announces itself on the unit's [`Board`] and runs [`serve`]; whoever has dialled a server for it asks the
//! board. One loop per session, with a short-lived task per connection that says what it is for. It copies nothing and
//! believes no connection but the unit's main process's. A request that cannot be served is dropped or told why; who asks has a
//! deadline.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use helix_protocol::SessionId;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::CONTROL;

/// For a connection to say what it is for.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that wait for the session's loop.
const QUEUE: usize = 64;
/// Before the next try where the system lets nobody in (no descriptors).
const PAUSE: Duration = Duration::from_millis(100);
/// Before the next connection after one that was refused: commands of the session see the socket, and may try for ever.
const REFUSAL_PAUSE: Duration = Duration::from_millis(250);
/// A refusal is logged this often at most.
const REFUSAL_LOGGED: Duration = Duration::from_mins(1);

/// Why a session's unit cannot be reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ToolsError {
    /// It is not here, or not running.
    #[error("the session does not run here now")]
    NoSession,
    /// The unit cannot be started.
    #[error("the session's unit cannot be started: {0}")]
    Start(String),
    /// It runs and says nothing.
    #[error("the session's unit does not answer")]
    Late,
}

/// Where a connection goes.
type Place = oneshot::Sender<Result<UnixStream, ToolsError>>;

/// Somebody waits for a connection, and perhaps for one that the unit makes later by itself.
#[derive(Debug)]
struct Wanted {
    stream: Place,
    back: Option<Place>,
}

/// Two connections of one purpose.
#[derive(Debug)]
pub struct Pair {
    /// The one that was asked for.
    pub stream: UnixStream,
    /// The one that the unit makes when it has a use for it: with the next number.
    pub back: oneshot::Receiver<Result<UnixStream, ToolsError>>,
}

/// A connection that is to come.
struct Awaited {
    place: Place,
    /// The unit is told its number. Otherwise it goes by the one before, and nobody else can make it.
    is_told: bool,
}

/// The sessions of which a unit can be asked for. Clones are the same board.
#[derive(Debug, Clone, Default)]
pub struct Board {
    sessions: Arc<watch::Sender<HashMap<SessionId, mpsc::Sender<Wanted>>>>,
}

/// A session on the board; dropped, it is off it.
#[derive(Debug)]
pub struct Seat {
    board: Board,
    session: SessionId,
    wanted: mpsc::Receiver<Wanted>,
}

impl Board {
    /// A connection to the session's unit, started if need be. Has no deadline of its own.
    pub async fn open(&self, session: &SessionId) -> Result<UnixStream, ToolsError> {
        let (stream, answer) = oneshot::channel();
        self.want(session, Wanted { stream, back: None }).await?;
        answer.await.unwrap_or(Err(ToolsError::Late))
    }

    /// The same, and one more that the unit makes later.
    pub async fn open_pair(&self, session: &SessionId) -> Result<Pair, ToolsError> {
        let ((stream, answer), (sender, back)) = (oneshot::channel(), oneshot::channel());
        self.want(session, Wanted { stream, back: Some(sender) }).await?;
        let stream = answer.await.unwrap_or(Err(ToolsError::Late))?;
        Ok(Pair { stream, back })
    }

    async fn want(&self, session: &SessionId, wanted: Wanted) -> Result<(), ToolsError> {
        let seat = self.sessions.borrow().get(session).cloned().ok_or(ToolsError::NoSession)?;
        seat.send(wanted).await.map_err(|_| ToolsError::NoSession)
    }

    /// Puts a session on the board.
    pub fn announce(&self, session: &SessionId) -> Seat {
        let (sender, wanted) = mpsc::channel(QUEUE);
        self.sessions.send_modify(|sessions| drop(sessions.insert(session.clone(), sender)));
        Seat { board: self.clone(), session: session.clone(), wanted }
    }

    /// Waits until a session is on the board.
    pub async fn announced(&self, session: &SessionId) {
        // The sender is this board's own.
        let _ = self.sessions.subscribe().wait_for(|sessions| sessions.contains_key(session)).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.board.sessions.send_modify(|sessions| drop(sessions.remove(&self.session)));
    }
}

/// The unit of a session.
pub(crate) trait Unit {
    /// Its main process, if it runs.
    fn find(&self) -> impl Future<Output = Option<u32>> + Send;

    /// Starts it; answers its main process.
    fn start(&self) -> impl Future<Output = Result<u32, ToolsError>> + Send;
}

/// Serves those who ask for one session's tools.
pub(crate) async fn serve(listener: &UnixListener, seat: &mut Seat, unit: &impl Unit) -> Infallible {
    let mut host =
        Host { unit, pid: None, lost: None, control: None, waiting: HashMap::new(), number: CONTROL, refused: None };
    let mut greetings = JoinSet::new();
    let mut gone: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(listener, host.refused) => match accepted {
                Ok(stream) => {
                    if host.believes(&stream).await {
                        greetings.spawn(tokio::time::timeout(HELLO_TIMEOUT, greet(stream)));
                    }
                }
                Err(error) => {
                    tracing::warn!("no connection of a session's unit can be taken: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(greeting) = greetings.join_next() => {
                let Ok(Ok(Ok((number, stream)))) = greeting else { continue };
                if number == CONTROL {
                    let (reader, writer) = stream.into_split();
                    // A former one is closed with it.
                    gone.abort_all();
                    gone.spawn(until_gone(reader));
                    host.control = Some(writer);
                    host.say_all();
                } else if let Some(awaited) = host.waiting.remove(&number) {
                    // Who has left meanwhile closes it.
                    let _ = awaited.place.send(Ok(stream));
                }
            }
            Some(ended) = gone.join_next() => {
                if ended.is_ok() {
                    host.control = None;
                    host.lost = host.pid.take();
                    host.waiting.retain(|_, awaited| !awaited.place.is_closed());
                    // The other end of a pair is opened after the one that it was told of.
                    let told: HashSet<_> =
                        host.waiting.iter().filter(|(_, awaited)| awaited.is_told).map(|(number, _)| *number).collect();
                    let is_other_end = |number: u64| number.checked_sub(1).is_some_and(|first| told.contains(&first));
                    host.waiting.retain(|number, awaited| awaited.is_told || is_other_end(*number));
                    // What it was told of and has not opened is the next one's.
                    if !host.waiting.is_empty() && let Err(error) = host.ensure().await {
                        tracing::warn!("no unit: {error}");
                        host.waiting.clear();
                    }
                }
            }
            Some(wanted) = seat.wanted.recv() => host.want(wanted).await,
        }
    }
}

struct Host<'a, U> {
    unit: &'a U,
    /// Main process, as last known.
    pid: Option<u32>,
    /// One whose line has ended: if it still is there it is on its way out.
    lost: Option<u32>,
    control: Option<OwnedWriteHalf>,
    waiting: HashMap<u64, Awaited>,
    /// Of the last stream.
    number: u64,
    /// When somebody was refused last, and when that was logged.
    refused: Option<(Instant, Instant)>,
}

impl<U: Unit> Host<'_, U> {
    /// Whether the unit's main process has connected: its session could start others.
    async fn believes(&mut self, stream: &UnixStream) -> bool {
        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid()).map(i32::cast_unsigned);
        // While it is connected, it is known.
        if peer.is_some() && self.pid != peer && self.control.is_none() {
            self.pid = self.unit.find().await;
        }
        let believed = peer.is_some() && self.pid == peer;
        if !believed {
            let now = Instant::now();
            let logged = self.refused.map(|(_, logged)| logged).filter(|logged| now - *logged < REFUSAL_LOGGED);
            if logged.is_none() {
                tracing::warn!(?peer, "refused: a connection of another process than the session's unit");
            }
            self.refused = Some((now, logged.unwrap_or(now)));
        }
        believed
    }

    async fn want(&mut self, wanted: Wanted) {
        self.waiting.retain(|_, awaited| !awaited.place.is_closed());
        if self.control.is_none()
            && let Err(error) = self.ensure().await
        {
            tracing::warn!("no unit: {error}");
            let _ = wanted.stream.send(Err(error));
            return;
        }
        self.number += 1;
        let number = self.number;
        self.waiting.insert(number, Awaited { place: wanted.stream, is_told: true });
        if let Some(place) = wanted.back {
            self.number += 1;
            self.waiting.insert(self.number, Awaited { place, is_told: false });
        }
        self.say(number);
    }

    /// Starts the unit, unless it runs and has yet to connect.
    async fn ensure(&mut self) -> Result<(), ToolsError> {
        let running = self.unit.find().await;
        if running.is_none() || running == self.lost {
            self.pid = Some(self.unit.start().await?);
            self.lost = None;
        } else {
            self.pid = running;
        }
        Ok(())
    }

    /// Where nobody is connected yet, it is said when somebody is.
    fn say(&mut self, number: u64) {
        let Some(control) = &self.control else { return };
        let bytes = number.to_be_bytes();
        // Never full in one that lives; one that does not is found by its end.
        if !matches!(control.try_write(&bytes), Ok(count) if count == bytes.len()) {
            tracing::warn!("the session's unit takes no requests");
            self.control = None;
        }
    }

    fn say_all(&mut self) {
        let told = self.waiting.iter().filter(|(_, awaited)| awaited.is_told);
        let mut numbers: Vec<u64> = told.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        for number in numbers {
            self.say(number);
        }
    }
}

/// The next connection, not at once after a refusal. Cancel safe.
async fn accept(listener: &UnixListener, refused: Option<(Instant, Instant)>) -> io::Result<UnixStream> {
    if let Some((at, _)) = refused {
        tokio::time::sleep_until(at + REFUSAL_PAUSE).await;
    }
    Ok(listener.accept().await?.0)
}

/// What a connection is for.
async fn greet(mut stream: UnixStream) -> io::Result<(u64, UnixStream)> {
    let number = stream.read_u64().await?;
    Ok((number, stream))
}

/// The unit says nothing more on that line.
async fn until_gone(mut reader: OwnedReadHalf) {
    let mut ignored = [0; 64];
    while matches!(reader.read(&mut ignored).await, Ok(1..)) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// One that does not run; counts how often that is asked.
    #[derive(Default)]
    struct Absent(AtomicUsize);

    impl Unit for Absent {
        async fn find(&self) -> Option<u32> {
            self.0.fetch_add(1, Ordering::Relaxed);
            None
        }

        async fn start(&self) -> Result<u32, ToolsError> {
            Err(ToolsError::NoSession)
        }
    }

    #[tokio::test]
    async fn who_is_refused_again_and_again_costs_little() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut seat = Board::default().announce(&SessionId::parse("desk").unwrap());
        let unit = Absent::default();
        let knock = async {
            for _ in 0..4 {
                // Closed without a word.
                let mut stream = UnixStream::connect(&path).await.unwrap();
                assert!(!matches!(stream.read(&mut [0; 1]).await, Ok(1..)));
            }
        };
        let begun = Instant::now();
        tokio::select! {
            never = serve(&listener, &mut seat, &unit) => match never {},
            done = tokio::time::timeout(Duration::from_secs(20), knock) => done.unwrap(),
        }
        assert_eq!(unit.0.load(Ordering::Relaxed), 4);
        assert!(begun.elapsed() >= 3 * REFUSAL_PAUSE, "{:?}", begun.elapsed());
    }
}
