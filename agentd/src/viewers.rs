//! Viewers of sessions' desktops, by VNC and by RDP, whichever way they come: dialled to a server, or at a port of this runner.
//!
//! VNC: the gate ([`crate::gate`]) and the display's own socket. RDP: the front ([`crate::rdp`]) and the session's unit `rdp`,
//! whose other end is a VNC viewer at the very same gate. Runs in the task of who calls; whoever is sent away is told
//! why, as far as its line can say it. Who has proved nothing yet can lose his place to the next ([`lobby`]). The audit trail is told who came in
//! with a password, and who was sent away ([`told`]).

pub mod lobby;
pub mod told;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use helix_protocol::SessionId;
use helix_protocol::control::Role;
use helix_protocol::viewer::{Refusal, ViewerWay};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use self::lobby::{Crowded, Lobby, Place};
use self::told::Told;
use crate::display::require_peer;
use crate::gate::line::{Hear, Plain, Say, tell};
use crate::gate::viewer::{Admitted, HANDSHAKE_TIMEOUT, Proof, ViewerError, admit, show};
use crate::gate::{Gates, greet_display};
use crate::rdp::front::{self, FrontError};
use crate::recorder::notes::Notes;
use crate::supervisor::{Supervisor, UnitName};
use crate::tools::host::{Board, Pair, ToolsError};

/// Input that may wait for a display.
const DISPLAY_BUFFER_BYTES: usize = 16 * 1024;
/// For a display to say its part of the handshake.
const DISPLAY_TIMEOUT: Duration = Duration::from_secs(4);
/// For an RDP client to go on after its request: it does so by itself, once it was answered. Its xrdp starts first.
const NEXT_WORD: Duration = Duration::from_secs(20);
/// For the session's unit to take an RDP client.
const UNIT_TIMEOUT: Duration = Duration::from_secs(15);
/// What an RDP client that came with a wrong password is shown, it can read for so long.
const WRONG_SHOWN: Duration = Duration::from_secs(5);

/// Why a viewer is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It is not here, or not running.
    #[error("the session has no desktop now")]
    NoDesktop,
    /// Its socket does not answer as it should.
    #[error("the display cannot be reached: {0}")]
    Display(io::Error),
    /// Nobody more has room.
    #[error(transparent)]
    Crowded(#[from] Crowded),
    /// Somebody else has its place.
    #[error("the viewer did not say who it is, and others came; try again")]
    SentAway,
    /// It may not, or not any more.
    #[error(transparent)]
    Viewer(#[from] ViewerError),
    /// It is no RDP client that could be let in.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// The session's unit does not serve it.
    #[error("RDP: {0}")]
    Unit(#[from] ToolsError),
}

impl ServeError {
    /// What the audit trail says of it; none: it is no matter of who came.
    pub fn refusal(&self) -> Option<Refusal> {
        Some(match self {
            Self::NoDesktop | Self::Display(_) | Self::Unit(_) | Self::Viewer(ViewerError::Random(_)) => return None,
            Self::Crowded(_) | Self::SentAway => Refusal::Crowded,
            Self::Viewer(ViewerError::WrongPassword) => Refusal::WrongPassword,
            Self::Viewer(ViewerError::NotRfb) => Refusal::NotRfb,
            Self::Viewer(ViewerError::NoHandshake) | Self::Front(FrontError::Late) => Refusal::Late,
            Self::Viewer(ViewerError::Revoked) => Refusal::GrantOver,
            Self::Viewer(ViewerError::Filtered(_)) => Refusal::Malformed,
            Self::Front(FrontError::NotRdp) => Refusal::NotRdp,
            Self::Front(FrontError::User) => Refusal::WrongUser,
        })
    }
}

/// Somebody who comes, as far as he is known before he has said anything.
#[derive(Debug, Clone, Copy)]
pub struct Coming<'a> {
    /// To whose desktop.
    pub session: &'a SessionId,
    /// By which way.
    pub way: ViewerWay,
    /// From where, where he came to a port of this runner.
    pub address: Option<IpAddr>,
    /// Whose ticket brought him, where he came through a server.
    pub by: Option<&'a str>,
    /// Where he waits.
    pub place: &'a Place,
}

/// The way to every desktop of this runner. Clones are the same.
#[derive(Debug)]
pub struct Viewers<S> {
    inner: Arc<Inner<S>>,
}

impl<S> Clone for Viewers<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[derive(Debug)]
struct Inner<S> {
    supervisor: S,
    gates: Gates,
    notes: Notes,
    rdp: Board,
    has_rdp: bool,
    lobby: Lobby,
    told: Told,
}

impl<S: Supervisor> Viewers<S> {
    /// With the sessions' gates, and where it is noted what viewers do. `has_rdp`: this machine can serve RDP.
    pub fn new(supervisor: S, gates: Gates, notes: Notes, has_rdp: bool) -> Self {
        let (rdp, lobby, told) = (Board::default(), Lobby::default(), Told::default());
        Self { inner: Arc::new(Inner { supervisor, gates, notes, rdp, has_rdp, lobby, told }) }
    }

    /// Where everybody waits who comes.
    pub fn lobby(&self) -> &Lobby {
        &self.inner.lobby
    }

    /// Somebody is sent away: the audit trail is told the first cause of it.
    pub fn refused(&self, coming: Coming<'_>, refused: Refusal) {
        if coming.place.refuse() {
            self.inner.told.refused(coming.session, coming.way, coming.address, coming.by, refused);
        }
    }

    /// What the audit trail shall know.
    pub fn told(&self) -> &Told {
        &self.inner.told
    }

    /// Where sessions announce their units `rdp`.
    pub fn rdp_board(&self) -> &Board {
        &self.inner.rdp
    }

    /// Whether this machine can serve RDP.
    pub fn has_rdp(&self) -> bool {
        self.inner.has_rdp
    }

    /// Whoever knows the password of one of the session's grants.
    pub fn granted(&self, session: &SessionId) -> Proof<'static> {
        Proof::Grant(self.inner.gates.grants(session), Role::Control)
    }

    /// Serves a VNC viewer until it leaves or is sent away. Who does not come in never reaches the display.
    pub async fn vnc(
        &self,
        coming: Coming<'_>,
        hear: &mut impl Hear,
        say: &mut impl Say,
        proof: Proof<'_>,
    ) -> Result<(), ServeError> {
        let ended = tokio::select! {
            ended = self.show(coming, hear, say, proof) => ended,
            () = coming.place.sent_away() => Err(ServeError::SentAway),
        };
        let why = ended.as_ref().err().map(ToString::to_string);
        say.close(why.as_deref()).await;
        ended
    }

    async fn show(
        &self,
        coming: Coming<'_>,
        hear: &mut impl Hear,
        say: &mut impl Say,
        proof: Proof<'_>,
    ) -> Result<(), ServeError> {
        let wrong = || self.refused(coming, Refusal::WrongPassword);
        let Some(admitted) = admit(hear, say, proof, wrong).await? else { return Ok(()) };
        self.comes_in(coming, hear, say, admitted).await
    }

    /// One that may is shown the desktop.
    async fn comes_in(
        &self,
        Coming { session, way, address, place, .. }: Coming<'_>,
        hear: &mut impl Hear,
        say: &mut impl Say,
        admitted: Admitted,
    ) -> Result<(), ServeError> {
        place.comes_in()?;
        // Whoever has a ticket and nothing else is in the trail by the server's word.
        if let Some(joined) = admitted.by_password() {
            self.inner.told.joined(session, way, address, joined);
        }
        let display = self.display(session).await?;
        let (control, _looking) = (self.inner.gates.watch(session), self.inner.gates.enter(session));
        Ok(show(hear, say, admitted, display, control, (&self.inner.notes, session)).await?)
    }

    /// Serves an RDP client, from its first byte, until it leaves or is sent away. It must know the password of one of the
    /// session's grants, and gets no more than `most`.
    pub async fn rdp(
        &self,
        coming: Coming<'_>,
        hear: &mut impl Hear,
        say: &mut impl Say,
        most: Role,
    ) -> Result<(), ServeError> {
        let ended = tokio::select! {
            ended = self.carry(coming, hear, say, most) => ended,
            () = coming.place.sent_away() => Err(ServeError::SentAway),
        };
        let why = ended.as_ref().err().map(ToString::to_string);
        say.close(why.as_deref()).await;
        ended
    }

    async fn carry(
        &self,
        coming: Coming<'_>,
        hear: &mut impl Hear,
        say: &mut impl Say,
        most: Role,
    ) -> Result<(), ServeError> {
        let Coming { session, place, .. } = coming;
        let first = match front::request(hear).await {
            Ok(first) => first,
            Err(error) => {
                if let Some(answer) = error.answer() {
                    say.say(Bytes::from_static(answer)).await;
                }
                return Err(error.into());
            }
        };
        place.speaks_rdp()?;
        let pair = tokio::time::timeout(UNIT_TIMEOUT, self.inner.rdp.open_pair(session)).await;
        let Pair { stream, back } = pair.unwrap_or(Err(ToolsError::Late))?;
        let (from_unit, mut to_unit) = stream.into_split();
        if to_unit.write_all(&first).await.is_err() {
            return Err(ToolsError::Late.into());
        }
        let heard = async {
            // A client that says its first word alone is none.
            let next = tokio::time::timeout(NEXT_WORD, hear.hear()).await;
            let mut heard = next.map_err(|_| FrontError::Late)?;
            while let Some(bytes) = heard {
                if to_unit.write_all(&bytes).await.is_err() {
                    break;
                }
                heard = hear.hear().await;
            }
            Ok::<(), ServeError>(())
        };
        let desktop = async {
            // From the first byte on: a client that never says who it is does not stay.
            let back = tokio::time::timeout(HANDSHAKE_TIMEOUT, back).await;
            let back = back.map_err(|_| ViewerError::NoHandshake)?;
            let rfb: UnixStream = back.unwrap_or(Err(ToolsError::Late))?;
            let (from_rfb, to_rfb) = rfb.into_split();
            let (mut hear, mut say) = (Plain(from_rfb), Plain(to_rfb));
            let proof = Proof::Grant(self.inner.gates.grants(session), most);
            let wrong = || self.refused(coming, Refusal::WrongPassword);
            let admitted = match admit(&mut hear, &mut say, proof, wrong).await {
                Ok(Some(admitted)) => admitted,
                Ok(None) => return Ok(()),
                Err(error) => {
                    // Its client shows why, to whom it may concern.
                    tokio::time::sleep(WRONG_SHOWN).await;
                    return Err(error.into());
                }
            };
            self.comes_in(coming, &mut hear, &mut say, admitted).await
        };
        // Whichever ends first ends all: the halves are dropped, and with them the sockets.
        tokio::select! {
            ended = heard => ended,
            () = tell(from_unit, say) => Ok(()),
            ended = desktop => ended,
        }
    }

    /// The display's RFB socket, if the display unit's main process is what listens there; it waits for ClientInit.
    async fn display(&self, session: &SessionId) -> Result<UnixStream, ServeError> {
        let supervisor = &self.inner.supervisor;
        let units = supervisor.units(session).await.map_err(|_| ServeError::NoDesktop)?;
        let display = units.iter().find(|unit| unit.name == UnitName::Display);
        let pid = display.and_then(|unit| unit.pid).ok_or(ServeError::NoDesktop)?;
        let socket = supervisor.host_paths(session).vnc_socket;
        let mut stream = UnixStream::connect(socket).await.map_err(ServeError::Display)?;
        require_peer(&stream, pid).map_err(ServeError::Display)?;
        // What has left the gate counts as typed: little of it may wait for the display.
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, DISPLAY_BUFFER_BYTES)
            .map_err(|error| ServeError::Display(error.into()))?;
        // A session can stop its own display: nobody waits for that.
        let greeting = tokio::time::timeout(DISPLAY_TIMEOUT, greet_display(&mut stream)).await;
        greeting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(ServeError::Display)?;
        Ok(stream)
    }
}
