//! The way out of a session: how its agent reaches the servers, also from a session without a network.
//!
//! ```text
//! agent → 127.0.0.1:PORT (unit `forward`: `agentd forward`, [`unit`]) → agentd's unix socket ([`host`]) → a server
//! ```
//!
//! Bytes are copied as they are, but for the server's name where a proxy may stand before it ([`host`]): whoever connects
//! says who it is by its own token. The unit is a process of the
//! session and knows nothing but a port and a path. It keeps its port over restarts, because the agent's environment
//! names it; agentd finds a free one before anything is started ([`reserve`]) and keeps it in the ledger. Where a
//! session has a network of its own the port is always [`OWN_NETWORK_PORT`]. While agentd is away a connection is closed
//! at once, and the agent comes again.

pub mod host;
pub mod unit;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// Port in a network that only the session has.
pub const OWN_NETWORK_PORT: u16 = 8080;
/// Connections of one session at once.
pub const MAX_CONNECTIONS: usize = 64;

/// Holds a port of the loopback interface for a session: its unit can listen there, and listen there again.
#[derive(Debug)]
pub struct Reservation {
    port: u16,
    /// Bound and not listening: the kernel gives its port to nobody who asks for any, and lets in who names it.
    _socket: OwnedFd,
}

impl Reservation {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Reserves `port`, or any that is free. An error where somebody listens there.
pub fn reserve(port: Option<u16>) -> io::Result<Reservation> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.unwrap_or(0)))?;
    let address = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok(Reservation { port: address.port(), _socket: socket })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_reserved_port_is_given_to_nobody_but_who_names_it() {
        let reserved: Vec<Reservation> = (0..200).map(|_| reserve(None).expect("a port")).collect();
        let ports: BTreeSet<u16> = reserved.iter().map(Reservation::port).collect();
        assert_eq!(ports.len(), reserved.len(), "one port was reserved twice");
        let others: Vec<TcpListener> =
            (0..200).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
        assert!(others.iter().all(|other| !ports.contains(&other.local_addr().expect("an address").port())));

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, reserved[0].port())).expect("whoever names it gets it");
        let taken = listener.local_addr().expect("an address").port();
        assert_eq!(reserve(Some(taken)).expect_err("somebody listens").kind(), io::ErrorKind::AddrInUse);
    }
}
