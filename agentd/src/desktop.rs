//! Desktops as an API: pictures, input, windows, clipboard, size, over one X connection of agentd's own per session.
//!
//! [`Desktops`] opens a desktop with the first call and keeps it while somebody uses it: a stream to a server
//! ([`stream`]) holds it. The last one that lets go ends it: keys that were left down are released, the keyboard gets its
//! map back, and the connection is closed, unless its clipboard still owns the display's selection ([`clipboard`]). What
//! an agentd that was killed had left down, the next one finds noted on the display and releases ([`input`]).
//!
//! Nothing here blocks a thread on a display: see [`connection`]. A display that ends, or does not answer within a
//! call's deadline, is an error of that call; the session's own state is its task's matter.

mod atoms;
mod capture;
mod clipboard;
mod connection;
mod cursor;
mod encode;
mod event;
mod input;
mod keyboard;
mod keys;
mod reader;
mod size;
pub mod stream;
mod watch;
mod windows;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use helix_protocol::control::{Control, Holder, Viewer};
use helix_protocol::desktop::{MAX_WAIT_TIMEOUT_MS, Reply, Request};
use helix_protocol::{ErrorCode, SessionId};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use x11rb::protocol::xproto::{
    ChangeWindowAttributesAux, ChangeWindowAttributesRequest, EventMask, GetGeometryRequest, ImageOrder,
};
use x11rb::protocol::{damage, randr, shm, xfixes};

use self::atoms::Atoms;
use self::capture::Camera;
use self::clipboard::Clipboard;
use self::connection::Connection;
use self::input::Hands;
use self::watch::Watch;
use crate::display;
use crate::gate::Gates;
use crate::recorder::notes::Notes;
use crate::supervisor::{HostPaths, Supervisor, UnitName};

/// From the first call to a connection that is ready. The server waits as long for the dial.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);
/// For the display to answer; beyond what a call itself waits for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

type Result<T, E = DesktopError> = std::result::Result<T, E>;

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
pub enum DesktopError {
    /// The call asks for something that is not possible.
    #[error("{0}")]
    Invalid(String),
    /// There is no such window, or no longer.
    #[error("there is no window {0}; GET …/windows lists them")]
    NoWindow(u32),
    /// The owner of the clipboard does not give what is in it.
    #[error("the clipboard cannot be read: {0}")]
    Clipboard(String),
    /// Something did not happen in time.
    #[error("{0}")]
    Late(String),
    /// The session has no display unit that runs.
    #[error("the session has no desktop now")]
    NoDesktop,
    /// The display cannot be reached, or has gone.
    #[error("the session's display cannot be used: {0}")]
    Display(io::Error),
    /// The display refuses a request: X's error number.
    #[error("the session's display refuses the request with X error {0}")]
    X(u8),
    /// The display answers something else than was asked.
    #[error("the session's display answers something unexpected: {0}")]
    Protocol(String),
    /// The display lacks an extension of X.
    #[error("the session's display has no extension {0}")]
    NoExtension(&'static str),
    /// The display cannot do this.
    #[error("the session's display cannot do this: {0}")]
    Unsupported(String),
    /// Somebody else has the control.
    #[error(
        "{} (seat {}) has had the control since {}; wait until it is handed back, or take it over: PUT …/control",
        .0.by, .0.seat, .0.since
    )]
    Taken(Holder),
    /// A fault of ours.
    #[error("{0}")]
    Fault(String),
}

impl DesktopError {
    fn silent() -> Self {
        Self::Display(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"))
    }

    fn gone() -> Self {
        Self::Display(io::Error::new(io::ErrorKind::ConnectionAborted, "it has ended"))
    }

    /// The stable code that goes to the caller.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) => ErrorCode::InvalidRequest,
            Self::NoWindow(_) => ErrorCode::WindowNotFound,
            Self::Clipboard(_) => ErrorCode::ClipboardUnavailable,
            Self::Late(_) => ErrorCode::WaitTimeout,
            Self::NoDesktop => ErrorCode::SessionNotReady,
            Self::Display(_) | Self::X(_) | Self::Protocol(_) | Self::NoExtension(_) => ErrorCode::DisplayUnavailable,
            Self::Unsupported(_) => ErrorCode::ServiceUnavailable,
            Self::Taken(_) => ErrorCode::ControlTaken,
            Self::Fault(_) => ErrorCode::Internal,
        }
    }
}

/// The one place that decides whether a call may change a desktop now, by the control lease: whatever moves the pointer,
/// types, changes windows, the clipboard or the size asks here first.
fn require_control(control: &Control, by: &Viewer) -> Result<()> {
    match &control.holder {
        _ if by.may_type(control) => Ok(()),
        Some(holder) => Err(DesktopError::Taken(holder.clone())),
        None => Err(DesktopError::Invalid("who only looks at a desktop changes nothing there".to_owned())),
    }
}

/// Whether a call changes the desktop.
fn changes(request: &Request) -> bool {
    matches!(request, Request::Input(_) | Request::Window { .. } | Request::SetClipboard(_) | Request::SetDisplay(_))
}

/// The desktops in use. Cheap to clone.
#[derive(Clone)]
pub struct Desktops<S> {
    supervisor: S,
    gates: Gates,
    notes: Notes,
    open: Arc<Mutex<HashMap<SessionId, Weak<Desktop>>>>,
}

impl<S: Supervisor> Desktops<S> {
    /// None is open.
    pub fn new(supervisor: S, gates: Gates, notes: Notes) -> Self {
        Self { supervisor, gates, notes, open: Arc::default() }
    }

    /// The session's desktop: the one in use, or a new connection to its display.
    pub async fn open(&self, session: &SessionId) -> Result<Arc<Desktop>> {
        let units = self.supervisor.units(session).await.map_err(|_| DesktopError::NoDesktop)?;
        let display = units.iter().find(|unit| unit.name == UnitName::Display);
        let pid = display.and_then(|unit| unit.pid).ok_or(DesktopError::NoDesktop)?;
        if let Some(desktop) = self.in_use(session, pid).await {
            return Ok(desktop);
        }
        let opened = tokio::time::timeout(
            OPEN_TIMEOUT,
            Desktop::open(
                &self.supervisor.host_paths(session),
                pid,
                self.gates.watch(session),
                (self.notes.clone(), session.clone()),
            ),
        )
        .await;
        let desktop = Arc::new(opened.map_err(|_| DesktopError::silent())??);
        let mut open = self.open.lock().await;
        open.retain(|_, desktop| desktop.strong_count() > 0);
        // Two at once: the first to be ready is everybody's.
        if let Some(other) = open.get(session).and_then(Weak::upgrade).filter(|other| other.is(pid)) {
            return Ok(other);
        }
        // Before anybody else can press anything.
        let hands = desktop.hands.lock().await;
        open.insert(session.clone(), Arc::downgrade(&desktop));
        drop(open);
        tokio::spawn(let_go_with_the_control(
            Arc::downgrade(&desktop),
            desktop.x.ended().clone(),
            desktop.control.clone(),
        ));
        let recovered = tokio::time::timeout(ANSWER_TIMEOUT, hands.recover()).await;
        recovered.map_err(|_| DesktopError::silent())??;
        drop(hands);
        Ok(desktop)
    }

    async fn in_use(&self, session: &SessionId, pid: u32) -> Option<Arc<Desktop>> {
        self.open.lock().await.get(session).and_then(Weak::upgrade).filter(|desktop| desktop.is(pid))
    }
}

/// Whenever the control changes, what calls left down under another lease is let go. Ends with the connection.
async fn let_go_with_the_control(
    desktop: Weak<Desktop>,
    ended: CancellationToken,
    mut control: tokio::sync::watch::Receiver<Control>,
) {
    // Cancel safe: what is cut off is the display's end.
    let work = async {
        while control.changed().await.is_ok() {
            let Some(desktop) = desktop.upgrade() else { return };
            let mut hands = desktop.hands.lock().await;
            // With the hands taken, so that no call presses anything under a lease that is not known here.
            hands.let_go(control.borrow_and_update().epoch);
        }
    };
    ended.run_until_cancelled(work).await;
}

/// A session's desktop in use.
pub struct Desktop {
    x: Arc<Connection>,
    /// The display's main process.
    pid: u32,
    /// Who may change something here.
    control: tokio::sync::watch::Receiver<Control>,
    /// Where it is noted what calls do, and for which session.
    notes: (Notes, SessionId),
    camera: Mutex<Camera>,
    watch: Watch,
    /// Input of one call after the other.
    hands: Mutex<Hands>,
    clipboard: Arc<Clipboard>,
    atoms: Arc<Atoms>,
    /// Of this display, made by us for a size that it did not have.
    own_mode: Mutex<Option<u32>>,
}

impl Desktop {
    async fn open(
        paths: &HostPaths,
        pid: u32,
        control: tokio::sync::watch::Receiver<Control>,
        notes: (Notes, SessionId),
    ) -> Result<Self> {
        let number = display::number(paths).map_err(DesktopError::Display)?;
        let (stream, setup) = display::connect(number, paths, pid).await.map_err(DesktopError::Display)?;
        let x = Arc::new(Connection::start(stream, setup).await?);
        let screen = x.setup.roots.first().ok_or_else(|| DesktopError::Protocol("no screen".to_owned()))?;
        let (root, depth) = (screen.root, screen.root_depth);
        let format = x.setup.pixmap_formats.iter().find(|format| format.depth == depth);
        let true_colour = matches!(depth, 24 | 32) && format.is_some_and(|format| format.bits_per_pixel == 32);
        if !true_colour || x.setup.image_byte_order != ImageOrder::LSB_FIRST {
            return Err(DesktopError::Unsupported(format!("its pixels have a depth of {depth}, not 24")));
        }
        // Each side names the version that it knows; a server takes no request of an extension before.
        x.ask(xfixes::QueryVersionRequest { client_major_version: 5, client_minor_version: 0 }).await?;
        x.ask(damage::QueryVersionRequest { client_major_version: 1, client_minor_version: 1 }).await?;
        // Both can be done without.
        let _ = x.ask(randr::QueryVersionRequest { major_version: 1, minor_version: 5 }).await;
        let shared = x.ask(shm::QueryVersionRequest {}).await.is_ok_and(|version| version.minor_version >= 2);
        let attributes =
            ChangeWindowAttributesAux::new().event_mask(EventMask::PROPERTY_CHANGE | EventMask::STRUCTURE_NOTIFY);
        x.tell(ChangeWindowAttributesRequest { window: root, value_list: Cow::Owned(attributes) }).await?;
        // It may have changed between what the display said first and now.
        let now = x.ask(GetGeometryRequest { drawable: root }).await?;
        x.note_screen(now.width, now.height);
        let (watch, atoms) = (Watch::new(&x, root).await?, Arc::new(Atoms::intern(&x).await?));
        let clipboard = Arc::new(Clipboard::new(x.clone(), atoms.clone()).await?);
        let (camera, hands) = (Mutex::new(Camera::new(root, shared)), Hands::new(&x, root, atoms.kept).await?);
        let hands = Mutex::new(hands);
        Ok(Self { x, pid, control, notes, camera, watch, hands, clipboard, atoms, own_mode: Mutex::default() })
    }

    /// The connection is to that process, and lives.
    fn is(&self, pid: u32) -> bool {
        self.pid == pid && !self.x.ended().is_cancelled()
    }

    fn root(&self) -> u32 {
        self.x.root()
    }

    /// Width and height of the screen.
    fn screen(&self) -> (u16, u16) {
        *self.x.screen().borrow()
    }

    /// Does what is asked. What a picture's answer carries is returned beside it. Cancel safe: input that is cut off
    /// leaves nothing pressed.
    pub async fn call(self: &Arc<Self>, by: &Viewer, request: Request) -> Result<(Reply, Vec<u8>)> {
        let patience = match &request {
            Request::Input(_) => input::BATCH_TIMEOUT,
            Request::Wait(wait) => Duration::from_millis(wait.timeout_ms.min(MAX_WAIT_TIMEOUT_MS)),
            _ => Duration::ZERO,
        };
        let answered = tokio::time::timeout(patience + ANSWER_TIMEOUT, self.answer(by, request)).await;
        answered.map_err(|_| DesktopError::silent())?
    }

    async fn answer(self: &Arc<Self>, by: &Viewer, request: Request) -> Result<(Reply, Vec<u8>)> {
        if !changes(&request) {
            return self.perform(by, request).await;
        }
        // Who loses the control in the middle is heard no further.
        tokio::select! {
            biased;
            error = self.lost_control(by) => Err(error),
            done = async {
                let (notes, session) = &self.notes;
                notes.tell_call(session, &by.by, &request);
                self.perform(by, request).await
            } => done,
        }
    }

    /// Completes once `by` may not change the desktop, which may be at once.
    async fn lost_control(&self, by: &Viewer) -> DesktopError {
        let mut control = self.control.clone();
        loop {
            if let Err(error) = require_control(&control.borrow_and_update(), by) {
                return error;
            }
            if control.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn perform(self: &Arc<Self>, by: &Viewer, request: Request) -> Result<(Reply, Vec<u8>)> {
        let reply = match request {
            Request::Screenshot(wanted) => return self.screenshot(wanted).await,
            Request::Input(input) => Reply::Input(self.input(by, &input).await?),
            Request::Windows {} => Reply::Windows(self.windows().await?),
            Request::Window { window, action } => match self.act_on(window, action).await? {
                Some(view) => Reply::Window(view),
                None => Reply::Ok {},
            },
            Request::GetClipboard {} => Reply::Clipboard(self.clipboard.get().await?),
            Request::SetClipboard(clipboard) => {
                self.clipboard.set(clipboard.text).await?;
                Reply::Ok {}
            }
            Request::GetDisplay {} => Reply::Display(self.display()),
            Request::SetDisplay(size) => Reply::Display(self.resize(size).await?),
            Request::Cursor {} => Reply::Cursor(self.cursor().await?),
            Request::Wait(wait) => Reply::Waited(self.wait(&wait).await?),
            // The stream's own matter.
            Request::Cancel { .. } => Reply::Ok {},
        };
        Ok((reply, Vec::new()))
    }
}
