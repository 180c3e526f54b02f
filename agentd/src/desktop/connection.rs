//! A connection to an X display that any number of tasks share.
//!
//! Asynchronous like [`crate::display`], for the same reason: a display that does not answer holds a task and no thread,
//! and every wait ends with its caller's deadline. x11rb gives the wire types.
//!
//! Tasks: a writer, which numbers requests and sends them in the order of its queue (one write for what waits together),
//! and a reader, which gives each reply to who asked, and events to [`Connection::events`] and [`Connection::damaged`].
//! Dropping the connection ends the writer once its queue is empty and the display has read it, and with it the reader.
//! When the display ends, whoever waits is told, and so is whoever comes later.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use x11rb::protocol::xproto::{QueryExtensionRequest, Setup, Window};
use x11rb::protocol::{damage, randr, res, shm, xfixes, xtest};
use x11rb::reexports::x11rb_protocol::x11_utils::{ReplyRequest, Request, TryParse as _, VoidRequest};

use super::DesktopError;
use super::event::Event;

/// Requests that wait to be written, beside last words.
const QUEUE: usize = 1024;
/// Events that a slow reader may fall behind.
const EVENTS: usize = 1024;
/// Largest reply, where the asker expects no more.
pub(super) const MAX_REPLY_BYTES: usize = 256 * 1024;
/// For the display to take what was queued before the connection was dropped.
const LAST_WRITES: Duration = Duration::from_secs(1);
const PACKET_BYTES: usize = 32;
const PACKET_ERROR: u8 = 0;
const PACKET_REPLY: u8 = 1;
const PACKET_GENERIC_EVENT: u8 = 35;

type Result<T, E = DesktopError> = std::result::Result<T, E>;

/// A request on its way.
struct Outgoing {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    reply: Option<Asker>,
    /// Its place in the queue; last words need none.
    _place: Option<OwnedSemaphorePermit>,
}

/// Who waits for a reply.
struct Asker {
    sender: oneshot::Sender<Result<Bytes>>,
    max_bytes: usize,
}

/// Askers in the order of their requests, each with its number.
type Askers = Arc<Mutex<VecDeque<(u16, Asker)>>>;

/// A display's major opcodes of what we use; 0 where it has no such extension.
#[derive(Debug, Clone, Copy, Default)]
struct Opcodes {
    damage: u8,
    randr: u8,
    res: u8,
    shm: u8,
    xfixes: u8,
    xtest: u8,
}

impl Opcodes {
    fn of(self, extension: Option<&'static str>) -> Option<u8> {
        let opcode = match extension {
            None => return Some(0),
            Some(damage::X11_EXTENSION_NAME) => self.damage,
            Some(randr::X11_EXTENSION_NAME) => self.randr,
            Some(res::X11_EXTENSION_NAME) => self.res,
            Some(shm::X11_EXTENSION_NAME) => self.shm,
            Some(xfixes::X11_EXTENSION_NAME) => self.xfixes,
            Some(xtest::X11_EXTENSION_NAME) => self.xtest,
            Some(_) => 0,
        };
        (opcode != 0).then_some(opcode)
    }
}

/// A connection to a display.
pub(super) struct Connection {
    /// What the display said first.
    pub setup: Setup,
    queue: mpsc::UnboundedSender<Outgoing>,
    /// Bounds the queue for everybody who can wait.
    places: Arc<Semaphore>,
    opcodes: Opcodes,
    /// The next of the ids that are ours to give.
    next_id: AtomicU32,
    events: broadcast::Sender<Event>,
    /// Counts the display's notices that something was drawn.
    damage: watch::Sender<u64>,
    /// Width and height of the screen.
    screen: watch::Sender<(u16, u16)>,
    /// Number of the damage extension's event, for the reader; 0 until it is known.
    damage_event: Arc<AtomicU32>,
    ended: CancellationToken,
}

impl Connection {
    /// Takes over a socket whose set-up is done, and asks which extensions there are.
    pub async fn start(stream: UnixStream, setup: Setup) -> Result<Self> {
        let (read, write) = stream.into_split();
        let (queue, outgoing) = mpsc::unbounded_channel();
        let root = setup.roots.first().ok_or_else(|| DesktopError::Protocol("it has no screen".to_owned()))?;
        let screen = watch::Sender::new((root.width_in_pixels, root.height_in_pixels));
        let (events, damage) = (broadcast::Sender::new(EVENTS), watch::Sender::new(0));
        let (ended, askers, damage_event) = (CancellationToken::new(), Askers::default(), Arc::new(AtomicU32::new(0)));
        let reader = Reader {
            socket: read,
            unread: BytesMut::new(),
            askers: askers.clone(),
            events: events.clone(),
            damage: damage.clone(),
            damage_event: damage_event.clone(),
            screen: screen.clone(),
            root: root.root,
        };
        tokio::spawn(reader.run(ended.clone()));
        tokio::spawn(write_all(write, outgoing, askers, ended.clone()));
        let next_id = AtomicU32::new(setup.resource_id_base | 1);
        let (opcodes, places) = (Opcodes::default(), Arc::new(Semaphore::new(QUEUE)));
        let mut connection =
            Self { setup, queue, places, opcodes, next_id, events, damage, screen, damage_event, ended };
        connection.find_extensions().await?;
        Ok(connection)
    }

    async fn find_extensions(&mut self) -> Result<()> {
        let find = async |name: &str| self.ask(QueryExtensionRequest { name: name.as_bytes().into() }).await;
        let (damage, randr, res, shm, xfixes, xtest) = tokio::try_join!(
            find(damage::X11_EXTENSION_NAME),
            find(randr::X11_EXTENSION_NAME),
            find(res::X11_EXTENSION_NAME),
            find(shm::X11_EXTENSION_NAME),
            find(xfixes::X11_EXTENSION_NAME),
            find(xtest::X11_EXTENSION_NAME),
        )?;
        self.damage_event.store(u32::from(damage.first_event), Ordering::Relaxed);
        self.opcodes = Opcodes {
            damage: damage.major_opcode,
            randr: randr.major_opcode,
            res: res.major_opcode,
            shm: shm.major_opcode,
            xfixes: xfixes.major_opcode,
            xtest: xtest.major_opcode,
        };
        Ok(())
    }

    /// Whether it tells whose a window is.
    pub fn knows_clients(&self) -> bool {
        self.opcodes.res != 0
    }

    /// An id for something that we make on the display.
    pub fn new_id(&self) -> u32 {
        // A handful each connection; the display gives more than a million.
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Changes when the display tells that something was drawn.
    pub fn damaged(&self) -> watch::Receiver<u64> {
        self.damage.subscribe()
    }

    /// The root window.
    pub fn root(&self) -> Window {
        self.setup.roots.first().map_or(x11rb::NONE, |screen| screen.root)
    }

    /// Width and height of the screen, once somebody has asked for the root's structure.
    pub fn screen(&self) -> watch::Receiver<(u16, u16)> {
        self.screen.subscribe()
    }

    /// What somebody has asked for; later changes are told by the display.
    pub fn note_screen(&self, width: u16, height: u16) {
        self.screen.send_replace((width, height));
    }

    /// Cancelled when the display has gone.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Sends a request that has no reply. An error of it is logged.
    pub async fn tell<R: VoidRequest>(&self, request: R) -> Result<()> {
        let (bytes, fds) = self.serialize(request)?;
        self.send(bytes, fds, None).await
    }

    /// The same without waiting, for who is being dropped: few, and never lost while the display lives. It is sent
    /// after everything that was told before.
    pub fn tell_last<R: VoidRequest>(&self, request: R) {
        if let Ok((bytes, fds)) = self.serialize(request) {
            // A display that is gone needs no last word.
            let _ = self.queue.send(Outgoing { bytes, fds, reply: None, _place: None });
        }
    }

    /// Sends a request and waits for its reply.
    pub async fn ask<R: ReplyRequest>(&self, request: R) -> Result<R::Reply> {
        self.ask_for(request, MAX_REPLY_BYTES).await
    }

    /// The same for a reply of up to `max_bytes`.
    pub async fn ask_for<R: ReplyRequest>(&self, request: R, max_bytes: usize) -> Result<R::Reply> {
        let reply = self.ask_raw(request, max_bytes).await?;
        let (reply, _) = R::Reply::try_parse(&reply).map_err(|error| DesktopError::Protocol(error.to_string()))?;
        Ok(reply)
    }

    /// The reply as it is on the wire.
    pub async fn ask_raw<R: ReplyRequest>(&self, request: R, max_bytes: usize) -> Result<Bytes> {
        let (bytes, fds) = self.serialize(request)?;
        let (sender, reply) = oneshot::channel();
        let asker = Asker { sender, max_bytes };
        self.send(bytes, fds, Some(asker)).await?;
        reply.await.map_err(|_| DesktopError::gone())?
    }

    async fn send(&self, bytes: Vec<u8>, fds: Vec<OwnedFd>, reply: Option<Asker>) -> Result<()> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| DesktopError::gone())?;
        self.queue.send(Outgoing { bytes, fds, reply, _place: Some(place) }).map_err(|_| DesktopError::gone())
    }

    fn serialize<R: Request>(&self, request: R) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        let opcode = self.opcodes.of(R::EXTENSION_NAME);
        let opcode = opcode.ok_or_else(|| DesktopError::NoExtension(R::EXTENSION_NAME.unwrap_or_default()))?;
        Ok(request.serialize(opcode))
    }
}

/// The writer's task.
async fn write_all(
    mut socket: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    askers: Askers,
    ended: CancellationToken,
) {
    let work = async {
        let (mut waiting, mut buffer, mut number) = (Vec::new(), Vec::new(), 0_u16);
        while queue.recv_many(&mut waiting, QUEUE).await > 0 {
            for request in waiting.drain(..) {
                number = number.wrapping_add(1);
                if let Some(asker) = request.reply {
                    // Before it is written: its reply may come at once.
                    lock(&askers).push_back((number, asker));
                }
                if request.fds.is_empty() {
                    buffer.extend_from_slice(&request.bytes);
                } else {
                    socket.write_all(&std::mem::take(&mut buffer)).await?;
                    send_with_fds(&mut socket, &request.bytes, &request.fds).await?;
                }
            }
            socket.write_all(&buffer).await?;
            buffer.clear();
        }
        io::Result::Ok(())
    };
    tokio::select! {
        written = work => if let Err(error) = written {
            tracing::debug!("a display does not take requests any more: {error}");
        },
        () = ended.cancelled() => {}
    }
    // Nobody is left. A display throws away what it has not read of a socket that is closed, so it is left to close
    // it: it does when it has done everything, and the reader sees that.
    let _ = tokio::time::timeout(LAST_WRITES, async {
        let _ = socket.shutdown().await;
        ended.cancelled().await;
    })
    .await;
    ended.cancel();
}

async fn send_with_fds(socket: &mut OwnedWriteHalf, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let count = loop {
        socket.writable().await?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(io::Error::other("too many descriptors for one request"));
        }
        let stream: &UnixStream = socket.as_ref();
        let send =
            || sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).map_err(io::Error::from);
        match stream.try_io(Interest::WRITABLE, send) {
            Ok(count) => break count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    };
    socket.write_all(&bytes[count..]).await
}

struct Reader {
    socket: OwnedReadHalf,
    /// Bytes read and not yet taken.
    unread: BytesMut,
    askers: Askers,
    events: broadcast::Sender<Event>,
    damage: watch::Sender<u64>,
    damage_event: Arc<AtomicU32>,
    screen: watch::Sender<(u16, u16)>,
    root: Window,
}

impl Reader {
    /// The reader's task.
    async fn run(mut self, ended: CancellationToken) {
        let read = async {
            loop {
                let packet = self.packet().await?;
                self.take(packet);
            }
        };
        let end: Option<io::Result<()>> = ended.run_until_cancelled(read).await;
        if let Some(Err(error)) = end {
            tracing::debug!("a display has gone: {error}");
        }
        ended.cancel();
        lock(&self.askers).clear();
    }

    fn take(&self, packet: Bytes) {
        let kind = packet[0];
        match kind {
            PACKET_REPLY | PACKET_ERROR => {
                let number = u16::from_ne_bytes([packet[2], packet[3]]);
                let mut askers = lock(&self.askers);
                let asker = askers.pop_front_if(|(asked, _)| *asked == number);
                match asker {
                    Some((_, asker)) if kind == PACKET_REPLY => drop(asker.sender.send(Ok(packet))),
                    Some((_, asker)) => drop(asker.sender.send(Err(DesktopError::X(packet[1])))),
                    None => tracing::debug!(x.error = packet[1], x.major = packet[10], "a display refused a request"),
                }
            }
            // Another client may send any event it likes; only what the display itself says counts here.
            _ if u32::from(kind) == self.damage_event.load(Ordering::Relaxed) => {
                self.damage.send_modify(|count| *count += 1);
            }
            _ => {
                if let Some(event) = Event::parse(&packet) {
                    if let Event::Size { window, width, height } = event
                        && window == self.root
                    {
                        self.screen.send_replace((width, height));
                    }
                    // Nobody may be listening.
                    let _ = self.events.send(event);
                }
            }
        }
    }

    async fn packet(&mut self) -> io::Result<Bytes> {
        self.fill(PACKET_BYTES).await?;
        let extra = match self.unread[0] {
            PACKET_REPLY | PACKET_GENERIC_EVENT => (&self.unread[4..8]).get_u32_ne() as usize * 4,
            _ => 0,
        };
        let limit = lock(&self.askers).front().map_or(0, |(_, asker)| asker.max_bytes);
        if extra > limit.max(MAX_REPLY_BYTES) {
            return Err(io::Error::other(format!("it sends a packet of {extra} bytes")));
        }
        self.fill(PACKET_BYTES + extra).await?;
        Ok(self.unread.split_to(PACKET_BYTES + extra).freeze())
    }

    async fn fill(&mut self, bytes: usize) -> io::Result<()> {
        self.unread.reserve(bytes.saturating_sub(self.unread.len()));
        while self.unread.len() < bytes {
            if self.socket.read_buf(&mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

fn lock(askers: &Askers) -> std::sync::MutexGuard<'_, VecDeque<(u16, Asker)>> {
    // No holder panics between two changes that belong together.
    askers.lock().unwrap_or_else(PoisonError::into_inner)
}
