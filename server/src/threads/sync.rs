//! Sync sockets of this server: who has one open, and the owner behind it.
//!
//! Tasks: one [`owner`](super::owner) per session with a socket here, from its first socket to some moments after its
//! last one. A socket and its owner are joined by two bounded channels: what the agent said goes in one frame at a
//! time, so a busy owner is felt by the agent's TCP and nowhere else; what is to be sent comes out of a queue of
//! [`QUEUE`], and an agent that does not empty it is cut off. Nothing is lost by that: commands are in the log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use helix_protocol::{Epoch, ErrorCode, SessionId, TurnId, subject};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::decide::words::{self, Said};
use super::decide::{PeerId, Timing};
use super::live::Hub;
use super::owner::Owner;
use super::owner::wire::{Reply, Request};
use crate::bus::{Bus, REQUEST_TIMEOUT, unavailable};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::uses::Uses;

/// Commands that wait for an agent to read them.
pub const QUEUE: usize = 100;
/// Frames between a socket and its owner.
const INPUTS: usize = 4;

/// Sync sockets of this server. Cheap to clone.
#[derive(Clone)]
pub struct Sockets {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub hub: Hub,
    pub bus: Bus,
    pub store: Store,
    pub uses: Uses,
    pub server_id: Arc<str>,
    pub timing: Timing,
    pub shutdown: CancellationToken,
    tasks: TaskTracker,
    owners: Mutex<HashMap<SessionId, mpsc::Sender<Input>>>,
    next: AtomicU64,
}

impl Inner {
    /// A number that this process has not given yet.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a socket tells its owner.
pub(super) enum Input {
    /// It is open.
    Connected(PeerId, Link),
    /// Its agent said something.
    Heard {
        /// Which socket.
        from: PeerId,
        /// What, in order.
        said: Vec<Said>,
        /// It speaks document 000's dialect.
        seed: bool,
    },
    /// It is closed.
    Lost {
        /// Which socket.
        from: PeerId,
        /// Everything that arrived on it before its end was read.
        heard_out: bool,
        /// Turns whose frames were never written to it.
        unsent: Vec<TurnId>,
    },
}

/// How an owner reaches a socket.
pub(super) struct Link {
    pub commands: mpsc::Sender<Outgoing>,
    /// Set to cut it off.
    pub cut: watch::Sender<bool>,
    pub connected_at: Timestamp,
    /// Of which assignment of the session its agent is.
    pub epoch: Option<Epoch>,
}

/// A frame for an agent.
#[derive(Debug)]
pub struct Outgoing {
    /// The text.
    pub text: String,
    /// The turn that it hands over, if it does.
    pub turn: Option<TurnId>,
}

/// A socket's end of the channels.
pub struct Socket {
    peer: PeerId,
    inputs: mpsc::Sender<Input>,
    commands: mpsc::Receiver<Outgoing>,
    cut: watch::Receiver<bool>,
}

/// What a socket writes.
pub struct Commands {
    commands: mpsc::Receiver<Outgoing>,
    cut: watch::Receiver<bool>,
}

/// What a socket reads goes here.
pub struct Voice {
    peer: PeerId,
    inputs: mpsc::Sender<Input>,
}

impl Sockets {
    /// None is open.
    pub fn new(
        hub: Hub,
        bus: Bus,
        (store, uses): (Store, Uses),
        server_id: Arc<str>,
        timing: Timing,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (owners, next) = (Mutex::default(), AtomicU64::new(1));
        Self { inner: Arc::new(Inner { hub, bus, store, uses, server_id, timing, shutdown, tasks, owners, next }) }
    }

    /// A socket of this session's agent opened here: it is the newest.
    pub async fn open(&self, session: &SessionId) -> Socket {
        let peer = PeerId(self.inner.number());
        let (commands, outgoing) = mpsc::channel(QUEUE);
        let (cut, is_cut) = watch::channel(false);
        let epoch = self.epoch(session).await;
        let mut input = Input::Connected(peer, Link { commands, cut, connected_at: Timestamp::now(), epoch });
        loop {
            let inputs = self.owner(session);
            match inputs.send(input).await {
                Ok(()) => return Socket { peer, inputs, commands: outgoing, cut: is_cut },
                // It ended a moment ago: the next one is begun.
                Err(mpsc::error::SendError(back)) => input = back,
            }
        }
    }

    /// Read after whatever let the agent begin.
    async fn epoch(&self, session: &SessionId) -> Option<Epoch> {
        let sessions = &self.inner.store.sessions;
        if let Err(error) = sessions.catch_up().await {
            tracing::debug!("the session's record may be an older one: {error}");
        }
        sessions.view().get(session.as_str()).map(|entry| entry.value.epoch)
    }

    fn owner(&self, session: &SessionId) -> mpsc::Sender<Input> {
        let mut owners = self.inner.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inputs) = owners.get(session).filter(|inputs| !inputs.is_closed()) {
            return inputs.clone();
        }
        let (inputs, received) = mpsc::channel(INPUTS);
        owners.insert(session.clone(), inputs.clone());
        let owner = Owner::new(self.clone(), session.clone(), received);
        let span = tracing::info_span!("sync", session.id = %session);
        self.inner.tasks.spawn(owner.run().instrument(span));
        inputs
    }

    /// An owner without sockets leaves, unless one is on its way in.
    pub(super) fn leave(&self, session: &SessionId, inputs: &mut mpsc::Receiver<Input>) -> bool {
        let mut owners = self.inner.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if !inputs.is_empty() {
            return false;
        }
        // From here on, who has its sender is sent away and asks for another.
        inputs.close();
        owners.remove(session);
        true
    }

    /// Sends a command to a session's agent as it is: `type` and `data`.
    pub async fn command(&self, session: &SessionId, kind: &str, data: Value) -> Result<()> {
        let data = if data.is_null() { Value::Object(serde_json::Map::new()) } else { data };
        let request = Request::Command(serde_json::json!({ "type": kind, "data": data }));
        self.inner.bus.require_up()?;
        match self.ask(session, &request).await? {
            Some(Reply::Done) => Ok(()),
            Some(Reply::NoSocket | Reply::NotMine) | None => Err(no_socket(session)),
        }
    }

    /// Asks the owner; `None` where there is none.
    pub(super) async fn ask(&self, session: &SessionId, request: &Request) -> Result<Option<Reply>> {
        let payload = serde_json::to_vec(request)
            .map_err(|error| Error::new(ErrorCode::Internal, "cannot encode a request").because(error))?;
        let limit = self.inner.bus.client().server_info().max_payload;
        if payload.len() > limit {
            let detail = format!("{} bytes are above NATS's max_payload of {limit}; raise it", payload.len());
            return Err(Error::new(ErrorCode::InvalidRequest, detail));
        }
        let asked = self.inner.bus.client().request(subject::sync_owner(session), payload.into());
        match tokio::time::timeout(REQUEST_TIMEOUT, asked).await {
            Ok(Ok(answer)) => Ok(serde_json::from_slice(&answer.payload).ok()),
            Ok(Err(error)) if error.kind() == async_nats::RequestErrorKind::NoResponders => Ok(None),
            Ok(Err(error)) => Err(unavailable(error)),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn no_socket(session: &SessionId) -> Error {
    let detail = format!(
        "the agent of session {session} has no sync socket open; its prompts wait in the queue, a command cannot: \
         repeat it when `helixctl session show {session}` says that the agent is connected"
    );
    Error::new(ErrorCode::NoSyncConnection, detail)
}

impl Socket {
    /// Its two directions.
    pub fn split(self) -> (Voice, Commands) {
        let Self { peer, inputs, commands, cut } = self;
        (Voice { peer, inputs }, Commands { commands, cut })
    }
}

impl Voice {
    /// The agent sent a text frame. Completes when the owner has room for more.
    pub async fn text(&self, frame: &str) {
        let words::Heard { said, seed } = words::read(frame);
        // Also a frame that says nothing else tells the dialect.
        if seed || !said.is_empty() {
            self.tell(Input::Heard { from: self.peer, said, seed }).await;
        }
    }

    /// The agent sent a frame that is no text.
    pub async fn binary(&self, bytes: usize) {
        let said = vec![words::malformed(&format!("a binary frame of {bytes} bytes; only text is read"), "")];
        self.tell(Input::Heard { from: self.peer, said, seed: false }).await;
    }

    /// The socket is closed; `heard_out`: everything that arrived on it was read; `commands` is what it did not write.
    pub async fn closed(self, heard_out: bool, mut commands: Commands) {
        commands.commands.close();
        let mut unsent = Vec::new();
        while let Some(command) = commands.commands.recv().await {
            unsent.extend(command.turn);
        }
        self.tell(Input::Lost { from: self.peer, heard_out, unsent }).await;
    }

    async fn tell(&self, input: Input) {
        // An owner ends before its sockets only when the process does.
        let _ = self.inputs.send(input).await;
    }
}

impl Commands {
    /// The next frame to write. Cancel safe.
    pub async fn next(&mut self) -> Option<Outgoing> {
        self.commands.recv().await
    }

    /// Completes when the socket shall be cut off: its agent reads nothing.
    pub fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut cut = self.cut.clone();
        async move {
            // Without an owner nobody says so any more.
            if cut.wait_for(|cut| *cut).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
