//! agentd's end of the way out: takes the connections of a session's unit and dials a server for each.
//!
//! [`serve`] runs as part of the session's task, with one task per connection, which ends with it. The servers are those
//! of the settings: the one that answered last first, then the others. Nothing of agentd's own goes with the bytes: the
//! session's token is in what the agent says. What is said to a server by https names it ([`head`]). A server that is not there costs the agent its connection, at once or after
//! [`DIAL_TIMEOUT`]; it comes again. A peer that vanishes without a word is found by TCP's own probes, since agents
//! never ask.

mod head;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Uri;
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::MAX_CONNECTIONS;

/// For one server to answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(4);
/// Before the next try where the system lets nobody in (no descriptors).
const PAUSE: Duration = Duration::from_millis(100);
/// A server that has not been heard of for this long is asked whether it is there.
const IDLE: Duration = Duration::from_secs(15);
/// Between two such questions.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Questions without an answer after which it is gone.
const QUESTIONS: u32 = 3;
/// What was sent must be acknowledged within this time.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The servers of this runner.
#[derive(Debug)]
pub struct Servers {
    addresses: Vec<Address>,
    /// Which one answered last.
    last: AtomicUsize,
    /// None of them answered the last time.
    away: AtomicBool,
    tls: Option<Arc<ClientConfig>>,
}

#[derive(Debug)]
struct Address {
    host: String,
    port: u16,
    secure: bool,
    /// How a request names it.
    name: String,
}

/// Why no server could be reached.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no answer within {} s", DIAL_TIMEOUT.as_secs())]
    Late,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} is no name that a certificate can have")]
    Name(String),
    #[error("this machine has no certificates to know servers by")]
    NoRoots,
}

impl Servers {
    /// Of these origins (`http://host:port`, `https://host`), as the settings have them.
    pub fn new(origins: &[String]) -> Self {
        let addresses: Vec<Address> = origins.iter().filter_map(|origin| Address::parse(origin)).collect();
        let tls = addresses.iter().any(|address| address.secure).then(client_config).flatten();
        Self { addresses, last: AtomicUsize::new(0), away: AtomicBool::new(false), tls }
    }

    /// The same, with other ideas of whom to trust.
    pub fn with_tls(origins: &[String], config: ClientConfig) -> Self {
        Self { tls: Some(Arc::new(config)), ..Self::new(origins) }
    }

    /// A connection to the first that answers.
    async fn connect(&self) -> Option<(Stream, &Address)> {
        let count = self.addresses.len();
        let first = self.last.load(Ordering::Relaxed);
        for index in (0..count).map(|step| (first + step) % count) {
            let address = &self.addresses[index];
            match tokio::time::timeout(DIAL_TIMEOUT, self.dial(address)).await.unwrap_or(Err(DialError::Late)) {
                Ok(stream) => {
                    self.last.store(index, Ordering::Relaxed);
                    if self.away.swap(false, Ordering::Relaxed) {
                        tracing::info!(host = address.host, "agents reach a server again");
                    }
                    return Some((stream, address));
                }
                // Agents come again every few seconds: told once.
                Err(error) if !self.away.load(Ordering::Relaxed) => {
                    tracing::warn!("an agent cannot reach {}:{}: {error}", address.host, address.port);
                }
                Err(_) => {}
            }
        }
        self.away.store(true, Ordering::Relaxed);
        None
    }

    async fn dial(&self, address: &Address) -> Result<Stream, DialError> {
        let Address { host, port, secure, .. } = address;
        let tcp = TcpStream::connect((host.as_str(), *port)).await?;
        tcp.set_nodelay(true)?;
        probe(&tcp)?;
        if !secure {
            return Ok(Either::Left(tcp));
        }
        let config = self.tls.clone().ok_or(DialError::NoRoots)?;
        let name = ServerName::try_from(host.clone()).map_err(|_| DialError::Name(host.clone()))?;
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Either::Right(Box::new(stream)))
    }
}

impl Address {
    fn parse(origin: &str) -> Option<Self> {
        let uri: Uri = origin.parse().ok()?;
        let secure = uri.scheme_str()? == "https";
        let authority = uri.authority()?;
        Some(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            secure,
            name: authority.to_string(),
        })
    }
}

/// Trusts whom the machine trusts, as enrolment does.
fn client_config() -> Option<Arc<ClientConfig>> {
    match ClientConfig::with_platform_verifier() {
        Ok(config) => Some(Arc::new(config)),
        Err(error) => {
            tracing::error!("agents cannot reach servers over https: {error}");
            None
        }
    }
}

fn probe(tcp: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, ASK_AGAIN)?;
    sockopt::set_tcp_keepcnt(tcp, QUESTIONS)?;
    sockopt::set_tcp_user_timeout(tcp, UNACKNOWLEDGED.as_millis() as u32)?;
    Ok(())
}

/// Serves a session's unit until dropped; its connections end then.
pub async fn serve(listener: UnixListener, servers: Arc<Servers>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= MAX_CONNECTIONS => {
                    tracing::warn!(most = MAX_CONNECTIONS, "a connection of the agent's is refused: it has too many");
                }
                Ok((agent, _)) => {
                    let servers = servers.clone();
                    connections.spawn(async move { splice(agent, &servers).await });
                }
                Err(error) => {
                    tracing::warn!("no connection of the agent's can be taken: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn splice(mut agent: UnixStream, servers: &Servers) {
    let Some((mut server, address)) = servers.connect().await else { return };
    let copied = async {
        if address.secure {
            let head = head::read(&mut agent).await?;
            server.write_all(&head::said_to(head, &address.name)).await?;
        }
        copy_bidirectional(&mut agent, &mut server).await
    };
    // Either side may break the connection at any time: then there is nothing more to do for the other.
    let _ = copied.await;
}

#[cfg(test)]
mod tests;
