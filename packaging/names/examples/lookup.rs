//! Prints the addresses of each name that it is given: what the tests link statically and run on other systems.

use std::io::Write as _;
use std::net::ToSocketAddrs as _;

fn main() -> std::io::Result<()> {
    helix_names::without_plugins();
    for name in std::env::args().skip(1) {
        let addresses: Vec<_> = (name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip().to_string()).collect();
        writeln!(std::io::stdout(), "{name} {}", addresses.join(" "))?;
    }
    Ok(())
}
