//! Whose process is at the other end of a loopback connection. The kernel tells it in a table of all connections; one
//! look per connection, and agents connect rarely.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use rustix::process::geteuid;

/// Connections of IPv4 sockets, and of IPv6 sockets that carry IPv4.
const TABLES: [(&str, &str); 2] = [("/proc/self/net/tcp", ""), ("/proc/self/net/tcp6", "0000000000000000FFFF0000")];

/// True for a connection of the user that this process runs as.
pub(super) fn is_own(agent: &TcpStream) -> io::Result<bool> {
    let (SocketAddr::V4(theirs), SocketAddr::V4(ours)) = (agent.peer_addr()?, agent.local_addr()?) else {
        return Ok(false);
    };
    let (theirs, ours) = (shown(*theirs.ip(), theirs.port()), shown(*ours.ip(), ours.port()));
    let own = geteuid().as_raw();
    for (table, prefix) in TABLES {
        // Without IPv6 there is no table of it.
        let Ok(text) = fs::read_to_string(table) else { continue };
        if let Some(uid) = owner(&text, &format!("{prefix}{theirs}"), &format!("{prefix}{ours}")) {
            return Ok(uid == own);
        }
    }
    Ok(false)
}

/// Owner of the connection between these addresses.
fn owner(table: &str, local: &str, remote: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let here = words.next()? == local && words.next()? == remote;
        // Behind them: state, queues, timer, retransmissions, user.
        here.then(|| words.nth(4)?.parse().ok()).flatten()
    })
}

/// As the table has it: the bytes of the address in the machine's order.
fn shown(ip: Ipv4Addr, port: u16) -> String {
    format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_table_names_the_owner() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n\
            \x20  1: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0 20 4 30 10 -1\n";
        assert_eq!(owner(table, "0100007F:9C40", "0100007F:1F90"), Some(1001));
        assert_eq!(owner(table, "0100007F:1F90", "0100007F:9C40"), None);
        if cfg!(target_endian = "little") {
            assert_eq!(shown(Ipv4Addr::LOCALHOST, 8080), "0100007F:1F90");
        }
    }

    #[test]
    fn a_connection_of_our_own_is_known() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        assert!(is_own(&accepted).expect("known"));
    }
}
