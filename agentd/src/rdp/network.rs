//! A network that nobody else is in: for agentd's process `rdp` where its supervisor gives it none.
//!
//! A user namespace comes with it, since a network namespace alone takes privileges; the user is the same inside and out.
//! Called before the process has a second thread.

use std::fs;
use std::io;

use anyhow::{Context as _, bail};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use rustix::thread::UnshareFlags;

/// `NETLINK_ROUTE`, which is 0: the first of the protocols.
const ROUTES: Option<Protocol> = None;
/// Of the loopback interface, in every network namespace.
const LOOPBACK: i32 = 1;
/// `RTM_NEWLINK`: changes an interface that is there.
const NEW_LINK: u16 = 16;
/// `NLMSG_ERROR`: the answer, an error of 0 among them.
const ANSWER: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_AND_ANSWER: u16 = 1 | 4;
/// `IFF_UP`.
const UP: u32 = 1;
/// Headers of a netlink message, and of an answer with its error.
const HEADER_BYTES: usize = 16;
const MESSAGE_BYTES: usize = HEADER_BYTES + 16;

/// Leaves the machine's network for one of this process's own, with a loopback interface that is up.
pub(super) fn leave() -> anyhow::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET).context("the kernel gives no user and network namespace")?;
    // Groups cannot be mapped without that.
    fs::write("/proc/self/setgroups", "deny").context("cannot give up groups in the new user namespace")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).context("cannot stay the same user")?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).context("cannot stay in the same group")?;
    raise_loopback().context("cannot bring up the loopback interface")
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe because of shared descriptor tables, which these flags leave alone"
    )]
    rustix::thread::unshare(flags)?;
    Ok(())
}

fn raise_loopback() -> anyhow::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, ROUTES)?;
    let mut message = Vec::with_capacity(MESSAGE_BYTES);
    message.extend((MESSAGE_BYTES as u32).to_ne_bytes());
    message.extend(NEW_LINK.to_ne_bytes());
    message.extend(REQUEST_AND_ANSWER.to_ne_bytes());
    message.extend([0; 8]); // sequence, sender
    message.extend([0; 4]); // family, type
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    message.extend(UP.to_ne_bytes()); // which flags change
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 1024];
    let (_, count) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let kind = answer.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    let error = answer[HEADER_BYTES..HEADER_BYTES + 4].try_into().map(i32::from_ne_bytes);
    match (kind, error) {
        _ if count < HEADER_BYTES + 4 => bail!("the kernel's answer is too short"),
        (Some(ANSWER), Ok(0)) => Ok(()),
        (Some(ANSWER), Ok(error)) => Err(io::Error::from_raw_os_error(-error).into()),
        _ => bail!("the kernel answers something else"),
    }
}
