//! Ports of this runner at which native viewers reach sessions, where the operator has asked for them (`[direct]`).
//!
//! Each session has a VNC port, an RDP port and a page with a viewer for browsers ([`page`]), on one address and for a list
//! of networks alone. Which is its is decided by who can bind it, so that runners of one machine never collide. Whoever
//! comes must know the password of a grant. A task per connection, bounded in number, for each session and for
//! each address that they come from ([`crate::viewers::lobby`]); all end with the session's slice ([`crate::session`]). The audit trail is told of
//! each that comes in or is sent away ([`crate::viewers::told`]).

mod page;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::control::Role;
use helix_protocol::session::DirectPorts;
use helix_protocol::viewer::{Refusal, ViewerWay};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Direct;
use crate::gate::line::Plain;
use crate::rdp::front::FIRST_BYTE;
use crate::supervisor::Supervisor;
use crate::viewers::{Coming, ServeError, Viewers};

/// VNC ports in the order in which they are tried: the documents begin with 5901.
const VNC_PORTS: [u16; 21] = [
    5901, 5902, 5903, 5904, 5905, 5906, 5907, 5908, 5909, 5910, 5911, 5912, 5913, 5914, 5915, 5916, 5917, 5918, 5919,
    5920, 5900,
];
/// RDP ports.
const RDP_PORTS: std::ops::RangeInclusive<u16> = 3389..=3409;
/// From a VNC port to that of its page.
const PAGE_ABOVE: u16 = 1000;
/// An RDP client speaks first, and at once; a VNC viewer waits for us.
const FIRST_WORD: Duration = Duration::from_millis(100);
/// Before the next one where the system lets nobody in (no descriptors).
const PAUSE: Duration = Duration::from_millis(100);
/// What is refused is logged this often at most.
const REFUSAL_LOGGED: Duration = Duration::from_mins(1);
/// Before a silent peer is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// The open ports of one session.
#[derive(Debug)]
pub struct Ports {
    vnc: Option<TcpListener>,
    page: Option<TcpListener>,
    rdp: Option<TcpListener>,
    /// Which they are.
    pub told: DirectPorts,
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vnc,
    Rdp,
    Page,
}

impl Kind {
    fn way(self) -> ViewerWay {
        match self {
            Self::Vnc => ViewerWay::DirectVnc,
            Self::Rdp => ViewerWay::DirectRdp,
            Self::Page => ViewerWay::DirectPage,
        }
    }
}

impl Ports {
    /// Opens what can be opened: the session's former ports where they are free, else the first that are.
    pub async fn open(direct: &Direct, former: Option<&DirectPorts>, with_rdp: bool) -> Self {
        let bind = async |port| TcpListener::bind((direct.listen, port)).await.ok();
        let (mut vnc, mut page, mut rdp) = (None, None, None);
        for port in former.and_then(|former| former.vnc).into_iter().chain(VNC_PORTS) {
            // Both or none: the page's number is known by the port's.
            if let (Some(port), Some(beside)) = (bind(port).await, bind(port + PAGE_ABOVE).await) {
                (vnc, page) = (Some(port), Some(beside));
                break;
            }
        }
        for port in former.and_then(|former| former.rdp).into_iter().chain(RDP_PORTS).filter(|_| with_rdp) {
            rdp = bind(port).await;
            if rdp.is_some() {
                break;
            }
        }
        let number = |listener: &Option<TcpListener>| Some(listener.as_ref()?.local_addr().ok()?.port());
        let told = DirectPorts { host: direct.host.clone(), vnc: number(&vnc), rdp: number(&rdp), page: number(&page) };
        Self { vnc, page, rdp, told }
    }

    /// True where no port was free, or the address is not this machine's.
    pub fn is_empty(&self) -> bool {
        self.vnc.is_none() && self.rdp.is_none()
    }

    /// Serves those who come, for ever. Dropped, it ends every connection.
    pub async fn serve<S: Supervisor>(
        &self,
        session: &SessionId,
        direct: &Direct,
        viewers: &Viewers<S>,
    ) -> std::convert::Infallible {
        let mut connections = JoinSet::new();
        let mut refused: Option<Instant> = None;
        loop {
            // All arms are cancel safe.
            let (kind, accepted) = tokio::select! {
                accepted = accept(self.vnc.as_ref()) => (Kind::Vnc, accepted),
                accepted = accept(self.rdp.as_ref()) => (Kind::Rdp, accepted),
                accepted = accept(self.page.as_ref()) => (Kind::Page, accepted),
                Some(_) = connections.join_next() => continue,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(?kind, "no connection can be taken: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let address = peer.ip().to_canonical();
            let entered = if direct.allows(address) {
                let entered = viewers.lobby().enter(session, Some(address));
                entered.map_err(|crowded| (Refusal::Crowded, crowded.to_string()))
            } else {
                Err((Refusal::ForeignNetwork, "its network is not allowed".to_owned()))
            };
            let place = match entered {
                Ok(place) => place,
                Err((cause, why)) => {
                    viewers.told().refused(session, kind.way(), Some(address), None, cause);
                    if refused.is_none_or(|at| at.elapsed() >= REFUSAL_LOGGED) {
                        tracing::warn!(HELIX_SESSION = %session, %address, ?kind, why, "refused at a direct port");
                        refused = Some(Instant::now());
                    }
                    continue;
                }
            };
            let (session, viewers, host) = (session.clone(), viewers.clone(), direct.host.clone());
            connections.spawn(async move {
                // Until it has said what it speaks it is taken for what its port is for.
                let mut coming =
                    Coming { session: &session, way: kind.way(), address: Some(address), by: None, place: &place };
                let attended = tokio::select! {
                    attended = attend(stream, kind, &mut coming, &viewers, &host) => attended,
                    () = place.sent_away() => Err(ServeError::SentAway.into()),
                };
                if let Err(error) = attended {
                    if let Some(refused) = refusal(&error) {
                        viewers.refused(coming, refused);
                    }
                    tracing::info!(HELIX_SESSION = %session, %address, ?kind, "viewer not served: {error}");
                }
            });
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// What the audit trail says of it.
fn refusal(error: &anyhow::Error) -> Option<Refusal> {
    if error.is::<page::ForeignOrigin>() {
        return Some(Refusal::ForeignOrigin);
    }
    error.downcast_ref::<ServeError>()?.refusal()
}

async fn attend<S: Supervisor>(
    mut stream: TcpStream,
    kind: Kind,
    coming: &mut Coming<'_>,
    viewers: &Viewers<S>,
    host: &str,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
    if kind == Kind::Page {
        return page::attend(stream, *coming, viewers, host).await;
    }
    let is_rdp = kind == Kind::Rdp || viewers.has_rdp() && speaks_rdp(&mut stream).await;
    let (from, to) = stream.into_split();
    let (mut hear, mut say) = (Plain(from), Plain(to));
    if is_rdp {
        coming.way = ViewerWay::DirectRdp;
        viewers.rdp(*coming, &mut hear, &mut say, Role::Control).await?;
    } else {
        viewers.vnc(*coming, &mut hear, &mut say, viewers.granted(coming.session)).await?;
    }
    Ok(())
}

/// Looks at what it says first, if it does soon; it stays to be read.
async fn speaks_rdp(stream: &mut TcpStream) -> bool {
    let mut first = [0];
    let looked = tokio::time::timeout(FIRST_WORD, stream.peek(&mut first)).await;
    matches!(looked, Ok(Ok(1))) && first[0] == FIRST_BYTE
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// On an address of the loopback network that no other test has.
    fn direct(last: u8) -> Direct {
        let listen = IpAddr::from([127, 77, 5, last]);
        Direct { listen, host: listen.to_string(), allow: vec!["127.0.0.0/8".parse().unwrap()] }
    }

    #[tokio::test]
    async fn sessions_and_runners_never_collide() {
        let direct = direct(1);
        let one = Ports::open(&direct, None, true).await;
        let told = |vnc, rdp| DirectPorts {
            host: "127.77.5.1".to_owned(),
            vnc: Some(vnc),
            rdp: Some(rdp),
            page: Some(vnc + PAGE_ABOVE),
        };
        assert_eq!(one.told, told(5901, 3389));
        // Somebody else has the page of the next one.
        let _foreign = TcpListener::bind((direct.listen, 6902)).await.unwrap();
        let two = Ports::open(&direct, None, true).await;
        assert_eq!(two.told, told(5903, 3390));
        // A session gets its own back, and another one where that is taken.
        drop(two);
        let again = Ports::open(&direct, Some(&told(5907, 3391)), true).await;
        assert_eq!(again.told, told(5907, 3391));
        let other = Ports::open(&direct, Some(&told(5907, 3391)), false).await;
        assert_eq!((other.told.vnc, other.told.rdp), (Some(5903), None));
        let elsewhere = Direct { listen: IpAddr::from([192, 0, 2, 1]), ..direct.clone() };
        assert!(Ports::open(&elsewhere, None, true).await.is_empty(), "an address that is not this machine's");
    }

    #[tokio::test]
    async fn an_rdp_client_is_known_by_its_first_byte() {
        use tokio::io::AsyncWriteExt as _;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (said, is_rdp) in [(&[3_u8, 0][..], true), (b"RFB", false), (b"", false)] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            client.write_all(said).await.unwrap();
            assert_eq!(speaks_rdp(&mut stream).await, is_rdp, "{said:?}");
        }
    }
}
