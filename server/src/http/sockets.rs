//! Settings of the sockets that clients' connections come on.

use std::time::Duration;

use tokio::net::TcpStream;

/// How long a client may take nothing of what is sent to it. Whoever only reads slowly takes something.
pub const DEAF: Duration = Duration::from_mins(1);

/// Small frames of a desktop do not wait for each other, and a client that takes nothing for `deaf` is cut off: a
/// body whose connection is full is not even asked for more, so nothing of ours could end it.
pub fn tune(socket: &TcpStream, deaf: Duration) {
    // A socket that cannot be set is one that broke already.
    let _ = socket.set_nodelay(true);
    let millis = u32::try_from(deaf.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(socket, millis);
}
