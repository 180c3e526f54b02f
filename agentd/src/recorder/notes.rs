//! What others do with a recorded desktop, for its recorder: agentd's end.
//!
//! Gates and calls [`Notes::tell`] what passed, and never wait: a queue per session, and a count of what did not fit. A
//! session's task announces itself and runs [`serve`] on the recorder's socket, which believes the unit's main process
//! alone. What is told while no recorder is there waits in the queue.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::desktop::{Action, Request};
use helix_protocol::recording::RecordedEvent;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::unit::Told;
use crate::gate::Typed;

/// Events that wait for a recorder.
const QUEUE: usize = 4096;
/// Longest line of a recorder's.
const MAX_LINE: u64 = 4096;
/// Before the next connection after one that failed or was refused.
const PAUSE: Duration = Duration::from_millis(250);
/// For a recorder to take one event.
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Characters that are kept of one action of a call.
const WORD_CHARS: usize = 200;
/// Bytes that the actions of one call may take in its event, which has to be a line of the recorder's.
const ACTIONS_BYTES: usize = 32 * 1024;
/// Actions that are kept of one call.
const ACTIONS: usize = 100;
/// Mere moves of the pointer are told so often at most.
const MOVES: Duration = Duration::from_millis(50);

/// The recorded sessions. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    sessions: Arc<Mutex<HashMap<SessionId, Line>>>,
}

#[derive(Debug, Clone)]
struct Line {
    sender: mpsc::Sender<RecordedEvent>,
    missed: Arc<AtomicU64>,
}

/// A session that is recorded; dropped, nothing is noted for it any more.
#[derive(Debug)]
pub struct Desk {
    notes: Notes,
    session: SessionId,
    events: mpsc::Receiver<RecordedEvent>,
    missed: Arc<AtomicU64>,
}

impl Notes {
    /// True while the session is recorded.
    pub fn is_recorded(&self, session: &SessionId) -> bool {
        self.lock().contains_key(session)
    }

    /// Notes an event of a session, if that is recorded. Never waits.
    pub fn tell(&self, session: &SessionId, event: RecordedEvent) {
        let Some(line) = self.lock().get(session).cloned() else { return };
        if line.sender.try_send(event).is_err() {
            line.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call of the desktop API that is about to be done.
    pub fn tell_call(&self, session: &SessionId, by: &str, request: &Request) {
        if self.is_recorded(session) {
            self.tell(session, call(by, request));
        }
    }

    /// From now on this session is recorded.
    pub fn announce(&self, session: &SessionId) -> Desk {
        let (sender, events) = mpsc::channel(QUEUE);
        let missed = Arc::<AtomicU64>::default();
        self.lock().insert(session.clone(), Line { sender, missed: missed.clone() });
        Desk { notes: self.clone(), session: session.clone(), events, missed }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Line>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.notes.lock().remove(&self.session);
    }
}

/// What one viewer types, for the recorder.
#[derive(Debug)]
pub struct Hands {
    by: String,
    /// When a move was told last, and which buttons were down.
    pointer: Option<(tokio::time::Instant, u8)>,
}

impl Hands {
    /// Of this viewer.
    pub fn new(by: &str) -> Self {
        Self { by: by.to_owned(), pointer: None }
    }

    /// What is worth a note.
    pub fn note(&mut self, typed: Typed) -> Option<RecordedEvent> {
        let by = self.by.clone();
        Some(match typed {
            Typed::Key { keysym, down } => RecordedEvent::Key { by, keysym, down },
            Typed::Pointer { x, y, buttons } => {
                let now = tokio::time::Instant::now();
                if self.pointer.is_some_and(|(told, known)| known == buttons && now - told < MOVES) {
                    return None;
                }
                self.pointer = Some((now, buttons));
                RecordedEvent::Pointer { by, x, y, buttons }
            }
            Typed::Clipboard { bytes } => RecordedEvent::Clipboard { by, bytes },
            Typed::Resize { width, height } => RecordedEvent::Resize { by, width, height },
        })
    }
}

fn call(by: &str, request: &Request) -> RecordedEvent {
    let (call, actions) = match request {
        Request::Input(input) => ("input", noted(&input.actions)),
        Request::Window { window, action } => ("window", vec![format!("{action:?} {window}").to_lowercase()]),
        Request::SetClipboard(_) => ("set_clipboard", Vec::new()),
        Request::SetDisplay(size) => ("set_display", vec![format!("{}x{}", size.width, size.height)]),
        _ => ("", Vec::new()),
    };
    RecordedEvent::Call { by: by.to_owned(), call: call.to_owned(), actions }
}

/// The actions of a call, as far as an event has room; how many more there were is the last word.
fn noted(actions: &[Action]) -> Vec<String> {
    let (mut noted, mut left) = (Vec::new(), ACTIONS_BYTES);
    for action in actions.iter().take(ACTIONS) {
        let word: String = words(action).chars().take(WORD_CHARS).collect();
        // As JSON writes it, which may be several times as long.
        let cost = serde_json::to_string(&word).map_or(usize::MAX, |text| text.len());
        let Some(rest) = left.checked_sub(cost) else { break };
        left = rest;
        noted.push(word);
    }
    let more = actions.len() - noted.len();
    noted.extend((more > 0).then(|| format!("and {more} more")));
    noted
}

/// An action as `helixctl session input` writes it.
fn words(action: &Action) -> String {
    match action {
        Action::Text { text } => format!("text={text}"),
        Action::Key { key } => format!("key={key}"),
        Action::KeyDown { key } => format!("key_down={key}"),
        Action::KeyUp { key } => format!("key_up={key}"),
        Action::Click { x, y, .. } => format!("click={x},{y}"),
        Action::Move { x, y } => format!("move={x},{y}"),
        Action::MouseDown { .. } => "mouse_down".to_owned(),
        Action::MouseUp { .. } => "mouse_up".to_owned(),
        Action::Drag { path, .. } => match (path.first(), path.last()) {
            (Some([x1, y1]), Some([x2, y2])) => format!("drag={x1},{y1},{x2},{y2}"),
            _ => "drag".to_owned(),
        },
        Action::Scroll { x, y, dx, dy } => format!("scroll={x},{y},{dx},{dy}"),
        Action::Wait { ms } => format!("wait={ms}"),
        Action::WaitFrame { .. } => "frame".to_owned(),
    }
}

/// Serves one session's recorder. `pid` finds the unit's main process; `told` hears how it goes.
pub async fn serve<F: Future<Output = Option<u32>>>(
    listener: &UnixListener,
    desk: &mut Desk,
    pid: impl Fn() -> F,
    told: impl Fn(Told),
) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let peer = stream.peer_cred().ok().and_then(|peer| peer.pid()).map(i32::cast_unsigned);
                if peer.is_some() && pid().await == peer {
                    carry(stream, desk, &told).await;
                    continue;
                }
                tracing::warn!(?peer, "refused: a connection of another process than the session's recorder");
            }
            Err(error) => tracing::warn!("the session's recorder cannot be taken in: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Carries what is noted, until the recorder is gone.
async fn carry(stream: UnixStream, desk: &mut Desk, told: &impl Fn(Told)) {
    let (reader, mut writer) = stream.into_split();
    let heard = hear(reader, told);
    tokio::pin!(heard);
    loop {
        // Cancel safe: what was received is written, or its recorder is gone.
        let event = tokio::select! {
            () = &mut heard => return,
            event = desk.events.recv() => event,
        };
        let missed = desk.missed.swap(0, Ordering::Relaxed);
        let missed = (missed > 0).then_some(RecordedEvent::Missed { count: missed });
        for event in missed.into_iter().chain(event) {
            let Ok(mut line) = serde_json::to_vec(&event) else { continue };
            line.push(b'\n');
            if !matches!(tokio::time::timeout(TAKE_TIMEOUT, writer.write_all(&line)).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

async fn hear(reader: OwnedReadHalf, told: &impl Fn(Told)) {
    let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(MAX_LINE);
        if !matches!(bounded.read_until(b'\n', &mut line).await, Ok(1..)) || line.last() != Some(&b'\n') {
            return;
        }
        match serde_json::from_slice(&line) {
            Ok(state) => told(state),
            Err(error) => return tracing::warn!("the session's recorder says something else: {error}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_types_never_waits_and_what_is_missed_is_counted() {
        let (notes, session) = (Notes::default(), SessionId::parse("s").unwrap());
        let event = || RecordedEvent::ViewerLeft { by: "ann".to_owned() };
        notes.tell(&session, event());
        let mut desk = notes.announce(&session);
        for _ in 0..QUEUE + 3 {
            notes.tell(&session, event());
        }
        assert!(desk.events.recv().await.is_some());
        assert_eq!(desk.missed.load(Ordering::Relaxed), 3);
        drop(desk);
        assert!(!notes.is_recorded(&session));
    }

    #[tokio::test]
    async fn moves_are_thinned_and_clicks_are_not() {
        let mut hands = Hands::new("ann");
        let mut told = |x, buttons| hands.note(Typed::Pointer { x, y: 0, buttons }).is_some();
        assert_eq!([told(0, 0), told(1, 0), told(1, 1), told(1, 0), told(2, 0)], [true, false, true, true, false]);
    }
}
