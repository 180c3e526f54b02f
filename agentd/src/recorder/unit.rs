//! `agentd recorder`: records one session's display, run as unit `recorder`.
//!
//! One thread, which waits. A task reads the display and asks for the next picture at its own [`Pace`]; one takes what
//! agentd has to note (`agentd`'s socket: lines of JSON, both ways; while agentd is away its directory is watched for a new
//! one); one closes chunks when it is time. All write to one [`Spool`]. A *segment* is one connection to the display, so that
//! replay can begin there: when something changes and the last one is old or long, the recorder connects anew. A display
//! that breaks off, or a disk that is full, is a gap in the recording; the recorder goes on as soon as it can. Its own end
//! is one, too: agentd starts it again. With its session it is asked to end (SIGTERM), and notes until when it looked: a
//! desktop at rest was recorded as long as one that moves.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use futures::StreamExt as _;
use helix_protocol::recording::chunk::{MAX_PAYLOAD, RecordKind};
use helix_protocol::recording::{RecordedEvent, RecordingId, SegmentStart, Start};
use helix_protocol::{Epoch, RunnerId, SessionId};
use inotify::WatchMask;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::pace::Pace;
use super::screen::{Screen, Tape};
use super::spool::{MAX_WAITING, Spool, gap};
use crate::file_events;

/// A segment that is so old, or has so many bytes, is followed by another one with the next change.
const SEGMENT_LIFE: Duration = Duration::from_secs(30);
const SEGMENT_BYTES: usize = 1 << 20;
/// Before a display that broke off is tried again, the first and the following times.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_AT_MOST: Duration = Duration::from_secs(2);
/// A recorder that was started again may take so long for its first picture, and not say so.
const UNNOTED_US: u64 = 1_000_000;
/// Between two looks whether a full disk has room again.
const ROOM_AGAIN: Duration = Duration::from_secs(2);
/// Between two looks for agentd where the directory says nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The unit's readiness line: the first picture is on the disk.
const READY: &[u8] = b"recording\n";

/// What is recorded, and where. Nothing of it is secret.
#[derive(Debug, clap::Parser)]
#[command(name = "agentd recorder", about = "Records a session's desktop (internal)")]
struct Args {
    /// RFB socket of the display.
    #[arg(long)]
    display: PathBuf,
    /// agentd's socket.
    #[arg(long)]
    notes: PathBuf,
    /// Where it is written.
    #[arg(long)]
    spool: PathBuf,
    /// Which session.
    #[arg(long)]
    session: SessionId,
    /// Under which assignment.
    #[arg(long)]
    epoch: u64,
    /// On which runner.
    #[arg(long)]
    runner: RunnerId,
}

/// Arguments of the unit, after the program's own path.
pub fn arguments(
    display: &Path,
    notes: &Path,
    spool: &Path,
    (session, epoch, runner): (&SessionId, Epoch, &RunnerId),
) -> Vec<String> {
    let (display, notes, spool) = (display.display(), notes.display(), spool.display());
    vec![
        "recorder".to_owned(),
        format!("--display={display}"),
        format!("--notes={notes}"),
        format!("--spool={spool}"),
        format!("--session={session}"),
        format!("--epoch={epoch}"),
        format!("--runner={runner}"),
    ]
}

/// What the recorder tells agentd, a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Told {
    /// All is well.
    Recording {},
    /// Nothing is recorded until this is over.
    Paused {
        /// For people.
        reason: String,
    },
}

/// Runs `agentd recorder`; `args` are the arguments after that word. Ends when asked to, or with an error.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let args = Args::parse_from(std::iter::once(OsString::from("agentd recorder")).chain(args));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut asked = signal(SignalKind::terminate()).context("cannot be asked to end")?;
    let (session, epoch, runner) = (args.session, Epoch(args.epoch), args.runner);
    let begin = || {
        let recording = RecordingId::of(&session, epoch);
        Start { recording, session, epoch, runner, started_at: Timestamp::now() }
    };
    let mut spool = Spool::open(&args.spool, begin)
        .with_context(|| format!("the spool {} cannot be used", args.spool.display()))?;
    // Whatever was recorded before this process, nothing is since. Noted at once: the session may end before its display
    // is recorded again, which may take a while.
    let (last_us, reason) = (spool.last_us(), "the recorder was started again");
    let lost = (last_us > 0).then(|| {
        let is_noted = spool.append_json(RecordKind::Event, &gap(last_us, reason)).is_ok();
        Lost { from_us: if is_noted { spool.now_us() } else { last_us }, is_noted, reason: reason.to_owned() }
    });
    let told = watch::Sender::new(Told::Recording {});
    let recorder = Recorder {
        lost: RefCell::new(lost),
        spool: Rc::new(RefCell::new(spool)),
        written: Rc::default(),
        missed: Cell::new(0),
        told,
    };
    tokio::select! {
        never = recorder.watch_display(&args.display) => match never {},
        never = recorder.close_in_time() => match never {},
        failed = recorder.take_notes(&args.notes) => failed,
        _ = asked.recv() => recorder.keep(&RecordedEvent::Ended {}).context("its end cannot be written"),
    }
}

struct Recorder {
    spool: Rc<RefCell<Spool>>,
    /// Something was written.
    written: Rc<Notify>,
    /// Events that could not be written.
    missed: Cell<u64>,
    lost: RefCell<Option<Lost>>,
    told: watch::Sender<Told>,
}

/// Since when nothing of the display is recorded.
#[derive(Debug, Clone)]
struct Lost {
    from_us: u64,
    /// What was before it is noted, and this directly follows: not worth another note where it is short.
    is_noted: bool,
    reason: String,
}

/// The pieces of one segment.
struct Pieces {
    spool: Rc<RefCell<Spool>>,
    written: Rc<Notify>,
    /// Bytes since it was looked at whether there is room: one message of a display can be as long as it likes.
    unchecked: usize,
}

impl Tape for Pieces {
    fn put(&mut self, piece: &[u8]) -> io::Result<()> {
        self.unchecked += piece.len();
        if self.unchecked >= SEGMENT_BYTES {
            self.unchecked = 0;
            check_room(&self.spool.borrow())?;
        }
        let put = self.spool.borrow_mut().append(RecordKind::Display, piece).map_err(full);
        self.written.notify_one();
        put
    }
}

/// The disk's fault, told apart from the display's.
fn full(error: io::Error) -> io::Error {
    io::Error::other(Unwritable(error))
}

#[derive(Debug, thiserror::Error)]
#[error("it cannot be written: {0}")]
struct Unwritable(#[source] io::Error);

impl Recorder {
    /// Segment after segment.
    async fn watch_display(&self, display: &Path) -> std::convert::Infallible {
        let (mut pace, mut again, mut is_ready) = (Pace::default(), AGAIN, false);
        loop {
            let error = match self.segment(display, &mut pace, &mut is_ready).await {
                Ok(()) => {
                    again = AGAIN;
                    continue;
                }
                Err(error) => error,
            };
            let unwritable = error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Unwritable>);
            {
                let mut lost = self.lost.borrow_mut();
                if lost.is_none() {
                    complain(&format!("not recorded for now: {error}"));
                    let from_us = self.spool.borrow().now_us();
                    *lost = Some(Lost { from_us, is_noted: false, reason: error.to_string() });
                }
            }
            if unwritable {
                self.told.send_replace(Told::Paused { reason: error.to_string() });
                tokio::time::sleep(ROOM_AGAIN).await;
            } else {
                tokio::time::sleep(again).await;
                again = (again * 2).min(AGAIN_AT_MOST);
            }
        }
    }

    /// One connection to the display, until it is time for the next.
    async fn segment(&self, display: &Path, pace: &mut Pace, is_ready: &mut bool) -> io::Result<()> {
        let opened = Instant::now();
        let begin = |start: SegmentStart| {
            let mut spool = self.spool.borrow_mut();
            check_room(&spool)?;
            let lost = self.lost.borrow().clone();
            let lost = lost.filter(|lost| !lost.is_noted || spool.now_us() > lost.from_us + UNNOTED_US);
            if let Some(Lost { from_us, reason, .. }) = lost {
                spool.append_json(RecordKind::Event, &gap(from_us, reason)).map_err(full)?;
            }
            spool.append_json(RecordKind::Segment, &start).map_err(full)?;
            Ok(Pieces { spool: self.spool.clone(), written: self.written.clone(), unchecked: 0 })
        };
        let mut screen = Screen::connect(display, pace.is_lossy(), begin).await?;
        screen.ask(false).await?;
        let (mut looked, mut bytes) = (Instant::now(), 0);
        loop {
            let cost = screen.update().await?;
            bytes += cost;
            if self.lost.borrow_mut().take().is_some() {
                self.told.send_replace(Told::Recording {});
            }
            if !std::mem::replace(is_ready, true) {
                // Nobody reads it if agentd is gone.
                let _ = io::stdout().write_all(READY).and_then(|()| io::stdout().flush());
            }
            let pause = pace.after(cost, looked.elapsed());
            looked = Instant::now();
            tokio::time::sleep(pause).await;
            if opened.elapsed() >= SEGMENT_LIFE || bytes >= SEGMENT_BYTES {
                return Ok(());
            }
            screen.set_lossy(pace.is_lossy()).await?;
            screen.ask(true).await?;
        }
    }

    async fn close_in_time(&self) -> std::convert::Infallible {
        loop {
            let due = self.spool.borrow().due();
            let Some(due) = due else {
                self.written.notified().await;
                continue;
            };
            tokio::time::sleep(due).await;
            let closed = if self.spool.borrow().due() == Some(Duration::ZERO) {
                self.spool.borrow_mut().close()
            } else {
                Ok(())
            };
            if let Err(error) = closed {
                complain(&format!("a chunk is not closed yet: {error}"));
                tokio::time::sleep(ROOM_AGAIN).await;
            }
        }
    }

    async fn take_notes(&self, socket: &Path) -> anyhow::Result<()> {
        let dir = socket.parent().unwrap_or(Path::new("/"));
        let inotify = file_events::inotify().context("cannot watch for agentd")?;
        // Watched before the first try: what appears after it is told.
        inotify.watches().add(dir, WatchMask::MOVED_TO).context("cannot watch for agentd")?;
        let mut appears = inotify.into_event_stream(vec![0; 1024])?;
        loop {
            // Refused, or not there: agentd is away.
            if let Ok(stream) = UnixStream::connect(socket).await {
                let (reader, writer) = stream.into_split();
                tokio::select! {
                    () = self.note(BufReader::new(reader)) => {}
                    () = self.tell(writer) => {}
                }
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, appears.next()).await;
        }
    }

    /// Notes what agentd says, until it is gone.
    async fn note(&self, mut reader: BufReader<tokio::net::unix::OwnedReadHalf>) {
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = (&mut reader).take(MAX_PAYLOAD as u64);
            if !matches!(bounded.read_until(b'\n', &mut line).await, Ok(1..)) || line.last() != Some(&b'\n') {
                return;
            }
            let Ok(event) = serde_json::from_slice::<RecordedEvent>(&line) else { return };
            if let Err(error) = self.keep(&event) {
                // The display's task sees the same, and pauses.
                complain(&format!("an event is not recorded: {error}"));
                self.missed.set(self.missed.get() + 1);
            }
            self.written.notify_one();
        }
    }

    /// Writes an event, behind how many could not be written before it.
    fn keep(&self, event: &RecordedEvent) -> io::Result<()> {
        check_room(&self.spool.borrow())?;
        let mut spool = self.spool.borrow_mut();
        if self.missed.get() > 0 {
            spool.append_json(RecordKind::Event, &RecordedEvent::Missed { count: self.missed.get() })?;
            self.missed.set(0);
        }
        spool.append_json(RecordKind::Event, event)
    }

    /// Tells agentd how it goes, until it is gone.
    async fn tell(&self, mut writer: tokio::net::unix::OwnedWriteHalf) {
        let mut told = self.told.subscribe();
        loop {
            let mut line = serde_json::to_vec(&*told.borrow_and_update()).unwrap_or_default();
            line.push(b'\n');
            if writer.write_all(&line).await.is_err() || told.changed().await.is_err() {
                return;
            }
        }
    }
}

/// An error where so much waits for the server that nothing more is recorded.
fn check_room(spool: &Spool) -> io::Result<()> {
    let waiting = spool.waiting().map_err(full)?;
    if waiting < MAX_WAITING {
        return Ok(());
    }
    let reason = format!("{} MiB wait for the server", waiting >> 20);
    Err(full(io::Error::new(io::ErrorKind::StorageFull, reason)))
}

/// For the unit's log.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
