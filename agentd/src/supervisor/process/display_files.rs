//! Removes what an X server that was killed left in the machine's /tmp, unless another server has taken its number.
//!
//! A server holds its number by the abstract socket of that name, one that was started with a fixed number also by a
//! lock file with its pid. Whoever holds the abstract socket can look and remove in peace: no server takes the number
//! meanwhile.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::layout::Layout;
use super::procfs;
use super::sweep::remove_if_there;
use crate::guest::wire::{Record, UnitRecord};
use crate::supervisor::UnitName;

/// Removes the lock file and the socket of the session's display. Call when its processes have ended.
pub fn remove(layout: &Layout) -> io::Result<()> {
    // A record that cannot be read must not keep a session from ending; the number is in the readiness file, too.
    let record = Record::load(&layout.record()).ok().flatten();
    let server = record.and_then(|record| record.units.into_iter().find(|unit| unit.name == UnitName::Display));
    let announced = fs::read_to_string(layout.ready(UnitName::Display)).ok();
    let mut numbers: Vec<u32> = announced.and_then(|text| text.trim().parse().ok()).into_iter().collect();
    if let Some(server) = &server {
        // Killed between locking a number and announcing it.
        numbers.extend(locked_by(server.pid)?);
    }
    numbers.into_iter().try_for_each(|number| remove_number(number, server.as_ref()))
}

fn remove_number(number: u32, server: Option<&UnitRecord>) -> io::Result<()> {
    let socket = PathBuf::from(format!("/tmp/.X11-unix/X{number}"));
    let lock = PathBuf::from(format!("/tmp/.X{number}-lock"));
    let Ok(_held) = UnixListener::bind_addr(&SocketAddr::from_abstract_name(socket.as_os_str().as_encoded_bytes())?)
    else {
        // A living server has the number.
        return Ok(());
    };
    let owner = lock_owner(&lock);
    let is_ours = |pid: u32| {
        let reused = |server: &UnitRecord| {
            procfs::process(pid).is_some_and(|process| process.alive && process.start_time != server.start_time)
        };
        server.is_some_and(|server| server.pid == pid && !reused(server))
    };
    if owner.is_some_and(|pid| !is_ours(pid)) {
        return Ok(());
    }
    // A server without an abstract socket would answer here.
    let dead = UnixStream::connect(&socket).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if dead {
        remove_if_there(&socket)?;
    }
    if owner.is_some() { remove_if_there(&lock) } else { Ok(()) }
}

/// Numbers whose lock file names this pid.
fn locked_by(pid: u32) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/tmp")?;
    let locked = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let number = entry.file_name().to_str()?.strip_prefix(".X")?.strip_suffix("-lock")?.parse().ok()?;
        (lock_owner(&entry.path())? == pid).then_some(number)
    });
    Ok(locked.collect())
}

fn lock_owner(lock: &Path) -> Option<u32> {
    fs::read_to_string(lock).ok()?.trim().parse().ok()
}
