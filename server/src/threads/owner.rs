//! The owner of a session's sync socket: the one task that writes what its agent says and sends what it shall do.
//!
//! It takes one frame at a time, asks [`decide`](super::decide) what the log lacks, stores that and waits until the
//! fold has it; then it does what is to be done, one act at a time, each stored before it is sent. While it waits
//! for the store it goes on taking frames into its [`inbox`]. Where another server's socket is newer it is no owner
//! but passes on what its sockets say.
//!
//! Failure: another writer was faster → it looks again and decides anew; NATS is away → it repeats the same write
//! until it is stored or refused, its sockets stay; an acknowledgement was lost → the repeat has the same message id
//! and answers the same sequence. A panic ends the task, and with it its sockets: agents come back.

pub mod inbox;
pub mod lease;
mod passing;
mod presence;
mod store;
pub mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt as _;
use helix_protocol::SessionId;
use helix_protocol::record::SessionRecord;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::inbox::{Frame, Inbox};
use self::lease::SyncLease;
use self::store::{PATIENT, Refused};
use self::wire::Reply;
use super::decide::{Act, Desk, Newest, Note, PeerId};
use super::initial::initial_turn_of;
use super::live::{Live, Place};
use super::sync::{Input, Link, Outgoing, Sockets};
use crate::bus::unavailable;
use crate::error::Result;
use crate::uses::InUse;

/// Before something that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Longest sleep of an owner that has nothing to do.
const IDLE: Duration = Duration::from_mins(1);

/// The process shall end: whatever was being waited for is left.
#[derive(Debug, Clone, Copy)]
struct Leaving;

/// One session's owner.
pub(super) struct Owner {
    sockets: Sockets,
    session: SessionId,
    inputs: mpsc::Receiver<Input>,
    inbox: Inbox,
    desk: Desk,
    links: BTreeMap<PeerId, Link>,
    lease: SyncLease,
    requests: Option<Subscriber>,
    /// The session's own input is known to be in the log.
    begun: bool,
    /// This server has just become the owner.
    succeeds: bool,
    /// The newest socket for which the lease was taken.
    claimed: Option<PeerId>,
    /// What the log was told of the socket.
    told: Option<Newest>,
    /// Differs between owners of this process: a former one's message ids would be taken for repeats.
    number: u64,
    /// Counts what was written, for message ids.
    written: u64,
    /// Counts what was dealt with, for whoever it is passed on to.
    passing: u64,
    /// What others passed on, by who did.
    passed: HashMap<String, PassedOn>,
    /// The agent has something to do.
    working: Option<InUse>,
}

/// What one other owner passed on: the numbers of the last frames.
#[derive(Debug, Default)]
struct PassedOn {
    taken: u64,
    stored: u64,
}

/// The conversation, as it is followed here.
struct Followed {
    live: Arc<Live>,
    places: watch::Receiver<Place>,
}

impl Owner {
    pub fn new(sockets: Sockets, session: SessionId, inputs: mpsc::Receiver<Input>) -> Self {
        let inner = &sockets.inner;
        let desk = Desk::new(session.clone(), inner.timing);
        let lease = SyncLease::new(inner.store.leases.clone(), &session, Arc::clone(&inner.server_id));
        let number = inner.number();
        Self {
            sockets,
            session,
            inputs,
            inbox: Inbox::default(),
            desk,
            links: BTreeMap::new(),
            lease,
            requests: None,
            begun: false,
            succeeds: false,
            claimed: None,
            told: None,
            number,
            written: 0,
            passing: 0,
            passed: HashMap::new(),
            working: None,
        }
    }

    pub async fn run(mut self) {
        // No socket is left, or the process shall end: either way another server may have it.
        let (Ok(()) | Err(Leaving)) = Box::pin(self.work()).await;
        self.lease.release().await;
    }

    async fn work(&mut self) -> Result<(), Leaving> {
        let mut followed = self.open().await?;
        loop {
            if self.lease.due() <= Instant::now() && !self.links.is_empty() {
                self.look_at_lease().await?;
            }
            self.tell_status(&mut followed).await?;
            if let Some(frame) = self.inbox.pop() {
                Box::pin(self.deal_with(&mut followed, frame)).await?;
                Box::pin(self.act(&mut followed)).await?;
                continue;
            }
            Box::pin(self.act(&mut followed)).await?;
            if !self.inbox.is_empty() {
                continue;
            }
            self.tell_status(&mut followed).await?;
            if self.links.is_empty() && self.sockets.leave(&self.session, &mut self.inputs) {
                return Ok(());
            }
            self.wait(&mut followed).await?;
        }
    }

    /// Waits for whatever comes first. Every arm is cancel safe: channels, a watch, a timer and a token.
    async fn wait(&mut self, followed: &mut Followed) -> Result<(), Leaving> {
        let has_agent = self.lease.is_held() && !self.links.is_empty();
        let works = has_agent && followed.live.read(|conversation| conversation.active_turns().next().is_some());
        if works != self.working.is_some() {
            self.working = works.then(|| self.sockets.inner.uses.begin(&self.session));
        }
        let now = Instant::now();
        // Only an owner acts, so only an owner has deadlines.
        let desk = self.lease.is_held().then_some(&self.desk);
        let deadline = followed.live.read(|conversation| desk.and_then(|desk| desk.deadline(conversation, now)));
        let until = deadline.unwrap_or(now + IDLE).min(self.lease.due().max(now));
        let request = async {
            match &mut self.requests {
                Some(requests) => requests.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.sockets.inner.shutdown.cancelled() => return Err(Leaving),
            Some(input) = self.inputs.recv() => self.hear(input),
            request = request => match request {
                Some(request) => self.asked(request).await,
                // The connection is closed for good.
                None => self.requests = None,
            },
            changed = followed.places.changed() => if changed.is_err() { return Err(Leaving) },
            () = tokio::time::sleep_until(until) => {}
        }
        Ok(())
    }

    /// Awaits something while frames go on coming in.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Leaving> {
        let mut work = std::pin::pin!(work);
        let shutdown = self.sockets.inner.shutdown.clone();
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = shutdown.cancelled() => return Err(Leaving),
                Some(input) = self.inputs.recv(), if self.inbox.has_room() => self.hear(input),
            }
        }
    }

    fn hear(&mut self, input: Input) {
        match input {
            Input::Connected(peer, link) => {
                self.links.insert(peer, link);
                self.desk.connected(peer, Instant::now());
                // It is the newest: the lease shall come here.
                self.lease.doubt();
            }
            Input::Heard { from, said, seed } => {
                if seed {
                    self.desk.speaks_seed(from, Instant::now());
                }
                for said in said {
                    self.inbox.push(Frame { from, said, at: Instant::now(), passed: Vec::new() });
                }
            }
            Input::Lost { from, heard_out, unsent } => {
                self.links.remove(&from);
                self.desk.lost(from, heard_out, unsent, Instant::now());
            }
        }
    }

    async fn open(&mut self) -> Result<Followed, Leaving> {
        let (hub, session) = (self.sockets.inner.hub.clone(), self.session.clone());
        loop {
            match self.meanwhile(hub.open(&session)).await? {
                Ok(live) => {
                    let places = live.places();
                    return Ok(Followed { live, places });
                }
                Err(error) => {
                    tracing::warn!(source = ?error.source, "the conversation cannot be read yet: {error}");
                    self.meanwhile(tokio::time::sleep(RETRY)).await?;
                }
            }
        }
    }

    async fn deal_with(&mut self, followed: &mut Followed, mut frame: Frame) -> Result<(), Leaving> {
        let passed = std::mem::take(&mut frame.passed);
        self.passing += 1;
        let number = self.passing;
        loop {
            if self.lease.is_held() {
                self.begin().await?;
                match self.write(followed, &frame).await? {
                    Ok(()) | Err(Refused::Impossible) => break,
                    Err(Refused::NoOwner) => continue,
                }
            }
            if frame.from == PeerId::ELSEWHERE {
                // Who passed it on has to look for the owner again.
                self.answer(passed, Reply::NotMine).await;
                return Ok(());
            }
            if self.pass_on(&frame, number).await? {
                break;
            }
        }
        self.answer(passed, Reply::Done).await;
        Ok(())
    }

    /// Does whatever is to be done now.
    async fn act(&mut self, followed: &mut Followed) -> Result<(), Leaving> {
        self.succeed(followed).await?;
        let mut refusals = 0;
        // Also without a socket: what the last one had said may still wait to be believed.
        while self.lease.is_held() {
            self.begin().await?;
            self.leave_behind(followed).await?;
            let now = Instant::now();
            let Some(act) = self.look(followed, |desk, conversation| desk.act(conversation, now)).await? else {
                return Ok(());
            };
            if let Some(append) = &act.append {
                match self.store(followed, std::slice::from_ref(append)).await? {
                    Ok(true) => {}
                    // Another writer was faster: what is to be done may be another thing now. If it always is, there
                    // may be another owner.
                    Ok(false) if refusals < PATIENT => {
                        refusals += 1;
                        continue;
                    }
                    Ok(false) => {
                        self.lease.doubt();
                        return self.meanwhile(tokio::time::sleep(RETRY)).await;
                    }
                    Err(Refused::NoOwner) => return Ok(()),
                    Err(Refused::Impossible) => continue,
                }
            }
            self.desk.done(&act, Instant::now());
            let Act { peer, frame, note, .. } = act;
            if let Some(text) = frame {
                let turn = match note {
                    Note::HandedOver { turn, .. } => Some(turn),
                    Note::Nothing
                    | Note::Opened(_)
                    | Note::Attached(_)
                    | Note::CancelSent(_)
                    | Note::Freed(_)
                    | Note::Answered(_) => None,
                };
                self.send(peer, Outgoing { text, turn });
            }
        }
        Ok(())
    }

    /// Sends to a socket. One that takes nothing is given up, with what was not sent.
    fn send(&mut self, to: PeerId, outgoing: Outgoing) -> bool {
        if let Some(turn) = &outgoing.turn {
            tracing::debug!(turn.id = %turn, socket = to.0, "a turn is handed over");
        }
        let sent = match self.links.get(&to) {
            Some(link) => link.commands.try_send(outgoing),
            None => Err(mpsc::error::TrySendError::Closed(outgoing)),
        };
        let back = match sent {
            Ok(()) => return true,
            Err(mpsc::error::TrySendError::Full(back)) => {
                tracing::warn!(queue = super::sync::QUEUE, "the agent reads nothing and is cut off");
                back
            }
            Err(mpsc::error::TrySendError::Closed(back)) => back,
        };
        if let Some(link) = self.links.remove(&to) {
            link.cut.send_replace(true);
        }
        self.desk.cut(to, back.turn, Instant::now());
        false
    }

    /// Sessions' own inputs are turns like any other, also where their creation was cut off half way.
    async fn begin(&mut self) -> Result<(), Leaving> {
        while !self.begun {
            let store = self.sockets.inner.store.clone();
            let (log, session) = (self.sockets.inner.hub.log().clone(), self.session.clone());
            let appended: Result<()> = self
                .meanwhile(async move {
                    let own = store.sessions.get(session.as_str()).await?.found().map(|entry| entry.value);
                    let others: Vec<_> = {
                        let sessions = store.sessions.view().read();
                        let is_name = |record: &SessionRecord| record.desktop_of.as_ref() == Some(&session);
                        let values = sessions.iter().map(|(_, entry)| &entry.value);
                        values.filter(|record| is_name(record)).map(Arc::clone).collect()
                    };
                    for record in own.into_iter().chain(others).filter(|record| !record.deleted) {
                        if let Some(turn) = initial_turn_of(&record)? {
                            turn.append_missing(&log).await?;
                        }
                    }
                    Ok(())
                })
                .await?;
            match appended {
                Ok(()) => self.begun = true,
                Err(error) => {
                    tracing::warn!(source = ?error.source, "the session's input cannot be looked at yet: {error}");
                    self.meanwhile(tokio::time::sleep(RETRY)).await?;
                }
            }
        }
        Ok(())
    }
}

/// Waits until a bus that was away is back, or a moment where it was not.
async fn until_up(sockets: &Sockets) -> Result<()> {
    tokio::time::sleep(RETRY).await;
    let mut health = sockets.inner.bus.health();
    health.wait_for(|health| health.up_since.is_some()).await.map(|_| ()).map_err(unavailable)
}
