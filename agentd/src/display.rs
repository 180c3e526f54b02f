//! A session's X display as agentd sees it: its cookie, and the events that say "the window manager is ready" and
//! "the agent has a window".
//!
//! Asynchronous on purpose: x11rb's wire types over a tokio socket. Its blocking connection would let a display that
//! does not answer (a session can stop its own) hold a thread. Every wait here ends with its caller's deadline, and
//! dropping a future drops the connection.

use std::borrow::Cow;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream as StdStream};
use std::path::Path;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ChangeWindowAttributesAux, ChangeWindowAttributesRequest, ClientMessageEvent, CreateWindowAux,
    CreateWindowRequest, EventMask, GetPropertyReply, GetPropertyRequest, InternAtomReply, InternAtomRequest,
    PROPERTY_NOTIFY_EVENT, PropertyNotifyEvent, SendEventRequest, Setup, Window, WindowClass,
};
use x11rb::reexports::x11rb_protocol::connect::Connect;
use x11rb::x11_utils::TryParse;

use crate::session::probe::read_line;
use crate::supervisor::process::procfs;
use crate::supervisor::{HostPaths, UnitName};

/// Bytes of an MIT-MAGIC-COOKIE-1.
const COOKIE_BYTES: usize = 16;
const COOKIE_NAME: &[u8] = b"MIT-MAGIC-COOKIE-1";
/// Largest reply that our requests can have: a property of at most [`MAX_PROPERTY_WORDS`].
const MAX_REPLY_BYTES: usize = 64 * 1024;
const MAX_PROPERTY_WORDS: u32 = 1024;
/// Before a question to the window manager is repeated: in its event loop it answers within a millisecond.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// Everything that a server sends begins with this many bytes; the first says what it is.
const PACKET_BYTES: usize = 32;
const PACKET_ERROR: u8 = 0;
const PACKET_REPLY: u8 = 1;
const PACKET_GENERIC_EVENT: u8 = 35;

/// What the display must say before a step is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// A window manager rules (root has `_NET_SUPPORTING_WM_CHECK`) and answers. Windows opened before that can get
    /// lost.
    WindowManager,
    /// The window manager shows a client's window: `_NET_CLIENT_LIST` is not empty.
    ClientWindow,
}

/// Contents of an Xauthority file with a new random cookie: one record of family "wild", which fits whatever number
/// the display gets, so that the file can be written before the display starts.
pub fn new_authority() -> io::Result<Vec<u8>> {
    let mut cookie = [0; COOKIE_BYTES];
    getrandom::fill(&mut cookie).map_err(io::Error::other)?;
    let mut record = vec![0xff, 0xff, 0, 0, 0, 0];
    record.extend((COOKIE_NAME.len() as u16).to_be_bytes());
    record.extend(COOKIE_NAME);
    record.extend((COOKIE_BYTES as u16).to_be_bytes());
    record.extend(cookie);
    Ok(record)
}

/// The number that the display of the session with these paths has told.
pub fn number(paths: &HostPaths) -> io::Result<u32> {
    let line = read_line(&paths.ready.join(UnitName::Display.as_str()))?;
    line.and_then(|line| line.parse().ok()).ok_or_else(|| io::Error::other("it has not told its number"))
}

/// A socket to display `number` of the session with these paths, if process `pid` is what listens there, and what the
/// display said first.
pub async fn connect(number: u32, paths: &HostPaths, pid: u32) -> io::Result<(UnixStream, Setup)> {
    let record = std::fs::read(&paths.xauthority)?;
    let cookie = record.get(record.len().saturating_sub(COOKIE_BYTES)..).unwrap_or_default().to_vec();
    let mut stream = open(number, paths.x_sockets.as_deref())?;
    require_peer(&stream, pid)?;
    let (mut connect, request) = Connect::with_authorization(COOKIE_NAME.to_vec(), cookie);
    stream.write_all(&request).await?;
    loop {
        let count = stream.read(connect.buffer()).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if connect.advance(count) {
            break;
        }
    }
    Ok((stream, connect.into_setup().map_err(io::Error::other)?))
}

/// A connection to a session's display.
#[derive(Debug)]
pub struct Display {
    stream: UnixStream,
    root: Window,
    /// First of the ids that are ours to give.
    id_base: u32,
    /// Bytes read and not yet taken.
    unread: BytesMut,
}

impl Display {
    /// Connects to display `number` of the session with these paths, if process `pid` is what listens there.
    pub async fn connect(number: u32, paths: &HostPaths, pid: u32) -> io::Result<Self> {
        let (stream, setup) = connect(number, paths, pid).await?;
        let root = setup.roots.first().map(|screen| screen.root);
        let root = root.ok_or_else(|| io::Error::other("the display has no screen"))?;
        Ok(Self { stream, root, id_base: setup.resource_id_base, unread: BytesMut::new() })
    }

    /// Waits until the sign is there.
    pub async fn wait_for(&mut self, sign: Sign) -> io::Result<()> {
        let attributes = ChangeWindowAttributesAux::new().event_mask(EventMask::PROPERTY_CHANGE);
        let select = ChangeWindowAttributesRequest { window: self.root, value_list: Cow::Owned(attributes) };
        self.send(&select.serialize().0).await?;
        match sign {
            Sign::WindowManager => {
                self.wait_for_property(b"_NET_SUPPORTING_WM_CHECK").await?;
                self.wait_for_manager().await
            }
            Sign::ClientWindow => self.wait_for_property(b"_NET_CLIENT_LIST").await,
        }
    }

    /// Waits until root has a property with something in it.
    async fn wait_for_property(&mut self, name: &'static [u8]) -> io::Result<()> {
        let atom = self.atom(name).await?;
        // Events are selected before the first look, so a change in between is seen by one of the two.
        while !self.has_content(atom).await? {
            self.change_of(self.root, atom).await?;
        }
        Ok(())
    }

    /// Waits until the window manager answers a message. openbox sets its property before it enters its event loop,
    /// and what a client asks in between can lie unread until another event comes: one terminal in twenty then waited
    /// 5 s for its first window. Our question has an answer that we can see, and is repeated until it comes.
    async fn wait_for_manager(&mut self) -> io::Result<()> {
        let extents = self.atom(b"_NET_FRAME_EXTENTS").await?;
        let question = self.atom(b"_NET_REQUEST_FRAME_EXTENTS").await?;
        let window = self.id_base | 1;
        let create = CreateWindowRequest {
            depth: 0,
            wid: window,
            parent: self.root,
            x: 0,
            y: 0,
            width: 1,
            height: 1,
            border_width: 0,
            class: WindowClass::INPUT_OUTPUT,
            visual: 0,
            value_list: Cow::Owned(CreateWindowAux::new().event_mask(EventMask::PROPERTY_CHANGE)),
        };
        self.send(&create.serialize().0).await?;
        loop {
            let message = ClientMessageEvent::new(32, window, question, [0_u32; 5]);
            let ask = SendEventRequest {
                propagate: false,
                destination: self.root,
                event_mask: EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY,
                event: Cow::Owned(message.into()),
            };
            self.send(&ask.serialize().0).await?;
            if let Ok(answer) = tokio::time::timeout(ASK_AGAIN, self.change_of(window, extents)).await {
                return answer;
            }
        }
    }

    async fn atom(&mut self, name: &'static [u8]) -> io::Result<Atom> {
        let request = InternAtomRequest { only_if_exists: false, name: Cow::Borrowed(name) };
        self.send(&request.serialize().0).await?;
        let reply = self.reply().await?;
        Ok(InternAtomReply::try_parse(&reply).map_err(io::Error::other)?.0.atom)
    }

    async fn has_content(&mut self, property: Atom) -> io::Result<bool> {
        let request = GetPropertyRequest {
            delete: false,
            window: self.root,
            property,
            type_: AtomEnum::ANY.into(),
            long_offset: 0,
            long_length: MAX_PROPERTY_WORDS,
        };
        self.send(&request.serialize().0).await?;
        let reply = self.reply().await?;
        Ok(GetPropertyReply::try_parse(&reply).map_err(io::Error::other)?.0.value_len > 0)
    }

    /// Waits until a property changes. Cancel safe.
    async fn change_of(&mut self, window: Window, property: Atom) -> io::Result<()> {
        loop {
            let packet = self.packet().await?;
            // An event that another client sent has the top bit set, so it is none of these.
            if packet[0] == PROPERTY_NOTIFY_EVENT {
                let (event, _) = PropertyNotifyEvent::try_parse(&packet).map_err(io::Error::other)?;
                if (event.window, event.atom) == (window, property) {
                    return Ok(());
                }
            }
        }
    }

    /// The next reply. Events before it are dropped: whoever waits for one looks at the property after this.
    async fn reply(&mut self) -> io::Result<BytesMut> {
        loop {
            let packet = self.packet().await?;
            if packet[0] == PACKET_REPLY {
                return Ok(packet);
            }
        }
    }

    /// The next reply or event, of 32 bytes or more. Cancel safe.
    async fn packet(&mut self) -> io::Result<BytesMut> {
        self.fill(PACKET_BYTES).await?;
        let extra = match self.unread[0] {
            PACKET_ERROR => {
                return Err(io::Error::other(format!("the display answers with X error {}", self.unread[1])));
            }
            PACKET_REPLY | PACKET_GENERIC_EVENT => (&self.unread[4..8]).get_u32_ne() as usize * 4,
            _ => 0,
        };
        if extra > MAX_REPLY_BYTES {
            return Err(io::Error::other(format!("the display sends a packet of {extra} bytes")));
        }
        self.fill(PACKET_BYTES + extra).await?;
        Ok(self.unread.split_to(PACKET_BYTES + extra))
    }

    async fn fill(&mut self, bytes: usize) -> io::Result<()> {
        while self.unread.len() < bytes {
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    async fn send(&mut self, parts: &[impl AsRef<[u8]>]) -> io::Result<()> {
        for part in parts {
            self.stream.write_all(part.as_ref()).await?;
        }
        Ok(())
    }
}

/// The abstract socket first: that is what makes a display number exclusive.
fn open(number: u32, sockets: Option<&Path>) -> io::Result<UnixStream> {
    let stream = if let Some(sockets) = sockets {
        StdStream::connect(sockets.join(format!("X{number}")))?
    } else {
        let path = format!("/tmp/.X11-unix/X{number}");
        SocketAddr::from_abstract_name(&path)
            .and_then(|address| StdStream::connect_addr(&address))
            .or_else(|_| StdStream::connect(&path))?
    };
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Refuses a socket on which another process listens than `pid`, a child of it or a child's child (SO_PEERCRED).
pub fn require_peer(stream: &UnixStream, pid: u32) -> io::Result<()> {
    let peer = stream.peer_cred()?.pid().and_then(|peer| u32::try_from(peer).ok());
    let parent = |peer: &u32| procfs::process(*peer).map(|process| process.ppid);
    if std::iter::successors(peer, parent).take(3).any(|process| process == pid) {
        return Ok(());
    }
    let peer = peer.map_or_else(|| "an unknown process".to_owned(), |peer| format!("process {peer}"));
    Err(io::Error::other(format!("{peer} listens there, not the display (process {pid})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_one_wild_record() {
        let record = new_authority().expect("random bytes");
        assert_eq!(record.len(), 2 + 2 + 2 + 2 + COOKIE_NAME.len() + 2 + COOKIE_BYTES);
        assert_eq!(&record[..8], [0xff, 0xff, 0, 0, 0, 0, 0, 18]);
        assert_ne!(record, new_authority().expect("random bytes"), "the cookie is not random");
    }
}
